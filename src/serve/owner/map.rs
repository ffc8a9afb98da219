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
    /// At most one runs: a test rewrites files.
    running: Option<(Step, oneshot::Receiver<Result<(), String>>)>,
}

/// On the way to a map.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The files are written and tested; nginx knows nothing of them.
    Test,
    /// nginx is told to read them.
    Load,
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
        self.look(wanted);
        if self.running.is_none() && self.is_due(wanted) {
            self.test(wanted.clone());
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

    fn test(&mut self, routing: Routing) {
        self.tried = routing.clone();
        let installation = self.installation.clone();
        self.run(Step::Test, move || {
            let applied = installation.bundle(routing).apply(When::Live);
            let said = || applied.to_string().trim_end().replace('\n', "; ");
            if applied.is_done() { Ok(()) } else { Err(said()) }
        });
    }

    fn load(&mut self) {
        let supervisor = self.supervisor.clone();
        self.run(Step::Load, move || {
            supervisor.signal("nginx", "HUP").map_err(|error| error.to_string())
        });
    }

    fn run(&mut self, step: Step, work: impl FnOnce() -> Result<(), String> + Send + 'static) {
        let (done, running) = oneshot::channel();
        self.running = Some((step, running));
        // Nobody listens once the watcher ends.
        tokio::task::spawn_blocking(move || drop(done.send(work())));
    }

    /// Whether what runs has ended. A map that is no longer wanted is never loaded.
    fn look(&mut self, wanted: &Routing) {
        let Some((step, running)) = &mut self.running else { return };
        let step = *step;
        let ended = match running.try_recv() {
            Ok(ended) => ended,
            Err(oneshot::error::TryRecvError::Empty) => return,
            Err(oneshot::error::TryRecvError::Closed) => Err("the test broke off".to_owned()),
        };
        self.running = None;
        if step == Step::Test && ended.is_ok() {
            if same(wanted, &self.tried) {
                self.load();
            }
            return;
        }
        self.last = Some(Instant::now());
        self.problem = ended.err();
        self.metrics.reloaded(self.problem.is_none());
        match &self.problem {
            None => tracing::info!("nginx has the new map"),
            Some(problem) => tracing::error!(problem, "nginx keeps the map it has"),
        }
    }
}

fn same(one: &Routing, other: &Routing) -> bool {
    one.rules == other.rules && one.canary == other.canary
}
