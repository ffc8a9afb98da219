//! `quay switch …`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use chrono::Utc;
use clap::{Args, Subcommand};
use quay_sidecar::serve::owner::{self, Line, Status, declared, naming};
use quay_sidecar::serve::{TcpListen, systemd};
use quay_sidecar::switches::{
    Assignment, Hindrances, Naming, Problem, Resolver, Router, SetError, Written, catalogue, set,
};
use quay_sidecar::telemetry::logs;

use super::EX_USAGE;
use super::quay::Quay;

/// It was written, and nobody can say whether it is in effect.
const NOT_OBSERVED: u8 = 3;

/// What is promised, and how long `set` waits (decision D-002).
const PROPAGATION: Duration = Duration::from_secs(30);

/// After this without a word from the watcher there is none: it may just be starting.
const SILENCE: Duration = Duration::from_secs(5);

/// Between two looks at the watcher's status.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Subcommand)]
pub enum Switch {
    /// Print every capability and worker: owner, reason, versions seen and applied.
    Show(Show),
    /// Print which route a request takes, who owns it, and each rule that decided.
    Explain(Explain),
    /// Change switches: `quay switch set ROUTE_OWNER_CAP_V2_PULL=rust`. `KEY=` removes one.
    ///
    /// Waits until the change is in effect. Exits 0; 1 when nothing was changed; 3 when it was
    /// written and the watcher cannot be asked; 64 for what is no switch.
    Set(Set),
    /// Run the watcher: sets and clears what the switches say. A program of supervisord's.
    Watch(Watch),
}

#[derive(Args)]
pub struct Watch {
    /// Where /metrics is. `,public` after it lets other machines connect.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9193")]
    admin_listen: TcpListen,
    #[command(flatten)]
    quay: Quay,
}

#[derive(Args)]
pub struct Show {
    /// For programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    quay: Quay,
}

#[derive(Args)]
pub struct Explain {
    /// GET, HEAD, PUT, …
    method: String,
    /// With its leading slash, as a client sends it.
    path: String,
    /// Whose request it is, for ROUTE_CANARY_USERS.
    #[arg(long)]
    user: Option<String>,
    #[command(flatten)]
    quay: Quay,
}

#[derive(Args)]
pub struct Set {
    /// KEY=VALUE, as in the environment or in migration-switches.yaml.
    #[arg(required = true, value_name = "KEY=VALUE")]
    switches: Vec<String>,
    /// Do not wait until the change is in effect.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    quay: Quay,
}

impl Switch {
    pub fn run(self) -> ExitCode {
        match self {
            Self::Show(show) => show.run(),
            Self::Explain(explain) => explain.run(),
            Self::Set(set) => set.run(),
            Self::Watch(watch) => watch.run(),
        }
    }
}

impl Show {
    fn run(self) -> ExitCode {
        let status = Status::read(&self.quay.paths().run);
        let watched = status.is_some();
        let status = status.unwrap_or_else(|| by_the_files(&self.quay));
        if self.json {
            match serde_json::to_string_pretty(&status) {
                Ok(json) => println!("{json}"),
                Err(error) => eprintln!("{error}"),
            }
            return ExitCode::SUCCESS;
        }
        let version = |version: Option<u64>| version.map_or("none".to_owned(), |v| v.to_string());
        println!("version seen {}, applied {}", version(status.seen), version(status.applied));
        match watched {
            true => println!("switches {}, registryd {}", status.standing, status.registryd),
            false => println!("no watcher runs: this is what the files say, not what is in effect"),
        }
        for problem in status.problems.iter().chain(&status.map_problem) {
            println!("problem: {problem}");
        }
        for Line { kind, id, owner, reason, gated } in &status.owners {
            let gated = if *gated { ", for the canary's cohort" } else { "" };
            println!("{kind:10} {id:36} {owner:6} ({reason}{gated})");
        }
        ExitCode::SUCCESS
    }
}

/// Without a watcher: what one reading of the files gives.
fn by_the_files(quay: &Quay) -> Status {
    let installation = quay.installation();
    let switches = installation.switches();
    let (declared, hindered) = (declared(), Hindrances::of_this_machine());
    let resolver = Resolver { switches: &switches, declared: &declared, hindered: &hindered };
    let capabilities = catalogue()
        .capabilities()
        .into_iter()
        .filter_map(|name| Some(Line::new("capability", name, &resolver.capability(name)?)));
    let workers = catalogue()
        .switchable()
        .map(|worker| Line::new("worker", &worker.program, &resolver.worker(worker)));
    Status { owners: capabilities.chain(workers).collect(), ..Status::default() }
}

