//! Rows of the action log.

use chrono::NaiveDateTime;
use tokio_postgres::types::Type;

use super::connection::{Param, Session};
use super::error::CatalogError;

/// A row of `logentry3` (contract §4.9).
#[derive(Clone, Debug)]
pub struct LogRow {
    /// `logentrykind.name`
    pub kind: &'static str,
    /// `user.id` of the namespace or account.
    pub account_id: i32,
    /// `user.id` of who did it.
    pub performer_id: Option<i32>,
    /// `repository.id`
    pub repository_id: Option<i32>,
    /// Local time, as Quay writes it.
    pub datetime: NaiveDateTime,
    /// The client's address.
    pub ip: String,
    /// JSON in Python's spelling.
    pub metadata_json: String,
}

const INSERT: &str = "\
    INSERT INTO logentry3 \
        (kind_id, account_id, performer_id, repository_id, datetime, ip, metadata_json) \
    SELECT * FROM unnest($1::int4[], $2::int4[], $3::int4[], $4::int4[], $5::timestamp[], \
        $6::text[], $7::text[])";

impl Session<'_> {
    /// Inserts the rows in one statement: all of them or none.
    pub async fn insert_log_rows(&self, rows: &[LogRow]) -> Result<(), CatalogError> {
        let enums = self.enums().await?;
        let kinds = rows
            .iter()
            .map(|row| enums.id("logentrykind", row.kind))
            .collect::<Result<Vec<i32>, _>>()?;
        let accounts: Vec<i32> = rows.iter().map(|row| row.account_id).collect();
        let performers: Vec<Option<i32>> = rows.iter().map(|row| row.performer_id).collect();
        let repositories: Vec<Option<i32>> = rows.iter().map(|row| row.repository_id).collect();
        let times: Vec<NaiveDateTime> = rows.iter().map(|row| row.datetime).collect();
        let ips: Vec<&str> = rows.iter().map(|row| row.ip.as_str()).collect();
        let metadata: Vec<&str> = rows.iter().map(|row| row.metadata_json.as_str()).collect();
        let params: [Param<'_>; 7] = [
            (&kinds, Type::INT4_ARRAY),
            (&accounts, Type::INT4_ARRAY),
            (&performers, Type::INT4_ARRAY),
            (&repositories, Type::INT4_ARRAY),
            (&times, Type::TIMESTAMP_ARRAY),
            (&ips, Type::TEXT_ARRAY),
            (&metadata, Type::TEXT_ARRAY),
        ];
        self.execute(INSERT, &params).await
    }
}
