//! Content digests.

use std::fmt::{self, Write as _};

/// A SHA-256 content digest, `sha256:` followed by 64 lower-case hexadecimal digits.
///
/// The only digest Quay ever computes (contract §1.9.4), so every other algorithm is unknown by
/// definition. A value of this type is safe to build a path from.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Digest(String);

/// The gzipped empty layer: Quay finds it in any repository (contract §3.6).
pub const EMPTY_LAYER: &str =
    "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4";

const PREFIX: &str = "sha256:";

impl Digest {
    /// Parses `text`, or returns `None` where no content of Quay's can have this digest.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix(PREFIX)?;
        let canonical =
            hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        canonical.then(|| Self(text.to_owned()))
    }

    /// The digest of content with this SHA-256.
    pub fn of_sha256(hash: &[u8; 32]) -> Self {
        let mut text = String::with_capacity(PREFIX.len() + 2 * hash.len());
        text.push_str(PREFIX);
        for byte in hash {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// The 64 hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.0[PREFIX.len()..]
    }

    /// The whole digest, algorithm included.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `text` has the shape of a digest in Quay's routes, of whatever algorithm and
    /// length (contract §1.1).
    pub fn is_shaped(text: &str) -> bool {
        text.split_once(':').is_some_and(|(algorithm, hex)| {
            !algorithm.is_empty()
                && !hex.is_empty()
                && algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+.-".contains(&b))
                && hex.bytes().all(|b| b.is_ascii_hexdigit())
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_canonical_sha256_is_a_digest() {
        assert!(Digest::parse(EMPTY_LAYER).is_some());
        let hex = "ab".repeat(32);
        for bad in [
            String::new(),
            hex.clone(),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha512:{hex}{hex}"),
            format!("SHA256:{hex}"),
            format!("sha256:../../{}", &hex[6..]),
        ] {
            assert!(Digest::parse(&bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn the_route_shape_is_wider_than_the_digest() {
        for shaped in ["sha256:abc", "a+b.c_d-e:0F", EMPTY_LAYER] {
            assert!(Digest::is_shaped(shaped), "{shaped}");
        }
        for not in ["latest", "sha256:", ":abc", "sha256:xyz", "sha256:ab:cd", "sha 256:ab"] {
            assert!(!Digest::is_shaped(not), "{not}");
        }
    }

    proptest! {
        #[test]
        fn a_digest_holds_nothing_but_hex(text in ".{0,100}") {
            if let Some(digest) = Digest::parse(&text) {
                prop_assert!(Digest::is_shaped(&text));
                prop_assert!(digest.hex().bytes().all(|b| b.is_ascii_hexdigit()));
                prop_assert_eq!(digest.hex().len(), 64);
            }
        }
    }
}
