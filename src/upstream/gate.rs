//! How many requests a host gets at once: more while it answers quickly, half as many when it says
//! that it is too much (additive increase, multiplicative decrease).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

const FIRST: usize = 8;
const LEAST: usize = 1;
const MOST: usize = 32;

/// Slower than the best by this factor, and nothing is added; by the second, some is taken away.
const SLOW: u32 = 3;
const VERY_SLOW: u32 = 10;
/// What nobody would call slow.
const QUICK: Duration = Duration::from_millis(200);

/// A burst of complaints is one: requests that were already on their way do not halve it again.
const CUT_AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// Hosts that are remembered.
const MOST_HOSTS: usize = 256;

/// How many requests each host gets at once. Cheap to clone; clones share it.
#[derive(Clone, Default)]
pub struct Hosts(Arc<Mutex<HashMap<String, Arc<Gate>>>>);

impl Hosts {
    /// The gate of `host[:port]`.
    pub(super) fn gate(&self, host: &str) -> Arc<Gate> {
        let mut gates = locked(&self.0);
        if let Some(gate) = gates.get(host) {
            return gate.clone();
        }
        if gates.len() >= MOST_HOSTS {
            gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        }
        gates.entry(host.to_owned()).or_default().clone()
    }
}

impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(locked(&self.0).iter().map(|(host, gate)| (host, gate.limit())))
            .finish()
    }
}

/// The way to one host.
pub(super) struct Gate {
    free: Arc<Semaphore>,
    state: Mutex<State>,
}

struct State {
    /// Between the two bounds; its whole part is how many may be on their way.
    limit: f64,
    /// Permits to be taken away when they come back.
    debt: usize,
    /// The quickest answer, drifting up so that one lucky answer is forgotten.
    best: Option<Duration>,
    cut: Option<Instant>,
    /// Nobody is let through before: the host asked for a pause.
    closed_until: Option<Instant>,
}

impl Default for Gate {
    fn default() -> Self {
        let state =
            State { limit: FIRST as f64, debt: 0, best: None, cut: None, closed_until: None };
        Self { free: Arc::new(Semaphore::new(FIRST)), state: Mutex::new(state) }
    }
}

/// Leave to ask, until it is dropped.
pub(super) struct Permit {
    gate: Arc<Gate>,
    inner: Option<OwnedSemaphorePermit>,
    since: Instant,
}

impl Gate {
    /// Waits for leave to ask. `None` never comes: the semaphore is never closed.
    pub async fn enter(self: &Arc<Self>) -> Option<Permit> {
        loop {
            let permit = self.free.clone().acquire_owned().await.ok()?;
            let closed_until = locked(&self.state).closed_until;
            match closed_until.filter(|until| *until > Instant::now()) {
                // Kept meanwhile: nobody else could use it either.
                Some(until) => sleep_until(until).await,
                None => {
                    let since = Instant::now();
                    return Some(Permit { gate: self.clone(), inner: Some(permit), since });
                }
            }
        }
    }

    /// How many may be on their way.
    pub fn limit(&self) -> usize {
        locked(&self.state).allowed()
    }

    fn answered(&self, latency: Duration) {
        let is_used_up = self.free.available_permits() == 0;
        let mut state = locked(&self.state);
        let best = state.best.map_or(latency, |best| latency.min(best + best / 64));
        state.best = Some(best);
        if latency <= QUICK.max(best * SLOW) {
            if is_used_up {
                let limit = state.limit + 1.0 / state.limit;
                self.set(&mut state, limit);
            }
        } else if latency > best * VERY_SLOW {
            self.cut(&mut state, 0.75);
        }
    }

    /// Closes for as long as the host asked, too.
    fn complained(&self, pause: Option<Duration>) {
        let mut state = locked(&self.state);
        self.cut(&mut state, 0.5);
        if let Some(pause) = pause {
            let until = Instant::now() + pause;
            state.closed_until = Some(state.closed_until.map_or(until, |other| other.max(until)));
        }
    }

