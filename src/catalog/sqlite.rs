//! Quay's SQLite file, beside Python (deployment contract §12.1).
//!
//! What Python decided stays as it is: the journal mode is read, never changed, and the log is
//! moved into the database (a checkpoint) by Python alone, unless the file is our own. One writer
//! at a time inside this process, so that only two processes ever wait for each other.

use std::ffi::c_int;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connection::InUse;
use super::error::CatalogError;
use super::value::{Param, Row};
use crate::config::Sidecar;
use crate::telemetry::Metrics;

/// `PRAGMA application_id` of a file that no Python shares ("qsid"): there, checkpoints are ours.
pub(super) const APPLICATION_ID: i32 = 0x7173_6964;

/// How long SQLite itself waits for another process: as long as Quay's (`busy_timeout`).
const BUSY: Duration = Duration::from_secs(10);

/// Beyond the time that a statement may take: for a thread that hangs in the file system.
const GRACE: Duration = Duration::from_secs(2);

/// The longest that a writer of ours leaves the file to others after it had the lock.
const LONGEST_REST: Duration = Duration::from_millis(50);

/// How often a locked file is tried at most, as in Quay.
const ATTEMPTS: u32 = 5;

/// Instructions of SQLite's between two looks at the clock: some ten microseconds.
const CLOCK: c_int = 1000;

/// More than we have statements.
const PREPARED: usize = 64;

/// Whether a statement changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// The file. Cheap to clone.
#[derive(Clone)]
pub(super) struct Sqlite(Arc<File>);

struct File {
    path: PathBuf,
    readers: Connections,
    writer: Connections,
    wait: Duration,
    limit: Duration,
    metrics: Arc<Metrics>,
    /// When the next write may begin. SQLite's lock has no queue: who asks for it again at once
    /// gets it again, and Python would wait in vain. So it is free for as long as we had it.
    next_write: Mutex<Option<Instant>>,
}

/// Connections of one kind: as many as may be used at a time.
struct Connections {
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Open>>,
}

/// A connection, and the file that it has open: another may lie there by now.
struct Open {
    connection: Connection,
    inode: (u64, u64),
    /// Whether no Python shares it.
    own: bool,
}

/// One statement, and the values of each of its runs.
struct Statement {
    sql: &'static str,
    sets: Vec<Vec<Value>>,
}

type Rows = Vec<Vec<Value>>;

