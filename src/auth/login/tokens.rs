//! Logins by a token that stands for a user or a repository (contract §2.2).

use chrono::{Local, Utc};
use subtle::ConstantTimeEq;

use super::{DISABLED, FailureLog, Identity, LoginError, Logins, Refusal, invalid};
use crate::auth::{ACCESS_TOKEN_NAME, Limits};
use crate::catalog::{Role, Session};

/// Characters of other tokens that name them.
const APP_NAME: usize = 60;
const OAUTH_NAME: usize = 20;

impl Logins {
    pub(super) async fn access_token(
        &self,
        db: Session<'_>,
        token: &str,
    ) -> Result<Identity, LoginError> {
        let wrong = || {
            let refusal = Refusal::service("Invalid access token");
            LoginError::Invalid(refusal.in_log(FailureLog::Nowhere))
        };
        let (name, code) = split(token, ACCESS_TOKEN_NAME).ok_or_else(wrong)?;
        let found = db.access_token(name).await?.ok_or_else(wrong)?;
        let stored = self.decrypted(&found.code, name)?.ok_or_else(wrong)?;
        if !same(&stored, code) {
            return Err(wrong());
        }
        Ok(Identity::AccessToken {
            code: token.to_owned(),
            repository_id: found.repository_id,
            role: Role::named(&found.role),
        })
    }

    pub(super) async fn app_token(
        &self,
        db: Session<'_>,
        token: &str,
    ) -> Result<Identity, LoginError> {
        let wrong = || invalid("Invalid token");
        let (name, secret) = split(token, APP_NAME).ok_or_else(wrong)?;
        let found = db.app_token(name, Local::now().naive_local()).await?.ok_or_else(wrong)?;
        let stored = self.decrypted(&found.secret, &found.uuid)?.ok_or_else(wrong)?;
        if !same(&stored, secret) {
            return Err(wrong());
        }
        let now = Utc::now().naive_utc();
        let threshold = self.config.last_accessed_threshold;
        if self.config.user_last_accessed && self.is_due(found.last_accessed, now, threshold) {
            self.tolerate(db.app_token_accessed(found.id, now).await)?;
        }
        if !found.owner.enabled {
            let log = FailureLog::Account {
                username: found.owner.username,
                performer: found.owner.id,
                title: Some(found.title),
            };
            return Err(LoginError::Invalid(Refusal::service(DISABLED).in_log(log)));
        }
        Ok(Identity::AppToken {
            uuid: found.uuid,
            title: found.title,
            id: found.owner.id,
            username: found.owner.username,
        })
    }

    pub(super) async fn oauth_token(
        &self,
        db: Session<'_>,
        token: &str,
    ) -> Result<Identity, LoginError> {
        let wrong = || invalid("OAuth access token could not be validated");
        let (name, code) = split(token, OAUTH_NAME).ok_or_else(wrong)?;
        let found = db.oauth_token(name).await?;
        // Hashed for an unknown one too, so that both cost the same.
        let hash = found.as_ref().map(|found| found.code_hash.clone());
        let right = self.matches(code.to_owned(), hash).await?;
        let found = found.filter(|_| right).ok_or_else(wrong)?;

        let now = Local::now().naive_local();
        let threshold = self.config.oauth_last_accessed_threshold;
        if found.expires_at > now && self.is_due(found.last_accessed, now, threshold) {
            self.tolerate(db.oauth_token_accessed(found.id, now).await)?;
        }
        // Their rows name the application and its organization.
        let refused =
            |message| LoginError::Invalid(Refusal::service(message).in_log(FailureLog::Python));
        if found.expires_at <= Utc::now().naive_utc() {
            return Err(refused("OAuth access token has expired"));
        }
        if !found.owner.enabled {
            return Err(refused("Granter of the oauth access token is disabled"));
        }
        Ok(Identity::OAuthToken {
            uuid: found.uuid,
            id: found.owner.id,
            username: found.owner.username,
            limits: Limits::of_scopes(&found.scope),
        })
    }
}

/// Name and secret; `None` for a token that lacks one of them, or that no database could have.
fn split(token: &str, name: usize) -> Option<(&str, &str)> {
    let plain = token.is_ascii() && !token.contains('\0');
    let (name, secret) = token.split_at_checked(name).filter(|_| plain)?;
    (!secret.is_empty()).then_some((name, secret))
}

fn same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}
