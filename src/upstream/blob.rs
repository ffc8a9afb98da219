//! Blobs as streams of bytes, which go on where a connection broke.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use reqwest::header::CONTENT_RANGE;
use reqwest::{Method, StatusCode};
use tokio::time::{Instant, sleep, timeout};

use super::counts::Kind;
use super::exchange::{Answer, Ask};
use super::patience::Tries;
use super::{Fault, Source, UpstreamError};
use crate::oci::{Digest, Sha256};

/// Bytes a second below which a blob takes too long.
const SLOWEST: u64 = 16 * 1024;

/// The bytes of a blob in their order: at the end of the stream all of them came, and after an
/// error nothing comes any more. Whoever stores them verifies the digest, or reads
/// [`verified`](Self::verified).
pub struct BlobStream {
    pieces: Pin<Box<dyn Stream<Item = Result<Bytes, UpstreamError>> + Send>>,
    /// Of the blob from its first byte; no hash where the stream begins later.
    hash: Option<Sha256>,
    wrong: Box<dyn Fn(&str) -> UpstreamError + Send>,
    digest: Digest,
}

impl Source {
    /// A blob from byte `from` on. Where `size` is known, another length is an error, and no byte
    /// comes beyond it. Opened when this returns: what is not there is an error here.
    pub async fn blob(
        &self,
        digest: &Digest,
        size: Option<u64>,
        from: u64,
    ) -> Result<BlobStream, UpstreamError> {
        let mut download = Download::new(self.clone(), digest, size, from);
        download.begin().await?;
        let (host, request) = (self.name().authority().to_owned(), download.ask.what.clone());
        let pieces = stream::try_unfold(download, |mut download| async move {
            Ok(download.next().await?.map(|bytes| (bytes, download)))
        });
        Ok(BlobStream {
            pieces: Box::pin(pieces),
            hash: (from == 0).then(Sha256::default),
            wrong: Box::new(move |reason| {
                UpstreamError::new(Fault::Source, &host, &request, reason)
            }),
            digest: digest.clone(),
        })
    }
}

impl BlobStream {
    /// The same, with an error in place of the end where the bytes are not those of the digest. A
    /// stream that does not begin at the first byte cannot be verified: it ends with that error.
    pub fn verified(self) -> impl Stream<Item = Result<Bytes, UpstreamError>> + Send {
        stream::unfold(Some(self), |stream| async move {
            let mut stream = stream?;
            match stream.pieces.next().await {
                Some(Ok(bytes)) => {
                    if let Some(hash) = &mut stream.hash {
                        hash.update(&bytes);
                    }
                    Some((Ok(bytes), Some(stream)))
                }
                Some(Err(error)) => Some((Err(error), None)),
                None => stream.verdict().map(|error| (Err(error), None)),
            }
        })
    }

    fn verdict(&mut self) -> Option<UpstreamError> {
        let found = self.hash.take().map(|hash| hash.digest());
        match found {
            Some(found) if found == self.digest => None,
            Some(found) => Some((self.wrong)(&format!("its bytes are those of {found}"))),
            None => Some((self.wrong)("it was not read from its first byte")),
        }
    }
}

impl Stream for BlobStream {
    type Item = Result<Bytes, UpstreamError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.pieces.as_mut().poll_next(context)
    }
}

/// A blob on its way.
struct Download {
    source: Source,
    ask: Ask,
    path: String,
    /// Bytes of the blob, once they are known.
    size: Option<u64>,
    /// The first byte that has not come.
    at: u64,
    body: Option<Body>,
    tries: Tries,
    /// How the try before this one ended.
    last: Option<String>,
    /// How long was waited for it, and how much came.
    waited: Duration,
    received: u64,
}

struct Body {
    answer: Answer,
    /// Bytes that came although they were not asked for: a registry that knows no ranges.
    skip: u64,
}

impl Download {
    fn new(source: Source, digest: &Digest, size: Option<u64>, from: u64) -> Self {
        let ask = source.ask(Kind::Blob, Method::GET, &format!("blob {digest}"));
        let path = source.path(&format!("blobs/{digest}"));
        let tries = Tries::new(source.options().patience);
        let (last, waited, received) = (None, Duration::ZERO, 0);
        Self { source, ask, path, size, at: from, body: None, tries, last, waited, received }
    }

    /// Opens it, if anything of it is wanted.
    async fn begin(&mut self) -> Result<(), UpstreamError> {
        let began = Instant::now();
        let opened = match timeout(self.left(), self.open_patiently()).await {
            Ok(opened) => opened,
            Err(_) => Err(self.source.too_slow(self.last.as_deref())),
        };
        self.waited += began.elapsed();
        opened
    }

