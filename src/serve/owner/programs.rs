//! registryd, as the watcher starts and ends it. supervisord is asked beside the loop, for it may
//! take seconds to answer.

use std::time::{Duration, Instant};

use crate::bundle::Supervisor;

/// How often registryd is asked for, when it is wanted and does not run.
const START_INTERVAL: Duration = Duration::from_secs(5);

/// What is told to supervisord.
pub(super) struct Programs {
    supervisor: Supervisor,
    last_start: Option<Instant>,
}

impl Programs {
    pub(super) fn new(supervisor: Supervisor) -> Self {
        Self { supervisor, last_start: None }
    }

    /// Starts registryd, unless it was asked to a moment ago.
    pub(super) fn start_registryd(&mut self) {
        if self.last_start.is_some_and(|last| last.elapsed() < START_INTERVAL) {
            return;
        }
        self.last_start = Some(Instant::now());
        let supervisor = self.supervisor.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = supervisor.start("registryd") {
                tracing::warn!(%error, "registryd not started");
            }
        });
    }

    /// supervisord starts it again.
    pub(super) fn kill_registryd(&self) {
        let supervisor = self.supervisor.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = supervisor.signal("registryd", "KILL") {
                tracing::error!(%error, "registryd not killed");
            }
        });
    }
}
