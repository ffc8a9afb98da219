//! What can go wrong with a sync, and what metrics call it.

use super::Ending;
use crate::audit::AuditError;
use crate::catalog::{CatalogError, TagError};
use crate::oci::manifest::ManifestError;
use crate::push::{ManifestPushError, PushError};
use crate::upstream::{Fault, UpstreamError};

/// A sync, or the copy of one tag, that did not happen. Says whose fault it is, in one line.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The mirror's settings.
    #[error("{0}")]
    Settings(String),
    /// Credentials that do not decrypt.
    #[error("the {0} of the mirror does not decrypt with DATABASE_SECRET_KEY; enter it again")]
    Undecryptable(&'static str),
    /// What the source said, or did not say.
    #[error(transparent)]
    Source(#[from] UpstreamError),
    /// What it sent is no manifest that we take.
    #[error("the source's manifest: {0}")]
    Manifest(#[from] ManifestError),
    /// Its manifest was not stored.
    #[error(transparent)]
    Stored(#[from] ManifestPushError),
    /// Its blob was not stored.
    #[error(transparent)]
    Blob(#[from] PushError),
    /// A tag was not moved or deleted.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// The database.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The action log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The robot may not, or the registry takes nothing now.
    #[error("{0}")]
    Forbidden(String),
    /// Not copied, for this reason.
    #[error("{0}")]
    Refused(String),
    /// skopeo failed, with these words.
    #[error("{0}")]
    Skopeo(String),
    /// It was told to end.
    #[error("the sync was ended: {0:?}")]
    Ended(Ending),
}

impl SyncError {
    /// Quay's word for it (contract §7.3), from a closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Source(error) => match error.fault() {
                Fault::Credentials => "auth_failed",
                Fault::Timeout => "network_timeout",
                Fault::Network => "connection_error",
                Fault::NotFound => "not_found",
                Fault::Tls => "tls_error",
                Fault::Refused => "invalid_source_registry",
                Fault::RateLimited => "rate_limited",
                Fault::Configuration | Fault::Source => "unknown_error",
            },
            Self::Undecryptable(_) => "decryption_failed",
            Self::Forbidden(_) => "auth_failed",
            Self::Ended(_) => "preempted",
            Self::Skopeo(words) => of_words(words),
            _ => "unknown_error",
        }
    }
}

/// What skopeo says is only words: Quay looks for these, in this order.
fn of_words(words: &str) -> &'static str {
    const WORDS: [(&[&str], &str); 6] = [
        (&["auth", "unauthorized", "forbidden"], "auth_failed"),
        (&["timeout", "timed out"], "network_timeout"),
        (&["connection", "network"], "connection_error"),
        (&["not found", "404"], "not_found"),
        (&["tls", "certificate", "ssl"], "tls_error"),
        (&["decrypt"], "decryption_failed"),
    ];
    let words = words.to_lowercase();
    let named = WORDS.iter().find(|(any, _)| any.iter().any(|word| words.contains(word)));
    named.map_or("unknown_error", |(_, reason)| reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skopeos_words_are_read_as_quay_reads_them() {
        for (words, reason) in [
            ("unauthorized: access to the requested resource", "auth_failed"),
            ("Get https://x/v2/: dial tcp: i/o timeout", "network_timeout"),
            ("connection refused", "connection_error"),
            ("manifest unknown: 404", "not_found"),
            ("x509: certificate signed by unknown AUTHORITY", "auth_failed"),
            ("remote error: tls: handshake failure", "tls_error"),
            ("exit status 1", "unknown_error"),
        ] {
            assert_eq!(SyncError::Skopeo(words.to_owned()).reason(), reason, "{words}");
        }
    }
}
