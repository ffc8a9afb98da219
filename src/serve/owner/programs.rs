//! The programs that the watcher moves: Python's workers and registryd. supervisord is asked beside
//! the loop, for it may take seconds to answer.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::metrics::OwnerMetrics;
use super::status::Line;
use crate::bundle::{Ini, RunFolder, Supervisor};

/// How often registryd is asked for, when it is wanted and does not run.
const START_INTERVAL: Duration = Duration::from_secs(5);

/// How long after a worker could not be moved it is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What is told to supervisord.
pub(super) struct Programs {
    supervisor: Supervisor,
    supervisord_conf: PathBuf,
    stopped_file: PathBuf,
    /// Python's programs that a switch has stopped.
    stopped: BTreeSet<String>,
    moves: mpsc::Sender<Move>,
    last_start: Option<Instant>,
}

struct Move {
    program: String,
    off: bool,
}

impl Programs {
    /// `quay_conf` is the folder with Quay's `supervisord.conf`.
    pub(super) fn new(
        supervisor: Supervisor,
        quay_conf: PathBuf,
        run: &RunFolder,
        metrics: Arc<OwnerMetrics>,
    ) -> Self {
        let stopped_file = run.stopped_workers();
        let stopped = std::fs::read_to_string(&stopped_file).unwrap_or_default();
        let (moves, todo) = mpsc::channel();
        let asked = supervisor.clone();
        std::thread::spawn(move || move_all(&asked, &todo, &metrics));
        Self {
            supervisor,
            supervisord_conf: quay_conf.join("supervisord.conf"),
            stopped_file,
            stopped: stopped.lines().map(str::to_owned).collect(),
            moves,
            last_start: None,
        }
    }

    /// `off` stops Python's program. `python` gives back what Quay itself would do: a program that
    /// it does not start by itself is not started by us either.
    pub(super) fn move_workers(&mut self, owners: &[Line]) {
        let before = self.stopped.clone();
        for line in owners.iter().filter(|line| line.kind == "worker") {
            let off = line.owner == "off";
            let moved = match off {
                true => self.stopped.insert(line.id.clone()),
                false => self.stopped.remove(&line.id),
            };
            if moved && (off || self.autostarts(&line.id)) {
                // The thread lives as long as we do.
                let _ = self.moves.send(Move { program: line.id.clone(), off });
            }
        }
        if self.stopped != before {
            let lines: String = self.stopped.iter().map(|program| format!("{program}\n")).collect();
            if let Err(error) = std::fs::write(&self.stopped_file, lines) {
                tracing::warn!(%error, "stopped workers not kept");
            }
        }
    }

    /// Read from Quay's own file, in which QUAY_SERVICES has had its say.
    fn autostarts(&self, program: &str) -> bool {
        let text = std::fs::read_to_string(&self.supervisord_conf).ok();
        let programs = text.and_then(|text| Ini::parse(&text).ok());
        programs.is_some_and(|programs| programs.autostart(program))
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

/// One after the other, so that a program that is moved twice ends where it should; again and
/// again, until supervisord has done it.
fn move_all(supervisor: &Supervisor, todo: &mpsc::Receiver<Move>, metrics: &OwnerMetrics) {
    let mut left: Vec<Move> = Vec::new();
    loop {
        let next = match left.is_empty() {
            true => todo.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => todo.recv_timeout(RETRY),
        };
        match next {
            Ok(next) => {
                left.retain(|earlier| earlier.program != next.program);
                left.push(next);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        left.retain(|one| !is_moved(supervisor, one, metrics));
    }
}

fn is_moved(supervisor: &Supervisor, Move { program, off }: &Move, metrics: &OwnerMetrics) -> bool {
    let moved = if *off { supervisor.stop(program) } else { supervisor.start(program) };
    let (from, to) = if *off { ("python", "off") } else { ("off", "python") };
    metrics.worker_moved(program, from, to, moved.is_ok());
    match &moved {
        Ok(()) => tracing::info!(program, from, to, "worker moved"),
        Err(error) => tracing::error!(%error, program, from, to, "worker not moved"),
    }
    moved.is_ok()
}
