//! `quay switch set` on the real file: all or nothing, and never by changing whose file it is.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use super::document::{Found, parse};
use super::edit::{Assignment, Edited, edit};
use super::problem::Problem;
use super::snapshot::{Change, Snapshot, Switches};
use super::source::{Content, Reading, SWITCH_FILE};

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where it is.
    pub path: PathBuf,
    /// Its version.
    pub version: u64,
    /// What is different from the one before.
    pub changes: Vec<Change>,
    /// What is worth knowing about it.
    pub warnings: Vec<Problem>,
}

/// Why a file was left alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Kubernetes swaps a link in a mounted folder; to write to its target is to be overwritten.
    #[error("it is a symbolic link, so something else manages it")]
    Symlink,
    /// A folder, a pipe.
    #[error("it is not a regular file")]
    NotAFile,
    /// Replacing it would make it ours.
    #[error("it belongs to uid {0}, and replacing it would change that")]
    ForeignOwner(u32),
    /// By its mode, by that of its folder, or by the mount.
    #[error("it cannot be written: {0}")]
    ReadOnly(String),
    /// Only this file is mounted: who looks from outside would never see another one in its place.
    #[error("it is mounted as a single file, which cannot be replaced")]
    Mount,
    /// Somebody else is at it.
    #[error("another `quay switch set` is running, or the file has just changed; try again")]
    Busy,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// Why nothing was written. Nothing has changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SetError {
    /// What is there, or what would be there, is not valid.
    #[error("{}", list(.0))]
    Invalid(Vec<Problem>),
    /// It is valid, and has to be written by somebody else.
    #[error("{}: {why}\nwrite these lines there yourself:\n{lines}", path.display())]
    Refused {
        /// Why.
        why: Refusal,
        /// The file to write to.
        path: PathBuf,
        /// What to write there.
        lines: String,
    },
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect()
}

/// Makes `changes` in the switch file of `dir`, which is created when it is missing.
///
/// The new version is higher than what is there and than `least`, the one that the watcher uses.
///
/// # Errors
/// Invalid switches, or a file that is not ours to replace.
pub fn set(
    dir: &Path,
    changes: &[Assignment],
    least: u64,
    now: DateTime<Utc>,
) -> Result<Written, SetError> {
    let path = dir.join(SWITCH_FILE);
    // Held until the end: two at once would both raise the same version.
    let lock = lock(dir);
    let reading = Reading::of(dir);
    let (old, below) = before(&reading).map_err(SetError::Invalid)?;
    let edited =
        edit(old.as_deref(), below.as_ref(), changes, least, now).map_err(SetError::Invalid)?;
    let refuse =
        |why| SetError::Refused { why, path: path.clone(), lines: lines(&old, &edited, changes) };
    if matches!(lock, Err(Refusal::Busy)) {
        return Err(refuse(Refusal::Busy));
    }
    replace(dir, &path, old.as_deref(), &edited.text).map_err(refuse)?;
    let none = Switches::default();
    let previous = match parse(&reading).found {
        Found::Good(snapshot) => Some(*snapshot),
        _ => None,
    };
    let from = previous.as_ref().map_or(&none, |snapshot| &snapshot.switches);
    Ok(Written {
        path,
        version: edited.snapshot.version,
        changes: from.changes(&edited.snapshot.switches),
        warnings: edited.warnings,
    })
}

/// The text of the file, or else the section that a new file has to take over.
fn before(reading: &Reading) -> Result<(Option<String>, Option<Snapshot>), Vec<Problem>> {
    if let Content::Bytes(bytes) = &reading.switches.content
        && let Ok(text) = std::str::from_utf8(bytes)
    {
        return Ok((Some(text.to_owned()), None));
    }
    let parsed = parse(reading);
    match parsed.found {
        Found::Absent => Ok((None, None)),
        Found::Good(snapshot) => Ok((None, Some(*snapshot))),
        Found::Bad => Err(parsed.problems.into_iter().filter(Problem::is_error).collect()),
    }
}

/// What somebody else has to write: everything, or the lines that change.
fn lines(old: &Option<String>, edited: &Edited, changes: &[Assignment]) -> String {
    if old.is_none() {
        return edited.text.clone();
    }
    let mut lines = format!("  version: {}\n", edited.snapshot.version);
    for change in changes {
        match &change.value {
            Some(value) => lines.push_str(&format!("  switches:  {}: {value}\n", change.key)),
            None => lines.push_str(&format!("  switches:  (remove {})\n", change.key)),
        }
    }
    lines
}

/// A lock that a crash releases. Where the file system has none, we do without.
fn lock(dir: &Path) -> Result<Option<File>, Refusal> {
    let Ok(folder) = File::open(dir) else { return Ok(None) };
    match folder.try_lock() {
        Ok(()) => Ok(Some(folder)),
        Err(TryLockError::WouldBlock) => Err(Refusal::Busy),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

fn failed(error: io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Refusal::ReadOnly(error.to_string())
        }
        io::ErrorKind::ResourceBusy => Refusal::Mount,
        _ => Refusal::Failed(error.to_string()),
    }
}

