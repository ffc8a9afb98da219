//! The body of an upload's request: taken in batches, so that its bytes are hashed and stored in
//! large pieces while the next ones arrive. No blob is ever in memory as a whole.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::time::{Instant, timeout};

use super::batch::Batch;

/// How long a client may keep us waiting; then it has gone. Bytes that come give back what they took,
/// at this many of them a second: one byte a minute is no body either.
const PATIENCE: Duration = Duration::from_secs(60);
const SLOWEST: u64 = 256;

/// A body that ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection broke, or what came over it is no body.
    #[error("the body broke off: {0}")]
    Broken(String),
    /// Nothing came, or next to nothing.
    #[error("the body came too slowly: {} s without {SLOWEST} bytes for each", PATIENCE.as_secs())]
    TooSlow,
    /// This machine has none for its bytes.
    #[error("no memory for the body: {0}")]
    NoMemory(#[from] io::Error),
}

/// A body, and how many bytes of it count.
pub struct Body<S> {
    stream: S,
    /// Bytes that are left out at the beginning: the upload has them already.
    skip: u64,
    /// Bytes that count; what follows is not read.
    left: u64,
    /// What did not fit into the batch before.
    rest: Bytes,
    ended: bool,
    /// How long may still be waited.
    patience: Duration,
    most_patience: Duration,
}

impl<S, E> Body<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::fmt::Display,
{
    /// All of `stream`.
    pub fn new(stream: S) -> Self {
        let (skip, left, rest, ended) = (0, u64::MAX, Bytes::new(), false);
        let (patience, most_patience) = (PATIENCE, PATIENCE);
        Self { stream, skip, left, rest, ended, patience, most_patience }
    }

    /// All of a stream that bounds its own time: one that is fetched goes on elsewhere then.
    pub fn bounded(stream: S) -> Self {
        let (patience, most_patience) = (Duration::MAX, Duration::MAX);
        Self { patience, most_patience, ..Self::new(stream) }
    }

    /// Only `length` bytes after the first `skip`.
    pub(super) fn part(&mut self, skip: u64, length: u64) {
        (self.skip, self.left) = (skip, length);
    }

    /// The next bytes, which come to lie at `at` in the upload; none at the end. All but the
    /// last end at multiples of [`ALIGNMENT`](crate::blobs::ALIGNMENT) there.
    pub(super) async fn batch(&mut self, at: u64) -> Result<Bytes, BodyError> {
        if !self.has_more().await? {
            return Ok(Bytes::new());
        }
        let mut batch = Batch::new(at)?;
        loop {
            batch.take(&mut self.rest);
            if batch.is_full() || !self.has_more().await? {
                return Ok(batch.freeze());
            }
        }
    }

    /// Waits for bytes that count; false at the end.
    async fn has_more(&mut self) -> Result<bool, BodyError> {
        while self.rest.is_empty() && self.left > 0 && !self.ended {
            match self.next().await? {
                None => self.ended = true,
                Some(piece) => self.rest = self.counted(piece),
            }
        }
        Ok(!self.rest.is_empty())
    }

    /// The next bytes that come. Only the time in here counts: a storage may be slower.
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        let began = Instant::now();
        let next = pin!(self.stream.next());
        let next = timeout(self.patience, next).await.map_err(|_| BodyError::TooSlow)?;
        let piece = next.transpose().map_err(|error| BodyError::Broken(error.to_string()))?;
        let earned = piece.as_ref().map_or(0, |piece| piece.len() as u64 * 1000 / SLOWEST);
        let left = self.patience.saturating_sub(began.elapsed());
        self.patience = left.saturating_add(Duration::from_millis(earned)).min(self.most_patience);
        Ok(piece)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::ALIGNMENT;
    use crate::push::memory::SHARE;
    use futures_util::stream;

    async fn read(pieces: &[&'static str], part: Option<(u64, u64)>) -> String {
        let pieces =
            pieces.iter().map(|piece| Ok::<_, String>(Bytes::from_static(piece.as_bytes())));
        let mut body = Body::new(stream::iter(pieces));
        part.into_iter().for_each(|(skip, length)| body.part(skip, length));
        let mut all = Vec::new();
        loop {
            let batch = body.batch(all.len() as u64).await.unwrap();
            if batch.is_empty() {
                return String::from_utf8(all).unwrap();
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

    #[tokio::test]
    async fn a_broken_body_is_an_error() {
        let broken = stream::iter([Ok(Bytes::from_static(b"a")), Err("reset")]);
        assert!(matches!(Body::new(broken).batch(0).await, Err(BodyError::Broken(_))));
    }

    /// So many bytes at a time, so far apart: how many come, and until when.
    async fn drip(length: usize, seconds: u64) -> (Result<usize, BodyError>, u64) {
        let began = Instant::now();
        let mut clock = tokio::time::interval(Duration::from_secs(seconds));
        clock.tick().await;
        let pieces = stream::unfold((clock, 0), move |(mut clock, number)| async move {
            clock.tick().await;
            (number < 1000).then(|| (Ok::<_, String>(vec![0; length].into()), (clock, number + 1)))
        });
        let mut body = Body::new(Box::pin(pieces));
        let mut came = 0;
        let ended = loop {
            match body.batch(came as u64).await {
                Ok(batch) if batch.is_empty() => break Ok(came),
                Ok(batch) => came += batch.len(),
                Err(error) => break Err(error),
            }
        };
        (ended, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_has_to_come() {
        let too_slow = |(ended, seconds): (Result<usize, BodyError>, u64)| {
            assert!(matches!(ended, Err(BodyError::TooSlow)), "{ended:?}");
            seconds
        };
        assert_eq!(too_slow(drip(0, 1).await), 60);
        assert_eq!(too_slow(drip(1, 59).await), 60);
        assert_eq!(too_slow(drip(128, 1).await), 119);
        // Much at once is no credit for hours.
        assert_eq!(too_slow(drip(1 << 20, 61).await), 60);
        for (length, seconds) in [(256, 1), (15 * 256, 15), (1 << 20, 59)] {
            assert_eq!(drip(length, seconds).await.0.unwrap(), 1000 * length, "{length}");
        }
        // Its stream waits for another answer, from where this one stopped.
        let late = Box::pin(stream::once(async {
            tokio::time::sleep(PATIENCE * 3).await;
            Ok::<_, String>(Bytes::from_static(b"late"))
        }));
        assert_eq!(Body::bounded(late).batch(0).await.unwrap(), "late");
    }

    #[tokio::test]
    async fn batches_end_at_borders_whatever_the_pieces() {
        let all: Vec<u8> = (0..5_000_000u32).map(|number| (number % 251) as u8).collect();
        for (piece, start) in [(7, 0), (100_000, 5), (3_000_000, 4096)] {
            let pieces: Vec<Bytes> = all.chunks(piece).map(Bytes::copy_from_slice).collect();
            let mut body = Body::new(stream::iter(pieces.into_iter().map(Ok::<_, String>)));
            let (mut found, mut at) = (Vec::new(), start);
            while let batch @ [_, ..] = body.batch(at).await.unwrap().as_ref() {
                assert!(batch.len() <= *SHARE.end(), "{}", batch.len());
                assert_eq!(batch.as_ptr().align_offset(ALIGNMENT), 0);
                assert_eq!(at % ALIGNMENT as u64, if found.is_empty() { start % 4096 } else { 0 });
                found.extend_from_slice(batch);
                at = start + found.len() as u64;
            }
            assert!(found == all, "{piece} {start}");
        }
    }
}
