//! When what failed is tried again. What somebody asks for begins within seconds; but a source that is
//! away for a moment must not cost a row all of its tries within that moment. Quay looks for both at
//! the same interval, and so tries again no sooner.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::catalog::{Claimable, RowKey};

/// When each row was begun here, for as long as that matters.
pub(super) struct Tries {
    interval: Duration,
    begun: HashMap<RowKey, Instant>,
}

impl Tries {
    /// `interval` is what has to lie between two tries.
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, begun: HashMap::new() }
    }

    /// Whether this row may begin now.
    pub(super) fn may_begin(&mut self, row: &Claimable) -> bool {
        self.begun.retain(|_, begun| begun.elapsed() < self.interval);
        !row.has_failed() || !self.begun.contains_key(&row.key())
    }

    /// This row begins now.
    pub(super) fn begins(&mut self, row: &Claimable) {
        self.begun.insert(row.key(), Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::SyncStatus;

    #[tokio::test(start_paused = true)]
    async fn what_failed_waits_and_what_is_asked_for_does_not() {
        const INTERVAL: Duration = Duration::from_secs(30);
        let row = |id, status| Claimable::of_mirror(id, status);
        let mut tries = Tries::new(INTERVAL);
        assert!(tries.may_begin(&row(1, SyncStatus::Fail)), "of an earlier worker");
        tries.begins(&row(1, SyncStatus::Fail));
        assert!(!tries.may_begin(&row(1, SyncStatus::Fail)));
        assert!(tries.may_begin(&row(2, SyncStatus::Fail)), "another row");
        assert!(tries.may_begin(&row(1, SyncStatus::SyncNow)));
        assert!(tries.may_begin(&row(1, SyncStatus::Success)), "given back");
        tokio::time::advance(INTERVAL).await;
        assert!(tries.may_begin(&row(1, SyncStatus::Fail)));
        assert!(tries.begun.is_empty());
    }
}
