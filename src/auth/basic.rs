//! The `Authorization: Basic` header, read as Quay reads it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};

/// Python decodes with or without the right padding bits.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// A user name and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Basic {
    /// Everything before the first colon.
    pub username: String,
    /// Everything after it.
    pub password: String,
}

impl Basic {
    /// Parses a header value: two words, the first `basic` in any case, the second base64 of
    /// UTF-8 with a colon in it (contract §2.2). Anything else counts as no credentials.
    pub fn parse(header: &str) -> Option<Self> {
        let mut words = header.split(' ').filter(|word| !word.is_empty());
        let (scheme, encoded) = (words.next()?, words.next()?);
        if words.next().is_some() || !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = String::from_utf8(LENIENT.decode(encoded.trim()).ok()?).ok()?;
        let (username, password) = decoded.split_once(':')?;
        Some(Self { username: username.to_owned(), password: password.to_owned() })
    }
}

impl fmt::Debug for Basic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Basic({}:***)", self.username)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    #[test]
    fn headers() {
        let basic = Basic::parse("Basic YWRhOnA6dw==").unwrap();
        assert_eq!((basic.username.as_str(), basic.password.as_str()), ("ada", "p:w"));
        assert_eq!(format!("{basic:?}"), "Basic(ada:***)");
        assert!(Basic::parse("  bAsIc   YWRhOnA6dw== ").is_some());
        for bad in [
            "",
            "Basic",
            "Basic YWRh",
            "Basic !!!!",
            "Basic YWRhOnA6dw== x",
            "Bearer YWRhOnA6dw==",
            "Basic /w==",
        ] {
            assert_eq!(Basic::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_a_client_encodes_is_read_back(username in "[^:]{0,40}", password in ".{0,40}") {
            let header = format!("Basic {}", STANDARD.encode(format!("{username}:{password}")));
            prop_assert_eq!(Basic::parse(&header), Some(Basic { username, password }));
        }

        #[test]
        fn no_header_panics(header in ".{0,200}") {
            let _ = Basic::parse(&header);
        }
    }
}
