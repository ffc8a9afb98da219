//! Byte ranges of a `Range` header (RFC 9110 §14).

/// A single byte range, not yet held against a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// `bytes=first-` or `bytes=first-last`, both ends included.
    From {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte, the end of the content when absent.
        last: Option<u64>,
    },
    /// `bytes=-n`: the last `n` bytes.
    Last(u64),
}

/// A range that lies inside the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub offset: u64,
    /// Number of bytes, never zero.
    pub length: u64,
}

impl ByteRange {
    /// Parses a header value. `None` means that the header is to be ignored and the whole content
    /// sent: another unit, several ranges, or not a range at all.
    pub fn parse(header: &str) -> Option<Self> {
        let (unit, set) = header.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = set.trim().split_once('-')?;
        match (first, last) {
            ("", last) => Some(Self::Last(number(last)?)),
            (first, "") => Some(Self::From { first: number(first)?, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From { first, last: Some(last) })
            }
        }
    }

    /// The part of a content of `length` bytes, or `None` where nothing of it is asked for: 416.
    pub fn within(self, length: u64) -> Option<Span> {
        let (offset, end) = match self {
            Self::From { first, last } => {
                (first, last.map_or(length, |last| last.saturating_add(1).min(length)))
            }
            Self::Last(n) => (length.saturating_sub(n), length),
        };
        (offset < end).then(|| Span { offset, length: end - offset })
    }
}

/// Digits only: `u64::from_str` would take a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span(header: &str, length: u64) -> Option<(u64, u64)> {
        ByteRange::parse(header)?.within(length).map(|s| (s.offset, s.length))
    }

    #[test]
    fn ranges_of_ten_bytes() {
        for (header, expected) in [
            ("bytes=0-", Some((0, 10))),
            ("bytes=0-0", Some((0, 1))),
            ("bytes=2-4", Some((2, 3))),
            ("bytes=9-99", Some((9, 1))),
            ("bytes=-3", Some((7, 3))),
            ("bytes=-99", Some((0, 10))),
            ("BYTES=1-2", Some((1, 2))),
            ("bytes=10-", None),
            ("bytes=-0", None),
        ] {
            assert_eq!(span(header, 10), expected, "{header}");
        }
        assert_eq!(span("bytes=0-", 0), None);
    }

    #[test]
    fn what_is_no_single_byte_range_is_ignored() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=3-1",
            "bytes=0-1,3-4",
            "bytes=+1-2",
            "items=0-1",
        ] {
            assert_eq!(ByteRange::parse(header), None, "{header}");
        }
    }

    proptest! {
        #[test]
        fn a_span_is_inside(header in "(bytes=)?[0-9]{0,20}-[0-9]{0,20}|.{0,40}", length: u64) {
            if let Some(span) = ByteRange::parse(&header).and_then(|range| range.within(length)) {
                prop_assert!(span.length > 0);
                prop_assert!(span.offset.checked_add(span.length).is_some_and(|end| end <= length));
            }
        }
    }
}
