//! A SHA-256 that can be put aside and taken up again by either runtime: its state in the very
//! bytes in which Quay's Python stores it (`blobupload.sha_state`, contract §4.1).
//!
//! Python writes a pickle of one `resumablesha256.sha256` object. All of it is constant but the C
//! struct inside, so it is read and written as what it is: a struct between two constants. Nothing
//! is ever unpickled (CVE-2026-32590), and Python never meets a value that it did not write itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256};

use crate::oci::Digest;

/// Pickle, protocol 4: the class `resumablesha256.sha256` and the head of 112 bytes.
const PREFIX: &[u8; 45] = b"\x80\x04\x95\x95\0\0\0\0\0\0\0\x8c\x0fresumablesha256\x94\
    \x8c\x06sha256\x94\x93\x94)\x81\x94Cp";

/// The object is built from them.
const SUFFIX: &[u8; 3] = b"\x94b.";

/// The C struct, little-endian: 64 bytes of buffer, how many of them are used (`u32`), four bytes
/// of padding, the bits of whole blocks (`u64`), and eight words.
const STRUCT: usize = 112;
const BLOCK: usize = 64;

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

    /// The digest of all bytes so far.
    pub fn digest(&self) -> Digest {
        Digest::of_sha256(self.0.clone().finalize().as_ref())
    }

    /// How many bytes there were.
    pub fn hashed(&self) -> u64 {
        let state = self.0.serialize();
        let Parts { blocks, buffered, .. } = Parts::of(&state);
        blocks * BLOCK as u64 + buffered.len() as u64
    }

    /// The text of the column.
    pub fn to_column(&self) -> String {
        let state = self.0.serialize();
        let Parts { words, blocks, buffered } = Parts::of(&state);
        let mut pickle = Vec::with_capacity(PREFIX.len() + STRUCT + SUFFIX.len());
        pickle.extend_from_slice(PREFIX);
        pickle.extend_from_slice(buffered);
        pickle.resize(PREFIX.len() + BLOCK, 0);
        pickle.extend_from_slice(&(buffered.len() as u64).to_le_bytes());
        pickle.extend_from_slice(&(blocks * 8 * BLOCK as u64).to_le_bytes());
        pickle.extend_from_slice(words);
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
        let mut serialized = SerializedState::<Sha256>::default();
        let (core, rest) = serialized.split_at_mut(32);
        core.copy_from_slice(words);
        let (blocks, rest) = rest.split_at_mut(8);
        blocks.copy_from_slice(&(bits / (8 * BLOCK as u64)).to_le_bytes());
        // Beyond what is used Python leaves bytes of the block before.
        let (position, tail) = rest.split_at_mut(1);
        position.fill(used as u8);
        let buffered = buffer.iter().take(used as usize);
        tail.iter_mut().zip(buffered).for_each(|(to, from)| *to = *from);
        let hash = Sha256::deserialize(&serialized).map_err(|_| StateError("no such state"))?;
        Ok(Self(hash))
    }
}

/// What sha2 serializes: eight words, the count of whole blocks, how many bytes are buffered, and
/// those.
struct Parts<'a> {
    words: &'a [u8],
    blocks: u64,
    buffered: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(state: &'a SerializedState<Sha256>) -> Self {
        let (words, rest) = state.split_at(32);
        let (blocks, rest) = rest.split_at(8);
        let (position, tail) = rest.split_at(1);
        let used = position.iter().map(|used| usize::from(*used)).sum::<usize>().min(tail.len());
        Self { words, blocks: little_endian(blocks), buffered: tail.split_at(used).0 }
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