impl Explain {
    fn run(self) -> ExitCode {
        let installation = self.quay.installation();
        let naming = installation.config.as_ref().map_or_else(Naming::default, naming);
        let router = match Router::new(naming) {
            Ok(router) => router,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        };
        let switches = installation.switches();
        let (declared, hindered) = (declared(), Hindrances::of_this_machine());
        let resolver = Resolver { switches: &switches, declared: &declared, hindered: &hindered };
        let explained = resolver.explain(&router, &self.method, &self.path, self.user.as_deref());
        let found = explained.found.as_ref();
        if let Some(route) = found.and_then(|found| catalogue().route(found.id)) {
            println!("route       {} {}", route.tracker_id(), route.path);
            println!("capability  {}", route.capability);
        }
        if let Some(repository) = found.and_then(|found| found.repository.as_ref()) {
            println!("repository  {repository}");
        }
        println!(
            "owner       {} ({})",
            explained.decision.owner,
            explained.decision.reason.as_str()
        );
        for rule in &explained.decision.rules {
            let mark = if rule.decided { "*" } else { " " };
            println!("  {mark} {}: {}", rule.rule, rule.found);
        }
        ExitCode::SUCCESS
    }
}

impl Set {
    fn run(self) -> ExitCode {
        let parsed: Result<Vec<Assignment>, Problem> =
            self.switches.iter().map(|switch| Assignment::parse(switch)).collect();
        let changes = match parsed {
            Ok(changes) => changes,
            Err(problem) => {
                eprint!("{problem}");
                return ExitCode::from(EX_USAGE);
            }
        };
        let paths = self.quay.paths();
        let status = Status::read(&paths.run);
        let least = status.as_ref().and_then(|status| status.seen.max(status.applied));
        let began = Instant::now();
        let written = match set(&paths.config, &changes, least.unwrap_or_default(), Utc::now()) {
            Ok(written) => written,
            Err(error @ SetError::Invalid(_)) => {
                eprint!("nothing was changed\n{error}");
                return ExitCode::FAILURE;
            }
            Err(error) => {
                eprintln!("nothing was changed\n{error}");
                return ExitCode::FAILURE;
            }
        };
        describe(&written);
        if self.no_wait {
            return ExitCode::SUCCESS;
        }
        match wait(&paths.run, written.version, began) {
            Observed::Applied(took) => {
                println!("applied after {:.1} s", took.as_secs_f64());
                ExitCode::SUCCESS
            }
            Observed::Refused(problem) => {
                println!(
                    "written, not applied; owners are python until nginx accepts it: {problem}"
                );
                ExitCode::FAILURE
            }
            Observed::Waits(registryd) => {
                println!("written; registryd is {registryd}: python answers until it is ready");
                ExitCode::from(NOT_OBSERVED)
            }
            Observed::Nothing => {
                println!("written, not observed");
                ExitCode::from(NOT_OBSERVED)
            }
        }
    }
}

fn describe(written: &Written) {
    println!("version {} in {}", written.version, written.path.display());
    for change in &written.changes {
        let (from, to) = (change.from.as_deref(), change.to.as_deref());
        println!("  {}: {} -> {}", change.key, from.unwrap_or("unset"), to.unwrap_or("unset"));
    }
    for warning in &written.warnings {
        print!("{warning}");
    }
}

/// What the watcher says of a version.
enum Observed {
    Applied(Duration),
    Refused(String),
    /// It has read it; how registryd is.
    Waits(String),
    Nothing,
}

/// Until the watcher has said something.
fn wait(run: &std::path::Path, version: u64, began: Instant) -> Observed {
    let mut heard = began;
    let mut waits = None;
    while began.elapsed() < PROPAGATION && heard.elapsed() < SILENCE {
        if let Some(status) = Status::read(run) {
            heard = Instant::now();
            if status.applied.is_some_and(|applied| applied >= version) {
                return Observed::Applied(began.elapsed());
            }
            let seen = status.seen.is_some_and(|seen| seen >= version);
            if let Some(problem) = status.map_problem.filter(|_| seen) {
                return Observed::Refused(problem);
            }
            waits = seen.then_some(status.registryd).filter(|registryd| registryd != "ready");
        }
        #[expect(clippy::disallowed_methods, reason = "between two looks at a file")]
        std::thread::sleep(LOOK);
    }
    waits.map_or(Observed::Nothing, Observed::Waits)
}

impl Watch {
    fn run(self) -> ExitCode {
        let installation = self.quay.installation();
        let logging = installation.config.as_ref().map(|config| &config.logging);
        logs::start(logging.is_some_and(|l| l.json), logging.is_some_and(|l| l.debug));
        let run = installation.paths.run.clone();
        let watched = async move {
            let beat = tokio::spawn(tell_systemd(run));
            let watched = owner::watch(installation, self.admin_listen.0).await;
            beat.abort();
            systemd::stopping();
            watched
        };
        match actix_web::rt::System::new().block_on(watched) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "cannot watch: everything stays with Python");
                ExitCode::FAILURE
            }
        }
    }
}

/// The watcher is ready when it has written a status, and alive while it writes it anew.
async fn tell_systemd(run: PathBuf) {
    while Status::read(&run).is_none() {
        tokio::time::sleep(LOOK).await;
    }
    systemd::ready();
    systemd::beat(async move || Status::read(&run).is_some()).await;
}
