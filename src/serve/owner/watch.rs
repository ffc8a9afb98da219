//! The loop: read, resolve, set flags, report.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::guard::{self, Health};
use super::hindrance::{self, Reasons};
use super::install::Installation;
use super::metrics::{self, OwnerMetrics};
use super::plan::{Plan, declared, naming, without_users};
use super::status::Status;
use crate::bundle::{Applied, Ini, Routing, RunFolder, RunFolderError, Supervisor, When};
use crate::switches::{CONFIG_FILE, Content, Event, Poller, Reading, SWITCH_FILE};

/// How often it is looked whether a file has changed; polled it is at the interval of the
/// switches, changed or not.
const TICK: Duration = Duration::from_millis(250);

/// A copy of the switch file that was last in use. It goes with the container, like the flags.
const LAST_GOOD: &str = "last-good.yaml";

/// How often registryd is asked for, when it is wanted and does not run.
const START_INTERVAL: Duration = Duration::from_secs(5);

/// How often a map that nginx did not accept is tried again.
const MAP_RETRY: Duration = Duration::from_secs(10);

/// What supervisord may take for one call.
const SUPERVISOR_LIMIT: Duration = Duration::from_secs(5);

/// Watches until SIGTERM. Flags stay as they are then: a stopped watcher moves nobody.
///
/// # Errors
/// When the run folder is not ours to use: without flags everything is Python's.
pub async fn watch(installation: Installation, admin: SocketAddr) -> Result<(), RunFolderError> {
    let run = RunFolder::open(&installation.paths.run)?;
    let metrics = Arc::new(OwnerMetrics::new());
    metrics::serve(admin, metrics.clone());
    let (health, healthy) = watch::channel(Health::Starting);
    tokio::spawn(guard::look_after(run.socket(), health));
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
    installation: Installation,
    run: RunFolder,
    metrics: Arc<OwnerMetrics>,
    health: watch::Receiver<Health>,
    schema: watch::Receiver<Option<Reasons>>,
    config_reasons: Reasons,
    supervisor: Supervisor,
    poller: Poller,
    began: Instant,
    next_poll: Duration,
    fingerprint: Fingerprint,
    modified: Option<SystemTime>,
    routing: Routing,
    map_problem: Option<String>,
    last_map: Option<Instant>,
    hung: bool,
    last_start: Option<Instant>,
    /// Python's programs that a switch has stopped.
    stopped: BTreeSet<String>,
    status: Status,
}

/// What tells one content of the two files from another without reading them.
type Fingerprint = [Option<(i64, i64, u64, u64)>; 2];

impl Watcher {
    fn new(
        installation: Installation,
        run: RunFolder,
        metrics: Arc<OwnerMetrics>,
        health: watch::Receiver<Health>,
        schema: watch::Receiver<Option<Reasons>>,
    ) -> Self {
        let mut poller = Poller::new(installation.stage.clone());
        if let Ok(kept) = std::fs::read(run.path().join(LAST_GOOD)) {
            poller.resume(Duration::ZERO, &Reading::switches(kept));
        }
        let routing = installation.routing();
        let socket = installation.bundle(Routing::default()).tree.supervisor_socket();
        Self {
            config_reasons: hindrance::of_config(installation.config.as_ref()),
            supervisor: Supervisor::at(socket, SUPERVISOR_LIMIT),
            poller,
            began: Instant::now(),
            next_poll: Duration::ZERO,
            fingerprint: Fingerprint::default(),
            modified: None,
            // The hook rendered the map from the same files before we were started.
            routing,
            map_problem: None,
            last_map: None,
            hung: false,
            last_start: None,
            stopped: BTreeSet::new(),
            status: Status::default(),
            installation,
            run,
            metrics,
            health,
            schema,
        }
    }

    fn step(&mut self) {
        self.poll();
        let health = *self.health.borrow_and_update();
        let plan = self.plan(health);
        self.tell_nginx(&plan);
        self.set_flags(&plan);
        self.move_workers(&plan);
        self.look_after_registryd(health);
        self.report(health, plan);
    }