    fn cut(&self, state: &mut State, factor: f64) {
        if state.cut.is_none_or(|cut| cut.elapsed() >= CUT_AT_MOST_EVERY) {
            state.cut = Some(Instant::now());
            let limit = state.limit * factor;
            self.set(state, limit);
        }
    }

    fn set(&self, state: &mut State, limit: f64) {
        let before = state.allowed();
        state.limit = limit.clamp(LEAST as f64, MOST as f64);
        let after = state.allowed();
        if after >= before {
            let paid = state.debt.min(after - before);
            state.debt -= paid;
            self.free.add_permits(after - before - paid);
        } else {
            let fewer = before - after;
            state.debt += fewer - self.free.forget_permits(fewer);
        }
    }
}

impl State {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 32")]
    fn allowed(&self) -> usize {
        self.limit as usize
    }
}

impl Permit {
    /// The host answered.
    pub fn answered(self) {
        self.gate.answered(self.since.elapsed());
    }

    /// The host answered that it is too much, and may have said for how long.
    pub fn complained(self, pause: Option<Duration>) {
        self.gate.complained(pause);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = locked(&self.gate.state);
        if state.debt > 0
            && let Some(permit) = self.inner.take()
        {
            state.debt -= 1;
            permit.forget();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    async fn entered(gate: &Arc<Gate>, count: usize) -> Vec<Permit> {
        let mut permits = Vec::new();
        for _ in 0..count {
            permits.push(gate.enter().await.unwrap());
        }
        permits
    }

    /// How many are let through now.
    fn room(gate: &Arc<Gate>) -> usize {
        std::iter::from_fn(|| gate.enter().now_or_never().flatten()).collect::<Vec<_>>().len()
    }

    #[tokio::test(start_paused = true)]
    async fn it_grows_while_it_is_used_up() {
        let gate = Arc::new(Gate::default());
        for permit in entered(&gate, 1).await {
            permit.answered();
        }
        assert_eq!((gate.limit(), room(&gate)), (FIRST, FIRST), "one at a time needs no more");
        for _ in 0..1000 {
            let permits = entered(&gate, gate.limit()).await;
            permits.into_iter().for_each(Permit::answered);
        }
        assert_eq!((gate.limit(), room(&gate)), (MOST, MOST));
    }

    #[tokio::test(start_paused = true)]
    async fn complaints_halve_it_down_to_one() {
        let gate = Arc::new(Gate::default());
        // A burst counts once, also for those on their way.
        entered(&gate, FIRST).await.into_iter().for_each(|permit| permit.complained(None));
        assert_eq!((gate.limit(), room(&gate)), (4, 4));
        for _ in 0..5 {
            advance(CUT_AT_MOST_EVERY).await;
            entered(&gate, 1).await.into_iter().for_each(|permit| permit.complained(None));
        }
        assert_eq!((gate.limit(), room(&gate)), (LEAST, LEAST));
    }

    #[tokio::test(start_paused = true)]
    async fn slowness_makes_it_smaller() {
        let gate = Arc::new(Gate::default());
        entered(&gate, 1).await.into_iter().for_each(Permit::answered);
        let permits = entered(&gate, FIRST).await;
        advance(Duration::from_secs(5)).await;
        permits.into_iter().for_each(Permit::answered);
        assert_eq!((gate.limit(), room(&gate)), (6, 6));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_enters_while_the_host_wants_a_pause() {
        let gate = Arc::new(Gate::default());
        let pause = Duration::from_secs(7);
        entered(&gate, 1).await.into_iter().for_each(|permit| permit.complained(Some(pause)));
        let before = Instant::now();
        drop(gate.enter().await);
        assert_eq!(before.elapsed(), pause);
    }

    #[test]
    fn hosts_are_forgotten() {
        let hosts = Hosts::default();
        let kept = hosts.gate("kept");
        for number in 0..2 * MOST_HOSTS {
            hosts.gate(&number.to_string());
        }
        assert!(locked(&hosts.0).len() <= MOST_HOSTS);
        assert!(Arc::ptr_eq(&kept, &hosts.gate("kept")));
        assert!(!format!("{hosts:?}").is_empty());
    }
}
