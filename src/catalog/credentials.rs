//! Tokens that stand for a login: of applications, of OAuth, of one repository (contract §2.2).

use chrono::NaiveDateTime;

use super::connection::Session;
use super::error::CatalogError;

/// A row of `appspecificauthtoken` that has not expired, and its owner.
#[derive(Debug)]
pub struct AppToken {
    /// `appspecificauthtoken.id`
    pub id: i32,
    /// `appspecificauthtoken.uuid`
    pub uuid: String,
    /// `appspecificauthtoken.title`
    pub title: String,
    /// `appspecificauthtoken.token_secret`, encrypted.
    pub secret: String,
    /// `appspecificauthtoken.last_accessed`, UTC.
    pub last_accessed: Option<NaiveDateTime>,
    /// Who owns it.
    pub owner: Owner,
}

/// A row of `oauthaccesstoken`, its application, and who granted it.
#[derive(Debug)]
pub struct OAuthToken {
    /// `oauthaccesstoken.id`
    pub id: i32,
    /// `oauthaccesstoken.uuid`
    pub uuid: String,
    /// `oauthaccesstoken.token_code`: bcrypt.
    pub code_hash: String,
    /// `oauthaccesstoken.scope`
    pub scope: String,
    /// `oauthaccesstoken.expires_at`
    pub expires_at: NaiveDateTime,
    /// `oauthaccesstoken.last_accessed`, local time.
    pub last_accessed: Option<NaiveDateTime>,
    /// Who granted it.
    pub owner: Owner,
}

/// Whose a token is.
#[derive(Debug)]
pub struct Owner {
    /// `user.id`
    pub id: i32,
    /// `user.username`
    pub username: String,
    /// `user.enabled`
    pub enabled: bool,
}

/// A row of `accesstoken`.
#[derive(Debug)]
pub struct AccessToken {
    /// `accesstoken.repository_id`
    pub repository_id: i32,
    /// `role.name`
    pub role: String,
    /// `accesstoken.token_code`, encrypted.
    pub code: String,
}

/// `$2` is now in local time, as Quay writes expirations.
const APP_TOKEN: &str = "\
    SELECT t.id, t.uuid, t.title, t.token_secret, t.last_accessed, u.id, u.username, u.enabled \
    FROM appspecificauthtoken t JOIN \"user\" u ON u.id = t.user_id \
    WHERE t.token_name = $1 AND (t.expiration IS NULL OR t.expiration > $2)";

const OAUTH_TOKEN: &str = "\
    SELECT t.id, t.uuid, t.token_code, t.scope, t.expires_at, t.last_accessed, \
        u.id, u.username, u.enabled \
    FROM oauthaccesstoken t JOIN \"user\" u ON u.id = t.authorized_user_id \
    WHERE t.token_name = $1";

const ACCESS_TOKEN: &str = "\
    SELECT t.repository_id, r.name, t.token_code FROM accesstoken t \
    JOIN role r ON r.id = t.role_id WHERE t.token_name = $1";

const APP_TOKEN_ACCESSED: &str = "UPDATE appspecificauthtoken SET last_accessed = $2 WHERE id = $1";

const OAUTH_TOKEN_ACCESSED: &str = "UPDATE oauthaccesstoken SET last_accessed = $2 WHERE id = $1";

impl Session<'_> {
    /// The application token of this name.
    pub async fn app_token(
        &self,
        name: &str,
        local_now: NaiveDateTime,
    ) -> Result<Option<AppToken>, CatalogError> {
        let params = [name.into(), local_now.into()];
        let rows = self.query(APP_TOKEN, &params).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(AppToken {
            id: row.get(0)?,
            uuid: row.get(1)?,
            title: row.get(2)?,
            secret: row.get(3)?,
            last_accessed: row.get(4)?,
            owner: Owner { id: row.get(5)?, username: row.get(6)?, enabled: row.get(7)? },
        }))
    }

    /// The OAuth token of this name, expired or not.
    pub async fn oauth_token(&self, name: &str) -> Result<Option<OAuthToken>, CatalogError> {
        let rows = self.query(OAUTH_TOKEN, &[name.into()]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(OAuthToken {
            id: row.get(0)?,
            uuid: row.get(1)?,
            code_hash: row.get(2)?,
            scope: row.get(3)?,
            expires_at: row.get(4)?,
            last_accessed: row.get(5)?,
            owner: Owner { id: row.get(6)?, username: row.get(7)?, enabled: row.get(8)? },
        }))
    }

    /// The access token of this name.
    pub async fn access_token(&self, name: &str) -> Result<Option<AccessToken>, CatalogError> {
        let rows = self.query(ACCESS_TOKEN, &[name.into()]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(AccessToken { repository_id: row.get(0)?, role: row.get(1)?, code: row.get(2)? }))
    }

    /// Notes that an application token was used; `now` is UTC.
    pub async fn app_token_accessed(
        &self,
        id: i32,
        now: NaiveDateTime,
    ) -> Result<(), CatalogError> {
        self.noted(APP_TOKEN_ACCESSED, id, now).await
    }

    /// Notes that an OAuth token was used; `now` is local time.
    pub async fn oauth_token_accessed(
        &self,
        id: i32,
        now: NaiveDateTime,
    ) -> Result<(), CatalogError> {
        self.noted(OAUTH_TOKEN_ACCESSED, id, now).await
    }

    async fn noted(
        &self,
        sql: &'static str,
        id: i32,
        now: NaiveDateTime,
    ) -> Result<(), CatalogError> {
        let session = self.counted_as("last_accessed");
        session.execute(sql, &[id.into(), now.into()]).await
    }
}
