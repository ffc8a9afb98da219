//! The bytes of uploads, where Quay's drivers keep them: either runtime goes on with what the other
//! has begun (contract §5.4).

mod direct;
mod flushing;
mod leftovers;
mod local;
mod room;

use std::fs::File;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};

pub use direct::ALIGNMENT;
pub use leftovers::{OldFile, UploadFile};
pub use local::LocalUploads;
use local::{LocalAppender, LocalCopy};

use super::{BlobPath, BucketAppender, BucketUploads, ResumableSha256, UploadError};
use crate::config::Location;
use crate::oci::{Digest, Sha256};

/// The uploads of one storage location. Cheap to clone.
#[derive(Clone)]
pub enum Uploads {
    /// In a folder.
    Local(LocalUploads),
    /// In a bucket.
    Bucket(BucketUploads),
}

/// An upload that bytes are being added to.
pub enum Appender {
    /// In a folder.
    Local(LocalAppender),
    /// In a bucket.
    Bucket(Box<BucketAppender>),
}

/// What adding bytes has led to.
#[derive(Debug)]
pub struct Appended {
    /// How many bytes were stored.
    pub written: u64,
    /// `blobupload.storage_metadata`
    pub metadata: String,
    /// What the storage looks like now, where others could change it unseen.
    pub stamp: Stamp,
    /// Whether somebody else was seen to write meanwhile, or could have been without being seen.
    pub shared: bool,
}

/// Keeps other requests of ours away from an upload until it is dropped, where they could write over
/// each other.
#[derive(Clone, Debug)]
pub struct Turn {
    _locked: Option<Arc<File>>,
}

/// What bytes in storage look like from outside: another stamp, other bytes. Storages in which
/// nobody changes what is there have none.
pub type Stamp = Option<FileStamp>;

/// Inode, length, and time of the last change in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    inode: u64,
    length: u64,
    changed_ns: i128,
}

/// An upload that was read from its first byte to its last.
#[derive(Debug)]
pub struct Reread {
    /// The digest of what was read.
    pub digest: Digest,
    /// How many bytes there were.
    pub length: u64,
    /// The same bytes where nobody else can reach them.
    copy: Option<LocalCopy>,
}

impl Uploads {
    /// Whether uploads to `location` can be taken.
    pub fn are_built_for(location: &Location) -> bool {
        matches!(location, Location::Local { .. } | Location::S3(_))
    }

    /// The uploads of `location`; `None` where its driver is not built. Make them once a process:
    /// those of a bucket share their connections.
    ///
    /// # Errors
    /// When no client can be made with the settings of a bucket.
    pub fn of(location: &Location) -> Result<Option<Self>, UploadError> {
        Ok(match location {
            Location::Local { path } => Some(Self::Local(LocalUploads::new(path))),
            Location::S3(s3) => Some(Self::Bucket(BucketUploads::new(s3)?)),
            Location::Unsupported { .. } => None,
        })
    }

    /// Makes room for a new upload. Returns its `storage_metadata`.
    pub async fn begin(&self, uuid: &str) -> Result<Appended, UploadError> {
        match self {
            Self::Local(local) => local.begin(uuid).await,
            Self::Bucket(bucket) => bucket.begin(uuid).await,
        }
    }

    /// Opens the upload to add bytes at `byte_count`, where it ends. What lies beyond is what is left
    /// of a request that failed.
    pub async fn append(
        &self,
        uuid: &str,
        metadata: &str,
        byte_count: u64,
    ) -> Result<Appender, UploadError> {
        match self {
            Self::Local(local) => local.append(uuid, byte_count).await.map(Appender::Local),
            Self::Bucket(bucket) => {
                let appender = bucket.append(uuid, metadata, byte_count).await?;
                Ok(Appender::Bucket(Box::new(appender)))
            }
        }
    }

    /// What the upload looks like now.
    pub async fn stamp(&self, uuid: &str) -> Result<Stamp, UploadError> {
        match self {
            Self::Local(local) => local.stamp(uuid).await,
            Self::Bucket(_) => Ok(None),
        }
    }

    /// Reads and hashes all of the upload.
    ///
    /// The turn is kept until then, also when the client has gone: one at a time reads an upload.
    pub async fn reread(
        &self,
        uuid: &str,
        metadata: &str,
        turn: Option<Turn>,
    ) -> Result<Reread, UploadError> {
        match self {
            Self::Local(local) => local.reread(uuid, turn).await,
            Self::Bucket(bucket) => read_again(bucket.read(uuid, metadata).await?).await,
        }
    }

    /// Makes the bytes of the upload durable where they are, as far as that can be done before
    /// they are put into place.
    pub async fn flush(&self, uuid: &str) -> Result<(), UploadError> {
        match self {
            Self::Local(local) => local.flush(uuid).await,
            // Whatever is there is durable.
            Self::Bucket(_) => Ok(()),
        }
    }

