//! Locks within this process, for a registry that shares its storage with nobody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex, OwnedMutexGuard};

/// Locks by name; only those that somebody has or waits for exist. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct OwnLocks(Arc<StdMutex<HashMap<String, Arc<Mutex<()>>>>>);

/// A lock that is held until this is dropped.
pub(super) struct OwnLock {
    all: OwnLocks,
    name: String,
    guard: Option<OwnedMutexGuard<()>>,
}

impl OwnLocks {
    /// Waits for it for as long as the caller does.
    pub(super) async fn hold(&self, name: &str) -> OwnLock {
        let lock = self.all().entry(name.to_owned()).or_default().clone();
        // Made before there is a guard: giving up the wait tidies up as well.
        let mut own = OwnLock { all: self.clone(), name: name.to_owned(), guard: None };
        own.guard = Some(lock.lock_owned().await);
        own
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Arc<Mutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OwnLock {
    fn drop(&mut self) {
        let mut all = self.all.all();
        self.guard = None;
        // Whoever waits has a handle of its own.
        if all.get(&self.name).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            all.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_and_nothing_left() {
        let locks = OwnLocks::default();
        let first = locks.hold("a").await;
        let other = locks.hold("b").await;
        let soon = Duration::from_secs(1);
        assert!(timeout(soon, locks.hold("a")).await.is_err());
        assert_eq!(locks.all().len(), 2);
        let waiting = tokio::spawn({
            let locks = locks.clone();
            async move { locks.hold("a").await }
        });
        tokio::task::yield_now().await;
        drop((first, other));
        assert_eq!(locks.all().len(), 1);
        drop(timeout(soon, waiting).await.unwrap().unwrap());
        assert!(locks.all().is_empty());
    }
}