    /// The next bytes; none after the last. Only the time in here counts: whoever takes the bytes
    /// may take them slowly.
    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let began = Instant::now();
        let next = match timeout(self.left(), self.next_patiently()).await {
            Ok(next) => next,
            Err(_) => Err(self.source.too_slow(self.last.as_deref())),
        };
        self.waited += began.elapsed();
        next
    }

    /// How long may still be waited: what an operation may take, and a bit for each byte so far.
    fn left(&self) -> Duration {
        let earned = Duration::from_secs(self.received / SLOWEST);
        (self.source.options().operation_timeout + earned).saturating_sub(self.waited)
    }

    async fn open_patiently(&mut self) -> Result<(), UpstreamError> {
        while self.body.is_none() && !self.is_whole() {
            if let Err(error) = self.open().await {
                self.again(error).await?;
            }
        }
        Ok(())
    }

    async fn next_patiently(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            self.open_patiently().await?;
            let error = match self.piece().await {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) if self.is_whole() => return Ok(None),
                Ok(None) => self.broke_off(),
                Err(error) => error,
            };
            self.body = None;
            self.again(error).await?;
        }
    }

    fn is_whole(&self) -> bool {
        self.size.is_some_and(|size| self.at >= size)
    }

    /// Waits for another try, if there is to be one.
    async fn again(&mut self, error: UpstreamError) -> Result<(), UpstreamError> {
        let deadline = Instant::now() + self.left();
        let Some(pause) = self.tries.again(&error, deadline) else { return Err(error) };
        self.source.retry(&error);
        self.last = Some(error.to_string());
        sleep(pause).await;
        Ok(())
    }

    /// Asks for the rest, once.
    async fn open(&mut self) -> Result<(), UpstreamError> {
        self.ask.from = self.at;
        let answer = self.source.answer(&self.ask, &self.path).await?;
        let (first, size) = match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = answer.header(CONTENT_RANGE).and_then(content_range);
                range.ok_or_else(|| answer.error(Fault::Source, "a part, and not which one"))?
            }
            _ => (0, answer.length()),
        };
        if first > self.at {
            let reason = format!("bytes from {first} on in place of those from {} on", self.at);
            return Err(answer.error(Fault::Source, reason));
        }
        match (self.size, size) {
            (Some(expected), Some(found)) if expected != found => {
                let reason = format!("it has {found} bytes and should have {expected}");
                return Err(answer.error(Fault::Source, reason));
            }
            (None, found) => self.size = found,
            _ => {}
        }
        self.body = Some(Body { answer, skip: self.at - first });
        Ok(())
    }

    /// What comes next of the body that is open. None at its end, or where there is none.
    async fn piece(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let Some(Body { answer, skip }) = &mut self.body else { return Ok(None) };
        if self.size.is_some_and(|size| self.at >= size) {
            return Ok(None);
        }
        while let Some(mut bytes) = self.source.client().next(answer).await? {
            let passed = (bytes.len() as u64).min(*skip);
            *skip -= passed;
            // It fits: it is at most the length of these bytes.
            let mut wanted = bytes.split_off(usize::try_from(passed).unwrap_or(usize::MAX));
            if wanted.is_empty() {
                continue;
            }
            if let Some(size) = self.size
                && wanted.len() as u64 > size - self.at
            {
                let reason = format!("more than the {size} bytes it should have");
                return Err(answer.error(Fault::Source, reason));
            }
            self.at += wanted.len() as u64;
            self.received += wanted.len() as u64;
            self.tries.progressed();
            return Ok(Some(std::mem::take(&mut wanted)));
        }
        // The end of a body that said nothing of its length.
        if self.size.is_none() {
            self.size = Some(self.at);
        }
        Ok(None)
    }

    fn broke_off(&self) -> UpstreamError {
        let size = self.size.unwrap_or(self.at);
        let reason = format!("its answer ended after {} of {size} bytes", self.at);
        let host = self.source.name().authority();
        UpstreamError::new(Fault::Network, host, &self.ask.what, reason)
    }
}

/// The first byte of `bytes first-last/size`, and the size where it is said.
fn content_range(header: &str) -> Option<(u64, Option<u64>)> {
    let (unit, range) = header.trim().split_once(' ')?;
    let (span, size) = range.trim().split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let size = if size == "*" { None } else { Some(size.parse::<u64>().ok()?) };
    let is_sound = unit.eq_ignore_ascii_case("bytes") && first <= last;
    (is_sound && size.is_none_or(|size| last < size)).then_some((first, size))
}

#[cfg(test)]
mod tests {
    use super::super::{Options, SourceName};
    use super::*;

    /// A registry that sends a byte now and then does not keep us for ever.
    #[test]
    fn what_came_earns_time() {
        let source = SourceName::parse("registry.example/a/b").unwrap();
        let options = Options { plain_http: true, ..Options::new(source) };
        let operation = options.operation_timeout;
        let digest = Digest::of_sha256(&[0; 32]);
        let mut download = Download::new(Source::open(options).unwrap(), &digest, None, 0);
        assert_eq!(download.left(), operation);
        download.waited = operation;
        assert_eq!(download.left(), Duration::ZERO);
        download.received = 10 * SLOWEST;
        assert_eq!(download.left(), Duration::from_secs(10));
        download.waited += Duration::from_secs(11);
        assert_eq!(download.left(), Duration::ZERO);
    }

    #[test]
    fn content_ranges() {
        for (header, expected) in [
            ("bytes 5-9/10", Some((5, Some(10)))),
            ("Bytes 0-0/*", Some((0, None))),
            ("bytes 5-9/9", None),
            ("bytes 9-5/10", None),
            ("bytes */10", None),
            ("bytes 5-/10", None),
            ("items 5-9/10", None),
            ("", None),
        ] {
            assert_eq!(content_range(header), expected, "{header}");
        }
    }
}
