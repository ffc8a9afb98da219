//! The database of a registry of its own, which no Python shares: Quay's tables with what Quay's
//! migrations leave in them, and the rows without which nobody could come in.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use chrono::Utc;
use rusqlite::{Connection, Transaction, params};
use uuid::Uuid;

use super::sqlite::APPLICATION_ID;
use super::value::python_time;

const SCHEMA: [&str; 5] = [
    include_str!("../../conf/mirror/accounts.sql"),
    include_str!("../../conf/mirror/repositories.sql"),
    include_str!("../../conf/mirror/images.sql"),
    include_str!("../../conf/mirror/mirrors.sql"),
    include_str!("../../conf/mirror/logs.sql"),
];

/// Who and what is in it from the first moment.
#[derive(Debug)]
pub struct Founding<'a> {
    /// `user.username` of the administrator.
    pub administrator: &'a str,
    /// `user.password_hash`: bcrypt.
    pub password_hash: &'a str,
    /// The first storage location, as `DISTRIBUTED_STORAGE_CONFIG` names it.
    pub location: &'a str,
    /// `servicekey.name`: the registry's address.
    pub address: &'a str,
    /// `servicekey.kid` of the instance key; it never expires.
    pub kid: &'a str,
    /// `servicekey.jwk`: its public half.
    pub jwk: &'a str,
}

/// No database.
#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    /// The system refuses it.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// SQLite does.
    #[error("{path}: {source}")]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
}

/// Makes the database at `path`, in place of whatever is there: under another name, whole and on
/// the disk before it gets its own. Only our user can read it.
pub fn found(path: &Path, founding: &Founding<'_>) -> Result<(), FoundingError> {
    let new = path.with_extension("db.new");
    let file = |source| FoundingError::File { path: new.clone(), source };
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file(error)),
        _ => {}
    }
    // SQLite gives its log the mode of the file.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(file)?;
    fill(&new, founding).map_err(|source| FoundingError::Database { path: new.clone(), source })?;
    File::open(&new).and_then(|made| made.sync_all()).map_err(file)?;
    std::fs::rename(&new, path).map_err(file)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(file)
}

fn fill(path: &Path, founding: &Founding<'_>) -> rusqlite::Result<()> {
    let mut database = Connection::open(path)?;
    // A file that nobody has yet is thrown away when anything goes wrong.
    database.pragma_update(None, "journal_mode", "OFF")?;
    database.pragma_update(None, "synchronous", "OFF")?;
    let transaction = database.transaction()?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    for part in SCHEMA {
        transaction.execute_batch(part)?;
    }
    let now = python_time(&Utc::now().naive_utc());
    first_rows(&transaction, founding, &now)?;
    transaction.commit()?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    database.close().map_err(|(_, error)| error)
}

