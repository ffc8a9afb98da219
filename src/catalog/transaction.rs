//! Several statements, all of them or none, on either engine.

use super::connection::{Connections, Session};
use super::error::CatalogError;
use super::value::{Param, Row, Sql};
use super::{postgres, sqlite};

/// A transaction that has begun. One that is dropped, as when its request is, is rolled back.
pub(super) struct Transaction<'a> {
    session: Session<'a>,
    on: On,
}

const ADVISORY_LOCK: &str = "SELECT pg_advisory_xact_lock($1)";

enum On {
    Postgres(postgres::Transaction),
    Sqlite(sqlite::Transaction),
}

impl<'a> Session<'a> {
    /// Does `work` in one transaction, which is committed if it succeeds and rolled back if not.
    pub(super) async fn transaction<T, E: From<CatalogError>>(
        &self,
        work: impl AsyncFnOnce(&mut Transaction<'a>) -> Result<T, E>,
    ) -> Result<T, E> {
        let on = match &self.catalog.connections {
            Connections::Postgres(postgres) => On::Postgres(postgres.begin(self.route).await?),
            Connections::Sqlite(sqlite) => On::Sqlite(sqlite.begin(self.route).await?),
        };
        let mut transaction = Transaction { session: *self, on };
        let result = work(&mut transaction).await;
        match (&result, transaction.on) {
            (Ok(_), On::Postgres(on)) => on.commit().await?,
            (Ok(_), On::Sqlite(on)) => on.commit().await?,
            (Err(_), On::Postgres(on)) => on.rollback().await,
            (Err(_), On::Sqlite(on)) => on.rollback().await,
        }
        result
    }
}

impl<'a> Transaction<'a> {
    /// Runs a statement and returns its rows; of one that changes something, those of `RETURNING`.
    pub(super) async fn query(
        &mut self,
        sql: impl Into<Sql>,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, CatalogError> {
        let sql = sql.into();
        match &mut self.on {
            On::Postgres(on) => on.query(sql.postgres, params).await,
            On::Sqlite(on) => on.query(sql.sqlite, params).await,
        }
    }

    /// The first column of the first row, an id, if there is a row.
    pub(super) async fn id(
        &mut self,
        sql: impl Into<Sql>,
        params: &[Param<'_>],
    ) -> Result<Option<i32>, CatalogError> {
        let rows = self.query(sql, params).await?;
        rows.first().map(|row| row.get(0)).transpose()
    }

    /// Holds the lock of this number until the end, against everybody who takes it. On SQLite every
    /// transaction that writes has the whole file.
    pub(super) async fn lock(&mut self, number: i64) -> Result<(), CatalogError> {
        match &mut self.on {
            On::Postgres(on) => on.query(ADVISORY_LOCK, &[number.into()]).await.map(drop),
            On::Sqlite(_) => Ok(()),
        }
    }

    /// An `INSERT` that gave no row back.
    pub(super) fn nothing_inserted(&self, table: &str) -> CatalogError {
        let reason = format!("nothing was inserted into {table}");
        CatalogError::Refused { route: self.session.route, reason }
    }
}
