//! Checking user names and passwords (contract §2.2).

mod refusal;
mod robot;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{NaiveDateTime, TimeDelta, Utc};
use tokio::sync::Semaphore;

pub use refusal::{FailureLog, Refusal};

use super::encrypted_password::{PasswordKey, Unlocked, may_be_encrypted};
use super::encryption::FieldError;
use super::{Basic, Declined, FieldKey, Identity, Verifier};
use crate::catalog::{Account, Catalog, CatalogError, Session};
use crate::config;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::outcome;

/// User names that are no user's (contract §2.2).
const ACCESS_TOKEN: &str = "$token";
const APP_TOKEN: &str = "$app";
const OAUTH_TOKEN: &str = "$oauthtoken";

/// How statements of a login are counted.
const ROUTE: &str = "token";

/// What an unknown user's password is held against, so that it costs what a known one's does.
const NOBODYS_HASH: &str = "$2b$12$QuayQuayQuayQuayQuayQuOFNq6Yx7jZ8C0v1u2t3s4r5p6o7n8m6";

/// How long a password waits for its turn to be hashed.
const HASHER_WAIT: Duration = Duration::from_secs(5);

/// Half of the time after the first wrong password during which no other is looked at.
const BACKOFF_UNIT: Duration = Duration::from_millis(500);

/// A login that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// Wrong.
    #[error("invalid credentials")]
    Invalid(Refusal),
    /// Too soon after wrong passwords: the seconds to wait.
    #[error("too many login attempts")]
    Throttled(i64),
    /// Too many passwords are being checked already.
    #[error("no password hasher became free")]
    Busy,
    /// A kind of login that Python has to do.
    #[error("login of a kind that is not built: {}", .0.0)]
    Declined(Declined),
    /// It could not be checked.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Checks logins for one installation.
#[derive(Clone)]
pub struct Logins {
    config: Arc<config::Auth>,
    /// Whether a failed `last_accessed` may be ignored.
    tolerant: bool,
    read_only: bool,
    field_key: FieldKey,
    /// `None` where Quay itself makes up a new one at each start.
    password_key: Option<PasswordKey>,
    verifier: Verifier,
    hashers: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Logins {
    /// `tolerant`: a failed `last_accessed` is ignored; `read_only` is `REGISTRY_STATE: readonly`,
    /// in which nothing is written; `hashers` is how many passwords are hashed at a time.
    pub fn new(
        config: Arc<config::Auth>,
        (tolerant, read_only): (bool, bool),
        field_key: FieldKey,
        verifier: Verifier,
        hashers: usize,
        metrics: Arc<Metrics>,
    ) -> Self {
        let hashers = Arc::new(Semaphore::new(hashers));
        let secret = config.secret_key.as_ref().map(config::Secret::expose);
        let password_key = secret.and_then(PasswordKey::derive);
        Self { config, tolerant, read_only, field_key, password_key, verifier, hashers, metrics }
    }

    /// Checks a user name and its password, whatever kind of login they are.
    pub async fn check(&self, catalog: &Catalog, basic: &Basic) -> Result<Identity, LoginError> {
        if let Some(reason) = self.declined(basic) {
            return Err(LoginError::Declined(Declined(reason)));
        }
        let db = catalog.session(ROUTE);
        let password = &basic.password;
        let result = match (basic.username.as_str(), basic.username.split_once('+')) {
            (ACCESS_TOKEN, _) => self.access_token(db, password).await,
            (APP_TOKEN, _) if self.config.app_specific_tokens => self.app_token(db, password).await,
            (OAUTH_TOKEN, _) => self.oauth_token(db, password).await,
            (_, Some((owner, _))) => self.robot(catalog, basic, owner).await,
            (_, None) => self.user(db, basic).await,
        };
        self.metrics.logins.get_or_create(&outcome(result.is_ok())).inc();
        result
    }

    /// Decided before anything is read or written, so that Python finds nothing half-done.
    fn declined(&self, basic: &Basic) -> Option<&'static str> {
        let locked =
            || self.config.require_encrypted_basic_auth || may_be_encrypted(&basic.password);
        match basic.username.as_str() {
            _ if self.config.external_superuser_lookup => Some("external_superusers"),
            OAUTH_TOKEN => is_jwt(&basic.password).then_some("sso_token_login"),
            ACCESS_TOKEN | APP_TOKEN => None,
            robot if robot.contains('+') => None,
            _ if self.password_key.is_none() && locked() => Some("encrypted_password"),
            _ if !["Database", "AppToken"].contains(&self.config.authentication_type.as_str()) => {
                Some("authentication_type")
            }
            _ => None,
        }
    }

