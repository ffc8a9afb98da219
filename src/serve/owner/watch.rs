//! The loop: read, resolve, set flags, report. Nothing in it waits for anybody: what may take its
//! time (nginx's test of a map, supervisord) runs beside it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::files::{Files, one_line};
use super::guard::{self, Health};
use super::hindrance::{self, Reasons};
use super::install::Installation;
use super::map::Map;
use super::metrics::{self, OwnerMetrics};
use super::plan::{Plan, declared, flag_of, naming};
use super::programs::Programs;
use super::service::ServiceError;
use super::status::{Flip, Status};
use super::workers::Workers;
use crate::bundle::{Ini, Routing, RunFolder, RunFolderError, Supervisor};
use crate::serve::status_page::Mirrors;
use crate::switches::{Cohort, Owner, catalogue, override_conflicts};

/// How often it is looked whether a file has changed; polled it is at the interval of the
/// switches, changed or not.
const TICK: Duration = Duration::from_millis(250);

/// What supervisord may take for a call that waits for a program.
const SUPERVISOR_LIMIT: Duration = Duration::from_secs(60);

/// What it may take for one that waits for nothing.
const PROMPT_LIMIT: Duration = Duration::from_secs(5);

/// When a registryd that hangs on is killed again: supervisord may not have answered.
const KILL_AGAIN: Duration = Duration::from_secs(15);

