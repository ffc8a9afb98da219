//! The rest of the room's surface, for those who build on it; what it does comes next.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;

use super::{Counts, Fault, Options, Reference, UpstreamError};
use crate::oci::Digest;
use crate::oci::manifest::Descriptor;

/// `SSRF_ALLOWED_HOSTS`: names and networks that are asked although they are not public.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedHosts(Vec<String>);

impl AllowedHosts {
    /// Reads the setting: what is no address and no network is a name.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Self {
        Self(entries.into_iter().map(str::to_owned).collect())
    }
}

/// How many requests each host gets at once. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Hosts;

/// How long one request may take, and how often it is repeated.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until a connection is there.
    pub connect: Duration,
    /// Until an answer begins, and between two pieces of it.
    pub answer: Duration,
    /// Before the first repetition, on average; the others wait longer and longer.
    pub pause: Duration,
    /// The longest `Retry-After` that is waited for; one that is longer is reported.
    pub longest_delay: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            pause: Duration::from_millis(500),
            longest_delay: Duration::from_secs(60),
        }
    }
}

/// What a registry says of a manifest. Nothing of it is verified: compare it with what was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// `Docker-Content-Digest`, or computed where there is none.
    pub digest: Digest,
    /// `Content-Type`, without parameters.
    pub media_type: String,
    /// Bytes, where it says.
    pub size: Option<u64>,
}

/// A manifest as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedManifest {
    /// Computed from the bytes; the one that was asked for.
    pub digest: Digest,
    /// `Content-Type` without parameters, or the body's `mediaType` where that says nothing.
    pub media_type: String,
    /// Exactly what was sent.
    pub bytes: Bytes,
}

/// The bytes of a blob in their order. A connection that breaks is continued where it broke.
pub struct BlobStream(Pin<Box<dyn Stream<Item = Result<Bytes, UpstreamError>> + Send>>);

impl BlobStream {
    /// The same with an error at its end instead of success where the digest is another.
    #[must_use]
    pub fn verified(self) -> Self {
        self
    }
}

impl Stream for BlobStream {
    type Item = Result<Bytes, UpstreamError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

/// A repository in another registry. Cheap to clone; clones share connections, tokens and counts.
#[derive(Clone)]
pub struct Source;

impl Source {
    /// Gets ready to ask; asks nothing yet.
    pub fn open(_options: Options) -> Result<Self, UpstreamError> {
        Ok(Self)
    }

    /// All tags, each once, in the registry's order.
    pub async fn tags(&self) -> Result<Vec<String>, UpstreamError> {
        Err(unfinished())
    }

    /// What a manifest is now.
    pub async fn head(&self, _reference: &Reference) -> Result<Head, UpstreamError> {
        Err(unfinished())
    }

    /// A manifest of at most that many bytes.
    pub async fn manifest(
        &self,
        _reference: &Reference,
        _most: usize,
    ) -> Result<FetchedManifest, UpstreamError> {
        Err(unfinished())
    }

    /// A blob from that byte on.
    pub async fn blob(
        &self,
        _digest: &Digest,
        _size: Option<u64>,
        _from: u64,
    ) -> Result<BlobStream, UpstreamError> {
        Err(unfinished())
    }

    /// What refers to a manifest.
    pub async fn referrers(&self, _digest: &Digest) -> Result<Vec<Descriptor>, UpstreamError> {
        Err(unfinished())
    }

    /// What was asked so far.
    pub fn counts(&self) -> Counts {
        Counts::default()
    }
}

fn unfinished() -> UpstreamError {
    UpstreamError::new(Fault::Source, "nowhere", "nothing", "not built yet")
}
