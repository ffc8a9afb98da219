//! A SHA-256 that can be put aside and taken up again by either runtime: its state in the very
//! bytes in which Quay's Python stores it (`blobupload.sha_state`, contract §4.1).
//!
//! Python writes a pickle of one `resumablesha256.sha256` object. All of it is constant but the C
//! struct inside, so it is read and written as what it is: a struct between two constants. Nothing
//! is ever unpickled (CVE-2026-32590), and Python never meets a value that it did not write itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::UploadError;
use crate::oci::{Digest, Sha256, Sha256State};

/// Pickle, protocol 4: the class `resumablesha256.sha256` and the head of 112 bytes.
const PREFIX: &[u8; 45] = b"\x80\x04\x95\x95\0\0\0\0\0\0\0\x8c\x0fresumablesha256\x94\
    \x8c\x06sha256\x94\x93\x94)\x81\x94Cp";

/// The object is built from them.
const SUFFIX: &[u8; 3] = b"\x94b.";

/// The C struct, little-endian: 64 bytes of buffer, how many of them are used (`u32`), four bytes
/// of padding, the bits of whole blocks (`u64`), and eight words.
const STRUCT: usize = 112;
const BLOCK: usize = Sha256::BLOCK;

/// A column that holds no such state.
#[derive(Debug, thiserror::Error)]
#[error("blobupload.sha_state is not one that Quay writes: {0}")]
pub struct StateError(&'static str);

/// A running SHA-256.
#[derive(Clone, Debug, Default)]
pub struct ResumableSha256(Sha256);

impl ResumableSha256 {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// With these bytes, hashed on a thread that serves nobody meanwhile.
    pub async fn with(mut self, bytes: Bytes) -> Result<Self, UploadError> {
        let hashed = tokio::task::spawn_blocking(move || {
            self.update(&bytes);
            self
        });
        Ok(hashed.await?)
    }

    /// The digest of all bytes so far.
    pub fn digest(&self) -> Digest {
        self.0.clone().digest()
    }

    /// How many bytes there were.
    pub fn hashed(&self) -> u64 {
        let Sha256State { blocks, buffered, .. } = self.0.state();
        blocks * BLOCK as u64 + buffered as u64
    }

    /// The text of the column.
    pub fn to_column(&self) -> String {
        let Sha256State { words, blocks, buffer, buffered } = self.0.state();
        let mut pickle = Vec::with_capacity(PREFIX.len() + STRUCT + SUFFIX.len());
        pickle.extend_from_slice(PREFIX);
        pickle.extend(buffer.iter().take(buffered));
        pickle.resize(PREFIX.len() + BLOCK, 0);
        pickle.extend_from_slice(&(buffered as u64).to_le_bytes());
        pickle.extend_from_slice(&(blocks * 8 * BLOCK as u64).to_le_bytes());
        pickle.extend(words.into_iter().flat_map(u32::to_le_bytes));
        pickle.extend_from_slice(SUFFIX);
        STANDARD.encode(pickle)
    }

    /// Takes up what the column says.
    pub fn from_column(text: &str) -> Result<Self, StateError> {
        let pickle = STANDARD.decode(text).map_err(|_| StateError("not base64"))?;
        let state = pickle.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
        let state: &[u8; STRUCT] = state
            .and_then(|state| state.try_into().ok())
            .ok_or(StateError("not a pickle of resumablesha256.sha256"))?;
        let (buffer, rest) = state.split_at(BLOCK);
        let (counts, words) = rest.split_at(16);
        let (used, bits) = counts.split_at(8);
        let (used, bits) = (little_endian(used), little_endian(bits));
        if used >= BLOCK as u64 {
            return Err(StateError("more bytes in its buffer than fit"));
        }
        if bits % (8 * BLOCK as u64) != 0 {
            return Err(StateError("a part of a block is counted as compressed"));
        }
        let mut state = Sha256State {
            words: [0; 8],
            blocks: bits / (8 * BLOCK as u64),
            // Beyond what is used Python leaves bytes of the block before.
            buffer: buffer.try_into().map_err(|_| StateError("no such buffer"))?,
            buffered: used as usize,
        };
        let (words, _) = words.as_chunks();
        state.words.iter_mut().zip(words).for_each(|(to, from)| *to = u32::from_le_bytes(*from));
        Sha256::resume(&state).map(Self).ok_or(StateError("no such state"))
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn after(bytes: &[u8]) -> ResumableSha256 {
        let mut hash = ResumableSha256::default();
        hash.update(bytes);
        hash
    }

    /// Made with Quay's own module.
    const EMPTY: &str = "gASVlQAAAAAAAACMD3Jlc3VtYWJsZXNoYTI1NpSMBnNoYTI1NpSTlCmBlENwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABn5glqha5nu3Lzbjw69U+lf1IOUYxoBZur2YMfGc3gW5RiLg==";
    const ABC: &str = "gASVlQAAAAAAAACMD3Jlc3VtYWJsZXNoYTI1NpSMBnNoYTI1NpSTlCmBlENwYWJjAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAMAAAAAAAAAAAAAAAAAAABn5glqha5nu3Lzbjw69U+lf1IOUYxoBZur2YMfGc3gW5RiLg==";
    /// Its buffer still holds 28 bytes of the block before.
    const HUNDRED_X: &str = "gASVlQAAAAAAAACMD3Jlc3VtYWJsZXNoYTI1NpSMBnNoYTI1NpSTlCmBlENweHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eCQAAAAAAAAAAAIAAAAAAABGzTKLRC130BmOFeTichTtGCqkNeDO7DZbKZLi3v+thZRiLg==";

    #[test]
    fn pythons_states_are_read_and_written() {
        assert_eq!(ResumableSha256::default().to_column(), EMPTY);
        assert_eq!(after(b"abc").to_column(), ABC);
        for (column, bytes) in
            [(EMPTY, vec![]), (ABC, b"abc".to_vec()), (HUNDRED_X, vec![b'x'; 100])]
        {
            let read = ResumableSha256::from_column(column).unwrap();
            assert_eq!(read.hashed(), bytes.len() as u64);
            assert_eq!(read.digest(), after(&bytes).digest());
            assert_eq!(read.to_column().len(), column.len());
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let tampered = |at: usize, byte: u8| {
            let mut pickle = STANDARD.decode(ABC).unwrap();
            pickle[at] = byte;
            STANDARD.encode(pickle)
        };
        for (bad, why) in [
            (String::new(), "pickle"),
            ("!".to_owned(), "base64"),
            // `cos\nsystem\n…` in place of the class.
            (STANDARD.encode(b"cos\nsystem\n(S'true'\ntR."), "pickle"),
            (tampered(1, 2), "pickle"),
            (tampered(13, b'X'), "pickle"),
            (tampered(159, b'0'), "pickle"),
            (tampered(45 + 64, 64), "buffer"),
            (tampered(45 + 64 + 7, 1), "buffer"),
            (tampered(45 + 72, 1), "block"),
        ] {
            let error = ResumableSha256::from_column(&bad).unwrap_err().to_string();
            assert!(error.contains(why), "{error}: {why}");
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_digest(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            cuts in proptest::collection::vec(0usize..600, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let (mut hash, mut from) = (ResumableSha256::default(), 0);
            for cut in cuts.into_iter().chain([bytes.len()]) {
                hash.update(&bytes[from..cut]);
                from = cut;
                hash = ResumableSha256::from_column(&hash.to_column()).unwrap();
                prop_assert_eq!(hash.hashed(), cut as u64);
            }
            prop_assert_eq!(hash.digest(), after(&bytes).digest());
        }

        #[test]
        fn no_column_panics(text in ".{0,300}", raw in proptest::collection::vec(any::<u8>(), 112)) {
            let _ = ResumableSha256::from_column(&text);
            let pickle = [PREFIX.as_slice(), &raw, SUFFIX].concat();
            if let Ok(hash) = ResumableSha256::from_column(&STANDARD.encode(pickle)) {
                let again = ResumableSha256::from_column(&hash.to_column()).unwrap();
                prop_assert_eq!(again.digest(), hash.digest());
            }
        }
    }
}