    /// Makes a blob durable that is in its place, whoever has put it there.
    pub async fn flush_stored(&self, digest: &Digest) -> Result<(), UploadError> {
        match self {
            Self::Local(local) => local.flush_stored(digest).await,
            Self::Bucket(_) => Ok(()),
        }
    }

    /// The length of the blob, if it is in its place.
    pub async fn stored(&self, digest: &Digest) -> Result<Option<u64>, UploadError> {
        match self {
            Self::Local(local) => local.stored(digest).await,
            Self::Bucket(bucket) => bucket.stored(digest).await,
        }
    }

    /// Puts the blob into its place; returns when it is durable there. The turn is kept until then,
    /// also when the client has gone and nobody waits for this any more.
    pub async fn complete(
        &self,
        uuid: &str,
        metadata: &str,
        digest: &Digest,
        reread: Option<Reread>,
        turn: Option<Turn>,
    ) -> Result<(), UploadError> {
        match self {
            Self::Local(local) => {
                local.complete(uuid, digest, reread.and_then(|reread| reread.copy), turn).await
            }
            Self::Bucket(bucket) => bucket.complete(uuid, metadata, digest).await,
        }
    }

    /// A small blob, whole, if it is there.
    ///
    /// # Errors
    /// [`UploadError::Invalid`] where it has more than `most` bytes.
    pub async fn read_small(
        &self,
        path: &BlobPath,
        most: usize,
    ) -> Result<Option<Bytes>, UploadError> {
        match self {
            Self::Local(local) => local.read_small(path, most).await,
            Self::Bucket(bucket) => bucket.get(path, most).await,
        }
    }

    /// Removes an upload whose blob is in its place already, where nothing but its row, which goes
    /// next, leads to it. What is in a bucket stays until [`Uploads::tidy`]: an end that fails after
    /// this one can be tried again.
    pub async fn give_way(&self, uuid: &str) -> Result<(), UploadError> {
        match self {
            Self::Local(local) => local.cancel(uuid).await,
            Self::Bucket(_) => Ok(()),
        }
    }

    /// Removes what a completed upload has left behind, once nothing names it any more.
    pub async fn tidy(&self, uuid: &str, metadata: &str) -> Result<(), UploadError> {
        match self {
            Self::Local(_) => Ok(()),
            Self::Bucket(bucket) => bucket.cancel(uuid, metadata).await,
        }
    }

    /// Removes what there is of it. What is gone already is no error.
    pub async fn cancel(&self, uuid: &str, metadata: &str) -> Result<(), UploadError> {
        match self {
            Self::Local(local) => local.cancel(uuid).await,
            Self::Bucket(bucket) => bucket.cancel(uuid, metadata).await,
        }
    }
}

impl Appender {
    /// What the upload looked like when it was opened.
    pub fn stamp(&self) -> Stamp {
        match self {
            Self::Local(local) => local.opened(),
            Self::Bucket(_) => None,
        }
    }

    /// For the time after it: until the upload's row tells others what has become of it.
    pub fn turn(&self) -> Turn {
        match self {
            Self::Local(local) => Turn { _locked: Some(local.locked()) },
            // Each request writes objects of its own.
            Self::Bucket(_) => Turn { _locked: None },
        }
    }

    /// Adds bytes, and hashes them meanwhile; returns when they were taken.
    pub async fn write(
        &mut self,
        bytes: Bytes,
        hash: ResumableSha256,
    ) -> Result<ResumableSha256, UploadError> {
        let hashed = hash.with(bytes.clone());
        let stored = async {
            match self {
                Self::Local(local) => local.write(bytes).await,
                Self::Bucket(bucket) => bucket.write(bytes).await,
            }
        };
        let (hashed, stored) = tokio::join!(hashed, stored);
        stored?;
        hashed
    }

    /// Ends the request's part.
    pub async fn finish(self) -> Result<Appended, UploadError> {
        match self {
            Self::Local(local) => local.finish().await,
            Self::Bucket(bucket) => bucket.finish().await,
        }
    }
}

/// What the storage has, hashed. No copy is kept: what is in a bucket does not change.
async fn read_again(bytes: impl Stream<Item = io::Result<Bytes>>) -> Result<Reread, UploadError> {
    let (mut hash, mut length) = (Sha256::default(), 0);
    let mut bytes = pin!(bytes);
    // As they come: so few at a time keep nobody waiting.
    while let Some(bytes) = bytes.try_next().await.map_err(UploadError::from)? {
        hash.update(&bytes);
        length += bytes.len() as u64;
    }
    Ok(Reread { digest: hash.digest(), length, copy: None })
}