/// Why there is nothing to watch.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each speaks for itself")]
pub enum WatchError {
    #[error(transparent)]
    RunFolder(#[from] RunFolderError),
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// Watches until SIGTERM. Flags stay as they are then: a stopped watcher moves nobody.
///
/// # Errors
/// When the run folder is not ours to use, or a service not to be found: without flags everything is
/// Python's.
pub async fn watch(installation: Installation, admin: SocketAddr) -> Result<(), WatchError> {
    installation.service.clone()?;
    let run = RunFolder::open(&installation.paths.run)?;
    let metrics = Arc::new(OwnerMetrics::new());
    let mirrors = Mirrors::of(installation.config.as_ref());
    metrics::serve(admin, metrics.clone(), run.path(), mirrors);
    let (health, healthy) = watch::channel(Health::Starting);
    let registryd = installation.bundle(Routing::default()).programs.registryd_address();
    tokio::spawn(guard::look_after(registryd, health));
    let (schema, schema_known) = watch::channel(None);
    if let Some(config) = installation.config.clone() {
        tokio::spawn(hindrance::watch_schema(config, schema));
    }
    let mut watcher = Watcher::new(installation, run, metrics, healthy, schema_known);
    let mut term = match signal(SignalKind::terminate()) {
        Ok(term) => term,
        Err(error) => {
            tracing::error!(%error, "no SIGTERM");
            return Ok(());
        }
    };
    loop {
        watcher.step();
        tokio::select! {
            _ = term.recv() => break,
            // Nothing but a hang must be acted upon sooner than the next tick.
            changed = watcher.health.changed() => drop(changed),
            () = tokio::time::sleep(TICK) => {}
        }
    }
    tracing::info!("stopped; owners stay as they are");
    Ok(())
}

struct Watcher {
    installation: Arc<Installation>,
    run: RunFolder,
    metrics: Arc<OwnerMetrics>,
    health: watch::Receiver<Health>,
    schema: watch::Receiver<Option<Reasons>>,
    config_reasons: Reasons,
    files: Files,
    map: Map,
    programs: Programs,
    workers: Workers,
    /// When registryd was last killed, while it hangs.
    killed: Option<Instant>,
    /// As registryd was told.
    cohort: Option<Cohort>,
    conflicts: Vec<String>,
    status: Status,
}

impl Watcher {
    fn new(
        installation: Installation,
        run: RunFolder,
        metrics: Arc<OwnerMetrics>,
        health: watch::Receiver<Health>,
        schema: watch::Receiver<Option<Reasons>>,
    ) -> Self {
        let installation = Arc::new(installation);
        let paths = &installation.paths;
        let socket = installation.bundle(Routing::default()).tree.supervisor_socket();
        let prompt = Supervisor::at(&socket, PROMPT_LIMIT);
        let supervisor = Supervisor::at(socket, SUPERVISOR_LIMIT);
        let stage = installation.stage.clone();
        let mut config_reasons = hindrance::of_config(installation.config.as_ref());
        let programs = std::fs::read_to_string(paths.quay_conf.join("supervisord.conf"));
        let programs = programs.ok().and_then(|text| Ini::parse(&text).ok());
        config_reasons.extend(programs.iter().flat_map(hindrance::of_programs));
        let has_flag = |id: &str| catalogue().worker(id).is_none();
        let is_on = |id: &str| has_flag(id).then(|| run.flag(&flag_of(id)).exists());
        Self {
            config_reasons,
            files: Files::new(&paths.config, run.path(), stage, metrics.clone()),
            map: Map::new(installation.clone(), supervisor.clone(), metrics.clone()),
            programs: Programs::new(supervisor),
            workers: Workers::new(prompt, paths.quay_conf.clone(), run.clone(), metrics.clone()),
            killed: None,
            cohort: None,
            conflicts: Vec::new(),
            status: Status::resume(run.path(), is_on),
            installation,
            run,
            metrics,
            health,
            schema,
        }
    }

    fn step(&mut self) {
        self.files.poll();
        let health = *self.health.borrow_and_update();
        let mut plan = self.plan(health);
        self.workers.order(&mut plan.lines);
        let mapped = self.tell_registryd() && self.map.become_like(&plan.routing);
        self.set_flags(&plan, mapped);
        self.look_after_conflicts(&plan);
        self.remember_moves(&plan);
        self.look_after_registryd(health);
        self.report(health, plan, mapped);
    }

    fn plan(&self, health: Health) -> Plan {
        self.plan_with(self.schema.borrow().as_ref(), health)
    }

    fn plan_with(&self, schema: Option<&Reasons>, health: Health) -> Plan {
        let mut hindered = hindrance::together(&self.config_reasons, schema, health);
        let switches = self.files.effective();
        if self.is_elsewhere() && switches.switches.canary.has_users() {
            hindrance::of_users(&mut hindered);
        }
        let naming = self.installation.config.as_ref().map(naming).unwrap_or_default();
        Plan::new(&switches, &declared(), &hindered, &naming)
    }

    /// Whether registryd is a service of its own, which others start and stop.
    fn is_elsewhere(&self) -> bool {
        self.installation.service != Ok(None)
    }

    /// registryd hears of a new cohort a tick before nginx sends it more than that. Returns whether
    /// it has.
    fn tell_registryd(&mut self) -> bool {
        let cohort = Cohort::of(&self.files.effective().switches);
        if self.cohort.as_ref() == Some(&cohort) {
            return true;
        }
        match self.run.write_cohort(&cohort) {
            Ok(()) => self.cohort = Some(cohort),
            Err(error) => tracing::error!(%error, "cohort not written: owners stay as they are"),
        }
        false
    }

    /// `mapped`: nginx has the map that the plan is for. While another one is being tested only
    /// the way back is open, and what nginx refuses is nobody's but Python's.
    fn set_flags(&mut self, plan: &Plan, mapped: bool) {
        for (name, wanted) in &plan.flags {
            let is_on = self.run.flag(name).exists();
            let on = *wanted && self.map.problem().is_none() && (mapped || is_on);
            if is_on == on {
                continue;
            }
            match self.run.set(name, on) {
                Ok(()) => {
                    let owner = if on { "rust" } else { "python" };
                    let line = plan.lines.iter().find(|line| flag_of(&line.id) == *name);
                    let (id, reason) = line.map_or((&**name, ""), |line| (&line.id, &line.reason));
                    tracing::info!(capability = name, owner, reason, "owner changed");
                    self.status.flipped(Flip::now(id, owner, reason));
                }
                Err(error) => tracing::error!(%error, "flag not changed"),
            }
        }
    }

    fn remember_moves(&mut self, plan: &Plan) {
        for (program, owner) in self.workers.moved() {
            let line = plan.lines.iter().find(|line| line.id == program);
            let reason = line.map_or("", |line| &line.reason);
            self.status.flipped(Flip::now(&program, owner.as_str(), reason));
        }
    }

    /// A program that both a switch and `QUAY_OVERRIDE_SERVICES` speak of: told once.
    fn look_after_conflicts(&mut self, plan: &Plan) {
        let overrides = std::env::var("QUAY_OVERRIDE_SERVICES").unwrap_or_default();
        // A switch that this binary cannot follow takes nothing from Python.
        let is_taken = |program: &str| {
            plan.lines.iter().any(|line| line.id == program && line.owner != Owner::Python.as_str())
        };
        let found = override_conflicts(&self.files.effective().switches, &overrides, is_taken);
        let found: Vec<String> = found.iter().map(one_line).collect();
        for conflict in found.iter().filter(|conflict| !self.conflicts.contains(conflict)) {
            tracing::warn!(problem = conflict, "the switch wins");
        }
        self.conflicts = found;
    }

    /// Started once it is wanted, then left running; killed when it hangs, after the flags were
    /// cleared: supervisord starts it again.
    fn look_after_registryd(&mut self, health: Health) {
        if health != Health::Hung {
            self.killed = None;
        } else if self.killed.is_none_or(|killed| killed.elapsed() >= KILL_AGAIN) {
            self.killed = Some(Instant::now());
            if self.is_elsewhere() {
                tracing::error!("registryd does not answer: its requests are Python's");
                return;
            }
            tracing::error!("registryd does not answer: killed, its requests are Python's");
            self.metrics.killed();
            self.programs.kill_registryd();
        }
        if self.is_elsewhere() {
            return;
        }
        // What the switches alone would want: registryd has to run before it can be healthy.
        if health != Health::Ready && self.plan(Health::Ready).wants_us() {
            self.programs.start_registryd();
        }
    }

    /// Whether workers run and requests go where the switches want them: not while registryd has yet
    /// to start or the tables to be looked at, and with a map that nginx does not have only when all
    /// is Python's.
    fn is_in_effect(&self, mapped: bool) -> bool {
        let schema = self.schema.borrow().clone().unwrap_or_default();
        let wanted = self.plan_with(Some(&schema), Health::Ready);
        let are_set = |(name, on): (&String, &bool)| self.run.flag(name).exists() == *on;
        let mapped = mapped || !wanted.wants_us();
        mapped && wanted.flags.iter().all(are_set) && self.workers.are_settled()
    }

    fn report(&mut self, health: Health, plan: Plan, mapped: bool) {
        let in_effect = || self.is_in_effect(mapped);
        if let Some(version) = self.files.unapplied().filter(|_| in_effect()) {
            self.status.propagation_s = self.files.applied(version);
            self.status.propagation_s.iter().for_each(|seconds| self.metrics.applied(*seconds));
        }
        let polled = self.files.status();
        if plan.lines != self.status.owners {
            self.metrics.owners(&self.status.owners, &plan.lines);
        }
        self.metrics.versions(polled.seen, polled.applied);
        self.metrics.snapshot_age(self.files.age());
        self.metrics.forced(self.files.effective().force.map(|place| place.origin));
        let problems = self.files.problems().into_iter().chain(self.conflicts.iter().cloned());
        let problems = problems.chain(self.workers.problems());
        self.status = Status {
            standing: format!("{:?}", polled.standing).to_lowercase(),
            seen: polled.seen,
            applied: polled.applied,
            problems: problems.collect(),
            map_problem: self.map.problem().map(str::to_owned),
            registryd: health.as_str().to_owned(),
            moving: self.workers.moving(),
            owners: plan.lines,
            ..self.status.clone()
        };
        if let Err(error) = self.status.write(self.run.path()) {
            tracing::warn!(%error, "status not written");
        }
    }
}
