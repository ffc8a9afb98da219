//! SHA-256 for blobs: AWS-LC's, measured at 1.6 to 1.9 times the speed of sha2 where the processor
//! has no instructions for it (Intel servers before 2021). AWS-LC's Rust interface keeps a hash's
//! state to itself; an upload's has to be put aside, so its C functions are called.
#![allow(unsafe_code, reason = "three C functions, each with nothing but a context and a slice")]

use aws_lc_sys::{SHA256_CTX, SHA256_Final, SHA256_Init, SHA256_Update};

use super::Digest;

/// A running SHA-256.
#[derive(Clone)]
pub struct Sha256(SHA256_CTX);

/// Where a running hash is (FIPS 180-4, 6.2): all that it takes to go on with it.
#[derive(Clone, Copy, Debug)]
pub struct Sha256State {
    /// The hash of the whole blocks.
    pub words: [u32; 8],
    /// How many of them there were.
    pub blocks: u64,
    /// The bytes after them; what is beyond `buffered` has no meaning.
    pub buffer: [u8; Sha256::BLOCK],
    /// How many those are: less than a block.
    pub buffered: usize,
}

impl Sha256 {
    /// Bytes in a block.
    pub const BLOCK: usize = 64;

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        // SAFETY: the context was initialised, and the slice is readable for its length.
        unsafe { SHA256_Update(&mut self.0, bytes.as_ptr().cast(), bytes.len()) };
    }

    /// The hash of all bytes.
    pub fn finish(mut self) -> [u8; 32] {
        let mut hash = [0; 32];
        // SAFETY: the context was initialised for 32 bytes of hash, for which there is room.
        unsafe { SHA256_Final(hash.as_mut_ptr(), &mut self.0) };
        hash
    }

    /// The digest of all bytes.
    pub fn digest(self) -> Digest {
        Digest::of_sha256(&self.finish())
    }

    /// How far it is.
    pub fn state(&self) -> Sha256State {
        let SHA256_CTX { h: words, Nl, Nh, data: buffer, num, .. } = self.0;
        let bits = u64::from(Nh) << 32 | u64::from(Nl);
        let blocks = bits / (8 * Self::BLOCK as u64);
        Sha256State { words, blocks, buffer, buffered: num as usize }
    }

    /// Goes on from there. `None` where the buffer would be a block or more, or the count of bits
    /// would not fit into its 64 bits.
    pub fn resume(state: &Sha256State) -> Option<Self> {
        let buffered = u32::try_from(state.buffered).ok();
        let buffered = buffered.filter(|_| state.buffered < Self::BLOCK)?;
        let bits = state.blocks.checked_mul(8 * Self::BLOCK as u64)?;
        let bits = bits + 8 * u64::from(buffered);
        let mut hash = Self::default();
        (hash.0.h, hash.0.data, hash.0.num) = (state.words, state.buffer, buffered);
        (hash.0.Nl, hash.0.Nh) = (bits as u32, (bits >> 32) as u32);
        Some(hash)
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        let (h, data) = ([0; 8], [0; Self::BLOCK]);
        let mut context = SHA256_CTX { h, Nl: 0, Nh: 0, data, num: 0, md_len: 0 };
        // SAFETY: it writes to the context, and reads nothing.
        unsafe { SHA256_Init(&mut context) };
        Self(context)
    }
}

impl std::fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.state().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::Digest as _;

    fn of(bytes: &[u8]) -> Sha256 {
        let mut hash = Sha256::default();
        hash.update(bytes);
        hash
    }

    #[test]
    fn what_no_hash_can_be_is_refused() {
        let state = |blocks, buffered| Sha256State { blocks, buffered, ..of(b"").state() };
        for (blocks, buffered, can_be) in [
            (0, 0, true),
            (9, 63, true),
            (9, 64, false),
            (9, usize::MAX, false),
            (u64::MAX / 512, 63, true),
            (u64::MAX / 512 + 1, 0, false),
        ] {
            let resumed = Sha256::resume(&state(blocks, buffered));
            assert_eq!(resumed.is_some(), can_be, "{blocks} {buffered}");
            let Some(mut resumed) = resumed else { continue };
            let Sha256State { blocks: found, buffered: bytes, .. } = resumed.state();
            assert_eq!((found, bytes), (blocks, buffered));
            resumed.update(&[1; 200]);
            resumed.finish();
        }
    }

    proptest! {
        /// sha2 computes the same, in plain Rust.
        #[test]
        fn any_split_and_any_stop_give_the_same_hash(
            bytes in proptest::collection::vec(any::<u8>(), 0..3000),
            cuts in proptest::collection::vec(0usize..3000, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let (mut hash, mut from) = (Sha256::default(), 0);
            for cut in cuts.into_iter().chain([bytes.len()]) {
                hash.update(&bytes[from..cut]);
                let state = hash.state();
                prop_assert_eq!(state.blocks * 64 + state.buffered as u64, cut as u64);
                hash = Sha256::resume(&state).unwrap();
                from = cut;
            }
            let expected: [u8; 32] = sha2::Sha256::digest(&bytes).into();
            prop_assert_eq!(hash.finish(), expected);
        }
    }
}