    fn poll(&mut self) {
        let now = self.began.elapsed();
        let fingerprint = fingerprint(&self.installation.paths.config);
        if now < self.next_poll && fingerprint == self.fingerprint {
            return;
        }
        self.fingerprint = fingerprint;
        let reading = Reading::of(&self.installation.paths.config);
        self.modified = reading.switches.modified.or(reading.config.modified);
        let event = self.poller.poll(now, &reading);
        if let (Event::Accepted { .. }, Content::Bytes(text)) = (&event, &reading.switches.content)
        {
            self.keep(text);
        }
        self.next_poll = now + self.poller.wait(now);
        self.tell(&event);
        if !matches!(event, Event::Accepted { .. } | Event::Settling { .. }) {
            for problem in self.poller.status().problems.iter().filter(|p| p.is_error()) {
                self.metrics.error(problem.code.as_str());
            }
        }
    }

    /// For the next watcher: a file that is bad just then must not cost it the owners that it had.
    fn keep(&self, text: &[u8]) {
        if let Err(error) = std::fs::write(self.run.path().join(LAST_GOOD), text) {
            tracing::warn!(%error, "last good switches not kept");
        }
    }

    fn tell(&self, event: &Event) {
        match event {
            Event::Unchanged | Event::Settling { .. } => {}
            Event::Accepted { from, to, changes } => {
                for change in changes {
                    let from_value = change.from.as_deref().unwrap_or("unset");
                    let to_value = change.to.as_deref().unwrap_or("unset");
                    let (key, place) = (change.key.to_string(), change.place.to_string());
                    tracing::info!(
                        version = to,
                        key,
                        from = from_value,
                        to = to_value,
                        place,
                        "switch"
                    );
                }
                tracing::info!(from, to, "switches accepted");
            }
            Event::Held { .. } => tracing::warn!(
                problems = self.problems().join("; "),
                "switches cannot be used, the last good ones hold for now"
            ),
            Event::FellBack => tracing::error!(
                problems = self.problems().join("; "),
                reason = "snapshot_invalid",
                "every owner is python"
            ),
            Event::Restored { version } => tracing::info!(version, "switches can be used again"),
        }
    }

    fn problems(&self) -> Vec<String> {
        let problems = self.poller.status().problems;
        problems.iter().map(|problem| problem.to_string().trim_end().replace('\n', " ")).collect()
    }

    fn plan(&self, health: Health) -> Plan {
        let schema = self.schema.borrow().clone();
        let hindered = hindrance::together(&self.config_reasons, schema.as_ref(), health);
        let naming = self.installation.config.as_ref().map(naming).unwrap_or_default();
        let switches = without_users(self.poller.effective());
        Plan::new(&switches, &declared(), &hindered, &naming)
    }

    /// A map that nginx does not accept leaves the old one, and the flags that lead to Python.
    fn tell_nginx(&mut self, plan: &Plan) {
        let waiting = self.last_map.is_some_and(|last| last.elapsed() < MAP_RETRY);
        let settled = self.map_problem.is_none() || waiting;
        if same(&plan.routing, &self.routing) && settled {
            return;
        }
        self.last_map = Some(Instant::now());
        self.routing = plan.routing.clone();
        let applied = self.installation.bundle(plan.routing.clone()).apply(When::Live);
        self.map_problem = self.reload(&applied).err();
        self.metrics.reloaded(self.map_problem.is_none());
        match &self.map_problem {
            None => tracing::info!("nginx has the new map"),
            Some(problem) => tracing::error!(problem, "nginx keeps the map it has"),
        }
    }

    fn reload(&self, applied: &Applied) -> Result<(), String> {
        if !applied.is_done() {
            return Err(applied.to_string().trim_end().replace('\n', "; "));
        }
        self.supervisor.signal("nginx", "HUP").map_err(|error| error.to_string())
    }

    fn set_flags(&self, plan: &Plan) {
        for (name, on) in &plan.flags {
            // With a map that nginx does not have, only the way back is safe.
            let on = *on && self.map_problem.is_none();
            if self.run.flag(name).exists() == on {
                continue;
            }
            match self.run.set(name, on) {
                Ok(()) => {
                    let owner = if on { "rust" } else { "python" };
                    let line = plan.lines.iter().find(|line| line.id.eq_ignore_ascii_case(name));
                    let reason = line.map(|line| line.reason.as_str()).unwrap_or_default();
                    tracing::info!(capability = name, owner, reason, "owner changed");
                }
                Err(error) => tracing::error!(%error, "flag not changed"),
            }
        }
    }

