//! The data folder: whose it is, how far its first start came, and that one process uses it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::MirrorError;

/// Held while a process uses the folder. Its being there says that the folder is one of ours.
const LOCK: &str = "mirror.lock";

/// Is there until the first start is complete.
const UNFINISHED: &str = "first-start.unfinished";

/// What a first start makes. Nothing else is ever removed, and these only while it is unfinished.
const FILES: [&str; 7] =
    ["config.yaml", "quay.kid", "quay.pem", "tls.crt", "tls.key", "quay.db.new", "quay.db"];
const STORAGE: &str = "storage";

/// Files that nobody else may read.
const SECRETS: [&str; 4] = ["config.yaml", "quay.pem", "quay.db", "tls.key"];

/// A data folder that is ours alone as long as this lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: OwnedFd,
}

/// How far its first start came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Empty,
    Unfinished,
    Complete,
}

impl Folder {
    /// Opens the folder, and makes it where it is missing.
    pub(super) fn open(path: &Path) -> Result<(Self, State), MirrorError> {
        let failed = |source| MirrorError::file(path, source);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        let plain = |text: &str| !text.contains(|c: char| c.is_control() || "?@".contains(c));
        if !path.to_str().is_some_and(plain) {
            return Err(MirrorError::Path(path));
        }
        // A folder of somebody else's is left exactly as it was.
        look(&path)?;
        check_owner(&path)?;
        let lock = take_lock(&path.join(LOCK))?;
        let state = look(&path)?;
        let mode = mode(&path)?;
        if state != State::Complete && mode & 0o077 != 0 {
            let closed = PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(&path, closed).map_err(|e| MirrorError::file(&path, e))?;
        } else if mode & 0o002 != 0 {
            return Err(MirrorError::Open { path, mode, remedy: "700" });
        }
        Ok((Self { path, _lock: lock }, state))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn storage(&self) -> PathBuf {
        self.path.join(STORAGE)
    }

    /// Begins a first start: says so on the disk, and removes what an earlier one left.
    pub(super) fn begin(&self) -> Result<(), MirrorError> {
        match self.make(UNFINISHED, b"") {
            Err(MirrorError::File { source, .. })
                if source.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        self.sync()?;
        let gone = |path: &Path, removed: io::Result<()>| match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(MirrorError::file(path, error))
            }
            _ => Ok(()),
        };
        for name in FILES {
            let path = self.file(name);
            gone(&path, std::fs::remove_file(&path))?;
        }
        gone(&self.storage(), std::fs::remove_dir(self.storage()))?;
        let made = DirBuilder::new().mode(0o700).create(self.storage());
        made.map_err(|source| MirrorError::file(&self.storage(), source))
    }

    /// Everything is on the disk: from now on, this is a registry.
    pub(super) fn finish(&self) -> Result<(), MirrorError> {
        self.sync()?;
        let mark = self.file(UNFINISHED);
        std::fs::remove_file(&mark).map_err(|source| MirrorError::file(&mark, source))?;
        self.sync()
    }

