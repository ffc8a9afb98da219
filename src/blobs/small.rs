//! Small blobs, read whole: the configurations of images.

use bytes::Bytes;
use futures_util::TryStreamExt as _;

use super::local::{LocalBlob, LocalError};
use super::{BlobPath, Source, Storage};
use crate::oci::Span;

/// A blob that was not read.
#[derive(Debug, thiserror::Error)]
pub enum SmallError {
    /// It is larger than the caller takes.
    #[error("the blob has {length} bytes, more than {most}")]
    Large {
        /// Its length, bytes.
        length: u64,
        /// What the caller takes, bytes.
        most: u64,
    },
    /// Reading from such a storage is not built.
    #[error("the blob is in a storage of a kind that is not built")]
    Unsupported,
    /// Its storage does not have it, or cannot be read.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// It could not be read to its end.
    #[error("the blob cannot be read: {0}")]
    Io(#[from] std::io::Error),
}

impl Storage {
    /// The bytes of a blob of at most `most` bytes, from where it is preferred among `placements`.
    pub async fn read_small(
        &self,
        placements: &[String],
        path: &BlobPath,
        most: u64,
    ) -> Result<Bytes, SmallError> {
        let Source::Local(root) = self.source(placements) else {
            return Err(SmallError::Unsupported);
        };
        let blob = LocalBlob::open(path.below(root), None).await?;
        let length = blob.length;
        if length > most {
            return Err(SmallError::Large { length, most });
        }
        let pieces: Vec<Bytes> = blob.read(Span { offset: 0, length }).try_collect().await?;
        Ok(pieces.concat().into())
    }
}