/// As Quay makes an administrator and its instance key (contract §2.1, §3.2); the address is one
/// that no mail goes to (RFC 2606).
fn first_rows(
    database: &Transaction<'_>,
    founding: &Founding<'_>,
    now: &str,
) -> rusqlite::Result<()> {
    database.execute(
        "INSERT INTO \"user\" (uuid, username, password_hash, email, verified, organization, robot, \
             invoice_email, last_invalid_login, creation_date) \
         VALUES (?1, ?2, ?3, ?2 || '@localhost.invalid', true, false, false, false, ?4, ?4)",
        params![Uuid::new_v4().to_string(), founding.administrator, founding.password_hash, now],
    )?;
    database.execute("INSERT INTO imagestoragelocation (name) VALUES (?1)", [founding.location])?;
    database.execute(
        "INSERT INTO servicekeyapproval (approval_type, approved_date, notes) \
         VALUES ('ServiceKeyApprovalType.AUTOMATIC', ?1, '')",
        [now],
    )?;
    database.execute(
        "INSERT INTO servicekey (name, kid, service, jwk, metadata, created_date, approval_id) \
         VALUES (?1, ?2, 'quay', ?3, '{\"created_by\": \"quay-sidecar\"}', ?4, ?5)",
        params![founding.address, founding.kid, founding.jwk, now, database.last_insert_rowid()],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::schema::{LiveColumn, compare, contract};

    fn founded(folder: &Path) -> Connection {
        let path = folder.join("quay.db");
        let founding = Founding {
            administrator: "admin",
            password_hash: "$2b$12$x",
            location: "default",
            address: "https://registry.example",
            kid: "kid",
            jwk: "{}",
        };
        found(&path, &founding).unwrap();
        Connection::open(path).unwrap()
    }

    /// The queries of one column, as texts.
    fn texts(database: &Connection, query: &str) -> Vec<String> {
        let mut statement = database.prepare(query).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(|row| row.unwrap()).collect()
    }

    #[test]
    fn the_contract_holds() {
        let folder = tempfile::tempdir().unwrap();
        let database = founded(folder.path());
        let mut statement = database
            .prepare(
                "SELECT t.name, c.name, c.type, NOT (c.\"notnull\" OR c.pk) \
                 FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table'",
            )
            .unwrap();
        let live = statement.query_map([], |row| {
            Ok(LiveColumn {
                any_size: true,
                table: row.get(0)?,
                column: row.get(1)?,
                data_type: row.get(2)?,
                nullable: row.get(3)?,
            })
        });
        let live: Vec<LiveColumn> = live.unwrap().map(Result::unwrap).collect();
        let drifts = compare(contract(), &live);
        assert!(drifts.is_empty(), "{drifts:?}");
        for table in &contract().tables {
            for column in table.columns.iter().chain(&table.push).chain(&table.shape) {
                let found = live.iter().find(|c| c.table == table.name && c.column == column.name);
                let found = found.unwrap_or_else(|| panic!("{}.{}", table.name, column.name));
                let serial = column.name == "id";
                assert_eq!(
                    found.nullable,
                    column.nullable && !serial,
                    "{}.{}",
                    table.name,
                    column.name
                );
            }
            let names = format!("SELECT name FROM \"{}\"", table.name);
            let there = if table.rows.is_empty() { Vec::new() } else { texts(&database, &names) };
            for row in &table.rows {
                assert!(there.contains(row), "{} has no {row}", table.name);
            }
        }
    }

    /// What another process would win by (contract §9, 4), and what the schema contract names.
    #[test]
    fn what_must_be_unique_is() {
        let folder = tempfile::tempdir().unwrap();
        let database = founded(folder.path());
        let races = [
            ("blobupload", "uuid"),
            ("blobupload", "repository_id,uuid"),
            ("label", "uuid"),
            ("queueitem", "state_id"),
            ("manifestsecuritystatus", "manifest_id"),
        ];
        let races = races.map(|(table, columns)| (table.to_owned(), columns.to_owned()));
        let named = contract().tables.iter().flat_map(|table| {
            table.unique.iter().map(|columns| (table.name.clone(), columns.join(",")))
        });
        for (table, columns) in named.chain(races) {
            let unique = texts(
                &database,
                &format!(
                    "SELECT (SELECT group_concat(name) FROM pragma_index_info(i.name)) \
                     FROM pragma_index_list('{table}') i WHERE i.\"unique\""
                ),
            );
            assert!(unique.contains(&columns), "{table} ({columns}): {unique:?}");
        }
    }

    #[test]
    fn it_is_marked_as_ours_sound_and_nobody_elses() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        // What a killed process left behind is in nobody's way.
        std::fs::write(folder.path().join("quay.db.new"), "half").unwrap();
        let database = founded(folder.path());
        let mark: i32 = database.pragma_query_value(None, "application_id", |r| r.get(0)).unwrap();
        assert_eq!(mark, APPLICATION_ID);
        assert_eq!(texts(&database, "PRAGMA journal_mode"), ["wal"]);
        assert_eq!(texts(&database, "PRAGMA integrity_check"), ["ok"]);
        assert_eq!(texts(&database, "PRAGMA foreign_key_check"), [""; 0]);
        let mode = std::fs::metadata(folder.path().join("quay.db")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(database);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
