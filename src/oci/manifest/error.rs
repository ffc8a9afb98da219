//! What is wrong with a pushed manifest, in Quay's words as far as a client may know them.

use std::fmt;

/// The two documents of a push that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// The body of the request, or a child of it.
    Manifest,
    /// The configuration of an image.
    Config,
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Manifest => "manifest",
            Self::Config => "config",
        })
    }
}

/// Why a manifest is not taken: always 400 `MANIFEST_INVALID`.
///
/// A message begins as Quay's does (contract §1.9.6) and goes on in words of our own where
/// Quay prints its JSON schema. It holds at most a few hundred bytes of the document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or nested too deeply to be read.
    #[error("malformed {document} data: {problem}")]
    Malformed {
        /// Which of the two.
        document: Document,
        /// What, and where.
        problem: String,
    },
    /// JSON, but not what this type of document holds; or it could be read in two ways.
    #[error("{document} data does not match schema: {problem}")]
    Schema {
        /// Which of the two.
        document: Document,
        /// The member, what was found there and what is needed.
        problem: String,
    },
    /// A layer of less than no bytes.
    #[error("invalid layer size: {0}")]
    LayerSize(String),
    /// Not `algorithm:hex`.
    #[error("could not parse manifest digest: {0}")]
    Digest(String),
    /// A foreign layer that does not say where it is.
    #[error("missing `urls` for remote layer: {0}")]
    MissingUrls(String),
    /// None of the four types.
    #[error("Unknown or unsupported manifest media type `{0}`")]
    UnknownType(String),
    /// A blob that has to be in the repository, by a digest that no blob of Quay's can have.
    #[error("Unknown blob `{0}`")]
    UnknownBlob(String),
    /// The configuration is needed and was not found.
    #[error("Could not load config blob for manifest")]
    NoConfig,
    /// The configuration has another length than the manifest says.
    #[error("Size of config does not match that retrieved: {found} vs {declared}")]
    ConfigSize {
        /// Bytes in the blob.
        found: usize,
        /// Bytes in the descriptor.
        declared: i64,
    },
    /// A child is of another type than the index says.
    #[error("Type of manifest does not match that stored: {found} vs {declared}")]
    ChildType {
        /// Of the stored manifest.
        found: String,
        /// In the descriptor.
        declared: String,
    },
    /// A child has another length than the index says.
    #[error("Size of manifest does not match that retrieved: {found} vs {declared}")]
    ChildSize {
        /// Bytes of the stored manifest.
        found: usize,
        /// Bytes in the descriptor.
        declared: i64,
    },
}

impl ManifestError {
    /// The `detail.message` of the answer where the pushed body itself could not be parsed. For
    /// what is found out later, about its config, its children or its blobs, Quay says no more
    /// than the error.
    pub fn parse_failure(&self) -> String {
        format!("failed to parse manifest: {self}")
    }
}
