//! Exceptions from decision D-003: on record, a file each, or none at all.
//!
//! An exception lets nothing happen that would not happen otherwise: a capability whose tables differ
//! stays with Python. It says that this is known, by whom, and until when.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use chrono::NaiveDate;
use serde::Deserialize;
use toml::value::Datetime;

/// Where they are, beside `config.yaml`.
pub const FOLDER: &str = "schema-exceptions";

/// The largest file that is read, and how many are.
const MOST_BYTES: u64 = 64 << 10;
const MOST_FILES: usize = 200;

/// A record, as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What it is referred to by.
    pub id: String,
    /// Why the schema has to differ.
    pub reason: String,
    /// `table.column`, or `table` for all of one.
    pub changes: Vec<String>,
    /// The capabilities that it keeps with Python.
    pub capabilities: Vec<String>,
    /// How both runtimes go on with the changed tables.
    pub compatibility: String,
    /// How the change is undone.
    pub rollback: String,
    /// The last day on which it holds.
    pub expires: Datetime,
    /// Who accepts it, a person for each role.
    pub approvers: Approvers,
}

/// Three roles, three people.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approvers {
    /// Who answers for the registry.
    pub registry: String,
    /// Who answers for the database.
    pub database: String,
    /// Who is called when it does not work.
    pub operations: String,
}

/// A record that may be relied on today.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// What it says.
    pub record: Record,
    /// The last day on which it holds.
    pub expires: NaiveDate,
}

/// Why a record is refused.
#[derive(Debug, thiserror::Error)]
pub enum ExceptionError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is too large to be one.
    #[error("larger than {} KiB", MOST_BYTES >> 10)]
    TooLarge,
    /// A member is missing, unknown or of another type.
    #[error("{0}")]
    Syntax(Box<toml::de::Error>),
    /// A member is there and says nothing.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// A capability that no table of ours is needed by.
    #[error("capabilities: {0} depends on no table; one of {1} does")]
    Capability(String, String),
    /// Not a day.
    #[error("expires: {0} is no day; write it as 2027-01-31")]
    Expiry(Datetime),
    /// It has held.
    #[error("expired: it held until {0}; remove it, or have it approved anew")]
    Expired(NaiveDate),
    /// One person for two roles.
    #[error("approvers: {0} cannot approve in two roles")]
    SamePerson(String),
    /// Another file has this id.
    #[error("id: {0} is that of another record too")]
    SameId(String),
}

/// A file of the folder, and what it is worth.
#[derive(Debug)]
pub struct Exception {
    /// Which file.
    pub file: PathBuf,
    /// The record, or why it is refused.
    pub record: Result<Accepted, ExceptionError>,
}

impl Record {
    /// Whether it is about this column, or this table.
    pub fn covers(&self, table: &str, column: Option<&str>) -> bool {
        self.changes.iter().any(|change| match change.split_once('.') {
            None => change == table,
            Some((of, name)) => of == table && Some(name) == column,
        })
    }
}

