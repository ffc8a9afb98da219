//! The hash of nginx's `split_clients`, so that `explain` and nginx agree about percentages.

/// The bucket of a repository: MurmurHash2 (32 bits, seed 0) of its name, `namespace/name`.
///
/// nginx hashes the value of the variable that `split_clients` names; that variable has to be this
/// same text, the library namespace included where the path leaves it out.
pub fn bucket(repository: &str) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let bytes = repository.as_bytes();
    // nginx keeps the length in 32 bits too.
    let mut hash = bytes.len() as u32;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// Whether `split_clients` puts the bucket into its first part, of `percent` %.
///
/// nginx reads `5%` as 500 hundredths and compares below `500 * 0xffffffff / 10000`. It refuses
/// `0%`, and its `100%` leaves out the last bucket: render no part for 0 and `*` for 100.
pub fn is_within(bucket: u32, percent: u8) -> bool {
    match percent {
        0 => false,
        1..=99 => u64::from(bucket) < u64::from(percent) * 100 * 0xffff_ffff / 10_000,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a real nginx puts below 1 % to 99 % is compared in `tests/switches.rs`.
    #[test]
    fn vectors() {
        assert_eq!(bucket(""), 0);
        // MurmurHash2 with seed 0 of its reference implementation.
        assert_eq!(bucket("a"), 0x92685f5e);
        assert_eq!(bucket("abc"), 0x13577c9b);
    }

    #[test]
    fn percentages_grow() {
        for name in ["a/b", "openshift/release", "x"] {
            let within: Vec<bool> = (0..=100).map(|p| is_within(bucket(name), p)).collect();
            assert!(!within[0] && within[100]);
            assert!(within.is_sorted());
        }
    }
}
