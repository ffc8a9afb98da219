//! What was asked and how much came: for metrics, and for tests that say how little has to be.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ping,
    Token,
    Tags,
    Head,
    Manifest,
    Blob,
    Referrers,
    Repositories,
}

impl Kind {
    const ALL: usize = 8;
}

/// Requests that were sent, repetitions included, and what came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Whether a registry speaks HTTPS: only asked without `verify_tls`.
    pub pings: u64,
    /// Of token services.
    pub tokens: u64,
    /// Pages of the list of tags.
    pub tag_pages: u64,
    /// HEAD of manifests.
    pub heads: u64,
    /// GET of manifests.
    pub manifests: u64,
    /// GET of blobs, one for each time a broken one is continued.
    pub blobs: u64,
    /// Pages of lists of referrers.
    pub referrers: u64,
    /// Pages of lists of repositories, and what is asked before them.
    pub repositories: u64,
    /// Requests that went where an answer sent us.
    pub redirects: u64,
    /// Requests that were sent again after a failure or a delay that was asked for; each is among
    /// those of its kind too.
    pub retries: u64,
    /// Bytes of bodies.
    pub bytes_received: u64,
}

impl Counts {
    /// All requests.
    pub fn requests(&self) -> u64 {
        self.pings
            + self.tokens
            + self.tag_pages
            + self.heads
            + self.manifests
            + self.blobs
            + self.referrers
            + self.repositories
            + self.redirects
    }
}

/// What [`Counts`] is read from.
#[derive(Debug, Default)]
pub(super) struct Counters {
    kinds: [AtomicU64; Kind::ALL],
    redirects: AtomicU64,
    retries: AtomicU64,
    bytes: AtomicU64,
}

impl Counters {
    pub fn request(&self, kind: Kind) {
        self.kinds[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn redirect(&self) {
        self.redirects.fetch_add(1, Ordering::Relaxed);
    }

    pub fn retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub fn bytes(&self, count: usize) {
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub fn read(&self) -> Counts {
        let of = |kind: Kind| self.kinds[kind as usize].load(Ordering::Relaxed);
        Counts {
            pings: of(Kind::Ping),
            tokens: of(Kind::Token),
            tag_pages: of(Kind::Tags),
            heads: of(Kind::Head),
            manifests: of(Kind::Manifest),
            blobs: of(Kind::Blob),
            referrers: of(Kind::Referrers),
            repositories: of(Kind::Repositories),
            redirects: self.redirects.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            bytes_received: self.bytes.load(Ordering::Relaxed),
        }
    }
}
