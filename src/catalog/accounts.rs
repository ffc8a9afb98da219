//! Accounts that log in: users and robots (contract §2.2).

use chrono::NaiveDateTime;

use super::connection::Session;
use super::error::CatalogError;

/// A row of `user` that a password is held against.
#[derive(Debug)]
pub struct Account {
    /// `user.id`
    pub id: i32,
    /// `user.uuid`, which a token's context refers to.
    pub uuid: Option<String>,
    /// `user.username`
    pub username: String,
    /// `user.password_hash`: bcrypt; organizations have none.
    pub password_hash: Option<String>,
    /// `user.invalid_login_attempts`
    pub invalid_login_attempts: i32,
    /// `user.last_invalid_login`, UTC.
    pub last_invalid_login: NaiveDateTime,
    /// `user.enabled`
    pub enabled: bool,
    /// `user.last_accessed`, UTC.
    pub last_accessed: Option<NaiveDateTime>,
}

/// A robot, its owner and its encrypted token.
#[derive(Debug)]
pub struct Robot {
    /// `user.id`
    pub id: i32,
    /// `user.username`, owner and short name joined by `+`.
    pub username: String,
    /// `user.enabled` of the robot itself.
    pub enabled: bool,
    /// `user.last_accessed`, UTC.
    pub last_accessed: Option<NaiveDateTime>,
    /// `user.id` and `user.enabled` of the owner, if there is one.
    pub owner: Option<(i32, bool)>,
    /// `robotaccounttoken.token`, encrypted.
    pub token: Option<String>,
}

/// Organizations may share an e-mail address and cannot log in (contract §2.2.2 step 2).
const ACCOUNT: &str = "\
    SELECT id, uuid, username, password_hash, invalid_login_attempts, last_invalid_login, \
        enabled, last_accessed FROM \"user\" \
    WHERE username = $1 OR (email = $1 AND NOT organization) \
    ORDER BY CASE WHEN username = $1 THEN 0 ELSE 1 END LIMIT 1";

const ROBOT: &str = "\
    SELECT r.id, r.username, r.enabled, r.last_accessed, o.id, o.enabled, t.token \
    FROM \"user\" r LEFT JOIN \"user\" o ON o.username = $2 \
    LEFT JOIN robotaccounttoken t ON t.robot_account_id = r.id \
    WHERE r.username = $1 AND r.robot";

const LOGIN_FAILED: &str = "\
    UPDATE \"user\" SET invalid_login_attempts = invalid_login_attempts + 1, \
        last_invalid_login = $2 WHERE id = $1";

const LOGIN_CLEARED: &str = "UPDATE \"user\" SET invalid_login_attempts = 0 WHERE id = $1";

const ACCESSED: &str = "UPDATE \"user\" SET last_accessed = $2 WHERE id = $1";

/// The first account where neither `$1` nor `$2` names one.
const LOG_ACCOUNT: &str = "\
    SELECT COALESCE( \
        (SELECT id FROM \"user\" WHERE username = $1 \
            AND ($2 OR (NOT organization AND NOT robot))), \
        $3, (SELECT min(id) FROM \"user\"))";

impl Session<'_> {
    /// `user.id` of the account whose log has what `username` failed to do: of any kind, or of a
    /// user only. `service` is whose log it is where there is no such account.
    pub async fn log_account(
        &self,
        username: Option<&str>,
        any_kind: bool,
        service: Option<i32>,
    ) -> Result<i32, CatalogError> {
        let params = [username.into(), any_kind.into(), service.into()];
        let rows = self.query(LOG_ACCOUNT, &params).await?;
        let id = rows.first().map(|row| row.get::<Option<i32>>(0)).transpose()?.flatten();
        let reason = || "there is no account at all".to_owned();
        id.ok_or_else(|| CatalogError::Refused { route: self.route, reason: reason() })
    }

    /// The account of this user name or e-mail address.
    pub async fn account(&self, login: &str) -> Result<Option<Account>, CatalogError> {
        let rows = self.query(ACCOUNT, &[login.into()]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Account {
            id: row.get(0)?,
            uuid: row.get(1)?,
            username: row.get(2)?,
            password_hash: row.get(3)?,
            invalid_login_attempts: row.get(4)?,
            last_invalid_login: row.get(5)?,
            enabled: row.get(6)?,
            last_accessed: row.get(7)?,
        }))
    }

    /// The robot of this user name; `owner` is the part before the `+`.
    pub async fn robot(&self, login: &str, owner: &str) -> Result<Option<Robot>, CatalogError> {
        let rows = self.query(ROBOT, &[login.into(), owner.into()]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Robot {
            id: row.get(0)?,
            username: row.get(1)?,
            enabled: row.get(2)?,
            last_accessed: row.get(3)?,
            owner: row.get::<Option<i32>>(4)?.zip(row.get(5)?),
            token: row.get(6)?,
        }))
    }

    /// Counts a wrong password, which opens the back-off window.
    pub async fn login_failed(&self, id: i32, now: NaiveDateTime) -> Result<(), CatalogError> {
        self.execute(LOGIN_FAILED, &[id.into(), now.into()]).await
    }

    /// Forgets earlier wrong passwords.
    pub async fn login_cleared(&self, id: i32) -> Result<(), CatalogError> {
        self.execute(LOGIN_CLEARED, &[id.into()]).await
    }

    /// Notes that an account was used.
    pub async fn accessed(&self, id: i32, now: NaiveDateTime) -> Result<(), CatalogError> {
        let session = self.counted_as("last_accessed");
        session.execute(ACCESSED, &[id.into(), now.into()]).await
    }
}
