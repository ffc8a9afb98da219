//! The thread that moves workers, one step of [`Look::next`] at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::crashes::Crashes;
use super::metrics::OwnerMetrics;
use super::plan::program_of_ours;
use super::step::{Look, Side, Step};
use super::workers::{Order, Orders, Told, lock};
use crate::bundle::{Ini, Process, RunFolder, Supervisor, SupervisorError};
use crate::switches::Owner;

/// Between two looks while something moves.
const QUICK: Duration = Duration::from_millis(250);

/// Between two looks while all is as it should be, and something is not Python's.
const SLOW: Duration = Duration::from_secs(3);

/// How long ours may take to be up, `startsecs` and supervisord's first retries included.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How long after a refusal it is tried again.
const RETRY: Duration = Duration::from_secs(5);

pub(super) struct Mover {
    supervisor: Supervisor,
    supervisord_conf: PathBuf,
    run: RunFolder,
    metrics: Arc<OwnerMetrics>,
    told: Arc<Mutex<Told>>,
    /// Python's programs that were taken from it, as the run folder has them: to be given back,
    /// whichever watcher took them.
    taken: BTreeSet<String>,
    workers: BTreeMap<String, Worker>,
    serial: u64,
    /// What kept supervisord from answering, told once.
    silence: Option<String>,
}

/// A worker that an order is about.
struct Worker {
    order: Order,
    /// Whose it was when all was last as it should be.
    owner: Option<Owner>,
    settled: bool,
    /// Ours does not stay up: another order comes.
    failed: bool,
    /// Since when the program that is to run is waited for.
    starting: Option<Instant>,
    /// When something was refused, and with which words.
    refused: Option<(Instant, String)>,
    /// Of ours, since it was ordered.
    crashes: Crashes,
}

impl Worker {
    fn new(order: Order) -> Self {
        let (settled, failed) = (false, false);
        let crashes = Crashes::default();
        Self { order, owner: None, settled, failed, starting: None, refused: None, crashes }
    }
}

impl Mover {
    pub(super) fn new(
        supervisor: Supervisor,
        quay_conf: PathBuf,
        run: RunFolder,
        metrics: Arc<OwnerMetrics>,
        told: Arc<Mutex<Told>>,
    ) -> Self {
        let taken = run.taken_workers().unwrap_or_else(|error| {
            tracing::error!(%error, "which workers were taken from Python is not known");
            BTreeSet::new()
        });
        Self {
            supervisor,
            supervisord_conf: quay_conf.join("supervisord.conf"),
            run,
            metrics,
            told,
            taken,
            workers: BTreeMap::new(),
            serial: 0,
            silence: None,
        }
    }

