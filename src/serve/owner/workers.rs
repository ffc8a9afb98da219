//! Whose each worker is, as the switches say and supervisord sees it. What should be is compared
//! with what is, again and again: so it does not matter who did what in between, a watcher that was
//! killed or somebody with `supervisorctl`.
//!
//! A thread of its own looks, for supervisord may take its time to answer, and a worker to end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use super::hindrance::SCHEMA_UNKNOWN;
use super::metrics::OwnerMetrics;
use super::mover::Mover;
use super::status::Line;
use crate::bundle::{RunFolder, Supervisor};
use crate::switches::{Owner, catalogue};

/// Why a worker is Python's although a switch says otherwise: ours did not stay up.
const NOT_STARTED: &str = "not_started";

/// Whose a worker is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) owner: Owner,
    /// Whether anything has decided so: without that, ours is left as an operator has it.
    pub(super) decided: bool,
}

/// All of them; each set replaces the one before.
#[derive(Debug)]
pub(super) struct Orders {
    pub(super) serial: u64,
    pub(super) by_program: BTreeMap<String, Order>,
}

/// What the thread has to say.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The orders that it knows.
    pub(super) serial: u64,
    /// Workers that are not where they should be, with what is waited for.
    pub(super) moving: Vec<String>,
    /// Workers of ours that do not stay up, with what is known of it.
    pub(super) failed: BTreeMap<String, String>,
    /// Workers that have another owner now.
    pub(super) moved: Vec<(String, Owner)>,
}

/// The watcher's side.
pub(super) struct Workers {
    orders: mpsc::Sender<Orders>,
    serial: u64,
    given: BTreeMap<String, Order>,
    /// Workers that stay whose they are until their tables have been looked at.
    held: Vec<String>,
    told: Arc<Mutex<Told>>,
}

impl Workers {
    /// `quay_conf` is the folder with Quay's `supervisord.conf`.
    pub(super) fn new(
        supervisor: Supervisor,
        quay_conf: PathBuf,
        run: RunFolder,
        metrics: Arc<OwnerMetrics>,
    ) -> Self {
        let (orders, given) = mpsc::channel();
        let told = Arc::new(Mutex::new(Told::default()));
        let mover = Mover::new(supervisor, quay_conf, run, metrics, told.clone());
        std::thread::spawn(move || mover.obey(&given));
        Self { orders, serial: 0, given: BTreeMap::new(), held: Vec::new(), told }
    }

    /// Each worker's line is an order. One whose worker of ours does not stay up becomes Python's,
    /// until the switch has said something else meanwhile.
    pub(super) fn order(&mut self, lines: &mut [Line]) {
        let mut orders = BTreeMap::new();
        self.held.clear();
        for line in lines.iter_mut().filter(|line| line.kind == "worker") {
            if line.reason == SCHEMA_UNKNOWN {
                // A watcher that has just started must not move anybody to and fro for that.
                self.held.push(format!("{}: its tables have not been looked at yet", line.id));
                orders.extend(self.given.get(&line.id).map(|order| (line.id.clone(), *order)));
                continue;
            }
            let failed = &mut lock(&self.told).failed;
            if line.owner != Owner::Rust.as_str() {
                failed.remove(&line.id);
            } else if failed.contains_key(&line.id) {
                line.owner = Owner::Python.as_str().to_owned();
                line.reason = NOT_STARTED.to_owned();
            }
            orders.insert(line.id.clone(), order(line));
        }
        if orders != self.given {
            self.given = orders.clone();
            self.serial += 1;
            // The thread lives as long as we do.
            let _ = self.orders.send(Orders { serial: self.serial, by_program: orders });
        }
    }

    /// Whether each worker is where it should be.
    pub(super) fn are_settled(&self) -> bool {
        let told = lock(&self.told);
        self.held.is_empty() && told.serial == self.serial && told.moving.is_empty()
    }

    /// Workers that are not where they should be, a line each.
    pub(super) fn moving(&self) -> Vec<String> {
        self.held.iter().chain(&lock(&self.told).moving).cloned().collect()
    }

    /// What is wrong, a line each.
    pub(super) fn problems(&self) -> Vec<String> {
        let told = lock(&self.told);
        let problem = |(program, reason): (&String, &String)| {
            let worker = catalogue().worker(program);
            let switch = worker.and_then(|worker| worker.switch.as_deref()).unwrap_or_default();
            format!(
                "{switch}: {reason}; {program} is Python's until the switch is python and then \
                 rust again"
            )
        };
        told.failed.iter().map(problem).collect()
    }

    /// Workers that have another owner now, each told once.
    pub(super) fn moved(&self) -> Vec<(String, Owner)> {
        std::mem::take(&mut lock(&self.told).moved)
    }
}

fn order(line: &Line) -> Order {
    let owners = [Owner::Rust, Owner::Off];
    let owner = owners.into_iter().find(|owner| owner.as_str() == line.owner);
    Order { owner: owner.unwrap_or(Owner::Python), decided: line.reason != "default" }
}

pub(super) fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}