    async fn user(&self, db: Session<'_>, basic: &Basic) -> Result<Identity, LoginError> {
        let wrong = || invalid("Invalid Username or Password");
        let password = match self.password_key.as_ref().map(|key| key.unlock(&basic.password)) {
            Some(Unlocked::Inner(password)) => password,
            _ if self.config.require_encrypted_basic_auth => return Err(invalid(UNENCRYPTED)),
            _ => basic.password.clone(),
        };
        if self.config.authentication_type == "AppToken" {
            return Err(invalid("An application specific token is required to login"));
        }
        let account = match basic.username.is_ascii() && !basic.username.contains('\0') {
            true => db.account(&basic.username).await?,
            false => None,
        };
        let now = Utc::now().naive_utc();
        if let Some(wait) = account.as_ref().and_then(|account| backoff(account, now)) {
            return Err(LoginError::Throttled(wait.num_seconds()));
        }
        let hash = account.as_ref().and_then(|account| account.password_hash.clone());
        let right = self.matches(password, hash).await?;
        let Some(account) = account else { return Err(wrong()) };
        if !right {
            if !self.read_only {
                db.login_failed(account.id, now).await?;
            }
            return Err(wrong());
        }
        if account.invalid_login_attempts > 0 && !self.read_only {
            db.login_cleared(account.id).await?;
            self.accessed(db, account.id, account.last_accessed).await?;
        }
        if !account.enabled {
            return Err(invalid(DISABLED));
        }
        let uuid = account.uuid.unwrap_or_default();
        Ok(Identity::User { id: account.id, uuid, username: account.username })
    }

    /// Hashes on a blocking thread, a few at a time: the serving threads never wait for bcrypt.
    async fn matches(&self, password: String, hash: Option<String>) -> Result<bool, LoginError> {
        let turn = tokio::time::timeout(HASHER_WAIT, self.hashers.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(LoginError::Busy) };
        let hashed = tokio::task::spawn_blocking(move || {
            let known = hash.is_some();
            let hash = hash.as_deref().unwrap_or(NOBODYS_HASH);
            let matches = bcrypt::verify(&password, hash).unwrap_or_else(|error| {
                tracing::warn!(%error, "stored password hash unreadable");
                false
            });
            known && matches && !password.contains('\0')
        });
        hashed.await.map_err(|_| LoginError::Busy)
    }

    async fn accessed(
        &self,
        db: Session<'_>,
        id: i32,
        last: Option<NaiveDateTime>,
    ) -> Result<(), LoginError> {
        let now = Utc::now().naive_utc();
        if !self.config.user_last_accessed
            || !self.is_due(last, now, self.config.last_accessed_threshold)
        {
            return Ok(());
        }
        self.tolerate(db.accessed(id, now).await)
    }

    /// Whether the last use was noted so long ago that it is to be noted again.
    fn is_due(&self, last: Option<NaiveDateTime>, now: NaiveDateTime, threshold: Duration) -> bool {
        let threshold = TimeDelta::from_std(threshold).unwrap_or_default();
        !self.read_only && last.is_none_or(|last| now - last >= threshold)
    }

