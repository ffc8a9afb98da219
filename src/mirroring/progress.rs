//! How far a sync has come.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::oci::RepoName;

/// Counted while a sync goes on.
#[derive(Debug)]
pub struct Progress {
    name: RepoName,
    began: Instant,
    tags: AtomicUsize,
    done: AtomicUsize,
    unchanged: AtomicUsize,
    failed: AtomicUsize,
    /// Bytes of blobs that are to be fetched, as far as it is known.
    expected: AtomicU64,
    fetched: AtomicU64,
    linked: AtomicU64,
    doing: Mutex<String>,
}

/// A sync at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// The mirror.
    pub repository: String,
    /// Tags that the rule means.
    pub tags: usize,
    /// Those that are done, unchanged and failed ones included.
    pub done: usize,
    /// Those that were as they are at the source.
    pub unchanged: usize,
    /// Those that failed.
    pub failed: usize,
    /// Bytes of blobs that arrived.
    pub bytes: u64,
    /// Bytes of blobs that are known to be missing, arrived ones included.
    pub expected_bytes: u64,
    /// Bytes of blobs that were here already and did not have to be fetched.
    pub linked_bytes: u64,
    /// Since the sync began.
    pub seconds: f64,
    /// Seconds that the rest will take at this rate; absent while nothing can be said.
    pub seconds_left: Option<f64>,
    /// The last thing that was begun.
    pub doing: String,
}

impl Progress {
    /// Nothing so far.
    pub fn new(name: &RepoName) -> Self {
        Self {
            name: name.clone(),
            began: Instant::now(),
            tags: AtomicUsize::default(),
            done: AtomicUsize::default(),
            unchanged: AtomicUsize::default(),
            failed: AtomicUsize::default(),
            expected: AtomicU64::default(),
            fetched: AtomicU64::default(),
            linked: AtomicU64::default(),
            doing: Mutex::new("listing the source's tags".to_owned()),
        }
    }

    pub(super) fn tags(&self, count: usize) {
        self.tags.store(count, Ordering::Relaxed);
    }

    pub(super) fn tag_done(&self, copied: bool, failed: bool) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.unchanged.fetch_add(usize::from(!copied && !failed), Ordering::Relaxed);
        self.failed.fetch_add(usize::from(failed), Ordering::Relaxed);
    }

    pub(super) fn expect(&self, bytes: u64) {
        self.expected.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn fetched(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn linked(&self, bytes: u64) {
        self.linked.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn doing(&self, what: &str) {
        if let Ok(mut doing) = self.doing.lock() {
            doing.clear();
            doing.push_str(what);
        }
    }

    /// As it is now.
    pub fn snapshot(&self) -> Snapshot {
        let read = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        let (tags, done) = (read(&self.tags), read(&self.done));
        let seconds = self.began.elapsed().as_secs_f64();
        let bytes = self.fetched.load(Ordering::Relaxed);
        let expected_bytes = self.expected.load(Ordering::Relaxed).max(bytes);
        Snapshot {
            repository: self.name.to_string(),
            tags,
            done,
            unchanged: read(&self.unchanged),
            failed: read(&self.failed),
            bytes,
            expected_bytes,
            linked_bytes: self.linked.load(Ordering::Relaxed),
            seconds,
            seconds_left: left(seconds, done, tags),
            doing: self.doing.lock().map(|doing| doing.clone()).unwrap_or_default(),
        }
    }
}

impl Snapshot {
    /// Tags that are done, of a hundred; none while the source's tags are not known.
    pub fn percent(&self) -> Option<usize> {
        (self.tags > 0).then(|| self.done.min(self.tags) * 100 / self.tags)
    }

    /// Bytes of blobs a second, since the sync began.
    pub fn rate(&self) -> f64 {
        self.bytes as f64 / self.seconds.max(0.001)
    }
}

/// At the rate of the tags so far: what the others weigh is not known.
fn left(seconds: f64, done: usize, tags: usize) -> Option<f64> {
    (done > 0 && tags >= done).then(|| seconds / done as f64 * (tags - done) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left() {
        assert_eq!(left(10.0, 0, 5), None);
        assert_eq!(left(10.0, 2, 6), Some(20.0));
        assert_eq!(left(10.0, 6, 6), Some(0.0));
        let name = RepoName { namespace: "a".into(), repository: "b".into() };
        let progress = Progress::new(&name);
        progress.tags(3);
        progress.tag_done(true, false);
        progress.tag_done(false, false);
        progress.tag_done(false, true);
        let now = progress.snapshot();
        assert_eq!((now.tags, now.done, now.unchanged, now.failed), (3, 3, 1, 1));
        assert_eq!(now.percent(), Some(100));
        assert_eq!(Snapshot { tags: 0, ..now.clone() }.percent(), None);
        assert_eq!(Snapshot { done: 1, bytes: 30, seconds: 2.0, ..now }.percent(), Some(33));
    }
}
