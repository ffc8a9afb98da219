//! Questions in rounds: while one is being answered, whoever asks the same gathers, and the next
//! answer is for them all. As with group commit, a lone request waits for nobody, and a storm costs
//! a handful of statements.
//!
//! This is no cache: every answer is read after it was asked for, so none is ever stale.

use std::collections::HashMap;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{Shared, WeakShared};

type Asking<V> = Pin<Box<dyn Future<Output = V> + Send>>;

/// Questions that are being asked, and who answers them.
pub struct Rounds<K, V> {
    /// Of every question the round that began last, or is yet to begin.
    latest: Mutex<HashMap<K, Round<V>>>,
}

struct Round<V> {
    /// Weak, so that a round whose askers have all gone ends with them.
    answer: WeakShared<Asking<V>>,
    /// Whether its statement may have been sent: who comes later needs another.
    begun: Arc<AtomicBool>,
}

impl<K, V> Default for Rounds<K, V> {
    fn default() -> Self {
        Self { latest: Mutex::default() }
    }
}

impl<K, V> Rounds<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// What the next round of `key` finds: `read` asks, unless somebody's does already that has
    /// not begun. The round before is waited for, but not for longer than `patience`.
    pub async fn ask<F>(self: &Arc<Self>, key: K, patience: Duration, read: F) -> V
    where
        F: Future<Output = V> + Send + 'static,
    {
        let answer = self.next_round(key, patience, read);
        answer.await
    }

    fn next_round<F>(self: &Arc<Self>, key: K, patience: Duration, read: F) -> Shared<Asking<V>>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut latest = self.latest();
        let last = latest.get(&key).and_then(|round| Some((round.answer.upgrade()?, &round.begun)));
        let before = match last {
            Some((answer, begun)) if !begun.load(Ordering::Acquire) => return answer,
            last => last.map(|(answer, _)| answer),
        };
        let begun = Arc::new(AtomicBool::new(false));
        let place = Place { rounds: self.clone(), key: key.clone(), begun: begun.clone() };
        let asking: Asking<V> = Box::pin(async move {
            if let Some(before) = before {
                // Whatever becomes of it is for those who asked then.
                let _ = tokio::time::timeout(patience, before).await;
            }
            // Whoever has arrived together with the first of them is read from its socket now.
            tokio::task::yield_now().await;
            place.begun.store(true, Ordering::Release);
            read.await
        });
        let answer = asking.shared();
        if let Some(weak) = answer.downgrade() {
            latest.insert(key, Round { answer: weak, begun });
        }
        answer
    }
}

impl<K, V> Rounds<K, V> {
    fn latest(&self) -> MutexGuard<'_, HashMap<K, Round<V>>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A round's place among the latest: given up when it is over or nobody is left to wait for it.
struct Place<K: Eq + Hash, V> {
    rounds: Arc<Rounds<K, V>>,
    key: K,
    begun: Arc<AtomicBool>,
}

impl<K: Eq + Hash, V> Drop for Place<K, V> {
    fn drop(&mut self) {
        let mut latest = self.rounds.latest();
        if latest.get(&self.key).is_some_and(|round| Arc::ptr_eq(&round.begun, &self.begun)) {
            latest.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::future::{join, join_all};
    use tokio::sync::Semaphore;

    use super::*;

    /// A read whose result is how many were begun, and that ends when it may.
    #[derive(Clone)]
    struct Reads {
        rounds: Arc<Rounds<&'static str, usize>>,
        begun: Arc<AtomicUsize>,
        may_end: Arc<Semaphore>,
        patience: Duration,
    }

    impl Reads {
        fn new() -> Self {
            let may_end = Arc::new(Semaphore::new(0));
            let patience = Duration::from_secs(30);
            Self { rounds: Arc::default(), begun: Arc::default(), may_end, patience }
        }

        async fn ask(&self, key: &'static str) -> usize {
            let Self { begun, may_end, .. } = self.clone();
            let read = async move {
                let number = begun.fetch_add(1, Ordering::Relaxed) + 1;
                may_end.acquire().await.unwrap().forget();
                number
            };
            self.rounds.ask(key, self.patience, read).await
        }

        fn begun(&self) -> usize {
            self.begun.load(Ordering::Relaxed)
        }
    }

    /// Polls it until its read has begun, or it waits for the round before.
    async fn begin<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
        let mut value = None;
        for _ in 0..2 {
            value = value.or_else(|| Pin::new(&mut *future).now_or_never());
            tokio::task::yield_now().await;
        }
        value
    }

    #[tokio::test]
    async fn who_asks_while_a_read_runs_shares_the_next_one() {
        let reads = Reads::new();
        let mut first = Box::pin(reads.ask("a"));
        assert_eq!(begin(&mut first).await, None);
        let mut later: Vec<_> = (0..10).map(|_| Box::pin(reads.ask("a"))).collect();
        for asker in &mut later {
            assert_eq!(begin(asker).await, None);
        }
        assert_eq!(reads.begun(), 1, "the next round waits for this one");
        reads.may_end.add_permits(2);
        let (first, later) = join(first, join_all(later)).await;
        assert_eq!((first, later), (1, vec![2; 10]));
        assert!(reads.rounds.latest().is_empty(), "nothing is kept");
    }

    #[tokio::test]
    async fn an_answer_from_before_the_question_is_none() {
        let reads = Reads::new();
        reads.may_end.add_permits(3);
        assert_eq!((reads.ask("a").await, reads.ask("a").await, reads.ask("b").await), (1, 2, 3));
    }

    #[tokio::test]
    async fn other_questions_wait_for_nobody() {
        let reads = Reads::new();
        let (mut a, mut b) = (Box::pin(reads.ask("a")), Box::pin(reads.ask("b")));
        assert_eq!((begin(&mut a).await, begin(&mut b).await), (None, None));
        assert_eq!(reads.begun(), 2);
    }

    #[tokio::test]
    async fn askers_that_go_leave_nothing_behind() {
        let reads = Reads::new();
        let mut first = Box::pin(reads.ask("a"));
        let (mut second, mut third) = (Box::pin(reads.ask("a")), Box::pin(reads.ask("a")));
        for asker in [&mut first, &mut second, &mut third] {
            assert_eq!(begin(asker).await, None);
        }
        // Who began both rounds is gone: the others carry on with them.
        drop(first);
        drop(second);
        reads.may_end.add_permits(2);
        assert_eq!(third.await, 2);

        let mut lone = Box::pin(reads.ask("a"));
        assert_eq!(begin(&mut lone).await, None);
        drop(lone);
        assert!(reads.rounds.latest().is_empty());
        reads.may_end.add_permits(1);
        assert_eq!(reads.ask("a").await, 4, "not what nobody waited for");
    }

    #[tokio::test]
    async fn a_round_that_hangs_is_not_waited_for_for_ever() {
        let reads = Reads { patience: Duration::from_millis(1), ..Reads::new() };
        let mut hangs = Box::pin(reads.ask("a"));
        assert_eq!(begin(&mut hangs).await, None);
        let release = async {
            while reads.begun() < 2 {
                tokio::task::yield_now().await;
            }
            reads.may_end.add_permits(2);
        };
        assert_eq!(join(reads.ask("a"), release).await, (2, ()));
    }
}
