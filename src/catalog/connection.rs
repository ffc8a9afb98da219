//! Statements on behalf of a route: counted, limited in time, and the same for both engines.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::OnceCell;

use super::enums::Enums;
use super::error::CatalogError;
use super::postgres::Postgres;
use super::pulls::Reads;
use super::sqlite::{Access, Sqlite};
use super::value::{Param, Row, Sql};
use crate::config::{Database, Engine, Sidecar};
use crate::telemetry::Metrics;

/// The database. Cheap to clone; clones share their connections.
///
/// A connection to PostgreSQL is driven by the runtime that opened it, so every serving thread has
/// a pool of its own ([`Catalog::with_own_pool`]) and no statement hops between threads.
#[derive(Clone)]
pub struct Catalog {
    pub(super) connections: Connections,
    pub(super) reads: Arc<Reads>,
    enums: Arc<OnceCell<Enums>>,
    wait: Duration,
}

#[derive(Clone)]
pub(super) enum Connections {
    Postgres(Postgres),
    Sqlite(Sqlite),
}

impl Catalog {
    /// Opens nothing yet: the first statement does.
    pub fn new(
        database: &Database,
        sidecar: &Sidecar,
        pool_size: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Self, CatalogError> {
        let connections = match &database.engine {
            Engine::Postgres => {
                Connections::Postgres(Postgres::new(database, sidecar, pool_size, metrics)?)
            }
            Engine::Sqlite(path) => {
                Connections::Sqlite(Sqlite::new(path, sidecar, pool_size, metrics))
            }
        };
        let (reads, enums) = Default::default();
        Ok(Self { connections, reads, enums, wait: sidecar.db_wait })
    }

    /// The same database through a pool of its own, where connections belong to threads.
    pub fn with_own_pool(&self, pool_size: usize) -> Result<Self, CatalogError> {
        let mut own = self.clone();
        if let Connections::Postgres(postgres) = &self.connections {
            own.connections = Connections::Postgres(postgres.with_own_pool(pool_size)?);
        }
        Ok(own)
    }

    /// The longest wait for a connection.
    pub(super) fn wait(&self) -> Duration {
        self.wait
    }

    /// Statements counted under `route`.
    pub fn session(&self, route: &'static str) -> Session<'_> {
        Session { catalog: self, route }
    }
}

/// The catalog on behalf of one route or one kind of background work.
#[derive(Clone, Copy)]
pub struct Session<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) route: &'static str,
}

impl Connections {
    /// Counts a transaction that had to begin anew.
    pub(super) fn count_conflict(&self) {
        if let Self::Postgres(postgres) = self {
            postgres.count_conflict();
        }
    }
}

impl Session<'_> {
    /// For a task that may outlive whoever it works for: [`Catalog::session`] takes them again.
    pub fn parts(&self) -> (Catalog, &'static str) {
        (self.catalog.clone(), self.route)
    }

    /// Runs a statement that changes nothing, and returns its rows.
    pub(super) async fn query(
        &self,
        sql: impl Into<Sql>,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, CatalogError> {
        let sql = sql.into();
        match &self.catalog.connections {
            Connections::Postgres(postgres) => {
                postgres.query(self.route, sql.postgres, params).await
            }
            Connections::Sqlite(sqlite) => {
                sqlite.query(Access::Read, self.route, sql.sqlite, params).await
            }
        }
    }

    /// Runs a statement that must not run twice.
    pub(super) async fn execute(
        &self,
        sql: impl Into<Sql>,
        params: &[Param<'_>],
    ) -> Result<(), CatalogError> {
        self.write(sql, params).await.map(drop)
    }

    /// Runs a statement that must not run twice, and returns the rows of its `RETURNING`.
    pub(super) async fn write(
        &self,
        sql: impl Into<Sql>,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, CatalogError> {
        let sql = sql.into();
        match &self.catalog.connections {
            Connections::Postgres(postgres) => {
                postgres.write(self.route, sql.postgres, params).await
            }
            Connections::Sqlite(sqlite) => {
                sqlite.query(Access::Write, self.route, sql.sqlite, params).await
            }
        }
    }

    /// SQLite, where the database is one: it has no arrays, and needs none.
    pub(super) fn sqlite(&self) -> Option<&Sqlite> {
        match &self.catalog.connections {
            Connections::Postgres(_) => None,
            Connections::Sqlite(sqlite) => Some(sqlite),
        }
    }

    /// Quay's lookup tables, read once a process.
    pub(super) async fn enums(&self) -> Result<&Enums, CatalogError> {
        self.catalog.enums.get_or_try_init(|| Enums::load(self)).await
    }

    /// The same session, counted under another name.
    pub(super) fn counted_as(self, route: &'static str) -> Self {
        Self { route, ..self }
    }
}

/// Counts a connection while it is in use, also when whoever uses it is dropped.
pub(super) struct InUse(Gauge);

impl InUse {
    pub(super) fn count(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.dec();
    }
}
