//! The database of a test, of the engine that all tests of this run are on: `TEST_DATABASE=sqlite`,
//! or PostgreSQL.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};

use super::postgres::{self, Cluster};
use super::process::{Folder, lock};
use super::sqlite;

/// One for each test, thrown away with it.
pub enum Database {
    Postgres(postgres::Database),
    Sqlite { file: PathBuf, uri: String, _folder: Folder },
}

pub fn on_sqlite() -> bool {
    std::env::var("TEST_DATABASE").is_ok_and(|engine| engine == "sqlite")
}

/// Says that something is not tested, also when nobody asked for the output of tests that pass.
pub fn left_out(what: &str) {
    let _ = writeln!(std::io::stderr(), "left out: {what}");
}

/// Whether this run is on PostgreSQL; where it is not, says what is left out.
pub fn postgres_only(what: &str) -> bool {
    if on_sqlite() {
        left_out(&format!("{what}, which is PostgreSQL's alone"));
    }
    !on_sqlite()
}

/// What can be stopped and started: PostgreSQL, or a file that is taken away and brought back.
pub enum Server {
    Postgres(Cluster),
    Sqlite(PathBuf),
}

impl Server {
    /// In good order: nobody is in the middle of a write.
    pub fn stop(&self) {
        match self {
            Server::Postgres(cluster) => cluster.stop(),
            Server::Sqlite(file) => {
                let lock = rusqlite::Connection::open(file).expect("a database");
                lock.execute_batch("BEGIN IMMEDIATE").expect("the lock");
                move_file(file, &away(file));
            }
        }
    }

    /// Without a word to anybody.
    pub fn crash(&self) {
        match self {
            Server::Postgres(cluster) => cluster.crash(),
            Server::Sqlite(file) => move_file(file, &away(file)),
        }
    }

    pub fn start_again(&self) {
        match self {
            Server::Postgres(cluster) => cluster.start_again(),
            Server::Sqlite(file) => move_file(&away(file), file),
        }
    }
}

fn away(file: &Path) -> PathBuf {
    file.with_extension("away")
}

fn move_file(from: &Path, to: &Path) {
    std::fs::rename(from, to).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
}

/// A transaction that keeps everybody else away from a table; on SQLite from the whole file, and
/// only those who want to write, where it has a write-ahead log.
pub enum TableLock {
    Postgres(tokio_postgres::Client),
    Sqlite(rusqlite::Connection),
}

impl TableLock {
    pub async fn take(database: &Database, table: &str) -> TableLock {
        match database {
            Database::Postgres(database) => {
                let client = database.connect().await;
                let lock = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
                client.batch_execute(&lock).await.unwrap();
                TableLock::Postgres(client)
            }
            Database::Sqlite { file, .. } => {
                let connection = rusqlite::Connection::open(file).unwrap();
                connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
                TableLock::Sqlite(connection)
            }
        }
    }

    pub async fn release(self) {
        match self {
            TableLock::Postgres(client) => client.batch_execute("COMMIT").await.unwrap(),
            TableLock::Sqlite(connection) => connection.execute_batch("COMMIT").unwrap(),
        }
    }
}

impl Database {
    /// A copy of a template of `cluster`.
    pub fn of_template(cluster: &Cluster, template: &str) -> Database {
        if on_sqlite() {
            Database::carried(cluster, template)
        } else {
            Database::Postgres(cluster.clone_template(template))
        }
    }

    /// A file with what is in a template: carried over once a process, then copied.
    pub fn carried(cluster: &Cluster, template: &str) -> Database {
        type Files = HashMap<(u16, String), (PathBuf, Folder)>;
        static FILES: LazyLock<Mutex<Files>> = LazyLock::new(Mutex::default);
        let (_folder, mut files) = (Folder::new(), lock(&FILES));
        let name = (cluster.port(), template.to_owned());
        let (original, _) = files.entry(name).or_insert_with(|| {
            let folder = Folder::new();
            let file = folder.path().join("quay.db");
            sqlite::carry_over(cluster.clone_template(template).uri(), &file);
            (file, folder)
        });
        let file = _folder.path().join("quay.db");
        std::fs::copy(original, &file).expect("our own folders");
        let uri = format!("sqlite:///{}", file.display());
        Database::Sqlite { file, uri, _folder }
    }

    pub fn uri(&self) -> &str {
        match self {
            Database::Postgres(database) => database.uri(),
            Database::Sqlite { uri, .. } => uri,
        }
    }

    /// PostgreSQL's name for it.
    pub fn name(&self) -> &str {
        match self {
            Database::Postgres(database) => &database.name,
            Database::Sqlite { .. } => panic!("this test is PostgreSQL's alone"),
        }
    }

    /// SQLite with its oldest journal: all of it in one file, and who writes keeps readers out.
    /// For tests that begin, and nothing on PostgreSQL.
    pub fn without_write_ahead_log(&self) {
        if let Database::Sqlite { .. } = self {
            assert_eq!(self.sql("PRAGMA journal_mode = DELETE"), "delete");
        }
    }

    /// Runs statements and gives what they print: rows by line, columns by `|`.
    pub fn sql(&self, statements: &str) -> String {
        match self {
            Database::Postgres(database) => database.sql(statements),
            Database::Sqlite { file, .. } => sqlite::sql(file, statements),
        }
    }
}
