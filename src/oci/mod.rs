//! The pure values of the OCI distribution protocol, as Quay reads them: digests, repository
//! names, tags, media types, manifests, byte ranges. No I/O.

mod cosign;
mod digest;
mod immutability;
mod index;
pub mod manifest;
mod manifest_type;
mod media_type;
mod name;
mod range;
mod sha256;
mod tag;

pub use cosign::{cosign_tags, is_cosign_tag};
pub use digest::{Digest, EMPTY_LAYER};
pub use immutability::ImmutabilityPolicy;
pub use index::{amd64_linux, is_index};
pub use manifest_type::{ManifestType, PushRules, PushType, UNSUPPORTED_TYPE};
pub use media_type::{Accept, is_schema1};
pub use name::{NameRules, RepoName, is_account_name};
pub use range::{ByteRange, Span};
pub use sha256::{Sha256, Sha256State};
pub use tag::is_tag;
