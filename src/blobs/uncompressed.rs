//! How long a compressed blob is when it is not, as Quay notes it (`uncompressed_size`): what
//! Python's zlib makes of the bytes of one request, counted and thrown away.

use std::io::{self, Write};

use flate2::write::{GzDecoder, ZlibDecoder};

/// What a bomb may grow to before we give up on it; Python goes on, for hours.
const LARGEST: u64 = 64 << 30;
const LARGEST_RATIO: u64 = 300;

/// Counts while the bytes pass. Only the first member of several is counted, as in Python.
pub struct Uncompressed {
    seen: u64,
    stream: Stream,
}

enum Stream {
    /// Not enough bytes yet to tell what they are.
    Head(Vec<u8>),
    Gzip(Box<GzDecoder<Count>>),
    Zlib(Box<ZlibDecoder<Count>>),
    /// It has ended well, with this length.
    Ended(u64),
    /// Not compressed, or damaged.
    Unknown,
}

#[derive(Default)]
struct Count(u64);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Default for Uncompressed {
    fn default() -> Self {
        Self { seen: 0, stream: Stream::Head(Vec::new()) }
    }
}

impl Uncompressed {
    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.seen += bytes.len() as u64;
        if let Stream::Head(head) = &mut self.stream {
            head.extend_from_slice(bytes);
            if head.len() < 2 {
                return;
            }
            let head = std::mem::take(head);
            self.stream = Stream::begun_with(&head);
            self.stream.feed(&head);
        } else {
            self.stream.feed(bytes);
        }
        let length = self.stream.length().unwrap_or_default();
        if length > LARGEST && length / LARGEST_RATIO > self.seen {
            self.stream = Stream::Unknown;
        }
    }

    /// Whether more bytes make no difference: it has ended, or is not compressed.
    pub fn is_over(&self) -> bool {
        matches!(self.stream, Stream::Ended(_) | Stream::Unknown)
    }

    /// The length, as far as it came; `None` for what is not compressed.
    pub fn finish(mut self) -> Option<u64> {
        let sound = match &mut self.stream {
            Stream::Gzip(stream) => stream.try_finish(),
            Stream::Zlib(stream) => stream.try_finish(),
            _ => Ok(()),
        };
        // What breaks off is no error to Python; what has a wrong checksum is.
        let broken_off = |error: io::Error| error.kind() == io::ErrorKind::UnexpectedEof;
        self.stream.length().filter(|_| sound.map_or_else(broken_off, |()| true))
    }
}

impl Stream {
    /// RFC 1952 §2.3.1, RFC 1950 §2.2.
    fn begun_with(head: &[u8]) -> Self {
        match *head {
            [0x1f, 0x8b, ..] => Self::Gzip(Box::new(GzDecoder::new(Count::default()))),
            [method, flags, ..]
                if method & 0x0f == 8
                    && method >> 4 <= 7
                    && u16::from_be_bytes([method, flags]) % 31 == 0 =>
            {
                Self::Zlib(Box::new(ZlibDecoder::new(Count::default())))
            }
            _ => Self::Unknown,
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        let ended = match self {
            Self::Gzip(stream) => match feed(stream, bytes) {
                // Its checksum is looked at only then.
                Ok(true) => stream.try_finish().map(|()| true),
                result => result,
            },
            Self::Zlib(stream) => match feed(stream, bytes) {
                Ok(true) => stream.try_finish().map(|()| true),
                result => result,
            },
            _ => return,
        };
        match (ended, self.length()) {
            (Ok(false), _) => {}
            (Ok(true), Some(length)) => *self = Self::Ended(length),
            _ => *self = Self::Unknown,
        }
    }

    fn length(&self) -> Option<u64> {
        match self {
            Self::Head(_) => Some(0),
            Self::Gzip(stream) => Some(stream.get_ref().0),
            Self::Zlib(stream) => Some(stream.get_ref().0),
            Self::Ended(length) => Some(*length),
            Self::Unknown => None,
        }
    }
}

/// Whether the stream has ended within `bytes`.
fn feed(stream: &mut impl Write, mut bytes: &[u8]) -> io::Result<bool> {
    while !bytes.is_empty() {
        match stream.write(bytes)? {
            0 => return Ok(true),
            written => bytes = bytes.split_at(written).1,
        }
    }
    // What was decoded and not yet counted.
    stream.flush()?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn counted(chunks: &[&[u8]]) -> Option<u64> {
        let mut count = Uncompressed::default();
        chunks.iter().for_each(|chunk| count.update(chunk));
        count.finish()
    }

    #[test]
    fn as_zlib_counts() {
        let text = b"all work and no play ".repeat(5000);
        let length = Some(text.len() as u64);
        let (gz, z) = (gzip(&text), zlib(&text));
        assert_eq!(counted(&[&gz]), length);
        assert_eq!(counted(&[&z]), length);
        // Only the first member counts, whatever follows.
        assert_eq!(counted(&[&gz, &gz]), length);
        assert_eq!(counted(&[&[gz.as_slice(), b"trailing"].concat()]), length);
        // Nothing at all is nothing; the head of a stream is not wrong yet.
        assert_eq!(counted(&[]), Some(0));
        assert_eq!(counted(&[b"\x1f"]), Some(0));
        assert!(counted(&[&gz[..gz.len() / 2]]).is_some_and(|half| half > 0));
        // A sum that does not fit.
        let mut damaged = gz.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(counted(&[&damaged]), None);
        for plain in [b"{}".as_slice(), b"not compressed", b"(\xb5/\xfd zstd"] {
            assert_eq!(counted(&[plain]), None);
        }
    }

    proptest! {
        #[test]
        fn chunks_of_any_size(
            bytes in proptest::collection::vec(any::<u8>(), 0..5000),
            size in 1usize..700,
        ) {
            for compressed in [gzip(&bytes), zlib(&bytes)] {
                let chunks: Vec<&[u8]> = compressed.chunks(size).collect();
                prop_assert_eq!(counted(&chunks), Some(bytes.len() as u64));
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            counted(&[&bytes]);
            counted(&[&[b"\x1f\x8b\x08".as_slice(), &bytes].concat()]);
        }
    }
}
