//! Checking user names and passwords (contract §2.2).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{NaiveDateTime, TimeDelta, Utc};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use super::encryption::FieldError;
use super::{Basic, Declined, FieldKey};
use crate::catalog::{Account, CatalogError, Robot, Session};
use crate::config;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::outcome;

/// What an unknown user's password is held against, so that it costs what a known one's does.
const NOBODYS_HASH: &str = "$2b$12$QuayQuayQuayQuayQuayQuOFNq6Yx7jZ8C0v1u2t3s4r5p6o7n8m6";

/// How long a password waits for its turn to be hashed.
const HASHER_WAIT: Duration = Duration::from_secs(5);

/// Half of the time after the first wrong password during which no other is looked at.
const BACKOFF_UNIT: Duration = Duration::from_millis(500);

/// A login that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// Wrong, in Quay's words; `None` for Quay's default ones.
    #[error("invalid credentials")]
    Invalid(Option<String>),
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

/// Who logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A user, by password.
    User {
        /// `user.id`
        id: i32,
        /// `user.uuid`
        uuid: String,
        /// `user.username`
        username: String,
    },
    /// A robot, by its token.
    Robot {
        /// `user.id`
        id: i32,
        /// `user.username`
        username: String,
        /// `user.id` of the owner.
        owner_id: i32,
        /// `user.username` of the owner.
        owner: String,
    },
}

impl Identity {
    /// `user.id`
    pub fn id(&self) -> i32 {
        match self {
            Self::User { id, .. } | Self::Robot { id, .. } => *id,
        }
    }

    /// `user.username`
    pub fn username(&self) -> &str {
        match self {
            Self::User { username, .. } | Self::Robot { username, .. } => username,
        }
    }

    /// `entity_kind` and `entity_reference` of a token's context (contract §2.1).
    pub fn entity(&self) -> (&'static str, &str) {
        match self {
            Self::User { uuid, .. } => ("user", uuid),
            Self::Robot { username, .. } => ("robot", username),
        }
    }
}

/// Checks logins for one installation.
#[derive(Clone)]
pub struct Logins {
    config: Arc<config::Auth>,
    /// Whether a failed `last_accessed` may be ignored.
    tolerant: bool,
    read_only: bool,
    field_key: FieldKey,
    hashers: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Logins {
    /// `read_only` is `REGISTRY_STATE: readonly`, in which nothing is written; `hashers` is how
    /// many passwords are hashed at a time.
    pub fn new(
        config: Arc<config::Auth>,
        tolerant: bool,
        read_only: bool,
        field_key: FieldKey,
        hashers: usize,
        metrics: Arc<Metrics>,
    ) -> Self {
        let hashers = Arc::new(Semaphore::new(hashers));
        Self { config, tolerant, read_only, field_key, hashers, metrics }
    }

    /// Checks a user name and its password.
    pub async fn check(&self, db: Session<'_>, basic: &Basic) -> Result<Identity, LoginError> {
        if let Some(reason) = self.declined(basic) {
            return Err(LoginError::Declined(Declined(reason)));
        }
        let result = match basic.username.split_once('+') {
            Some((owner, _)) => self.robot(db, basic, owner).await,
            None => self.user(db, basic).await,
        };
        self.metrics.logins.get_or_create(&outcome(result.is_ok())).inc();
        result
    }

    /// Decided before anything is read or written, so that Python finds nothing half-done.
    fn declined(&self, basic: &Basic) -> Option<&'static str> {
        let robot = basic.username.contains('+');
        match basic.username.as_str() {
            "$token" => Some("access_token_login"),
            "$app" if self.config.app_specific_tokens => Some("app_token_login"),
            "$oauthtoken" => Some("oauth_token_login"),
            _ if self.config.external_superuser_lookup => Some("external_superusers"),
            _ if robot => basic.password.contains('.').then_some("robot_jwt_login"),
            _ if self.config.authentication_type != "Database" => Some("authentication_type"),
            _ if self.config.require_encrypted_basic_auth => Some("encrypted_password"),
            _ if may_be_encrypted(&basic.password) => Some("encrypted_password"),
            _ => None,
        }
    }