    fn tolerate(&self, noted: Result<(), CatalogError>) -> Result<(), LoginError> {
        match noted {
            Err(error) if self.tolerant => {
                tracing::error!(%error, "last_accessed not written");
                Ok(())
            }
            result => Ok(result?),
        }
    }

    /// A secret as it was before Quay encrypted it; `None` when it cannot be read.
    fn decrypted(&self, stored: &str, whose: &str) -> Result<Option<String>, LoginError> {
        match self.field_key.decrypt(stored) {
            Ok(secret) => Ok(Some(secret)),
            Err(FieldError::UnknownVersion) => {
                Err(LoginError::Declined(Declined("encryption_version")))
            }
            Err(error) => {
                tracing::error!(%error, whose, "stored secret unreadable");
                Ok(None)
            }
        }
    }
}

/// Quay's words.
const DISABLED: &str = "This user has been disabled. Please contact your administrator.";
const UNENCRYPTED: &str = "Client login with unencrypted passwords is disabled. Please generate \
                           an encrypted password in the user admin panel for use here.";

fn invalid(message: &str) -> LoginError {
    LoginError::Invalid(Refusal::service(message))
}

/// What is left of the window after wrong passwords: half a second, doubled by each of them.
fn backoff(account: &Account, now: NaiveDateTime) -> Option<TimeDelta> {
    // The 30th wrong password locks for seventeen years already.
    let attempts = u32::try_from(account.invalid_login_attempts).unwrap_or_default().min(30);
    if attempts == 0 {
        return None;
    }
    let window = TimeDelta::from_std(BACKOFF_UNIT * (2_u32.pow(attempts) - 1)).ok()?;
    let wait = account.last_invalid_login + window - now;
    (wait > TimeDelta::zero()).then_some(wait)
}

/// Whether a password is a token that somebody signed: by the `typ` of its header.
fn is_jwt(password: &str) -> bool {
    let head = password.split_once('.').and_then(|(head, _)| URL_SAFE_NO_PAD.decode(head).ok());
    let head = head.and_then(|head| serde_json::from_slice::<serde_json::Value>(&head).ok());
    let kind = head.as_ref().and_then(|head| head.get("typ")?.as_str());
    kind.is_some_and(|kind| ["jwt", "at+jwt"].contains(&kind.to_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_doubles() {
        let now = Utc::now().naive_utc();
        let account = |attempts, ago_ms| Account {
            id: 1,
            uuid: None,
            username: "ada".into(),
            password_hash: None,
            invalid_login_attempts: attempts,
            last_invalid_login: now - TimeDelta::milliseconds(ago_ms),
            enabled: true,
            last_accessed: None,
        };
        let wait = |attempts, ago_ms| {
            backoff(&account(attempts, ago_ms), now).map(|wait| wait.num_milliseconds())
        };
        assert_eq!(wait(0, 0), None);
        assert_eq!(wait(1, 100), Some(400));
        assert_eq!(wait(1, 500), None);
        assert_eq!(wait(3, 0), Some(3500));
        assert!(wait(i32::MAX, 0).is_some());
    }

    #[test]
    fn signed_tokens_are_recognised() {
        let head = |json: &str| URL_SAFE_NO_PAD.encode(json);
        assert!(is_jwt(&format!("{}.b.c", head(r#"{"typ":"JWT"}"#))));
        assert!(is_jwt(&format!("{}.b.c", head(r#"{"typ":"at+jwt"}"#))));
        for other in ["", "a.b.c", "plain", &format!("{}.b.c", head(r#"{"alg":"RS256"}"#))] {
            assert!(!is_jwt(other), "{other}");
        }
    }

    #[test]
    fn nobodys_hash_costs_what_a_real_one_does() {
        assert_eq!(NOBODYS_HASH.len(), 60);
        assert!(matches!(bcrypt::verify("anything", NOBODYS_HASH), Ok(false)));
    }
}
