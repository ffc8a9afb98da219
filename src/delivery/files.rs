//! Files that are there whole or not at all, after a power cut too.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

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

/// What is there now, if anything.
pub(super) fn look(path: &Path) -> Result<Option<Found>, FileError> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(at("read", path))?,
    };
    let is_link = metadata.is_symlink();
    let content = if is_link { Vec::new() } else { fs::read(path).map_err(at("read", path))? };
    Ok(Some(Found {
        sha256: sha256(&content),
        content,
        mode: metadata.mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
        is_link,
    }))
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
    let new = unfinished(path);
    let written = (|| {
        // What a kill left there.
        remove(&new)?;
        let mut file = File::create_new(&new)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        if let Some((uid, gid)) = owner {
            chown(&new, Some(uid), Some(gid))?;
            // A change of owner clears the special bits.
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    })();
    written.map_err(at("write", path))
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Where a file is written before it takes its name: always the same, so that it can be found again.
pub(super) fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.quay-sidecar-new"))
}
