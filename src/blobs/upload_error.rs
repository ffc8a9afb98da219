//! What can go wrong with the bytes of an upload, in terms that an answer can be made of.

use std::io;

use tokio::task::JoinError;

/// Bytes that could not be stored, read or put into place.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The storage is away or failing: the same request may work in a moment.
    #[error("storage unavailable: {0}")]
    Unavailable(String),
    /// There is no room left in the storage.
    #[error("storage full: {0}")]
    Full(String),
    /// Somebody else is writing to this upload.
    #[error("upload in use: {0}")]
    Busy(String),
    /// What is stored is not what the catalog says: the upload has to be begun anew.
    #[error("upload unusable: {0}")]
    Invalid(String),
    /// The storage says no, as credentials, policies or settings have it: the operator's to change.
    #[error("storage refuses: {0}")]
    Refused(String),
}

/// Work on another thread that panicked, or was not begun because the process ends.
impl From<JoinError> for UploadError {
    fn from(error: JoinError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// For streams, whose items end in an [`io::Error`]: its `get_ref` holds this one.
impl From<UploadError> for io::Error {
    fn from(error: UploadError) -> Self {
        let kind = match error {
            UploadError::Unavailable(_) => io::ErrorKind::TimedOut,
            UploadError::Full(_) => io::ErrorKind::StorageFull,
            UploadError::Busy(_) => io::ErrorKind::ResourceBusy,
            UploadError::Invalid(_) => io::ErrorKind::InvalidData,
            UploadError::Refused(_) => io::ErrorKind::PermissionDenied,
        };
        Self::new(kind, error)
    }
}

/// The one that a stream ended in, or what is known of another error.
impl From<io::Error> for UploadError {
    fn from(error: io::Error) -> Self {
        match error.downcast() {
            Ok(error) => error,
            Err(error) => Self::Unavailable(error.to_string()),
        }
    }
}