    /// For as long as there is anybody to give orders.
    pub(super) fn obey(mut self, orders: &Receiver<Orders>) {
        loop {
            let next = match self.pause() {
                Some(pause) => orders.recv_timeout(pause),
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match next {
                Ok(next) => self.take(next),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.look();
        }
    }

    fn take(&mut self, orders: Orders) {
        self.serial = orders.serial;
        for (program, order) in orders.by_program {
            let worker = self.workers.entry(program).or_insert_with(|| Worker::new(order));
            if worker.order != order {
                *worker = Worker { owner: worker.owner, ..Worker::new(order) };
            }
        }
    }

    /// Until the next look; none is needed where everything is Python's.
    fn pause(&self) -> Option<Duration> {
        let concerned = || self.workers.iter().filter(|(program, w)| self.concerns(program, w));
        if concerned().any(|(_, worker)| !worker.settled) {
            return Some(QUICK);
        }
        concerned().next().map(|_| SLOW)
    }

    /// Whether supervisord has to be asked for it. What nobody has taken from Python, and what was
    /// given back, is Quay's own business.
    fn concerns(&self, program: &str, worker: &Worker) -> bool {
        let ours = || worker.order.decided && program_of_ours(program).is_some();
        match worker.order.owner {
            Owner::Python => !worker.settled && (self.taken.contains(program) || ours()),
            Owner::Rust | Owner::Off => true,
        }
    }

    fn look(&mut self) {
        let concerned = self.workers.iter().filter(|(program, w)| self.concerns(program, w));
        let concerned: Vec<String> = concerned.map(|(program, _)| program.clone()).collect();
        let mut moving = Vec::new();
        if !concerned.is_empty() {
            let processes = self.processes();
            for program in concerned {
                let waits_for = match &processes {
                    Ok(processes) => self.step(&program, processes),
                    Err(error) => Some(error.clone()).filter(|_| !self.is_settled(&program)),
                };
                moving.extend(waits_for.map(|what| format!("{program}: {what}")));
            }
        }
        let mut told = lock(&self.told);
        (told.serial, told.moving) = (self.serial, moving);
    }

    fn is_settled(&self, program: &str) -> bool {
        self.workers.get(program).is_some_and(|worker| worker.settled)
    }

    fn processes(&mut self) -> Result<Vec<Process>, String> {
        let asked = self.supervisor.processes().map_err(|error| error.to_string());
        let silence = asked.as_ref().err().cloned();
        if let Some(error) = silence.as_ref().filter(|_| silence != self.silence) {
            tracing::error!(error, "no worker is moved");
        }
        self.silence = silence;
        asked
    }

    /// Returns what is waited for, where anything is.
    fn step(&mut self, program: &str, processes: &[Process]) -> Option<String> {
        let find = |name: &str| processes.iter().find(|process| process.name == name);
        let look = Look { python: find(program), ours: program_of_ours(program).and_then(find) };
        let taken = self.taken.contains(program);
        let owner = self.workers.get(program)?.order.owner;
        let gives_back = owner == Owner::Python && taken && self.autostarts(program);
        let worker = self.workers.get_mut(program)?;
        if worker.failed {
            return Some("Python gets it back".to_owned());
        }
        let ours = look.ours.filter(|_| owner == Owner::Rust);
        if ours.is_some_and(|ours| worker.crashes.are_too_many(ours.pid, Instant::now())) {
            return Some(self.fail(program, Crashes::describe(name(program, Side::Ours))));
        }
        match &worker.refused {
            Some((at, why)) if at.elapsed() < RETRY => return Some(why.clone()),
            _ => worker.refused = None,
        }
        worker.owner.get_or_insert(match (taken, look.ours) {
            (false, _) => Owner::Python,
            (true, Some(ours)) if ours.can_be_stopped() => Owner::Rust,
            (true, _) => Owner::Off,
        });
        let step = look.next(owner, gives_back);
        if worker.settled && step != Step::Done {
            tracing::warn!(program, owner = owner.as_str(), ?step, "a worker was touched");
            worker.settled = false;
        }
        if owner != Owner::Python
            && step != Step::Unknown
            && let Err(why) = self.note(program)
        {
            return Some(self.refused(program, why));
        }
        match step {
            Step::Done => {
                self.settle(program);
                None
            }
            Step::Wait(side) => Some(self.wait(program, side, look.of(side))),
            Step::Stop(side) => Some(match self.supervisor.begin_stop(name(program, side)) {
                Ok(()) => format!("{} is told to stop", describe(program, side)),
                Err(error) => self.refused(program, error.to_string()),
            }),
            Step::Start(side) => Some(self.start(program, side, look.of(side))),
            Step::Unknown => Some(self.fail(
                program,
                "supervisord does not know our program: restart the container".to_owned(),
            )),
        }
    }

    /// Before anything of Python's is touched: whoever comes after us gives it back.
    fn note(&mut self, program: &str) -> Result<(), String> {
        if !self.taken.insert(program.to_owned()) {
            return Ok(());
        }
        self.run.keep_taken_workers(&self.taken).map_err(|error| {
            self.taken.remove(program);
            error.to_string()
        })
    }

    fn wait(&mut self, program: &str, side: Side, process: Option<&Process>) -> String {
        let state = process.map_or("", |process| &process.state);
        let Some(worker) = self.workers.get_mut(program) else { return String::new() };
        let starts = worker.order.owner == Owner::Rust && side == Side::Ours;
        if starts && ["STARTING", "BACKOFF"].contains(&state) {
            let since = *worker.starting.get_or_insert_with(Instant::now);
            if since.elapsed() > START_LIMIT {
                return self.fail(program, ended(program, process));
            }
        }
        format!("{} is {state}", describe(program, side))
    }

    fn start(&mut self, program: &str, side: Side, process: Option<&Process>) -> String {
        let Some(worker) = self.workers.get_mut(program) else { return String::new() };
        let first = worker.starting.is_none();
        let since = *worker.starting.get_or_insert_with(Instant::now);
        let gave_up = process.is_some_and(|process| process.state == "FATAL");
        if !first && side == Side::Ours && (gave_up || since.elapsed() > START_LIMIT) {
            return self.fail(program, ended(program, process));
        }
        if !first && side == Side::Python {
            // It was up for a moment, or not at all. It is nobody else's: it is tried for ever.
            worker.starting = None;
            return self.refused(program, ended(program, process));
        }
        match self.supervisor.begin_start(name(program, side)) {
            Ok(()) => format!("{} is started", describe(program, side)),
            Err(error @ SupervisorError::Fault { .. }) if side == Side::Ours => {
                self.fail(program, error.to_string())
            }
            Err(error) => self.refused(program, error.to_string()),
        }
    }

    /// Ours does not stay up. The watcher hears of it, and gives the worker back to Python.
    fn fail(&mut self, program: &str, reason: String) -> String {
        self.count(program, false);
        tracing::error!(program, reason, "our worker does not run: it is given back to Python");
        if let Some(worker) = self.workers.get_mut(program) {
            (worker.failed, worker.settled) = (true, false);
        }
        lock(&self.told).failed.insert(program.to_owned(), reason.clone());
        reason
    }

    /// Neither done nor to be given up.
    fn refused(&mut self, program: &str, why: String) -> String {
        self.count(program, false);
        tracing::error!(program, error = why, "worker not moved, tried again");
        if let Some(worker) = self.workers.get_mut(program) {
            worker.refused = Some((Instant::now(), why.clone()));
        }
        why
    }

    fn settle(&mut self, program: &str) {
        let Some(worker) = self.workers.get_mut(program).filter(|worker| !worker.settled) else {
            return;
        };
        let (owner, before) = (worker.order.owner, worker.owner);
        (worker.settled, worker.starting) = (true, None);
        if before != Some(owner) {
            self.count(program, true);
            let from = before.map(Owner::as_str);
            tracing::info!(program, from, to = owner.as_str(), "worker moved");
            lock(&self.told).moved.push((program.to_owned(), owner));
        }
        if let Some(worker) = self.workers.get_mut(program) {
            worker.owner = Some(owner);
        }
        if owner == Owner::Python
            && self.taken.remove(program)
            && let Err(error) = self.run.keep_taken_workers(&self.taken)
        {
            // The next watcher gives it back once more, which changes nothing.
            tracing::warn!(%error, program, "not noted that it is Python's again");
        }
    }

    fn count(&self, program: &str, done: bool) {
        let Some(worker) = self.workers.get(program) else { return };
        let from = worker.owner.unwrap_or(Owner::Python);
        self.metrics.worker_moved(program, from.as_str(), worker.order.owner.as_str(), done);
    }

    /// Read from Quay's own file, in which QUAY_SERVICES has had its say.
    fn autostarts(&self, program: &str) -> bool {
        let text = std::fs::read_to_string(&self.supervisord_conf).ok();
        let programs = text.and_then(|text| Ini::parse(&text).ok());
        programs.is_some_and(|programs| programs.autostart(program))
    }
}

fn name(program: &str, side: Side) -> &str {
    match side {
        Side::Python => program,
        Side::Ours => program_of_ours(program).unwrap_or_default(),
    }
}

fn describe(program: &str, side: Side) -> String {
    match side {
        Side::Python => format!("Python's {program}"),
        Side::Ours => format!("our {}", name(program, side)),
    }
}

/// What supervisord knows of a program that does not stay up.
fn ended(program: &str, process: Option<&Process>) -> String {
    let Some(process) = process else { return format!("{program} is gone") };
    let Process { name, state, exit_status, spawn_error, .. } = process;
    // Of one that ended at once it keeps no status.
    match spawn_error.is_empty() {
        true => format!("{name} does not stay up ({state}, exit status {exit_status})"),
        false => format!("{name} does not stay up ({state}, {spawn_error})"),
    }
}
