//! Pushing: bytes before rows, in the order in which nothing that was acknowledged can be lost and
//! nothing is committed that is not what its digest says. Knows no HTTP.

mod alone;
mod batch;
mod body;
mod commit;
mod follow_up;
mod manifests;
mod memory;
mod notices;
mod quotas;
mod steps;
mod uploads;

pub use body::{Body, BodyError};
pub use follow_up::FollowUp;
pub use manifests::{Body as ManifestBody, ManifestPushError, Pushed, Target};
pub use quotas::Phase;
pub(crate) use steps::die_at;
pub use steps::{MANIFEST_STEPS, STEPS};
pub use uploads::{ContentRange, Open, Pushes};

use crate::blobs::UploadError;
use crate::catalog::CatalogError;

/// A push that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// No such repository.
    #[error("repository not found")]
    NoRepository,
    /// No such upload in this repository.
    #[error("blob upload unknown to registry")]
    NoUpload,
    /// The bytes do not go on where the upload ends.
    #[error("the upload has {byte_count} bytes")]
    OutOfOrder {
        /// How many bytes it has.
        byte_count: u64,
    },
    /// The bytes are not those of the digest.
    #[error("the bytes have digest {found}, not {claimed}")]
    Digest {
        /// What the client said.
        claimed: String,
        /// What it sent.
        found: String,
    },
    /// More than `MAXIMUM_LAYER_SIZE`.
    #[error("larger than {limit} bytes, which MAXIMUM_LAYER_SIZE allows")]
    TooLarge {
        /// The setting, in bytes.
        limit: u64,
    },
    /// The namespace has as many bytes as it may.
    #[error("the quota of the namespace is used up")]
    OverQuota,
    /// The client's bytes do not come.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The storage.
    #[error(transparent)]
    Bytes(#[from] UploadError),
    /// The database.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Python's to do; nothing has been read or written.
    #[error("not built: {0}")]
    Declined(&'static str),
}
