//! `quay switch …`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use chrono::Utc;
use clap::{Args, Subcommand};
use quay_sidecar::serve::owner::{self, Line, Status, declared, naming};
use quay_sidecar::serve::{TcpListen, systemd};
use quay_sidecar::switches::{
    Assignment, Decision, Hindrances, Naming, Problem, Resolver, Router, SetError, Written,
    catalogue, set,
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
    /// Print which route a request takes, or which worker it is, who owns it, and each rule that
    /// decided.
    Explain(Explain),
    /// Change switches: `quay switch set ROUTE_OWNER_CAP_V2_PULL=rust`. `KEY=` removes one.
    ///
    /// Waits until the change is in effect. Exits 0; 1 when nothing was changed, or Python keeps what
    /// was given to us; 3 when it was written and it is not known whether it is in effect; 64 for
    /// what is no switch.
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
    /// GET, HEAD, PUT, …; or a worker: repomirrorworker, …
    #[arg(value_name = "METHOD or WORKER")]
    what: String,
    /// With its leading slash, as a client sends it; for a worker there is none.
    path: Option<String>,
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
        for moving in &status.moving {
            println!("moving: {moving}");
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
        let Some(path) = &self.path else { return self.worker() };
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
        let explained = resolver.explain(&router, &self.what, path, self.user.as_deref());
        let found = explained.found.as_ref();
        if let Some(route) = found.and_then(|found| catalogue().route(found.id)) {
            println!("route       {} {}", route.tracker_id(), route.path);
            println!("capability  {}", route.capability);
        }
        if let Some(repository) = found.and_then(|found| found.repository.as_ref()) {
            println!("repository  {repository}");
        }
        show_decision(&explained.decision);
        ExitCode::SUCCESS
    }

    fn worker(&self) -> ExitCode {
        let Some(worker) = catalogue().worker(&self.what) else {
            eprintln!(
                "quay: {:?} is no worker of Quay's, and a request has a method and a path: GET /v2/",
                self.what
            );
            return ExitCode::from(EX_USAGE);
        };
        let switches = self.quay.installation().switches();
        let (declared, hindered) = (declared(), Hindrances::of_this_machine());
        let resolver = Resolver { switches: &switches, declared: &declared, hindered: &hindered };
        println!("worker      {}", worker.program);
        show_decision(&resolver.worker(worker));
        // What the files say, and what has become of it.
        if let Some(status) = Status::read(&self.quay.paths().run) {
            let line = status.owners.iter().find(|line| line.id == worker.program);
            line.iter().for_each(|line| println!("in effect   {} ({})", line.owner, line.reason));
            let about = |text: &&String| text.contains(&worker.program);
            status.problems.iter().filter(about).for_each(|text| println!("problem     {text}"));
            status.moving.iter().filter(about).for_each(|text| println!("moving      {text}"));
        }
        ExitCode::SUCCESS
    }
}

fn show_decision(decision: &Decision) {
    println!("owner       {} ({})", decision.owner, decision.reason.as_str());
    for rule in &decision.rules {
        let mark = if rule.decided { "*" } else { " " };
        println!("  {mark} {}: {}", rule.rule, rule.found);
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
        match wait(&paths.run, &written, began) {
            Observed::Applied(took) => {
                println!("applied after {:.1} s", took.as_secs_f64());
                ExitCode::SUCCESS
            }
            Observed::Kept(problem) => {
                println!("written, not applied: {problem}");
                ExitCode::FAILURE
            }
            Observed::Refused(problem) => {
                println!(
                    "written, not applied; owners are python until nginx accepts it: {problem}"
                );
                ExitCode::FAILURE
            }
            Observed::Waits(what) => {
                println!("written; {what}");
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
    /// A worker stays Python's, and why.
    Kept(String),
    /// It has read it; what it waits for.
    Waits(String),
    Nothing,
}

/// Until the watcher has said something.
fn wait(run: &std::path::Path, written: &Written, began: Instant) -> Observed {
    let version = written.version;
    let changed =
        |problem: &String| written.changes.iter().any(|c| is_about(problem, &c.key.to_string()));
    let mut heard = began;
    let mut waits = None;
    while began.elapsed() < PROPAGATION && heard.elapsed() < SILENCE {
        if let Some(status) = Status::read(run) {
            heard = Instant::now();
            if status.applied.is_some_and(|applied| applied >= version) {
                let kept = status.problems.into_iter().find(changed);
                return kept.map_or(Observed::Applied(began.elapsed()), Observed::Kept);
            }
            let seen = status.seen.is_some_and(|seen| seen >= version);
            if let Some(problem) = status.map_problem.clone().filter(|_| seen) {
                return Observed::Refused(problem);
            }
            waits = waited_for(&status).filter(|_| seen);
        }
        #[expect(clippy::disallowed_methods, reason = "between two looks at a file")]
        std::thread::sleep(LOOK);
    }
    waits.map_or(Observed::Nothing, Observed::Waits)
}

/// Warnings have their key at the end of `severity: KEY (place)`; this is of what is in effect.
fn is_about(problem: &str, key: &str) -> bool {
    problem.strip_prefix(key).is_some_and(|rest| rest.starts_with(':'))
}

fn waited_for(status: &Status) -> Option<String> {
    match status.moving.as_slice() {
        [] if status.registryd == "ready" => None,
        [] => Some(format!("registryd is {}: python answers until it is ready", status.registryd)),
        moving => Some(moving.join("; ")),
    }
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
