//! The switch files as the watcher reads them, and what the log says of them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::metrics::OwnerMetrics;
use crate::switches::{
    CONFIG_FILE, Change, Content, Effective, Event, Poller, Reading, SWITCH_FILE, Stage, Standing,
};

/// A copy of the switch file that was last in use. It goes with the container, like the flags.
const LAST_GOOD: &str = "last-good.yaml";

/// What tells one content of the two files from another without reading them.
type Fingerprint = [Option<(i64, i64, u64, u64)>; 2];

/// What was read of the switches, and since when it holds.
pub(super) struct Files {
    config: PathBuf,
    last_good: PathBuf,
    poller: Poller,
    began: Instant,
    next_poll: Duration,
    fingerprint: Fingerprint,
    modified: Option<SystemTime>,
    /// When the switches in use were last found in their file.
    found: Instant,
    /// Accepted, and not yet in effect.
    accepted: Vec<Accepted>,
    /// The switch file that these were in.
    text: Option<Vec<u8>>,
    started: SystemTime,
    metrics: Arc<OwnerMetrics>,
}

/// A change, the version that brought it, and when its file was written.
struct Accepted {
    version: u64,
    change: Change,
    written: Option<SystemTime>,
}

impl Files {
    /// `config` is the folder that they are in, `run` the run folder.
    pub(super) fn new(config: &Path, run: &Path, stage: Stage, metrics: Arc<OwnerMetrics>) -> Self {
        let mut poller = Poller::new(stage);
        let last_good = run.join(LAST_GOOD);
        if let Ok(kept) = std::fs::read(&last_good) {
            poller.resume(Duration::ZERO, &Reading::switches(kept));
        }
        Self {
            config: config.to_owned(),
            last_good,
            poller,
            began: Instant::now(),
            next_poll: Duration::ZERO,
            fingerprint: Fingerprint::default(),
            modified: None,
            found: Instant::now(),
            accepted: Vec::new(),
            text: None,
            started: SystemTime::now(),
            metrics,
        }
    }

    /// Reads them, if they have changed or it is time to.
    pub(super) fn poll(&mut self) {
        let now = self.began.elapsed();
        let fingerprint = fingerprint(&self.config);
        if now < self.next_poll && fingerprint == self.fingerprint {
            return;
        }
        self.fingerprint = fingerprint;
        let reading = Reading::of(&self.config);
        self.modified = reading.switches.modified.or(reading.config.modified);
        let event = self.poller.poll(now, &reading);
        if let (Event::Accepted { .. }, Content::Bytes(text)) = (&event, &reading.switches.content)
        {
            self.text = Some(text.clone());
        }
        self.next_poll = now + self.poller.wait(now);
        if self.poller.status().standing == Standing::Current {
            self.found = Instant::now();
        }
        if !matches!(event, Event::Accepted { .. } | Event::Settling { .. }) {
            for problem in self.poller.status().problems.iter().filter(|p| p.is_error()) {
                self.metrics.error(problem.code.as_str());
            }
        }
        self.tell(event);
    }

    /// The switches that hold.
    pub(super) fn effective(&self) -> Effective {
        self.poller.effective()
    }

    /// On what they rest, and the versions.
    pub(super) fn status(&self) -> crate::switches::PollerStatus {
        self.poller.status()
    }

    /// How long ago the switches in use were last found in their file.
    pub(super) fn age(&self) -> Duration {
        self.found.elapsed()
    }

    /// What is wrong with them, a line each.
    pub(super) fn problems(&self) -> Vec<String> {
        self.poller.status().problems.iter().map(one_line).collect()
    }

    /// The version that should be in effect, unless it is already.
    pub(super) fn unapplied(&self) -> Option<u64> {
        let status = self.poller.status();
        let version = self.poller.snapshot().map(|snapshot| snapshot.version);
        version.filter(|_| status.standing == Standing::Current && status.applied != version)
    }

    /// `version` is in effect: each of its changes is a line of the audit log. Returns how long
    /// that took from the change of the file, in seconds.
    pub(super) fn applied(&mut self, version: u64) -> Option<f64> {
        self.poller.confirm(version);
        if let Some(text) = self.text.take() {
            self.keep(&text);
        }
        // What was there before us was not waiting for us.
        let started = self.started;
        let since = |written: Option<SystemTime>| {
            let passed = written.filter(|at| *at >= started)?.elapsed().ok()?;
            Some(passed.as_secs_f64())
        };
        for Accepted { version, change, written } in self.accepted.drain(..) {
            let propagation_s = since(written);
            let from = change.from.as_deref().unwrap_or("unset");
            let to = change.to.as_deref().unwrap_or("unset");
            let (key, source) = (change.key.to_string(), change.place.to_string());
            tracing::info!(version, key, from, to, source, propagation_s, "switch applied");
        }
        let propagation_s = since(self.modified);
        tracing::info!(version, propagation_s, "switches applied");
        propagation_s
    }

    /// For the next watcher: a file that is bad just then must not cost it the owners that it had.
    fn keep(&self, text: &[u8]) {
        if let Err(error) = std::fs::write(&self.last_good, text) {
            tracing::warn!(%error, "last good switches not kept");
        }
    }

    fn tell(&mut self, event: Event) {
        let problems = || self.problems().join("; ");
        match event {
            Event::Unchanged | Event::Settling { .. } => {}
            Event::Accepted { from, to, changes } => {
                for problem in &self.poller.status().problems {
                    tracing::warn!(problem = one_line(problem), "switches accepted with a warning");
                }
                tracing::info!(from, to, changes = changes.len(), "switches accepted");
                let written = self.modified;
                let accepted = |change| Accepted { version: to, change, written };
                self.accepted.extend(changes.into_iter().map(accepted));
            }
            Event::Held { .. } => tracing::warn!(
                problems = problems(),
                "switches cannot be used, the last good ones hold for now"
            ),
            Event::FellBack => tracing::error!(
                problems = problems(),
                reason = "snapshot_invalid",
                "every owner is python"
            ),
            Event::Restored { version } => tracing::info!(version, "switches can be used again"),
        }
    }
}

pub(super) fn one_line(problem: &crate::switches::Problem) -> String {
    problem.to_string().trim_end().replace('\n', " ")
}

fn fingerprint(config: &Path) -> Fingerprint {
    [SWITCH_FILE, CONFIG_FILE].map(|name| {
        let found = std::fs::metadata(config.join(name)).ok()?;
        Some((found.mtime(), found.mtime_nsec(), found.size(), found.ino()))
    })
}
