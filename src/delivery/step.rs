//! One change of the machine: shown first, then made.

use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use similar::TextDiff;

use super::Error;
use super::command;
use super::files::{self, FileError, at};
use super::manifest::{Before, Manifest};

/// A change. Each can be made twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a folder that everybody may enter.
    Folder(PathBuf),
    /// Note down what is being done.
    Record {
        /// Our folder.
        home: PathBuf,
        /// What is noted.
        manifest: Box<Manifest>,
    },
    /// Keep a copy of what we replace.
    Keep {
        /// What is kept.
        path: PathBuf,
        /// Where.
        backup: PathBuf,
    },
    /// Write a file of ours.
    Write {
        /// Where.
        path: PathBuf,
        /// All of it.
        content: Vec<u8>,
        /// Its permissions.
        mode: u32,
    },
    /// Put back what was there before us.
    Restore {
        /// Where.
        path: PathBuf,
        /// What, and where the copy is.
        before: Before,
    },
    /// Remove a file of ours.
    Remove(PathBuf),
    /// Remove a folder of ours, unless somebody has put something into it.
    RemoveFolder(PathBuf),
    /// Run a command.
    Run {
        /// Program and arguments.
        words: Vec<String>,
        /// As whom, where that is not us.
        user: Option<(u32, u32)>,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, path) = self.named();
        match self {
            Self::Run { words, user: None } => write!(f, "{verb} {}", words.join(" ")),
            Self::Run { words, user: Some((uid, gid)) } => {
                write!(f, "{verb} {} (as {uid}:{gid})", words.join(" "))
            }
            _ => write!(f, "{verb} {}", path.display()),
        }
    }
}

impl Step {
    /// What is done, in a word, and to what.
    pub fn named(&self) -> (&'static str, PathBuf) {
        match self {
            Self::Folder(path) => ("make folder", path.clone()),
            Self::Record { home, .. } => ("note down in", Manifest::path(home)),
            Self::Keep { path, .. } => ("keep a copy of", path.clone()),
            Self::Write { path, .. } => ("write", path.clone()),
            Self::Restore { path, .. } => ("put back", path.clone()),
            Self::Remove(path) => ("remove", path.clone()),
            Self::RemoveFolder(path) => ("remove folder", path.clone()),
            Self::Run { words, .. } => {
                ("run", words.first().map(PathBuf::from).unwrap_or_default())
            }
        }
    }

    /// What it changes in a file, as a unified diff; what is no text is named by its size and hash.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn diff(&self) -> Result<Option<String>, FileError> {
        let (path, after) = match self {
            Self::Write { path, content, .. } => (path, Some(content.clone())),
            Self::Restore { path, before } => {
                (path, Some(fs::read(&before.backup).map_err(at("read", &before.backup))?))
            }
            Self::Remove(path) => (path, None),
            _ => return Ok(None),
        };
        let before = files::look(path)?.map(|found| found.content);
        Ok(Some(unified(path, before.as_deref(), after.as_deref())))
    }

    fn carry_out(&self) -> Result<(), Error> {
        match self {
            Self::Folder(path) => make(path)?,
            Self::Record { home, manifest } => manifest.write(home)?,
            Self::Keep { path, backup } => keep(path, backup)?,
            Self::Write { path, content, mode } => files::write(path, content, *mode, None)?,
            Self::Restore { path, before } => {
                let kept = fs::read(&before.backup).map_err(at("read", &before.backup))?;
                files::write(path, &kept, before.mode, Some(before.owner))?;
            }
            Self::Remove(path) => files::remove(path).map_err(at("remove", path))?,
            Self::RemoveFolder(path) => remove_empty(path)?,
            Self::Run { words, user } => {
                command::run(words, *user).map_err(Error::Command)?;
            }
        }
        Ok(())
    }
}

/// Makes every change, and tells of each before it is made.
///
/// # Errors
/// At the first change that cannot be made, or that `tell` does not want.
pub fn carry_out(
    steps: &[Step],
    mut tell: impl FnMut(usize, &Step) -> ControlFlow<()>,
) -> Result<(), Error> {
    for (index, step) in steps.iter().enumerate() {
        if tell(index, step).is_break() {
            return Err(Error::Stopped(index));
        }
        step.carry_out()?;
    }
    Ok(())
}

fn make(path: &Path) -> Result<(), FileError> {
    match DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(at("make", path)),
    }
}

/// A copy of an earlier attempt is the right one: by now the file may be ours.
fn keep(path: &Path, backup: &Path) -> Result<(), FileError> {
    if files::look(backup)?.is_some() {
        return Ok(());
    }
    match files::look(path)? {
        // For our eyes only: who may read the original is not known of the copy's folder.
        Some(found) => files::write(backup, &found.content, 0o600, None),
        None => Ok(()),
    }
}

fn remove_empty(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Somebody else's file in it is not ours to remove.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => removed.map_err(at("remove", path)),
    }
}

fn unified(path: &Path, before: Option<&[u8]>, after: Option<&[u8]>) -> String {
    let path = path.display().to_string();
    let name = |content: Option<&[u8]>| match content {
        Some(_) => path.as_str(),
        None => "/dev/null",
    };
    let text = |content: Option<&[u8]>| match content {
        None => Some(String::new()),
        Some(bytes) if bytes.contains(&0) => None,
        Some(bytes) => String::from_utf8(bytes.to_vec()).ok(),
    };
    let (Some(old), Some(new)) = (text(before), text(after)) else {
        let size = |content: Option<&[u8]>| match content {
            None => "nothing".to_owned(),
            Some(bytes) => format!("{} bytes, sha256 {}", bytes.len(), files::sha256(bytes)),
        };
        return format!(
            "--- {}\n+++ {}\nno text: {} -> {}\n",
            name(before),
            name(after),
            size(before),
            size(after)
        );
    };
    let diff = TextDiff::from_lines(&old, &new);
    diff.unified_diff().header(name(before), name(after)).to_string()
}
