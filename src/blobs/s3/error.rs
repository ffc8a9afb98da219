//! What can be wrong with one request to a bucket.

use reqwest::StatusCode;

use super::answer::ErrorAnswer;
use crate::blobs::UploadError;

/// One request that failed, whatever was tried.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {key}: {reason}")]
pub(super) struct S3Error {
    pub operation: &'static str,
    pub key: String,
    pub fault: Fault,
    /// For a log; holds no credentials.
    pub reason: String,
}

/// Whose fault it is, which says whether to ask again helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The network's, or the storage's for now: ask again.
    Storage,
    /// There is no such object.
    Missing,
    /// There is no such multipart upload: it was completed, or aborted.
    NoUpload,
    /// The object is not as long as it has to be.
    Length,
    /// No room, or none within a quota.
    Full,
    /// Ours or the operator's: credentials, policies, settings.
    Settings,
}

impl Fault {
    /// What a status and an error code mean (S3 API reference, "Error responses"; the codes of
    /// MinIO and Ceph where they have their own).
    pub fn of(status: StatusCode, code: &str) -> Self {
        match code {
            "NoSuchKey" => return Self::Missing,
            "NoSuchUpload" => return Self::NoUpload,
            "InvalidRange" => return Self::Length,
            "QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" => {
                return Self::Full;
            }
            // A body that was damaged on its way, or took too long, may arrive the next time.
            "SlowDown"
            | "InternalError"
            | "ServiceUnavailable"
            | "RequestTimeout"
            | "OperationAborted"
            | "BadDigest"
            | "IncompleteBody"
            | "XAmzContentSHA256Mismatch" => {
                return Self::Storage;
            }
            _ => {}
        }
        match status {
            // Answers to HEAD have no code.
            StatusCode::NOT_FOUND if code.is_empty() => Self::Missing,
            StatusCode::RANGE_NOT_SATISFIABLE => Self::Length,
            StatusCode::INSUFFICIENT_STORAGE => Self::Full,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Self::Storage,
            status if status.is_server_error() || status.is_success() => Self::Storage,
            _ => Self::Settings,
        }
    }
}

/// What a storage said, in one line of a log.
pub(super) fn reason(status: StatusCode, error: &ErrorAnswer, region: Option<&str>) -> String {
    let text = format!("{status} {} {}", error.code, error.message);
    let text: String = text.trim_end().chars().filter(|c| !c.is_control()).take(500).collect();
    match region {
        Some(region) if status.is_redirection() || status == StatusCode::BAD_REQUEST => {
            format!("{text} (the bucket is in the region {region})")
        }
        _ => text,
    }
}

impl From<S3Error> for UploadError {
    fn from(error: S3Error) -> Self {
        let text = error.to_string();
        match error.fault {
            Fault::Storage | Fault::NoUpload => Self::Unavailable(text),
            Fault::Missing | Fault::Length => Self::Invalid(text),
            Fault::Full => Self::Full(text),
            Fault::Settings => Self::Refused(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_fault_it_is() {
        for (status, code, fault) in [
            (404, "NoSuchKey", Fault::Missing),
            (404, "", Fault::Missing),
            (404, "NoSuchBucket", Fault::Settings),
            (404, "NoSuchUpload", Fault::NoUpload),
            (416, "InvalidRange", Fault::Length),
            (503, "SlowDown", Fault::Storage),
            (200, "InternalError", Fault::Storage),
            (400, "RequestTimeout", Fault::Storage),
            (429, "", Fault::Storage),
            (502, "", Fault::Storage),
            (403, "SignatureDoesNotMatch", Fault::Settings),
            (403, "QuotaExceeded", Fault::Full),
            (507, "", Fault::Full),
            (301, "PermanentRedirect", Fault::Settings),
        ] {
            assert_eq!(Fault::of(StatusCode::from_u16(status).unwrap(), code), fault, "{code}");
        }
    }

    #[test]
    fn a_reason_is_one_line() {
        let error = ErrorAnswer { code: "A".to_owned(), message: "b\r\nc".to_owned() };
        assert_eq!(reason(StatusCode::FORBIDDEN, &error, None), "403 Forbidden A bc");
        assert!(reason(StatusCode::BAD_REQUEST, &error, Some("eu-west-1")).ends_with("eu-west-1)"));
    }
}