    /// A file that is not there yet, for our eyes only, on the disk.
    pub(super) fn make(&self, name: &str, content: &[u8]) -> Result<(), MirrorError> {
        let path = self.file(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
            .map_err(|source| MirrorError::file(&path, source))
    }

    /// Refuses secrets that every user of this machine can read or change.
    pub(super) fn check_secrets(&self) -> Result<(), MirrorError> {
        for path in SECRETS.map(|name| self.file(name)) {
            match mode(&path) {
                Ok(mode) if mode & 0o006 != 0 => {
                    return Err(MirrorError::Open { path, mode, remedy: "600" });
                }
                Ok(_) => {}
                // Whoever needs it says so; the database may be elsewhere by now.
                Err(MirrorError::File { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), MirrorError> {
        let synced = File::open(&self.path).and_then(|folder| folder.sync_all());
        synced.map_err(|source| MirrorError::file(&self.path, source))
    }
}

/// Whoever owns a folder can put other files into it: links, or keys that they know.
fn check_owner(path: &Path) -> Result<(), MirrorError> {
    let found = std::fs::metadata(path).map_err(|source| MirrorError::file(path, source))?;
    let (owner, us) = (found.uid(), rustix::process::geteuid().as_raw());
    match owner == us {
        true => Ok(()),
        false => Err(MirrorError::Foreign { path: path.to_owned(), owner, us }),
    }
}

fn mode(path: &Path) -> Result<u32, MirrorError> {
    let found = std::fs::metadata(path).map_err(|source| MirrorError::file(path, source))?;
    Ok(found.mode() & 0o777)
}

/// What the names in it say. A disk of its own brings a folder for what was lost.
fn look(path: &Path) -> Result<State, MirrorError> {
    let failed = |source| MirrorError::file(path, source);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name());
    }
    names.retain(|name| name != "lost+found");
    let has = |name: &str| names.iter().any(|found| found == name);
    match (has(LOCK), has(UNFINISHED), has("config.yaml")) {
        (true, true, _) => Ok(State::Unfinished),
        (true, false, true) => Ok(State::Complete),
        _ if names.iter().all(|name| name == LOCK) => Ok(State::Empty),
        (true, false, false) => Err(MirrorError::NoConfiguration(path.join("config.yaml"))),
        (false, ..) => Err(MirrorError::NotOurs(path.to_owned())),
    }
}

fn take_lock(path: &Path) -> Result<OwnedFd, MirrorError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    // A link could make us create a file anywhere.
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let lock: OwnedFd =
        options.open(path).map_err(|source| MirrorError::file(path, source))?.into();
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(MirrorError::InUse(path.to_owned())),
        Err(error) => Err(MirrorError::file(path, error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_tells_how_far_it_is() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/data");
        let (folder, state) = Folder::open(&path).unwrap();
        assert_eq!((state, mode(&path).unwrap()), (State::Empty, 0o700));
        assert!(matches!(Folder::open(&path), Err(MirrorError::InUse(_))));
        folder.begin().unwrap();
        folder.make("quay.kid", b"x").unwrap();
        drop(folder);
        // A second try finds what the first left, and removes it.
        let (folder, state) = Folder::open(&path).unwrap();
        assert_eq!(state, State::Unfinished);
        folder.begin().unwrap();
        assert!(!folder.file("quay.kid").exists() && folder.storage().is_dir());
        folder.make("config.yaml", b"").unwrap();
        folder.finish().unwrap();
        drop(folder);
        let (folder, state) = Folder::open(&path).unwrap();
        assert_eq!(state, State::Complete);
        folder.check_secrets().unwrap();
        std::fs::set_permissions(folder.file("config.yaml"), PermissionsExt::from_mode(0o644))
            .unwrap();
        let error = folder.check_secrets().unwrap_err().to_string();
        assert!(error.contains("config.yaml") && error.contains("chmod 600"), "{error}");
        std::fs::remove_file(folder.file("config.yaml")).unwrap();
        drop(folder);
        assert!(matches!(Folder::open(&path), Err(MirrorError::NoConfiguration(_))));
    }

    #[test]
    fn what_is_not_ours_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.yaml"), "of a real Quay").unwrap();
        assert!(matches!(Folder::open(folder.path()), Err(MirrorError::NotOurs(_))));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let odd = folder.path().join("what?");
        assert!(matches!(Folder::open(&odd), Err(MirrorError::Path(_))));
    }

    #[test]
    fn an_empty_folder_of_somebody_elses_stays_empty() {
        if !rustix::process::geteuid().is_root() {
            // Only root can give one away, but has one already.
            let error = check_owner(Path::new("/")).unwrap_err();
            assert!(matches!(error, MirrorError::Foreign { owner: 0, .. }), "{error}");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(folder.path(), Some(65534), None).unwrap();
        let error = Folder::open(folder.path()).unwrap_err();
        assert!(matches!(error, MirrorError::Foreign { owner: 65534, us: 0, .. }), "{error}");
        let path = folder.path().canonicalize().unwrap();
        let said = error.to_string();
        for part in [&format!("{} belongs to uid 65534", path.display()), "chown -R 0 "] {
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
    }

    #[test]
    fn a_lock_that_is_a_link_is_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (parent.path().join("data"), parent.path().join("elsewhere"));
        std::fs::create_dir(&path).unwrap();
        std::os::unix::fs::symlink(&elsewhere, path.join(LOCK)).unwrap();
        let error = Folder::open(&path).unwrap_err();
        assert!(matches!(error, MirrorError::File { .. }), "{error}");
        assert!(error.to_string().contains(LOCK) && !elsewhere.exists(), "{error}");
    }
}
