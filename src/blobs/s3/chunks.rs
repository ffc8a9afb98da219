//! `blobupload.storage_metadata` of the S3 family: which objects an upload consists of.
//!
//! Quay writes `{"chunks": [["uploads/<uuid>", offset, length], …]}`. It takes the offset for one
//! within that object when it copies, although it is one within the upload when it is written, so
//! any other than 0 breaks its copying (contract §5.4): here it is ignored, and always written as 0,
//! also of chunks that Python began.

use std::fmt::Write;

use serde::Deserialize;
use uuid::Uuid;

use crate::blobs::UploadError;

/// Requests of which an upload may consist.
const MOST_CHUNKS: usize = 10_000;

/// Bytes of an upload: the largest object there can be.
const MOST_BYTES: u64 = 5 << 40;

/// Characters of an upload's metadata: all chunks, with room.
const LONGEST_METADATA: usize = 128 * MOST_CHUNKS;

/// The objects of an upload, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunks(Vec<Chunk>);

/// One request's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    uuid: Uuid,
    /// Bytes that count; there may be more in the object.
    pub length: u64,
}

impl Chunk {
    pub fn new(length: u64) -> Self {
        Self { uuid: Uuid::new_v4(), length }
    }

    /// Below the storage's root.
    pub fn path(&self) -> String {
        format!("uploads/{}", self.uuid)
    }

    /// Only what [`path`](Self::path) makes: no other object can be named.
    fn parse(path: &str, length: u64) -> Option<Self> {
        let uuid = Uuid::try_parse(path.strip_prefix("uploads/")?).ok()?;
        let chunk = Self { uuid, length };
        (chunk.path() == path && (1..=MOST_BYTES).contains(&length)).then_some(chunk)
    }
}

impl Chunks {
    /// Reads what Python or this program wrote, and nothing else.
    pub fn parse(metadata: &str) -> Result<Self, UploadError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Stored {
            chunks: Vec<(String, u64, u64)>,
        }
        let invalid = |why: &str| UploadError::Invalid(format!("storage_metadata {why}"));
        if metadata.len() > LONGEST_METADATA {
            return Err(invalid("is too long"));
        }
        let stored: Stored = serde_json::from_str(metadata)
            .map_err(|error| invalid(&format!("is not that of a bucket: {error}")))?;
        let chunks: Option<Vec<Chunk>> =
            stored.chunks.iter().map(|(path, _, length)| Chunk::parse(path, *length)).collect();
        let chunks = Self(chunks.ok_or_else(|| invalid("names something that is no chunk"))?);
        if chunks.0.len() > MOST_CHUNKS || chunks.length() > MOST_BYTES {
            return Err(invalid("describes more than an object can hold"));
        }
        Ok(chunks)
    }

    pub fn push(&mut self, chunk: Chunk) -> Result<(), UploadError> {
        if self.0.len() == MOST_CHUNKS {
            let text = format!("it already consists of {MOST_CHUNKS} requests");
            return Err(UploadError::Invalid(text));
        }
        self.0.push(chunk);
        Ok(())
    }

    pub fn as_slice(&self) -> &[Chunk] {
        &self.0
    }

    /// Bytes of all of them.
    pub fn length(&self) -> u64 {
        self.0.iter().fold(0, |sum, chunk| sum.saturating_add(chunk.length))
    }

    /// As Python's `json.dumps` writes it.
    pub fn to_metadata(&self) -> String {
        let mut text = "{\"chunks\": [".to_owned();
        for (position, chunk) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { ", " };
            let _ = write!(text, "{comma}[\"{}\", 0, {}]", chunk.path(), chunk.length);
        }
        text.push_str("]}");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: &str = "1d3b7a2e-5f0c-4c60-9a51-0f6a3c1f7b11";
    const B: &str = "c1f7b110-5f0c-4c60-9a51-1d3b7a2e0f6a";

    #[test]
    fn what_python_writes() {
        let python = format!(r#"{{"chunks": [["uploads/{A}", 0, 5], ["uploads/{B}", 5, 70000]]}}"#);
        let chunks = Chunks::parse(&python).unwrap();
        assert_eq!(chunks.length(), 70_005);
        assert_eq!(chunks.as_slice()[1].path(), format!("uploads/{B}"));
        // The offset is healed.
        let ours = chunks.to_metadata();
        assert_eq!(ours, python.replace(", 5, 70000", ", 0, 70000"));
        assert_eq!(Chunks::parse(&ours).unwrap(), chunks);
        assert_eq!(Chunks::parse(r#"{"chunks":[]}"#).unwrap().to_metadata(), r#"{"chunks": []}"#);
    }

    #[test]
    fn anything_else_is_refused() {
        let upper = A.to_uppercase();
        let plain = A.replace('-', "");
        for bad in [
            String::new(),
            "null".to_owned(),
            "{}".to_owned(),
            "[]".to_owned(),
            r#"{"chunks": [], "more": 1}"#.to_owned(),
            r#"{"chunks": {}}"#.to_owned(),
            format!(r#"{{"chunks": [["sha256/aa/{A}", 0, 1]]}}"#),
            format!(r#"{{"chunks": [["uploads/../{A}", 0, 1]]}}"#),
            format!(r#"{{"chunks": [["/uploads/{A}", 0, 1]]}}"#),
            format!(r#"{{"chunks": [["uploads/{A}/x", 0, 1]]}}"#),
            format!(r#"{{"chunks": [["uploads/{upper}", 0, 1]]}}"#),
            format!(r#"{{"chunks": [["uploads/{plain}", 0, 1]]}}"#),
            format!(r#"{{"chunks": [["uploads/{{{A}}}", 0, 1]]}}"#),
            format!(r#"{{"chunks": [["uploads/{A}", 0, 0]]}}"#),
            format!(r#"{{"chunks": [["uploads/{A}", 0, -1]]}}"#),
            format!(r#"{{"chunks": [["uploads/{A}", 0, 1.5]]}}"#),
            format!(r#"{{"chunks": [["uploads/{A}", 0, 18446744073709551615]]}}"#),
            format!(r#"{{"chunks": [["uploads/{A}", 0]]}}"#),
            format!(r#"{{"chunks": [["uploads/{A}", 0, 1, 2]]}}"#),
            " ".repeat(LONGEST_METADATA + 1),
        ] {
            assert!(matches!(Chunks::parse(&bad), Err(UploadError::Invalid(_))), "{bad}");
        }
        let most = format!(r#"["uploads/{A}", 0, {MOST_BYTES}]"#);
        assert!(Chunks::parse(&format!(r#"{{"chunks": [{most}]}}"#)).is_ok());
        assert!(Chunks::parse(&format!(r#"{{"chunks": [{most}, {most}]}}"#)).is_err());
    }

    #[test]
    fn their_number_is_bounded() {
        let mut chunks = Chunks::default();
        for _ in 0..MOST_CHUNKS {
            chunks.push(Chunk::new(MOST_BYTES / 10_000)).unwrap();
        }
        assert_eq!(Chunks::parse(&chunks.to_metadata()).unwrap(), chunks);
        assert!(chunks.push(Chunk::new(1)).is_err());
    }

    proptest! {
        #[test]
        fn a_row_names_nothing_but_chunks(path in "(uploads/)?[-a-f0-9./]{30,40}") {
            if let Some(chunk) = Chunk::parse(&path, 1) {
                prop_assert_eq!(chunk.path(), path);
            }
        }
    }
}
