//! The body of an upload's request: taken in batches, so that its bytes are hashed and stored in
//! large pieces while the next ones arrive. No blob is ever in memory as a whole.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

use super::batch::Batch;

/// How long a client may send nothing. nginx allows more; what is idle for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);

/// A body that ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection broke, or what came over it is no body.
    #[error("the body broke off: {0}")]
    Broken(String),
    /// Nothing came.
    #[error("no byte of the body within {} s", SILENCE.as_secs())]
    Silent,
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
    /// How long nothing may come.
    silence: Duration,
}

impl<S, E> Body<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::fmt::Display,
{
    /// All of `stream`.
    pub fn new(stream: S) -> Self {
        let (skip, left, rest, ended) = (0, u64::MAX, Bytes::new(), false);
        Self { stream, skip, left, rest, ended, silence: SILENCE }
    }

    /// All of a stream that bounds its own silence: one that is fetched goes on elsewhere then.
    pub fn bounded(stream: S) -> Self {
        Self { silence: Duration::MAX, ..Self::new(stream) }
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
            let next = pin!(self.stream.next());
            let next =
                tokio::time::timeout(self.silence, next).await.map_err(|_| BodyError::Silent)?;
            match next {
                None => self.ended = true,
                Some(Err(error)) => return Err(BodyError::Broken(error.to_string())),
                Some(Ok(piece)) => self.rest = self.counted(piece),
            }
        }
        Ok(!self.rest.is_empty())
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

    #[tokio::test(start_paused = true)]
    async fn broken_and_silent_bodies_are_errors() {
        let broken = stream::iter([Ok(Bytes::from_static(b"a")), Err("reset")]);
        assert!(matches!(Body::new(broken).batch(0).await, Err(BodyError::Broken(_))));
        let silent = stream::pending::<Result<Bytes, String>>();
        assert!(matches!(Body::new(silent).batch(0).await, Err(BodyError::Silent)));
        // Its stream waits for another answer, from where this one stopped.
        let late = Box::pin(stream::once(async {
            tokio::time::sleep(SILENCE * 3).await;
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
