//! Files that are there whole or not at all, after a power cut too.

use std::fs::{self, DirEntry, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use sha2::{Digest, Sha256};

/// A file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {path}: {source}")]
pub struct FileError {
    /// What was tried: `read`, `write`, ….
    pub verb: &'static str,
    /// The file, or folder.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// Names the file in an error.
pub(super) fn at(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { verb, path, source }
}

/// A file as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub content: Vec<u8>,
    pub sha256: String,
    pub mode: u32,
    pub owner: (u32, u32),
    pub is_link: bool,
}

/// What is there now, if anything. A link is not followed: whoever owns the folder could have us
/// read what is not theirs.
pub(super) fn look(path: &Path) -> Result<Option<Found>, FileError> {
    let found = match open(path) {
        Ok(file) => read(file),
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => link(path),
        Err(error) => Err(error),
    };
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some).map_err(at("read", path)),
    }
}

/// Waits for nobody, whatever it is: a pipe may have no other end.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Mode, owner and content of one and the same file.
fn read(mut file: File) -> io::Result<Found> {
    let metadata = file.metadata()?;
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    Ok(Found::new(&metadata, content))
}

fn link(path: &Path) -> io::Result<Found> {
    let metadata = fs::symlink_metadata(path)?;
    match metadata.is_symlink() {
        true => Ok(Found::new(&metadata, Vec::new())),
        // It was one a moment ago.
        false => Err(Errno::LOOP.into()),
    }
}

impl Found {
    fn new(metadata: &Metadata, content: Vec<u8>) -> Self {
        Self {
            sha256: sha256(&content),
            content,
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
            is_link: metadata.is_symlink(),
        }
    }
}

pub(super) fn sha256(content: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(content) {
        // Writing to a string does not fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// Replaces a file in one step. Its owner stays ours unless another is named.
pub(super) fn write(
    path: &Path,
    content: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
) -> Result<(), FileError> {
    let new = temporary(path);
    let written = (|| {
        for left in unfinished(path)? {
            remove(&left)?;
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        fill(&file, content, mode, owner)?;
        fs::rename(&new, path)?;
        File::open(folder(path))?.sync_all()
    })();
    if written.is_err() {
        // There may be nothing to remove; the first error is the one to tell.
        let _ = fs::remove_file(&new);
    }
    written.map_err(at("write", path))
}

/// By the open file alone: whoever owns the folder can put a link in the place of its name, and
/// would be given what that leads to.
fn fill(mut file: &File, content: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    file.write_all(content)?;
    if let Some((uid, gid)) = owner {
        fchown(file, Some(uid), Some(gid))?;
    }
    // Last: writing and a change of owner clear the special bits.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// What kills have left of this file's writing.
pub(super) fn unfinished(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut left = Vec::new();
    for entry in entries {
        let entry = entry?;
        if is_unfinished(&entry, path) {
            left.push(entry.path());
        }
    }
    Ok(left)
}

/// Whether this is what a kill has left of a file's writing. Links and folders are not ours.
pub(super) fn is_unfinished(entry: &DirEntry, path: &Path) -> bool {
    let (name, prefix) = (entry.file_name(), temporary_prefix(path));
    let random = name.to_str().and_then(|name| name.strip_prefix(prefix.as_str()));
    let ours = |random: &str| random.len() == 32 && random.bytes().all(|b| b.is_ascii_hexdigit());
    random.is_some_and(ours) && entry.file_type().is_ok_and(|kind| kind.is_file())
}

/// Where a file is written before it takes its name: nobody can guess it, and we can find it again.
fn temporary(path: &Path) -> PathBuf {
    let random = uuid::Uuid::new_v4().simple();
    path.with_file_name(format!("{}{random}", temporary_prefix(path)))
}

fn temporary_prefix(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!(".{name}.quay-sidecar-new-")
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const THEIRS: &[u8] = b"theirs";

    /// Somebody else, where we may give files away.
    fn somebody(found: &Found) -> (u32, u32) {
        match rustix::process::geteuid().is_root() {
            true => (65534, 65534),
            false => found.owner,
        }
    }

    #[test]
    fn a_link_under_the_name_we_once_wrote_to_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let [path, theirs, link] =
            ["a.conf", "theirs", ".a.conf.quay-sidecar-new"].map(|name| folder.path().join(name));
        fs::write(&theirs, THEIRS).unwrap();
        symlink(&theirs, &link).unwrap();
        let before = look(&theirs).unwrap().unwrap();
        let owner = somebody(&before);
        write(&path, b"ours", 0o4750, Some(owner)).unwrap();
        assert_eq!(look(&theirs).unwrap().unwrap(), before);
        assert_eq!(fs::read_link(&link).unwrap(), theirs);
        let found = look(&path).unwrap().unwrap();
        assert_eq!((&*found.content, found.mode, found.owner), (&b"ours"[..], 0o4750, owner));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn the_open_file_gets_its_owner_whatever_its_name_leads_to() {
        let folder = tempfile::tempdir().unwrap();
        let [new, theirs] = ["new", "theirs"].map(|name| folder.path().join(name));
        fs::write(&theirs, THEIRS).unwrap();
        let before = look(&theirs).unwrap().unwrap();
        let owner = somebody(&before);
        let file = File::create_new(&new).unwrap();
        fs::remove_file(&new).unwrap();
        symlink(&theirs, &new).unwrap();
        fill(&file, b"ours", 0o600, Some(owner)).unwrap();
        assert_eq!(look(&theirs).unwrap().unwrap(), before);
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.len()), (owner.0, owner.1, 4));
    }

    #[test]
    fn what_a_kill_left_goes_and_a_failure_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.conf");
        let other = temporary(&folder.path().join("b.conf"));
        let link = temporary(&path);
        fs::write(temporary(&path), "ha").unwrap();
        fs::write(&other, "of another file").unwrap();
        symlink(&other, &link).unwrap();
        assert_eq!(unfinished(&path).unwrap().len(), 1);
        write(&path, b"ours", 0o600, None).unwrap();
        assert!(unfinished(&path).unwrap().is_empty() && other.exists() && link.is_symlink());
        let taken = folder.path().join("taken");
        fs::create_dir(&taken).unwrap();
        write(&taken, b"ours", 0o600, None).unwrap_err();
        assert!(unfinished(&taken).unwrap().is_empty());
        assert!(unfinished(&folder.path().join("none/a.conf")).unwrap().is_empty());
    }

    #[test]
    fn links_are_seen_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let [theirs, link, dangling] =
            ["theirs", "link", "dangling"].map(|name| folder.path().join(name));
        fs::write(&theirs, THEIRS).unwrap();
        symlink(&theirs, &link).unwrap();
        symlink(folder.path().join("none"), &dangling).unwrap();
        for link in [link, dangling] {
            let found = look(&link).unwrap().unwrap();
            assert!(found.is_link && found.content.is_empty());
        }
        let found = look(&theirs).unwrap().unwrap();
        assert!(!found.is_link && found.content == THEIRS);
        assert_eq!(look(&folder.path().join("none")).unwrap(), None);
        look(folder.path()).unwrap_err();
    }
}
