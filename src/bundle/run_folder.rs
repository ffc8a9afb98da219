//! The run folder: our socket, the flags that nginx looks at, and the secret part of blob paths.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::files;
use crate::switches::Cohort;

/// The run folder, checked to be ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder {
    path: PathBuf,
}

/// Who nginx's workers are: they look at the flags and connect to the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// Our own user, as in Quay's image.
    Ourselves,
    /// Another user, as where nginx is started by root: the folder must let them pass.
    Others,
}

/// A run folder that must not be used.
#[derive(Debug, thiserror::Error)]
pub enum RunFolderError {
    /// Somebody else made it, and could put flags into it.
    #[error(
        "{path} belongs to uid {owner}, not to us (uid {us}): remove it, or use another folder"
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// A file or a link.
    #[error("{0} is no folder: remove it, or use another one")]
    NoFolder(PathBuf),
    /// The system refuses it.
    #[error("{path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl RunFolder {
    /// Makes it, or takes it over from an earlier run of ours.
    ///
    /// # Errors
    /// When it is somebody else's (a fixed name in /tmp can be taken by anyone), or cannot be made.
    pub fn prepare(path: &Path, workers: Workers) -> Result<Self, RunFolderError> {
        let mode = match workers {
            Workers::Ourselves => 0o750,
            // Others may pass through, not look around.
            Workers::Others => 0o751,
        };
        own(path, mode)?;
        own(&path.join("on"), mode)?;
        Ok(Self { path: path.to_owned() })
    }

    /// Looks at one that somebody prepared; changes nothing.
    ///
    /// # Errors
    /// When it is not there or not ours.
    pub fn open(path: &Path) -> Result<Self, RunFolderError> {
        check(path)?;
        check(&path.join("on"))?;
        Ok(Self { path: path.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// registryd's socket.
    pub fn socket(&self) -> PathBuf {
        self.path.join("registryd.sock")
    }

    /// The file whose existence is a flag.
    pub fn flag(&self, name: &str) -> PathBuf {
        self.path.join("on").join(name)
    }

    /// Sets or clears a flag; nginx sees it at its next request.
    ///
    /// # Errors
    /// When the file cannot be made or removed.
    pub fn set(&self, name: &str, on: bool) -> Result<(), RunFolderError> {
        let path = self.flag(name);
        let done = if on { fs::write(&path, "") } else { fs::remove_file(&path) };
        match done {
            Err(error) if !on && error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(io_error(&path)),
        }
    }

    /// Which of Python's workers a switch has taken: a line each in a file, kept by the watcher for
    /// the next one. None where there is no such file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn taken_workers(&self) -> Result<BTreeSet<String>, RunFolderError> {
        let path = self.taken_file();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(io_error(&path)(error)),
        }
    }

    /// Keeps them. The file is there whole, or as it was.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_taken_workers(&self, taken: &BTreeSet<String>) -> Result<(), RunFolderError> {
        let path = self.taken_file();
        let lines: String = taken.iter().map(|program| format!("{program}\n")).collect();
        files::write(&path, lines.as_bytes(), 0o600).map_err(io_error(&path))
    }

    fn taken_file(&self) -> PathBuf {
        self.path.join("stopped-workers")
    }

    /// Where registryd finds the canary's cohort.
    pub fn cohort(&self) -> PathBuf {
        self.path.join("cohort.json")
    }

    /// Replaces it, so that nobody reads half of one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_cohort(&self, cohort: &Cohort) -> Result<(), RunFolderError> {
        let path = self.cohort();
        let text = serde_json::to_vec(cohort).map_err(io::Error::other);
        let written = text.and_then(|text| files::write(&path, &text, 0o600));
        written.map_err(io_error(&path))
    }

    /// As at boot: all flags are cleared, so every owner is Python, and every worker is as
    /// supervisord has it.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn clear(&self) -> Result<(), RunFolderError> {
        let taken = self.taken_file();
        match fs::remove_file(&taken) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error(&taken)(error));
            }
            _ => {}
        }
        let on = self.path.join("on");
        for entry in fs::read_dir(&on).map_err(io_error(&on))? {
            let path = entry.map_err(io_error(&on))?.path();
            fs::remove_file(&path).map_err(io_error(&path))?;
        }
        Ok(())
    }

    /// The secret part of blob paths, made once.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn blob_prefix(&self) -> Result<String, RunFolderError> {
        if let Some(kept) = self.kept_blob_prefix() {
            return Ok(kept);
        }
        let path = self.path.join("blob-prefix");
        let fresh = uuid::Uuid::new_v4().simple().to_string();
        files::write(&path, fresh.as_bytes(), 0o600).map_err(io_error(&path))?;
        Ok(fresh)
    }
}

impl RunFolder {
    /// The same, where it was made already: then nginx has the location for it.
    pub fn kept_blob_prefix(&self) -> Option<String> {
        let kept = fs::read_to_string(self.path.join("blob-prefix")).ok()?;
        let ours = kept.len() == 32 && kept.bytes().all(|b| b.is_ascii_hexdigit());
        ours.then_some(kept)
    }
}

fn own(path: &Path, mode: u32) -> Result<(), RunFolderError> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check(path)?,
        made => made.map_err(io_error(path))?,
    }
    // The umask has had its say.
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(io_error(path))
}

fn check(path: &Path) -> Result<(), RunFolderError> {
    let found = fs::symlink_metadata(path).map_err(io_error(path))?;
    let us = rustix::process::geteuid().as_raw();
    if !found.is_dir() {
        return Err(RunFolderError::NoFolder(path.to_owned()));
    }
    if found.uid() != us {
        return Err(RunFolderError::Foreign { path: path.to_owned(), owner: found.uid(), us });
    }
    Ok(())
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> RunFolderError {
    let path = path.to_owned();
    |source| RunFolderError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_the_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let run = RunFolder::prepare(&path, Workers::Ourselves).unwrap();
        run.set("v2_pull", true).unwrap();
        run.set("v2_pull", true).unwrap();
        assert!(run.flag("v2_pull").exists());
        run.set("other", false).unwrap();
        let secret = run.blob_prefix().unwrap();
        assert_eq!(RunFolder::open(&path).unwrap().blob_prefix().unwrap(), secret);
        run.clear().unwrap();
        assert!(!run.flag("v2_pull").exists());
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&path), 0o750);
        assert_eq!(mode(&path.join("blob-prefix")), 0o600);
        RunFolder::prepare(&path, Workers::Others).unwrap();
        assert_eq!(mode(&path.join("on")), 0o751);
    }

    #[test]
    fn what_is_not_ours_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        for path in [file, link] {
            let error = RunFolder::prepare(&path, Workers::Ourselves).unwrap_err();
            assert!(matches!(error, RunFolderError::NoFolder(_)), "{error}");
        }
        if rustix::process::geteuid().is_root() {
            let path = folder.path().join("squatted");
            fs::create_dir(&path).unwrap();
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            let error = RunFolder::prepare(&path, Workers::Ourselves).unwrap_err();
            assert!(matches!(error, RunFolderError::Foreign { owner: 12345, .. }), "{error}");
        }
    }
}
