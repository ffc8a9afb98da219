//! Bytes: where the blobs of an installation are and how they are read.

mod local;
mod path;
mod s3;
mod sha_state;
mod uncompressed;
mod upload_error;
mod uploads;

use std::path::Path;

pub use local::{Connected, LocalBlob, LocalError, Looks};
pub use path::BlobPath;
pub use s3::{BucketAppender, BucketUploads, Patience, presigned};
pub use sha_state::{ResumableSha256, StateError};
pub use uncompressed::Uncompressed;
pub use upload_error::UploadError;
pub use uploads::{
    ALIGNMENT, Appended, Appender, OldFile, Reread, Stamp, Turn, UploadFile, Uploads,
};

use crate::config::{self, Location, S3};

/// The storages of `DISTRIBUTED_STORAGE_CONFIG`.
#[derive(Clone, Debug)]
pub struct Storage(config::Storage);

/// Where a blob is to be read.
#[derive(Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// In a folder.
    Local(&'a Path),
    /// In a bucket.
    S3(&'a S3),
    /// In a storage whose driver is not built; Python has it.
    Unsupported(&'a str),
    /// In no storage that the configuration names.
    Unknown,
}

impl Storage {
    /// The storages as configured.
    pub fn new(config: &config::Storage) -> Self {
        Self(config.clone())
    }

    /// The first preferred location among `placements`, else any of them (contract §5.3).
    pub fn preferred<'a>(&self, placements: &'a [String]) -> Option<&'a str> {
        let among = |name: &&String| placements.iter().find(|placement| placement == name);
        let preferred = self.0.preference.iter().find_map(|name| among(&name));
        preferred.or(placements.first()).map(String::as_str)
    }

    /// Where a blob with these placements is to be read.
    pub fn source(&self, placements: &[String]) -> Source<'_> {
        let location = self.preferred(placements).and_then(|name| self.0.locations.get(name));
        match location {
            Some(Location::Local { path }) => Source::Local(path),
            Some(Location::S3(s3)) => Source::S3(s3),
            Some(Location::Unsupported { driver }) => Source::Unsupported(driver),
            None => Source::Unknown,
        }
    }

    /// Every local storage that cannot be entered, with the reason.
    pub async fn unusable(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, location) in &self.0.locations {
            let Location::Local { path } = location else { continue };
            if let Err(error) = tokio::fs::read_dir(path).await {
                problems.push(format!("storage {name} at {}: {error}", path.display()));
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn preference_decides_among_placements() {
        let local = |path: &str| Location::Local { path: path.into() };
        let storage = Storage(config::Storage {
            locations: BTreeMap::from([
                ("near".to_owned(), local("/near")),
                ("far".to_owned(), local("/far")),
                ("swift".to_owned(), Location::Unsupported { driver: "SwiftStorage".into() }),
            ]),
            preference: vec!["near".into(), "swift".into()],
            proxy_storage: false,
        });
        let source = |placements: &[&str]| {
            let placements: Vec<String> = placements.iter().map(ToString::to_string).collect();
            format!("{:?}", storage.source(&placements))
        };
        assert_eq!(source(&["far", "near"]), "Local(\"/near\")");
        assert_eq!(source(&["far"]), "Local(\"/far\")");
        assert_eq!(source(&["swift", "far"]), "Unsupported(\"SwiftStorage\")");
        assert_eq!(source(&["gone"]), "Unknown");
        assert_eq!(source(&[]), "Unknown");
    }
}
