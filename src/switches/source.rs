//! The one place where switches are read from files.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::SystemTime;

/// The file of its own, beside `config.yaml`; it wins over the section (decision 3).
pub const SWITCH_FILE: &str = "migration-switches.yaml";

/// Quay's configuration.
pub const CONFIG_FILE: &str = "config.yaml";

/// The section of `config.yaml`.
pub const SECTION: &str = "MIGRATION_SWITCHES";

/// The largest switch file (section 9).
pub(super) const MOST_BYTES: u64 = 256 << 10;

/// The largest `config.yaml` we look into; as large as `config` reads.
const MOST_CONFIG_BYTES: u64 = 4 << 20;

/// What a file held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// There is none.
    Missing,
    /// All of it.
    Bytes(Vec<u8>),
    /// The beginning of one that is too large.
    TooLarge(Vec<u8>),
    /// Why it could not be read.
    Unreadable(String),
}

/// A file, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// What it held.
    pub content: Content,
    /// When it was last written: propagation is measured from there.
    pub modified: Option<SystemTime>,
}

/// Both files, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// [`SWITCH_FILE`]
    pub switches: Document,
    /// [`CONFIG_FILE`]
    pub config: Document,
}

impl Reading {
    /// Reads both files of `dir`, by path: a mount may replace what is behind one at any time
    /// (deployment contract, section 11). Never fails: what is wrong is part of the answer.
    pub fn of(dir: &Path) -> Self {
        Self {
            switches: read(&dir.join(SWITCH_FILE), MOST_BYTES),
            config: read(&dir.join(CONFIG_FILE), MOST_CONFIG_BYTES),
        }
    }

    /// Only a switch file, as if `config.yaml` said nothing.
    pub fn switches(bytes: impl Into<Vec<u8>>) -> Self {
        let missing = Document { content: Content::Missing, modified: None };
        Self { switches: Document::new(bytes, MOST_BYTES), config: missing }
    }

    /// Only a `config.yaml`.
    pub fn config(bytes: impl Into<Vec<u8>>) -> Self {
        let missing = Document { content: Content::Missing, modified: None };
        Self { switches: missing, config: Document::new(bytes, MOST_CONFIG_BYTES) }
    }
}

impl Document {
    fn new(bytes: impl Into<Vec<u8>>, most: u64) -> Self {
        let bytes = bytes.into();
        let content = match bytes.len() as u64 > most {
            true => Content::TooLarge(bytes),
            false => Content::Bytes(bytes),
        };
        Self { content, modified: None }
    }
}

fn read(path: &Path, most: u64) -> Document {
    let unreadable = |error: io::Error| {
        let content = match error.kind() {
            io::ErrorKind::NotFound => Content::Missing,
            _ => Content::Unreadable(error.to_string()),
        };
        Document { content, modified: None }
    };
    let modified = match fs::metadata(path) {
        Ok(found) if found.is_file() => found.modified().ok(),
        // To open a pipe would be to wait for its writer.
        Ok(_) => return unreadable(io::Error::other("not a regular file")),
        Err(error) => return unreadable(error),
    };
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too large from one that just fits.
    match File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes)) {
        Ok(_) => Document { modified, ..Document::new(bytes, most) },
        Err(error) => unreadable(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_there_is_an_answer() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Reading::of(dir.path()).switches.content, Content::Missing);
        let path = dir.path().join(SWITCH_FILE);
        fs::create_dir(&path).unwrap();
        assert!(matches!(Reading::of(dir.path()).switches.content, Content::Unreadable(_)));
        fs::remove_dir(&path).unwrap();
        fs::write(&path, vec![b'#'; MOST_BYTES as usize]).unwrap();
        let reading = Reading::of(dir.path());
        assert!(matches!(reading.switches.content, Content::Bytes(_)));
        assert!(reading.switches.modified.is_some());
        fs::write(&path, vec![b'#'; MOST_BYTES as usize + 1]).unwrap();
        assert!(matches!(Reading::of(dir.path()).switches.content, Content::TooLarge(_)));
        assert_eq!(Reading::of(&path).switches.content, Reading::of(&path).config.content);
    }
}
