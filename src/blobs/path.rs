//! Paths of blobs below a storage's root (contract §5.1).

use std::path::{Path, PathBuf};

use crate::oci::Digest;

/// A path that was made of a digest or of a uuid, never of a request's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobPath(String);

impl BlobPath {
    /// Where a blob is stored by its content.
    pub fn content_address(digest: &Digest) -> Self {
        let hex = digest.hex();
        Self(format!("sha256/{}/{hex}", &hex[..2]))
    }

    /// Where older Quays stored a blob, by `imagestorage.uuid`. `None` for what is no uuid.
    pub fn shared_images(uuid: &str) -> Option<Self> {
        let plain =
            !uuid.is_empty() && uuid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        plain.then(|| Self(format!("sharedimages/{uuid}/layer")))
    }

    /// Where an upload's bytes are until it is finished. `None` for what is no uuid.
    pub fn upload(uuid: &str) -> Option<Self> {
        uuid::Uuid::try_parse(uuid).ok().filter(|_| uuid.len() == 36)?;
        Some(Self(format!("uploads/{uuid}")))
    }

    /// The path, without a root.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path below `root`.
    pub fn below(&self, root: &Path) -> PathBuf {
        root.join(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quays_paths() {
        let digest = Digest::parse(&format!("sha256:{}", "0a".repeat(32))).unwrap();
        let path = BlobPath::content_address(&digest).below(Path::new("/datastorage"));
        assert_eq!(path, PathBuf::from(format!("/datastorage/sha256/0a/{}", "0a".repeat(32))));
        let path = BlobPath::shared_images("6d5-a").unwrap().below(Path::new("/d"));
        assert_eq!(path, PathBuf::from("/d/sharedimages/6d5-a/layer"));
    }

    proptest! {
        #[test]
        fn an_upload_is_a_uuid(text in ".{0,40}|[0-9a-f-]{36}|[./]{0,10}") {
            if let Some(path) = BlobPath::upload(&text) {
                prop_assert!(path.as_str()[8..].bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()));
            }
        }

        #[test]
        fn no_uuid_leaves_the_root(uuid in ".{0,60}|[./]{0,10}") {
            if let Some(path) = BlobPath::shared_images(&uuid) {
                let path = path.below(Path::new("/root"));
                prop_assert_eq!(path.components().count(), 5);
                prop_assert!(path.starts_with("/root/sharedimages"));
            }
        }
    }
}