/// Every record beside this `config.yaml`, by file name; none where there is no folder.
///
/// `known` are the capabilities that a table of ours is needed by, `today` the day that counts.
///
/// # Errors
/// When the folder cannot be listed, or has more files than anybody would approve.
pub fn exceptions(
    config: &Path,
    known: &BTreeSet<&str>,
    today: NaiveDate,
) -> io::Result<Vec<Exception>> {
    let folder = config.join(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    if files.len() > MOST_FILES {
        return Err(io::Error::other(format!(
            "{} has over {MOST_FILES} records",
            folder.display()
        )));
    }
    files.sort();
    let mut ids = BTreeSet::new();
    let exceptions = files.into_iter().map(|file| {
        let record = read(&file, known, today).and_then(|accepted| {
            match ids.insert(accepted.record.id.clone()) {
                true => Ok(accepted),
                false => Err(ExceptionError::SameId(accepted.record.id)),
            }
        });
        Exception { file, record }
    });
    Ok(exceptions.collect())
}

fn read(file: &Path, known: &BTreeSet<&str>, today: NaiveDate) -> Result<Accepted, ExceptionError> {
    let mut text = String::new();
    fs::File::open(file)?.take(MOST_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(ExceptionError::TooLarge);
    }
    let record: Record =
        toml::from_str(&text).map_err(|error| ExceptionError::Syntax(Box::new(error)))?;
    accept(record, known, today)
}

fn accept(
    record: Record,
    known: &BTreeSet<&str>,
    today: NaiveDate,
) -> Result<Accepted, ExceptionError> {
    let Approvers { registry, database, operations } = &record.approvers;
    let texts = [
        ("id", &record.id),
        ("reason", &record.reason),
        ("compatibility", &record.compatibility),
        ("rollback", &record.rollback),
        ("approvers.registry", registry),
        ("approvers.database", database),
        ("approvers.operations", operations),
    ];
    let empty = texts.into_iter().find(|(_, text)| text.trim().is_empty()).map(|(name, _)| name);
    let lists = [("changes", &record.changes), ("capabilities", &record.capabilities)];
    let blank = |list: &[String]| list.is_empty() || list.iter().any(|item| item.trim().is_empty());
    let empty = empty.or_else(|| lists.into_iter().find(|(_, list)| blank(list)).map(|(n, _)| n));
    if let Some(name) = empty {
        return Err(ExceptionError::Empty(name));
    }
    if let Some(other) = record.capabilities.iter().find(|name| !known.contains(name.as_str())) {
        let known: Vec<&str> = known.iter().copied().collect();
        return Err(ExceptionError::Capability(other.clone(), known.join(", ")));
    }
    let mut people = BTreeSet::new();
    for person in [registry, database, operations] {
        if !people.insert(person.trim().to_lowercase()) {
            return Err(ExceptionError::SamePerson(person.clone()));
        }
    }
    let expires = day(&record.expires).ok_or(ExceptionError::Expiry(record.expires))?;
    match expires < today {
        true => Err(ExceptionError::Expired(expires)),
        false => Ok(Accepted { record, expires }),
    }
}

/// A day without a time: with one, nobody could say in which zone.
fn day(at: &Datetime) -> Option<NaiveDate> {
    let date = at.date.filter(|_| at.time.is_none())?;
    NaiveDate::from_ymd_opt(i32::from(date.year), u32::from(date.month), u32::from(date.day))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
id = "EX-001"
reason = "the column moves to a table of its own in this release"
changes = ["tag.hidden", "uploadedblob"]
capabilities = ["V2_PULL", "V2_PUSH"]
compatibility = "Python reads both for a month; these capabilities stay with it"
rollback = "the migration is reversible while both are there"
expires = 2027-01-31

[approvers]
registry = "Ada"
database = "Grace"
operations = "Edsger"
"#;

    fn judged(text: &str, today: &str) -> Result<Accepted, ExceptionError> {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(FOLDER)).unwrap();
        fs::write(folder.path().join(FOLDER).join("ex.toml"), text).unwrap();
        let known = BTreeSet::from(["V2_PULL", "V2_PUSH"]);
        exceptions(folder.path(), &known, today.parse().unwrap()).unwrap().remove(0).record
    }

    #[test]
    fn a_whole_record_holds_to_its_last_day() {
        let accepted = judged(GOOD, "2027-01-31").unwrap();
        assert!(accepted.record.covers("tag", Some("hidden")));
        assert!(
            !accepted.record.covers("tag", Some("name")) && !accepted.record.covers("tag", None)
        );
        assert!(accepted.record.covers("uploadedblob", None));
        assert!(accepted.record.covers("uploadedblob", Some("id")));
        let expired = judged(GOOD, "2027-02-01").unwrap_err().to_string();
        assert!(expired.contains("it held until 2027-01-31"), "{expired}");
    }

    /// Each member is needed, each by itself.
    #[test]
    fn what_is_missing_is_named() {
        let lines: Vec<&str> = GOOD.lines().filter(|line| line.contains(" = ")).collect();
        assert_eq!(lines.len(), 10);
        for line in lines {
            let name = line.split(' ').next().unwrap();
            let without = judged(&GOOD.replace(line, ""), "2026-11-26").unwrap_err().to_string();
            assert!(without.contains(&format!("missing field `{name}`")), "{name}: {without}");
            let blank = if line.contains('[') { "[]" } else { "\" \"" };
            let blank = GOOD.replace(line, &format!("{name} = {blank}"));
            let blank = judged(&blank, "2026-11-26").unwrap_err().to_string();
            let empty = format!("{name} is empty");
            assert!(blank.contains(&empty) || name == "expires", "{name}: {blank}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, words) in [
            (
                "\"V2_PUSH\"",
                "\"V2_PUSHES\"",
                "V2_PUSHES depends on no table; one of V2_PULL, V2_PUSH",
            ),
            ("Grace", "ada", "ada cannot approve in two roles"),
            ("2027-01-31", "2027-01-31T00:00:00Z", "write it as 2027-01-31"),
            ("2027-01-31", "\"soon\"", "expires"),
            ("operations =", "operation =", "operation"),
            ("id = ", "id = = ", "line 2"),
        ] {
            let error = judged(&GOOD.replace(from, to), "2026-11-26").unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
        let huge = format!("{GOOD}#{}", "x".repeat(70_000));
        assert!(matches!(judged(&huge, "2026-11-26"), Err(ExceptionError::TooLarge)));
    }

    #[test]
    fn an_id_is_used_once_and_no_folder_is_no_exception() {
        let folder = tempfile::tempdir().unwrap();
        let known = BTreeSet::from(["V2_PULL", "V2_PUSH"]);
        let today = "2026-11-26".parse().unwrap();
        assert!(exceptions(folder.path(), &known, today).unwrap().is_empty());
        fs::create_dir(folder.path().join(FOLDER)).unwrap();
        for name in ["a.toml", "b.toml", "README.md"] {
            fs::write(folder.path().join(FOLDER).join(name), GOOD).unwrap();
        }
        let found = exceptions(folder.path(), &known, today).unwrap();
        assert_eq!(found.len(), 2);
        assert!(found[0].record.is_ok());
        assert!(matches!(found[1].record, Err(ExceptionError::SameId(_))));
    }
}
