//! Rows of the action log.

use chrono::NaiveDateTime;

use super::connection::Session;
use super::error::CatalogError;
use super::value::{Param, Sql};

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
    /// The client's address; empty, and null in the table, where there is none.
    pub ip: String,
    /// JSON in Python's spelling.
    pub metadata_json: String,
}

/// One statement for all rows where there are arrays, one for each where a statement costs no round
/// trip.
const INSERT: Sql = Sql {
    postgres: "\
        INSERT INTO logentry3 \
            (kind_id, account_id, performer_id, repository_id, datetime, ip, metadata_json) \
        SELECT k, a, p, r, t, nullif(ip, ''), m FROM unnest($1::int4[], $2::int4[], $3::int4[], \
            $4::int4[], $5::timestamp[], $6::text[], $7::text[]) AS rows (k, a, p, r, t, ip, m)",
    sqlite: "\
        INSERT INTO logentry3 \
            (kind_id, account_id, performer_id, repository_id, datetime, ip, metadata_json) \
        VALUES ($1, $2, $3, $4, $5, nullif($6, ''), $7)",
};

impl Session<'_> {
    /// Inserts the rows in one transaction: all of them or none.
    pub async fn insert_log_rows(&self, rows: &[LogRow]) -> Result<(), CatalogError> {
        let enums = self.enums().await?;
        let kind = |row: &LogRow| enums.id("logentrykind", row.kind).map(Some);
        let kinds = rows.iter().map(kind).collect::<Result<Vec<_>, _>>()?;
        if let Some(sqlite) = self.sqlite() {
            let sets: Vec<[Param<'_>; 7]> =
                rows.iter().zip(&kinds).map(|(row, kind)| row.params(*kind)).collect();
            let sets: Vec<&[Param<'_>]> = sets.iter().map(<[_; 7]>::as_slice).collect();
            return sqlite.execute_each(self.route, INSERT.sqlite, &sets).await;
        }
        let accounts: Vec<_> = rows.iter().map(|row| Some(row.account_id)).collect();
        let performers: Vec<_> = rows.iter().map(|row| row.performer_id).collect();
        let repositories: Vec<_> = rows.iter().map(|row| row.repository_id).collect();
        let times: Vec<_> = rows.iter().map(|row| row.datetime).collect();
        let ips: Vec<_> = rows.iter().map(|row| row.ip.as_str()).collect();
        let metadata: Vec<_> = rows.iter().map(|row| row.metadata_json.as_str()).collect();
        let params = [
            Param::Ints(&kinds),
            Param::Ints(&accounts),
            Param::Ints(&performers),
            Param::Ints(&repositories),
            Param::Times(&times),
            Param::Texts(&ips),
            Param::Texts(&metadata),
        ];
        self.execute(INSERT, &params).await
    }
}

impl LogRow {
    fn params(&self, kind: Option<i32>) -> [Param<'_>; 7] {
        [
            Param::Int(kind),
            self.account_id.into(),
            self.performer_id.into(),
            self.repository_id.into(),
            self.datetime.into(),
            (&self.ip).into(),
            (&self.metadata_json).into(),
        ]
    }
}