    /// `off` stops Python's program. `python` gives back what Quay itself would do: a program that
    /// it does not start by itself is not started by us either.
    fn move_workers(&mut self, plan: &Plan) {
        for line in plan.lines.iter().filter(|line| line.kind == "worker") {
            let off = line.owner == "off";
            if off == self.stopped.contains(&line.id) {
                continue;
            }
            if off {
                self.stopped.insert(line.id.clone());
            } else {
                self.stopped.remove(&line.id);
            }
            if off || self.autostarts(&line.id) {
                self.move_worker(line.id.clone(), off);
            }
        }
    }

    fn move_worker(&self, program: String, off: bool) {
        let supervisor = self.supervisor.clone();
        tokio::task::spawn_blocking(move || {
            let moved = if off { supervisor.stop(&program) } else { supervisor.start(&program) };
            match moved {
                Ok(()) => tracing::info!(program, off, "worker moved"),
                Err(error) => tracing::error!(%error, program, off, "worker not moved"),
            }
        });
    }

    fn autostarts(&self, program: &str) -> bool {
        let file = self.installation.paths.quay_conf.join("supervisord.conf");
        let programs = std::fs::read_to_string(file).ok().and_then(|text| Ini::parse(&text).ok());
        programs.is_some_and(|programs| programs.autostart(program))
    }

    /// Started once it is wanted, then left running; killed when it hangs, after the flags were
    /// cleared: supervisord starts it again.
    fn look_after_registryd(&mut self, health: Health) {
        if health == Health::Hung && !self.hung {
            tracing::error!("registryd does not answer: killed, its requests are Python's");
            self.metrics.killed();
            if let Err(error) = self.supervisor.signal("registryd", "KILL") {
                tracing::error!(%error, "registryd not killed");
            }
        }
        self.hung = health == Health::Hung;
        // What the switches alone would want: registryd has to run before it can be healthy.
        let recently = self.last_start.is_some_and(|last| last.elapsed() < START_INTERVAL);
        if recently || health == Health::Ready || !self.plan(Health::Ready).wants_us() {
            return;
        }
        self.last_start = Some(Instant::now());
        let supervisor = self.supervisor.clone();
        // It waits for the program to stay up; flags do not.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = supervisor.start("registryd") {
                tracing::warn!(%error, "registryd not started");
            }
        });
    }

    fn report(&mut self, health: Health, plan: Plan) {
        let polled = self.poller.status();
        let version = self.poller.snapshot().map(|snapshot| snapshot.version);
        let standing = format!("{:?}", polled.standing).to_lowercase();
        // With a map that nginx refuses, only what is all Python's is in effect.
        let in_effect = || self.map_problem.is_none() || !self.plan(Health::Ready).wants_us();
        if standing == "current" && polled.applied != version && in_effect() {
            let propagation = self.modified.and_then(|at| at.elapsed().ok());
            let propagation_s = propagation.map(|time| time.as_secs_f64());
            tracing::info!(version, propagation_s, "switches applied");
            self.status.propagation_s = propagation_s;
            propagation_s.into_iter().for_each(|seconds| self.metrics.applied(seconds));
            if let Some(version) = version {
                self.poller.confirm(version);
            }
        }
        if plan.lines != self.status.owners {
            self.metrics.owners(&plan.lines);
        }
        self.metrics.versions(polled.seen, self.poller.status().applied);
        self.status = Status {
            standing,
            seen: polled.seen,
            applied: self.poller.status().applied,
            problems: self.problems(),
            map_problem: self.map_problem.clone(),
            registryd: health.as_str().to_owned(),
            owners: plan.lines,
            ..self.status.clone()
        };
        if let Err(error) = self.status.write(self.run.path()) {
            tracing::warn!(%error, "status not written");
        }
    }
}

fn same(one: &Routing, other: &Routing) -> bool {
    one.rules == other.rules && one.canary == other.canary
}

fn fingerprint(config: &Path) -> Fingerprint {
    [SWITCH_FILE, CONFIG_FILE].map(|name| {
        let found = std::fs::metadata(config.join(name)).ok()?;
        Some((found.mtime(), found.mtime_nsec(), found.size(), found.ino()))
    })
}
