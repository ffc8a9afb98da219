//! Several statements, all of them or none, on either engine.

use super::connection::{Connections, Session};
use super::error::CatalogError;
use super::value::{Param, Row, Sql};
use super::{postgres, sqlite};

/// A transaction that has begun. One that is dropped, as when its request is, is rolled back.
pub(super) struct Transaction<'a> {
    session: Session<'a>,
    on: On,
    /// Another transaction was in the way of this one.
    in_conflict: bool,
}

/// How often a transaction begins anew when another is in its way. Python takes the same locks, but
/// not always in our order.
const ATTEMPTS: u32 = 4;

const ADVISORY_LOCK: &str = "SELECT pg_advisory_xact_lock($1)";

enum On {
    Postgres(postgres::Transaction),
    Sqlite(sqlite::Transaction),
}

impl<'a> Session<'a> {
    /// Does `work` in one transaction, which is committed if it succeeds and rolled back if not. It
    /// is done again from the beginning where another transaction is in the way.
    pub(super) async fn transaction<T, E: From<CatalogError>>(
        &self,
        work: impl AsyncFn(&mut Transaction<'a>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut attempt = 1;
        loop {
            let mut transaction = self.begin().await?;
            let result = work(&mut transaction).await;
            let (result, in_conflict) = transaction.close(result).await;
            if !in_conflict || attempt == ATTEMPTS {
                return result;
            }
            attempt += 1;
            self.catalog.connections.count_conflict();
        }
    }

    async fn begin(&self) -> Result<Transaction<'a>, CatalogError> {
        let on = match &self.catalog.connections {
            Connections::Postgres(postgres) => On::Postgres(postgres.begin(self.route).await?),
            Connections::Sqlite(sqlite) => On::Sqlite(sqlite.begin(self.route).await?),
        };
        Ok(Transaction { session: *self, on, in_conflict: false })
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
        let result = match &mut self.on {
            On::Postgres(on) => on.query(sql.postgres, params).await,
            On::Sqlite(on) => on.query(sql.sqlite, params).await,
        };
        self.in_conflict |= matches!(result, Err(CatalogError::Conflict(_)));
        result
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
        match self.on {
            On::Postgres(_) => self.query(ADVISORY_LOCK, &[number.into()]).await.map(drop),
            On::Sqlite(_) => Ok(()),
        }
    }

    /// Commits what succeeded. Returns too whether the failure is one of another's being in the way.
    async fn close<T, E: From<CatalogError>>(self, result: Result<T, E>) -> (Result<T, E>, bool) {
        let done = match (result, self.on) {
            (Ok(done), On::Postgres(on)) => on.commit().await.map(|()| done),
            (Ok(done), On::Sqlite(on)) => on.commit().await.map(|()| done),
            (failed, On::Postgres(on)) => {
                on.rollback().await;
                return (failed, self.in_conflict);
            }
            (failed, On::Sqlite(on)) => {
                on.rollback().await;
                return (failed, self.in_conflict);
            }
        };
        let in_conflict = matches!(done, Err(CatalogError::Conflict(_)));
        (done.map_err(E::from), in_conflict)
    }

    /// An `INSERT` that gave no row back.
    pub(super) fn nothing_inserted(&self, table: &str) -> CatalogError {
        let reason = format!("nothing was inserted into {table}");
        CatalogError::Refused { route: self.session.route, reason }
    }
}