impl Connections {
    fn new(most: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(most)), idle: Mutex::default() }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Open>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sqlite {
    /// Opens nothing yet: the first statement does.
    pub(super) fn new(
        path: &Path,
        sidecar: &Sidecar,
        readers: usize,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self(Arc::new(File {
            path: path.to_owned(),
            readers: Connections::new(readers),
            writer: Connections::new(1),
            wait: sidecar.db_wait,
            limit: sidecar.db_statement_timeout,
            metrics,
            next_write: Mutex::default(),
        }))
    }

    /// Runs a statement; one that changes something in a transaction of its own.
    pub(super) async fn query(
        &self,
        access: Access,
        route: &'static str,
        sql: &'static str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, CatalogError> {
        let sets = vec![params.iter().map(Param::sqlite).collect()];
        let rows = self.run(access, route, Statement { sql, sets }).await?;
        Ok(rows.into_iter().map(Row::Sqlite).collect())
    }

    /// Runs a statement once for each set of parameters, in one transaction: all of them or none.
    pub(super) async fn execute_each(
        &self,
        route: &'static str,
        sql: &'static str,
        sets: &[&[Param<'_>]],
    ) -> Result<(), CatalogError> {
        let sets = sets.iter().map(|set| set.iter().map(Param::sqlite).collect()).collect();
        self.run(Access::Write, route, Statement { sql, sets }).await.map(drop)
    }

    /// SQLite waits for a locked file by itself, except where waiting could last for ever; then
    /// it is up to us to begin again, as it is to Python. Who has waited long enough is told so.
    async fn run(
        &self,
        access: Access,
        route: &'static str,
        statement: Statement,
    ) -> Result<Rows, CatalogError> {
        let statement = Arc::new(statement);
        let ends = Instant::now() + self.0.limit + access.patience();
        let mut attempt = 1;
        loop {
            let result = self.attempt(access, route, statement.clone()).await;
            match result {
                Err(Failure::Locked(_)) if attempt < ATTEMPTS && Instant::now() < ends => {
                    tokio::time::sleep(Duration::from_millis(10 << attempt)).await;
                    attempt += 1;
                }
                Err(Failure::Locked(reason)) => return Err(CatalogError::Unavailable(reason)),
                Err(Failure::Other(error)) => return Err(error),
                Ok(rows) => return Ok(rows),
            }
        }
    }

    async fn attempt(
        &self,
        access: Access,
        route: &'static str,
        statement: Arc<Statement>,
    ) -> Result<Rows, Failure> {
        let place = self.place(access).await?;
        let file = self.0.clone();
        file.metrics.statement(route);
        self.0
            .away(access, route, move || {
                // Given back with the connection, also when nobody waits for the answer any more.
                let _place = place;
                file.job(access, &statement)
            })
            .await
    }

    /// The right to use a connection, once others have had the file for as long as we had it.
    async fn place(&self, access: Access) -> Result<Place, Failure> {
        let file = &self.0;
        let permits = file.connections(access).permits.clone();
        let patience = file.wait + access.patience();
        let permit = match tokio::time::timeout(patience, permits.acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            _ => {
                file.metrics.pool_timeouts.inc();
                let reason = "every connection is in use".to_owned();
                return Err(Failure::Other(CatalogError::Unavailable(reason)));
            }
        };
        if access == Access::Write {
            tokio::time::sleep_until(file.next_write().unwrap_or_else(Instant::now).into()).await;
        }
        Ok(Place { _permit: permit, _in_use: InUse::count(&file.metrics.pool_in_use) })
    }

    /// Begins a transaction, with the lock that writers take.
    pub(super) async fn begin(&self, route: &'static str) -> Result<Transaction, CatalogError> {
        let ends = Instant::now() + self.0.limit + BUSY;
        let mut attempt = 1;
        loop {
            let result = self.try_begin(route).await;
            match result {
                Err(Failure::Locked(_)) if attempt < ATTEMPTS && Instant::now() < ends => {
                    tokio::time::sleep(Duration::from_millis(10 << attempt)).await;
                    attempt += 1;
                }
                Err(Failure::Locked(reason)) => return Err(CatalogError::Unavailable(reason)),
                Err(Failure::Other(error)) => return Err(error),
                Ok(transaction) => return Ok(transaction),
            }
        }
    }

    async fn try_begin(&self, route: &'static str) -> Result<Transaction, Failure> {
        let place = self.place(Access::Write).await?;
        let file = self.0.clone();
        let begun = self.0.away(Access::Write, route, move || {
            let mut open = file.take(Access::Write)?;
            file.watch(Access::Write, &mut open)?;
            open.connection.execute_batch("BEGIN IMMEDIATE")?;
            Ok((open, place))
        });
        let (file, began) = (self.0.clone(), Instant::now());
        Ok(Transaction { open: Some(begun.await?), file, route, began })
    }
}

/// A transaction on the one connection that writes. One that is dropped is rolled back: its
/// connection is closed.
pub(super) struct Transaction {
    /// Gone once something was wrong with it, and after the end.
    open: Option<(Open, Place)>,
    file: Arc<File>,
    route: &'static str,
    began: Instant,
}

impl Transaction {
    pub(super) async fn query(
        &mut self,
        sql: &'static str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, CatalogError> {
        let statement = Statement { sql, sets: vec![params.iter().map(Param::sqlite).collect()] };
        self.file.metrics.statement(self.route);
        let rows = self.on_connection(move |connection| run(connection, &statement)).await?;
        Ok(rows.into_iter().map(Row::Sqlite).collect())
    }

    pub(super) async fn commit(mut self) -> Result<(), CatalogError> {
        self.end("COMMIT").await
    }

    pub(super) async fn rollback(mut self) {
        // What fails to roll back does so when its connection is closed.
        let _ = self.end("ROLLBACK").await;
    }

    async fn end(&mut self, command: &'static str) -> Result<(), CatalogError> {
        self.on_connection(move |connection| connection.execute_batch(command)).await?;
        if let Some((open, place)) = self.open.take() {
            self.file.rest_after(self.began, &open);
            self.file.writer.idle().push(open);
            drop(place);
        }
        Ok(())
    }

    /// A refused statement leaves the transaction as it was before; after anything else it is over.
    async fn on_connection<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let Some((mut open, place)) = self.open.take() else {
            return Err(CatalogError::Unavailable("the transaction has ended".to_owned()));
        };
        let file = self.file.clone();
        let job = self.file.away(Access::Write, self.route, move || {
            file.watch(Access::Write, &mut open)?;
            let result = work(&open.connection);
            Ok((result, open, place))
        });
        let (result, open, place) = job.await.map_err(Failure::into_error)?;
        self.open = Some((open, place));
        result.map_err(|error| {
            failure(self.route, &error, || self.file.timeout(self.route)).into_error()
        })
    }
}

/// The right to use a connection.
struct Place {
    _permit: OwnedSemaphorePermit,
    _in_use: InUse,
}

impl Access {
    /// How long another process may keep it waiting.
    fn patience(self) -> Duration {
        match self {
            Self::Read => Duration::ZERO,
            Self::Write => BUSY,
        }
    }
}

impl File {
    fn connections(&self, access: Access) -> &Connections {
        match access {
            Access::Read => &self.readers,
            Access::Write => &self.writer,
        }
    }

    /// Away from the serving threads, in the time that a statement may take.
    async fn away<T: Send + 'static>(
        &self,
        access: Access,
        route: &'static str,
        work: impl FnOnce() -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let job = tokio::task::spawn_blocking(work);
        match tokio::time::timeout(self.limit + access.patience() + GRACE, job).await {
            Ok(Ok(result)) => {
                result.map_err(|error| failure(route, &error, || self.timeout(route)))
            }
            Ok(Err(error)) => Err(Failure::Other(CatalogError::Unavailable(error.to_string()))),
            Err(_) => Err(Failure::Other(self.timeout(route))),
        }
    }

    fn timeout(&self, route: &'static str) -> CatalogError {
        CatalogError::Timeout { route, limit_ms: self.limit.as_millis() }
    }

    /// Stops what takes too long.
    fn watch(&self, access: Access, open: &mut Open) -> rusqlite::Result<()> {
        let ends = Instant::now() + self.limit + access.patience();
        open.connection.progress_handler(CLOCK, Some(move || Instant::now() > ends))
    }

    fn job(&self, access: Access, statement: &Statement) -> rusqlite::Result<Rows> {
        let mut open = self.take(access)?;
        self.watch(access, &mut open)?;
        let result = match access {
            // Alone, it is a transaction by itself.
            Access::Read => run(&open.connection, statement),
            Access::Write => self.write(&mut open, statement),
        };
        // A connection that something was wrong with is closed.
        if result.is_ok() {
            self.connections(access).idle().push(open);
        }
        result
    }

    /// Asks for the lock at once: only for that does SQLite wait in turn with others.
    fn write(&self, open: &mut Open, statement: &Statement) -> rusqlite::Result<Rows> {
        let begin = TransactionBehavior::Immediate;
        let transaction = open.connection.transaction_with_behavior(begin)?;
        let began = Instant::now();
        let rows = run(&transaction, statement)?;
        transaction.commit()?;
        self.rest_after(began, open);
        Ok(rows)
    }

    /// Others who share the file have it next.
    fn rest_after(&self, began: Instant, open: &Open) {
        if !open.own {
            let ended = Instant::now();
            *self.next_write.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(ended + LONGEST_REST.min(ended - began));
        }
    }

    fn next_write(&self) -> Option<Instant> {
        *self.next_write.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last, or a new one; a file that has taken the place of the old
    /// one (a backup that was restored) needs new ones.
    fn take(&self, access: Access) -> rusqlite::Result<Open> {
        let inode = std::fs::metadata(&self.path).ok().map(|file| (file.dev(), file.ino()));
        let last = {
            let mut idle = self.connections(access).idle();
            idle.retain(|open| Some(open.inode) == inode);
            idle.pop()
        };
        match last {
            Some(open) => Ok(open),
            None => {
                let (connection, own) = self.open(access)?;
                Ok(Open { connection, inode: inode.unwrap_or_default(), own })
            }
        }
    }

    fn open(&self, access: Access) -> rusqlite::Result<(Connection, bool)> {
        // Readers of a write-ahead log take part in its index, so they too need to write there.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.set_prepared_statement_cache_capacity(PREPARED);
        connection.busy_timeout(match access {
            // Of a write-ahead log nobody keeps them out; else no longer than they may take at all.
            Access::Read => BUSY.min(self.limit),
            Access::Write => BUSY,
        })?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        // As in Quay, where SQLite is built without them: rows of old may refer to nothing.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
        connection.pragma_update(None, "mmap_size", 0)?;
        if access == Access::Read {
            connection.pragma_update(None, "query_only", true)?;
        }
        // A row that was logged stays logged when the power fails.
        connection.pragma_update(None, "synchronous", "FULL")?;
        let mark: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let own = mark == APPLICATION_ID;
        if access == Access::Write {
            let mode = connection.pragma_query_value(None, "journal_mode", |row| row.get(0));
            let (journal_mode, path): (String, _) = (mode?, self.path.display());
            tracing::info!(%path, journal_mode, own, "SQLite file opened for writing");
        }
        if !own {
            connection.pragma_update(None, "wal_autocheckpoint", 0)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        }
        Ok((connection, own))
    }
}

fn run(connection: &Connection, statement: &Statement) -> rusqlite::Result<Rows> {
    let mut prepared = connection.prepare_cached(statement.sql)?;
    let columns = prepared.column_count();
    let mut found = Vec::new();
    for values in &statement.sets {
        for (number, value) in (1..).zip(values) {
            // `$2` is a name here: its place is where it is first used, if it is.
            if let Some(place) = prepared.parameter_index(&format!("${number}"))? {
                prepared.raw_bind_parameter(place, value)?;
            }
        }
        let mut rows = prepared.raw_query();
        while let Some(row) = rows.next()? {
            found.push((0..columns).map(|column| row.get(column)).collect::<Result<_, _>>()?);
        }
    }
    Ok(found)
}

enum Failure {
    /// Another process, or connection, has the lock.
    Locked(String),
    Other(CatalogError),
}

impl Failure {
    fn into_error(self) -> CatalogError {
        match self {
            Self::Locked(reason) => CatalogError::Unavailable(reason),
            Self::Other(error) => error,
        }
    }
}

fn failure(
    route: &'static str,
    error: &rusqlite::Error,
    timeout: impl FnOnce() -> CatalogError,
) -> Failure {
    let reason = error.to_string();
    let Some(code) = error.sqlite_error_code() else {
        return Failure::Other(CatalogError::Refused { route, reason });
    };
    Failure::Other(match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => return Failure::Locked(reason),
        ErrorCode::OperationInterrupted => timeout(),
        ErrorCode::ReadOnly => CatalogError::ReadOnly(reason),
        ErrorCode::CannotOpen
        | ErrorCode::DatabaseCorrupt
        | ErrorCode::DiskFull
        | ErrorCode::FileLockingProtocolFailed
        | ErrorCode::NotADatabase
        | ErrorCode::OutOfMemory
        | ErrorCode::PermissionDenied
        | ErrorCode::SchemaChanged
        | ErrorCode::SystemIoFailure => CatalogError::Unavailable(reason),
        _ => CatalogError::Refused { route, reason },
    })
}
