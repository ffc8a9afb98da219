//! nginx's map: tested and put in place beside the loop, for `nginx -t` may take its time, and the
//! flags, the guard and the status must not wait for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::install::Installation;
use super::metrics::OwnerMetrics;
use crate::bundle::{Routing, Supervisor, When};

/// How often a map that nginx did not accept is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// The map that nginx has, or is about to have.
pub(super) struct Map {
    installation: Arc<Installation>,
    supervisor: Supervisor,
    metrics: Arc<OwnerMetrics>,
    /// What was last tried; at first, what the hook rendered from the same files.
    tried: Routing,
    problem: Option<String>,
    last: Option<Instant>,
    /// At most one test runs: it rewrites files.
    running: Option<oneshot::Receiver<Result<(), String>>>,
}

impl Map {
    pub(super) fn new(
        installation: Arc<Installation>,
        supervisor: Supervisor,
        metrics: Arc<OwnerMetrics>,
    ) -> Self {
        let tried = installation.routing();
        Self { installation, supervisor, metrics, tried, problem: None, last: None, running: None }
    }

    /// Moves towards the map that is wanted. Returns whether nginx has it.
    pub(super) fn become_like(&mut self, wanted: &Routing) -> bool {
        self.look();
        if self.running.is_none() && self.is_due(wanted) {
            self.start(wanted.clone());
        }
        self.running.is_none() && self.problem.is_none() && same(wanted, &self.tried)
    }

    /// Why nginx does not have the map that was last tried.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    fn is_due(&self, wanted: &Routing) -> bool {
        let waited = || self.last.is_none_or(|last| last.elapsed() >= RETRY);
        !same(wanted, &self.tried) || (self.problem.is_some() && waited())
    }

    fn start(&mut self, routing: Routing) {
        self.tried = routing.clone();
        let (done, running) = oneshot::channel();
        self.running = Some(running);
        let (installation, supervisor) = (self.installation.clone(), self.supervisor.clone());
        tokio::task::spawn_blocking(move || {
            // Nobody listens once the watcher ends.
            let _ = done.send(put_in_place(&installation, routing, &supervisor));
        });
    }

    /// Whether the running test has ended.
    fn look(&mut self) {
        let Some(running) = &mut self.running else { return };
        let ended = match running.try_recv() {
            Ok(ended) => ended,
            Err(oneshot::error::TryRecvError::Empty) => return,
            Err(oneshot::error::TryRecvError::Closed) => Err("the test broke off".to_owned()),
        };
        self.running = None;
        self.last = Some(Instant::now());
        self.problem = ended.err();
        self.metrics.reloaded(self.problem.is_none());
        match &self.problem {
            None => tracing::info!("nginx has the new map"),
            Some(problem) => tracing::error!(problem, "nginx keeps the map it has"),
        }
    }
}

fn put_in_place(
    installation: &Installation,
    routing: Routing,
    supervisor: &Supervisor,
) -> Result<(), String> {
    let applied = installation.bundle(routing).apply(When::Live);
    if !applied.is_done() {
        return Err(applied.to_string().trim_end().replace('\n', "; "));
    }
    supervisor.signal("nginx", "HUP").map_err(|error| error.to_string())
}

fn same(one: &Routing, other: &Routing) -> bool {
    one.rules == other.rules && one.canary == other.canary
}