    async fn user(&self, db: Session<'_>, basic: &Basic) -> Result<Identity, LoginError> {
        let wrong = || invalid("Invalid Username or Password");
        let account = match basic.username.is_ascii() && !basic.username.contains('\0') {
            true => db.account(&basic.username).await?,
            false => None,
        };
        let now = Utc::now().naive_utc();
        if let Some(wait) = account.as_ref().and_then(|account| backoff(account, now)) {
            return Err(LoginError::Throttled(wait.num_seconds()));
        }
        let hash = account.as_ref().and_then(|account| account.password_hash.clone());
        let right = self.matches(basic.password.clone(), hash).await?;
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
            let disabled = "This user has been disabled. Please contact your administrator.";
            return Err(invalid(disabled));
        }
        let uuid = account.uuid.unwrap_or_default();
        Ok(Identity::User { id: account.id, uuid, username: account.username })
    }

    async fn robot(
        &self,
        db: Session<'_>,
        basic: &Basic,
        owner: &str,
    ) -> Result<Identity, LoginError> {
        let name = &basic.username;
        if self.config.robots_disallow && !self.config.robots_whitelist.contains(name) {
            let disallowed = "Robot account have been disabled. Please contact your administrator.";
            return Err(invalid(disallowed));
        }
        let wrong = || {
            invalid(&format!("Could not find robot with username: {name} and supplied password."))
        };
        if !basic.password.is_ascii() {
            return Err(wrong());
        }
        let unknown = || invalid("Could not find robot with specified username");
        if !name.is_ascii() || name.contains('\0') {
            return Err(unknown());
        }
        let robot = db.robot(name, owner).await?.ok_or_else(unknown)?;
        let Some((owner_id, owner_enabled)) = robot.owner else {
            return Err(invalid(&format!("Robot {name} owner does not exist")));
        };
        if !owner_enabled {
            return Err(invalid(&format!("Robot {name} owner {owner} is disabled")));
        }
        let token = self.token(&robot)?.ok_or_else(wrong)?;
        if !bool::from(token.as_bytes().ct_eq(basic.password.as_bytes())) {
            return Err(wrong());
        }
        self.accessed(db, robot.id, robot.last_accessed).await?;
        if !robot.enabled {
            return Err(LoginError::Invalid(None));
        }
        let owner = owner.to_owned();
        Ok(Identity::Robot { id: robot.id, username: robot.username, owner_id, owner })
    }

    fn token(&self, robot: &Robot) -> Result<Option<String>, LoginError> {
        let Some(stored) = &robot.token else { return Ok(None) };
        match self.field_key.decrypt(stored) {
            Ok(token) => Ok(Some(token)),
            Err(FieldError::UnknownVersion) => {
                Err(LoginError::Declined(Declined("encryption_version")))
            }
            Err(error) => {
                tracing::error!(%error, robot = robot.username, "robot token unreadable");
                Ok(None)
            }
        }
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
        let threshold =
            TimeDelta::from_std(self.config.last_accessed_threshold).unwrap_or_default();
        let recent = last.is_some_and(|last| now - last < threshold);
        if self.read_only || !self.config.user_last_accessed || recent {
            return Ok(());
        }
        match db.accessed(id, now).await {
            Err(error) if self.tolerant => {
                tracing::error!(%error, "last_accessed not written");
                Ok(())
            }
            result => Ok(result?),
        }
    }
}

fn invalid(message: &str) -> LoginError {
    LoginError::Invalid(Some(message.to_owned()))
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

/// Whether a password could be one that Quay encrypted with `SECRET_KEY`: base64 of an IV and at
/// least one block of AES-CBC.
fn may_be_encrypted(password: &str) -> bool {
    STANDARD.decode(password).is_ok_and(|bytes| bytes.len() >= 32 && bytes.len() % 16 == 0)
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
    fn encrypted_passwords_are_recognised() {
        assert!(may_be_encrypted(&STANDARD.encode([7; 48])));
        for plain in ["", "password", "correct horse battery staple", &STANDARD.encode([7; 24])] {
            assert!(!may_be_encrypted(plain), "{plain}");
        }
    }

    #[test]
    fn nobodys_hash_costs_what_a_real_one_does() {
        assert_eq!(NOBODYS_HASH.len(), 60);
        assert!(matches!(bcrypt::verify("anything", NOBODYS_HASH), Ok(false)));
    }
}
