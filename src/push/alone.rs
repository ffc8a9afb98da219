//! Uploads that this process alone has carried so far. Of all others it is not known who has
//! written to them, or still does: Python's late write wins (design, "Uploads"). Those are read again
//! before they are committed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::blobs::Stamp;
use crate::catalog::Progress;

/// Uploads remembered at most; of others no more is lost than the time to read them again.
const MOST: usize = 10_000;

/// An upload that nobody has added to for so long is forgotten when room is needed.
const OLD: Duration = Duration::from_secs(15 * 60);

/// How we left each upload, by its uuid.
#[derive(Default)]
pub(super) struct Alone(Mutex<HashMap<String, Left>>);

struct Left {
    byte_count: u64,
    chunk_count: i32,
    /// Also when Python has counted the same, of other bytes.
    sha_state: Option<String>,
    stamp: Stamp,
    when: Instant,
}

impl Alone {
    /// Remembers an upload as we leave it.
    pub(super) fn leave(&self, uuid: &str, progress: &Progress, stamp: Stamp) {
        let mut uploads = self.uploads();
        if uploads.len() >= MOST && !uploads.contains_key(uuid) {
            uploads.retain(|_, left| left.when.elapsed() < OLD);
        }
        if uploads.len() < MOST {
            let Progress { byte_count, chunk_count, .. } = *progress;
            let (sha_state, when) = (progress.sha_state.clone(), Instant::now());
            let left = Left { byte_count, chunk_count, sha_state, stamp, when };
            uploads.insert(uuid.to_owned(), left);
        }
    }

    /// Whether the upload is as we left it.
    pub(super) fn is_as_left(&self, uuid: &str, progress: &Progress, stamp: Stamp) -> bool {
        self.uploads().get(uuid).is_some_and(|left| {
            left.byte_count == progress.byte_count
                && left.chunk_count == progress.chunk_count
                && left.sha_state == progress.sha_state
                && left.stamp == stamp
        })
    }

    /// Forgets an upload: it has ended, or somebody else has written to it.
    pub(super) fn forget(&self, uuid: &str) {
        self.uploads().remove(uuid);
    }

    fn uploads(&self) -> MutexGuard<'_, HashMap<String, Left>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(byte_count: u64) -> Progress {
        Progress {
            byte_count,
            chunk_count: 1,
            sha_state: None,
            storage_metadata: "{}".to_owned(),
            uncompressed_byte_count: None,
        }
    }

    #[test]
    fn only_what_is_as_we_left_it() {
        let alone = Alone::default();
        assert!(!alone.is_as_left("u", &at(1), None));
        alone.leave("u", &at(1), None);
        assert!(alone.is_as_left("u", &at(1), None));
        assert!(!alone.is_as_left("u", &at(2), None));
        assert!(!alone.is_as_left("u", &Progress { chunk_count: 2, ..at(1) }, None));
        let other_hash = Progress { sha_state: Some("other".to_owned()), ..at(1) };
        assert!(!alone.is_as_left("u", &other_hash, None));
        alone.forget("u");
        assert!(!alone.is_as_left("u", &at(1), None));
    }

    #[test]
    fn no_more_than_there_is_room_for() {
        let alone = Alone::default();
        for number in 0..=MOST {
            alone.leave(&number.to_string(), &at(1), None);
        }
        assert!(alone.is_as_left("0", &at(1), None));
        assert!(!alone.is_as_left(&MOST.to_string(), &at(1), None));
        alone.leave("0", &at(2), None);
        assert_eq!(alone.uploads().len(), MOST);
    }
}
