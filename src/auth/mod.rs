//! Credentials, bearer tokens and permissions.
//!
//! `bearer` verifies the tokens that clients pull with; `login`, `scope` and `grant` decide what a
//! token request gets; `token` signs it. `keys` and `instance_key` hold both halves of Quay's
//! signing keys.

mod accepted;
mod basic;
mod bearer;
mod encrypted_password;
mod encryption;
pub mod fresh;
mod grant;
mod identity;
mod instance_key;
mod keys;
mod login;
mod page_token;
mod scope;
mod token;

pub use basic::Basic;
pub use bearer::{Bearer, BearerError, Verifier};
pub use encryption::FieldKey;
pub use grant::{Authorizer, Grant, GrantError};
pub use identity::{Identity, Limits};
pub use instance_key::{InstanceKey, InstanceKeyError};
pub use keys::{KeyError, VerificationKeys};
pub use login::{FailureLog, LoginError, Logins, Refusal};
pub use page_token::PageTokens;
pub use scope::{ScopeError, ScopeParser, ScopeRequest};
pub use token::{LIFETIME_S, TokenRequest, mint, mint_storage_proxy};

/// Characters of an access token that name it; the rest is the secret.
const ACCESS_TOKEN_NAME: usize = 32;

/// Why a token request is Python's to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declined(pub &'static str);
