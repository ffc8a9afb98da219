//! The database of a test, of the engine that all tests of this run are on: `TEST_DATABASE=sqlite`,
//! or PostgreSQL.

use std::collections::HashMap;
use std::path::PathBuf;
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
            sqlite::carry_over(&cluster.clone_template(template), &file);
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

    pub async fn connect(&self) -> tokio_postgres::Client {
        match self {
            Database::Postgres(database) => database.connect().await,
            Database::Sqlite { .. } => panic!("this test is PostgreSQL's alone"),
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
