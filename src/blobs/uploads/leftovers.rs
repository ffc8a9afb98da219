//! What nothing names any more in a folder: bytes that are to go, and those that a crash has left.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::SystemTime;

use uuid::Uuid;

use super::local::{blocking, copy_of};
use super::{UploadError, Uploads};
use crate::blobs::BlobPath;
use crate::oci::Digest;

/// A file that was last written to before a moment.
#[derive(Debug)]
pub struct OldFile<T> {
    /// What it is by its name.
    pub what: T,
    /// Its length, bytes.
    pub length: u64,
}

/// The name of a file below `uploads/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadFile {
    /// An upload, by its uuid.
    Upload(String),
    /// A copy that was made of one to commit it, which nobody goes on with: `<uuid>.<copy>.reread`.
    Copy(String, Uuid),
}

impl Uploads {
    /// Whether it is a folder in `folder`, links resolved.
    pub fn is_below(&self, folder: &Path) -> bool {
        let Self::Local(local) = self else { return false };
        let resolved = (local.root().canonicalize(), folder.canonicalize());
        matches!(resolved, (Ok(root), Ok(folder)) if root.starts_with(&folder))
    }

    /// Removes a blob's bytes. What is gone already is no error.
    pub async fn remove(&self, path: &BlobPath) -> Result<(), UploadError> {
        match self {
            Self::Local(local) => local.remove(path.below(local.root())).await,
            Self::Bucket(bucket) => bucket.remove(path).await,
        }
    }

    /// Every blob whose digest begins with the byte `first`, and that was last written to before
    /// `before`. Of a bucket, none: what it has is not listed.
    pub async fn old_blobs(
        &self,
        first: u8,
        before: SystemTime,
    ) -> Result<Vec<OldFile<Digest>>, UploadError> {
        let Self::Local(local) = self else { return Ok(Vec::new()) };
        let folder = local.root().join(format!("sha256/{first:02x}"));
        let digest = |name: &str| Digest::parse(&format!("sha256:{name}"));
        blocking(&folder, move |folder| old_files(folder, before, digest)).await
    }

    /// The same of uploads.
    pub async fn old_uploads(
        &self,
        before: SystemTime,
    ) -> Result<Vec<OldFile<UploadFile>>, UploadError> {
        let Self::Local(local) = self else { return Ok(Vec::new()) };
        let folder = local.root().join("uploads");
        blocking(&folder, move |folder| old_files(folder, before, UploadFile::named)).await
    }

    /// Removes one of those.
    pub async fn remove_upload_file(&self, file: &UploadFile) -> Result<(), UploadError> {
        match (self, file) {
            (Self::Local(local), UploadFile::Upload(uuid)) => local.cancel(uuid).await,
            (Self::Local(local), UploadFile::Copy(uuid, copy)) => {
                local.remove(copy_of(&local.upload(uuid)?, *copy)).await
            }
            (Self::Bucket(_), _) => Ok(()),
        }
    }
}

impl UploadFile {
    /// Anything else is not ours.
    fn named(name: &str) -> Option<Self> {
        let uuid = |name: &str| BlobPath::upload(name).map(|_| name.to_owned());
        let Some(copy) = name.strip_suffix(".reread") else {
            return uuid(name).map(Self::Upload);
        };
        let (upload, copy) = copy.split_once('.')?;
        Some(Self::Copy(uuid(upload)?, Uuid::try_parse(copy).ok()?))
    }
}

fn old_files<T>(
    folder: &Path,
    before: SystemTime,
    named: impl Fn(&str) -> Option<T>,
) -> io::Result<Vec<OldFile<T>>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut old = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(what) = name.to_str().and_then(&named) else { continue };
        let found = match entry.metadata() {
            // Somebody else was quicker.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            found => found?,
        };
        if found.is_file() && found.modified()? < before {
            old.push(OldFile { what, length: found.len() });
        }
    }
    Ok(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_our_names() {
        let uuid = "4e6ce8e8-2e1b-4723-9d15-9def4c2274e0";
        let name = |text: &str| UploadFile::named(text);
        assert_eq!(name(uuid), Some(UploadFile::Upload(uuid.to_owned())));
        let copy = Uuid::new_v4();
        let file = copy_of(Path::new(uuid), copy);
        let copy = UploadFile::Copy(uuid.to_owned(), copy);
        assert_eq!(name(file.to_str().unwrap()), Some(copy));
        let nameless = format!("{uuid}.reread");
        for other in ["", "notes.txt", ".reread", &nameless, "lost+found", "4e6ce8e8"] {
            assert_eq!(name(other), None, "{other}");
        }
    }
}
