//! The body of an upload's request: taken in batches, so that its bytes are hashed and stored in
//! large pieces while the next ones arrive. No blob is ever in memory as a whole.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

/// Bytes in one batch.
const BATCH: std::ops::RangeInclusive<usize> = 64 * 1024..=1024 * 1024;

/// Pieces in one batch: whoever sends his bytes one by one costs no more memory than others.
const PIECES: usize = 1024;

/// Bytes in the batches of all uploads together: many of them get smaller batches.
const ALL_BATCHES: usize = 16 * 1024 * 1024;

/// How long a client may send nothing. nginx allows more; what is idle for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);

/// Uploads whose bodies are being read in this process.
static READING: AtomicUsize = AtomicUsize::new(0);

/// A body that ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection broke, or what came over it is no body.
    #[error("the body broke off: {0}")]
    Broken(String),
    /// Nothing came.
    #[error("no byte of the body within {} s", SILENCE.as_secs())]
    Silent,
}

/// A body, and how many bytes of it count.
pub struct Body<S> {
    stream: S,
    /// Bytes that are left out at the beginning: the upload has them already.
    skip: u64,
    /// Bytes that count; what follows is not read.
    left: u64,
    ended: bool,
    /// How long nothing may come.
    silence: Duration,
    _reading: Reading,
}

impl<S, E> Body<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::fmt::Display,
{
    /// All of `stream`.
    pub fn new(stream: S) -> Self {
        let (ended, silence) = (false, SILENCE);
        Self { stream, skip: 0, left: u64::MAX, ended, silence, _reading: Reading::begin() }
    }

    /// All of a stream that bounds its own silence: one that is fetched goes on elsewhere then.
    pub fn bounded(stream: S) -> Self {
        Self { silence: Duration::MAX, ..Self::new(stream) }
    }

    /// Only `length` bytes after the first `skip`.
    pub(super) fn part(&mut self, skip: u64, length: u64) {
        (self.skip, self.left) = (skip, length);
    }

    /// The next bytes, several pieces at once; none at the end.
    pub(super) async fn batch(&mut self) -> Result<Vec<Bytes>, BodyError> {
        let (most, mut have, mut batch) = (self._reading.batch(), 0, Vec::new());
        while have < most && batch.len() < PIECES && self.left > 0 && !self.ended {
            let next = pin!(self.stream.next());
            let next =
                tokio::time::timeout(self.silence, next).await.map_err(|_| BodyError::Silent)?;
            match next {
                None => self.ended = true,
                Some(Err(error)) => return Err(BodyError::Broken(error.to_string())),
                Some(Ok(piece)) => {
                    let piece = self.counted(piece);
                    have += piece.len();
                    batch.extend((!piece.is_empty()).then_some(piece));
                }
            }
        }
        Ok(batch)
    }

    fn counted(&mut self, mut piece: Bytes) -> Bytes {
        let skipped = self.skip.min(piece.len() as u64);
        self.skip -= skipped;
        let mut piece = piece.split_off(skipped as usize);
        piece.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= piece.len() as u64;
        piece
    }
}

/// Counts a body while it is being read.
struct Reading;

impl Reading {
    fn begin() -> Self {
        READING.fetch_add(1, Ordering::Relaxed);
        Self
    }

    fn batch(&self) -> usize {
        let share = ALL_BATCHES / READING.load(Ordering::Relaxed).max(1);
        share.clamp(*BATCH.start(), *BATCH.end())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        READING.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    async fn read(pieces: &[&'static str], part: Option<(u64, u64)>) -> String {
        let pieces =
            pieces.iter().map(|piece| Ok::<_, String>(Bytes::from_static(piece.as_bytes())));
        let mut body = Body::new(stream::iter(pieces));
        part.into_iter().for_each(|(skip, length)| body.part(skip, length));
        let mut all = Vec::new();
        loop {
            let batch = body.batch().await.unwrap();
            if batch.is_empty() {
                return String::from_utf8(all.concat()).unwrap();
            }
            all.extend(batch);
        }
    }

    #[tokio::test]
    async fn the_part_that_counts() {
        assert_eq!(read(&["ab", "", "cde"], None).await, "abcde");
        assert_eq!(read(&[], None).await, "");
        assert_eq!(read(&["abc", "def"], Some((2, 3))).await, "cde");
        assert_eq!(read(&["abc", "def"], Some((4, 9))).await, "ef");
        assert_eq!(read(&["abc"], Some((9, 1))).await, "");
        assert_eq!(read(&["abc"], Some((0, 0))).await, "");
    }

    #[tokio::test(start_paused = true)]
    async fn broken_and_silent_bodies_are_errors() {
        let broken = stream::iter([Ok(Bytes::from_static(b"a")), Err("reset")]);
        assert!(matches!(Body::new(broken).batch().await, Err(BodyError::Broken(_))));
        let silent = stream::pending::<Result<Bytes, String>>();
        assert!(matches!(Body::new(silent).batch().await, Err(BodyError::Silent)));
        // Its stream waits for another answer, from where this one stopped.
        let late = Box::pin(stream::once(async {
            tokio::time::sleep(SILENCE * 3).await;
            Ok::<_, String>(Bytes::from_static(b"late"))
        }));
        assert_eq!(Body::bounded(late).batch().await.unwrap().concat(), b"late");
    }

    #[tokio::test]
    async fn small_pieces_make_small_batches() {
        let piece = Bytes::from_static(b"a");
        let mut body = Body::new(stream::iter((0..3000).map(|_| Ok::<_, String>(piece.clone()))));
        let mut lengths = Vec::new();
        while let batch @ [_, ..] = body.batch().await.unwrap().as_slice() {
            lengths.push(batch.len());
        }
        assert_eq!(lengths, [PIECES, PIECES, 3000 - 2 * PIECES]);
    }

    #[tokio::test]
    async fn batches_are_bounded() {
        let piece = Bytes::from(vec![0; 100_000]);
        let mut body = Body::new(stream::iter((0..100).map(|_| Ok::<_, String>(piece.clone()))));
        let batch: usize = body.batch().await.unwrap().iter().map(Bytes::len).sum();
        assert!(batch <= BATCH.end() + piece.len(), "{batch}");
    }
}
