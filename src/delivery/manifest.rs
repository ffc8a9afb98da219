//! What we put onto this machine, and what was there before: kept beside our own files.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::{self, FileError, at};
use super::target::Target;
use super::{Error, Refusal};

/// Its name in our folder.
const FILE: &str = "manifest.json";

/// The format of the file that this program writes and reads.
const FORMAT: u32 = 1;

/// A record of an installation. Written before anything is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub(super) format: u32,
    /// Which release of ours.
    pub version: String,
    /// Whether all of it was done.
    pub state: State,
    /// Into what.
    pub target: Target,
    /// Every file of ours.
    pub files: Vec<Entry>,
    /// Folders that were not there before, the outer ones first.
    pub folders: Vec<PathBuf>,
}

/// How far it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Begun; some files may be as before.
    Installing,
    /// All is in place.
    Installed,
    /// Being undone; some files may be as before again.
    Removing,
}

/// A file of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it is.
    pub path: PathBuf,
    /// SHA-256 of what we write there, in hexadecimal; while it is being replaced, of both.
    pub ours: Vec<String>,
    /// What was there before us.
    pub before: Option<Before>,
}

/// A file that we replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// SHA-256 of its content, in hexadecimal.
    pub sha256: String,
    /// Its permissions.
    pub mode: u32,
    /// Its user and group.
    pub owner: (u32, u32),
    /// Where a copy of it is kept.
    pub backup: PathBuf,
}

impl Entry {
    /// Whether this content is ours, or what was there before: nobody else's.
    pub(super) fn knows(&self, sha256: &str) -> bool {
        self.is_ours(sha256) || self.before.as_ref().is_some_and(|b| b.sha256 == sha256)
    }

    pub(super) fn is_ours(&self, sha256: &str) -> bool {
        self.ours.iter().any(|ours| ours == sha256)
    }

    /// Whether the file is as we left it: `intact`, `changed` or `missing`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn condition(&self) -> Result<&'static str, FileError> {
        Ok(match files::look(&self.path)? {
            None => "missing",
            Some(found) if self.is_ours(&found.sha256) => "intact",
            Some(_) => "changed",
        })
    }
}

impl Manifest {
    pub(super) fn new(target: Target) -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: State::Installing,
            target,
            files: Vec::new(),
            folders: Vec::new(),
        }
    }

    /// Where it is, in our folder.
    pub(super) fn path(home: &Path) -> PathBuf {
        home.join(FILE)
    }

    /// The manifest in our folder, if there is one.
    ///
    /// # Errors
    /// When it cannot be read, or was written by a release that this one does not understand.
    pub fn read(home: &Path) -> Result<Option<Self>, Error> {
        let path = Self::path(home);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(at("read", &path))?,
        };
        let refused = |why: String| {
            Refusal::new(
                format!("{}: {why}", path.display()),
                "use the release of quay-sidecar that wrote it, or restore the file",
            )
        };
        let manifest: Self =
            serde_json::from_slice(&text).map_err(|error| refused(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(refused(format!("format {}, not {FORMAT}", manifest.format)).into());
        }
        Ok(Some(manifest))
    }

    pub(super) fn write(&self, home: &Path) -> Result<(), FileError> {
        let path = Self::path(home);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| at("write", &path)(io::Error::other(error)))?;
        files::write(&path, &text, 0o644, None)
    }

    pub(super) fn entry(&self, path: &Path) -> Option<&Entry> {
        self.files.iter().find(|entry| entry.path == path)
    }
}