/// Puts `text` where `old` was, in one step that survives a crash.
fn replace(dir: &Path, path: &Path, old: Option<&str>, text: &str) -> Result<(), Refusal> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => return Err(Refusal::Symlink),
        Ok(found) if !found.is_file() => return Err(Refusal::NotAFile),
        Ok(found) if found.mode() & 0o200 == 0 => {
            return Err(Refusal::ReadOnly(format!("its mode is {:o}", found.mode() & 0o777)));
        }
        Ok(found) => Some(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    if found.is_some() && is_mounted(path) {
        return Err(Refusal::Mount);
    }
    let new = New::create(dir)?;
    if let Some(found) = &found {
        let made = new.file.metadata().map_err(failed)?;
        if made.uid() != found.uid() {
            return Err(Refusal::ForeignOwner(found.uid()));
        }
        if made.gid() != found.gid() {
            chown(&new.path, None, Some(found.gid())).map_err(failed)?;
        }
    }
    // A new file is as readable as the configuration beside it.
    let like = found.or_else(|| fs::metadata(dir.join(super::CONFIG_FILE)).ok());
    let mode = like.map_or(0o640, |like| like.mode() & 0o777);
    new.file.set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
    (&new.file).write_all(text.as_bytes()).and_then(|()| new.file.sync_all()).map_err(failed)?;
    if fs::read(path).ok().as_deref() != old.map(str::as_bytes) {
        return Err(Refusal::Busy);
    }
    new.rename(path)?;
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(failed)
}

/// A file beside the real one, gone again unless it takes its place.
struct New {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl New {
    fn create(dir: &Path) -> Result<Self, Refusal> {
        let path = dir.join(format!(".{SWITCH_FILE}.{}", std::process::id()));
        // Left behind by a process of this number that was killed.
        let _ = fs::remove_file(&path);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        Ok(Self { file: file.map_err(failed)?, path, kept: false })
    }

    fn rename(mut self, to: &Path) -> Result<(), Refusal> {
        fs::rename(&self.path, to).map_err(failed)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for New {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    fs::canonicalize(path).is_ok_and(|path| mounts_hold(&mounts, &path))
}

/// Whether `path` itself is a mount point (proc(5): the fifth field, blanks as octal escapes).
fn mounts_hold(mounts: &[u8], path: &Path) -> bool {
    let path = path.as_os_str().as_bytes();
    let mut escaped = Vec::with_capacity(path.len());
    for byte in path {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => escaped.extend(format!("\\{byte:03o}").into_bytes()),
            byte => escaped.push(*byte),
        }
    }
    mounts.split(|b| *b == b'\n').any(|line| line.split(|b| *b == b' ').nth(4) == Some(&escaped))
}

/// A problem with an argument, for those who build their own list.
impl From<Problem> for SetError {
    fn from(problem: Problem) -> Self {
        Self::Invalid(vec![problem])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        let mounts = b"36 35 98:0 / /conf/a\\040b.yaml rw,noatime - ext3 /dev/root rw\n";
        assert!(mounts_hold(mounts, Path::new("/conf/a b.yaml")));
        assert!(!mounts_hold(mounts, Path::new("/conf")));
        assert!(mounts_hold(&fs::read("/proc/self/mountinfo").unwrap(), Path::new("/proc")));
    }

    #[test]
    fn what_is_written_is_whole_and_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SWITCH_FILE);
        fs::write(dir.path().join("config.yaml"), "A: 1\n").unwrap();
        fs::set_permissions(dir.path().join("config.yaml"), Permissions::from_mode(0o644)).unwrap();
        let set = |argument: &str| {
            set(dir.path(), &[Assignment::parse(argument).unwrap()], 0, Utc::now())
        };
        let first = set("ROUTE_OWNER_CAP_V2_PULL=rust").unwrap();
        assert_eq!((first.version, first.changes.len(), first.path), (1, 1, path.clone()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let second = set("ROUTE_OWNER_CAP_V2_PULL=python").unwrap();
        assert_eq!((second.version, second.changes[0].from.as_deref()), (2, Some("rust")));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left behind");
    }

    #[test]
    fn files_of_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SWITCH_FILE);
        let text = "version: 4\nswitches:\n  ROUTE_OWNER_CAP_V2_PULL: python\n...\n";
        let set = || {
            let change = Assignment::parse("ROUTE_OWNER_CAP_V2_PULL=rust").unwrap();
            match set(dir.path(), &[change], 9, Utc::now()) {
                Err(SetError::Refused { why, path: named, lines }) => {
                    assert_eq!(named, path);
                    assert!(lines.contains("version: 10\n") && lines.contains("V2_PULL: rust\n"));
                    why
                }
                other => panic!("{other:?}"),
            }
        };
        fs::write(dir.path().join("target"), text).unwrap();
        std::os::unix::fs::symlink("target", &path).unwrap();
        assert_eq!(set(), Refusal::Symlink);
        fs::remove_file(&path).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
        assert!(matches!(set(), Refusal::ReadOnly(_)));
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let held = lock(dir.path()).unwrap();
        assert_eq!(set(), Refusal::Busy);
        drop(held);
        // Only root can give a file away.
        if chown(&path, Some(12345), None).is_ok() {
            assert_eq!(set(), Refusal::ForeignOwner(12345));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left behind");
    }
}
