//! The public keys of Quay's instances.

use chrono::{NaiveDateTime, Utc};

use super::connection::Session;
use super::error::CatalogError;
use super::value::Row;

/// An approved key that has not expired (contract §2.1, Keys).
#[derive(Debug)]
pub struct ServiceKey {
    /// `servicekey.kid`
    pub kid: String,
    /// `servicekey.jwk`, JSON text.
    pub jwk: String,
    /// `servicekey.expiration_date`, UTC.
    pub expires: Option<NaiveDateTime>,
}

const SELECT: &str = "\
    SELECT kid, jwk, expiration_date FROM servicekey \
    WHERE service = $1 AND approval_id IS NOT NULL \
        AND (expiration_date IS NULL OR expiration_date > $2)";

impl Session<'_> {
    /// Every key that tokens of `service` may be signed with.
    pub async fn service_keys(&self, service: &str) -> Result<Vec<ServiceKey>, CatalogError> {
        let now = Utc::now().naive_utc();
        let rows = self.query(SELECT, &[service.into(), now.into()]).await?;
        let key =
            |row: &Row| Ok(ServiceKey { kid: row.get(0)?, jwk: row.get(1)?, expires: row.get(2)? });
        rows.iter().map(key).collect()
    }
}
