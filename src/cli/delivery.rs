//! `quay install`, `quay uninstall` and `quay status`.

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use quay_sidecar::config::ProcessEnvironment;
use quay_sidecar::delivery::{self, Error, Looked, Manifest, Place, Podman, Step, Target};
use quay_sidecar::serve::owner::{Paths, Status};
use serde_json::{Value, json};

/// Where our own files go, unless it is a user's.
const HOME: &str = "/opt/quay-sidecar";

/// The same below a user's home.
const USER_HOME: &str = ".local/share/quay-sidecar";

#[derive(Args)]
struct Where {
    /// Our own folder: program, hook, what was done
    /// [default: /opt/quay-sidecar, or ~/.local/share/quay-sidecar with --user]
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Units of this user (rootless podman), not of the machine.
    #[arg(long)]
    user: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Put the bundle beside a Quay: prints what would be done, and does it with --yes.
#[derive(Args)]
pub struct Install {
    /// The unit that runs Quay's container: NAME.service, or a quadlet, NAME.container.
    #[arg(long, value_name = "NAME", default_value = "quay-app.service")]
    unit: String,
    /// The folder of that unit [default: where systemd, or podman, looks for it]
    #[arg(long, value_name = "DIR")]
    units: Option<PathBuf>,
    /// An unpacked Quay instead of a container: the folder that Quay calls QUAYDIR.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["unit", "units", "user"])]
    tree: Option<PathBuf>,
    /// Do it.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    place: Where,
}

/// Take the bundle out again: prints what would be done, and does it with --yes.
#[derive(Args)]
pub struct Uninstall {
    /// Do it.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    place: Where,
}

/// Print what is installed, whether it is intact and runs, and what an upgrade would take away.
#[derive(Args)]
pub struct StatusOf {
    #[command(flatten)]
    place: Where,
}

impl Where {
    fn place(&self) -> Place {
        let default = match self.user {
            true => user_folder(USER_HOME),
            false => HOME.into(),
        };
        Place { home: self.home.clone().unwrap_or(default), user: self.user }
    }
}

impl Install {
    pub fn run(self) -> ExitCode {
        let teller = Teller { json: self.place.json };
        let done = self.steps(&teller).and_then(|(target, steps)| {
            let place = self.place.place();
            if steps.is_empty() {
                teller.end("installed already, nothing to do", json!({"outcome": "unchanged"}));
                return Ok(());
            }
            teller.work(&steps, self.yes)?;
            let next = target.restart(&place).unwrap_or_else(|| "restart Quay".to_owned());
            let outcome = if self.yes { "installed" } else { "planned" };
            let then = format!("Quay has it from its next start: {next}");
            let text = match self.yes {
                true => format!("installed. {then}; then `quay bundle doctor` in it"),
                false => format!("nothing was changed; --yes does it. {then}"),
            };
            teller.end(&text, json!({"outcome": outcome, "next": next}));
            Ok(())
        });
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => teller.failed(&error),
        }
    }

    fn target(&self) -> Target {
        if let Some(tree) = &self.tree {
            return Target::Tree(tree.clone());
        }
        let quadlet = self.unit.ends_with(".container");
        let folder = self.units.clone().unwrap_or_else(|| match (quadlet, self.place.user) {
            (false, false) => "/etc/systemd/system".into(),
            (false, true) => user_folder(".config/systemd/user"),
            (true, false) => "/etc/containers/systemd".into(),
            (true, true) => user_folder(".config/containers/systemd"),
        });
        let unit = folder.join(&self.unit);
        if quadlet { Target::Quadlet(unit) } else { Target::Service(unit) }
    }

    fn steps(&self, teller: &Teller) -> Result<(Target, Vec<Step>), Error> {
        let (target, place) = (self.target(), self.place.place());
        let scratch = Scratch::new()?;
        let looked = delivery::look(&target, &place, &scratch.0, &ProcessEnvironment)?;
        let Looked { refusals, notices } = looked;
        notices.iter().for_each(|notice| teller.notice(notice));
        if !refusals.is_empty() {
            return Err(Error::Refused(refusals));
        }
        let program = std::env::current_exe().and_then(fs::read);
        let program =
            program.map_err(|error| Error::Command(format!("our own program: {error}")))?;
        let files = target.files(&place, program)?;
        let steps = delivery::install(&target, &place, &files)?;
        Ok((target, steps))
    }
}

impl Uninstall {
    pub fn run(self) -> ExitCode {
        let teller = Teller { json: self.place.json };
        let place = self.place.place();
        let done = Manifest::read(&place.home).and_then(|manifest| {
            let steps = delivery::uninstall(&place)?;
            if steps.is_empty() {
                let text = format!("nothing of ours is in {}", place.home.display());
                teller.end(&text, json!({"outcome": "unchanged"}));
                return Ok(());
            }
            teller.work(&steps, self.yes)?;
            let next = manifest.as_ref().and_then(|manifest| manifest.target.restart(&place));
            let next = next.unwrap_or_else(|| "restart Quay".to_owned());
            let outcome = if self.yes { "uninstalled" } else { "planned" };
            let text = match self.yes {
                true => format!("everything is as it was. Quay has it from its next start: {next}"),
                false => "nothing was changed; --yes does it".to_owned(),
            };
            teller.end(&text, json!({"outcome": outcome, "next": next}));
            Ok(())
        });
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => teller.failed(&error),
        }
    }
}

impl StatusOf {
    pub fn run(self) -> ExitCode {
        let teller = Teller { json: self.place.json };
        let place = self.place.place();
        match Manifest::read(&place.home) {
            Err(error) => teller.failed(&error),
            Ok(None) => {
                let text = format!("not installed: no manifest in {}", place.home.display());
                teller.end(&text, json!({"installed": false}));
                ExitCode::FAILURE
            }
            Ok(Some(manifest)) => match report(&teller, &manifest) {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::FAILURE,
                Err(error) => teller.failed(&error),
            },
        }
    }
}

/// Prints it; true when everything is there as it was put there.
fn report(teller: &Teller, manifest: &Manifest) -> Result<bool, Error> {
    let mut intact = manifest.state == delivery::State::Installed;
    let mut files = Vec::new();
    for entry in &manifest.files {
        let condition = entry.condition()?;
        intact &= condition == "intact";
        files.push(json!({"path": entry.path, "condition": condition}));
    }
    let podman = Podman::of(&manifest.target);
    let gone = podman.as_ref().err().map(ToString::to_string);
    let podman = podman.ok().flatten();
    let running = podman.as_ref().map(Podman::is_running);
    let status = owners(&manifest.target, podman.as_ref());
    let lost = delivery::losses(&manifest.target, podman.as_ref());
    if teller.json {
        let owners = status.as_ref().map(|status| &status.owners);
        let registryd = status.as_ref().map(|status| &status.registryd);
        teller.line(&json!({
            "installed": true, "version": manifest.version, "state": manifest.state,
            "target": manifest.target, "files": files, "running": running, "unit_problem": gone,
            "registryd": registryd, "owners": owners, "lost_at_upgrade": lost,
        }));
        return Ok(intact);
    }
    let state = match manifest.state {
        delivery::State::Installed => "installed",
        delivery::State::Installing => "half installed",
        delivery::State::Removing => "half removed",
    };
    println!("quay-sidecar {}, {state}, beside {}", manifest.version, manifest.target);
    for file in &files {
        let word = |key: &str| file[key].as_str().unwrap_or_default();
        println!("{:8} {}", word("condition"), word("path"));
    }
    match (running, gone) {
        (_, Some(gone)) => println!("PROBLEM  {gone}"),
        (Some(running), _) => println!("{}", if running { "running" } else { "not running" }),
        (None, None) => {}
    }
    match &status {
        None => println!("no watcher answers: every owner is python"),
        Some(status) => {
            println!("registryd {}", status.registryd);
            status.problems.iter().for_each(|problem| println!("problem  {problem}"));
            status.moving.iter().for_each(|moving| println!("moving   {moving}"));
            for line in status.owners.iter().filter(|line| line.owner != "python") {
                println!("owner    {} {} ({})", line.id, line.owner, line.reason);
            }
        }
    }
    for lost in &lost.0 {
        println!("an upgrade of Quay takes: {lost}");
    }
    Ok(intact)
}

/// What the watcher says, in the container or on this machine.
fn owners(target: &Target, podman: Option<&Podman>) -> Option<Status> {
    match (target, podman) {
        (Target::Tree(quay_dir), _) => {
            let conf = Some(quay_dir.join("conf"));
            Status::read(&Paths::new(None, conf, None, &ProcessEnvironment).run)
        }
        (_, Some(podman)) => {
            let program = "/opt/quay-sidecar/bin/quay";
            let shown = podman.exec(&[program, "switch", "show", "--json"]).ok()?;
            serde_json::from_str(&shown).ok().filter(|status: &Status| status.written_ms > 0)
        }
        _ => None,
    }
}

/// How it is told: for people, or for programs.
struct Teller {
    json: bool,
}

impl Teller {
    /// Shows every step, or makes them; what fails half-way is left for another run.
    fn work(&self, steps: &[Step], really: bool) -> Result<(), Error> {
        if !really {
            for (index, step) in steps.iter().enumerate() {
                let diff = step.diff()?;
                self.step(index, steps.len(), step, diff.as_deref());
            }
            return Ok(());
        }
        delivery::carry_out(steps, |index, step| {
            self.step(index, steps.len(), step, None);
            ControlFlow::Continue(())
        })
    }

    fn step(&self, index: usize, of: usize, step: &Step, diff: Option<&str>) {
        if self.json {
            let (what, path) = step.named();
            return self.line(&json!({
                "step": index + 1, "of": of, "do": what, "what": path, "says": step.to_string(),
                "diff": diff,
            }));
        }
        println!("[{}/{of}] {step}", index + 1);
        if let Some(diff) = diff {
            print!("{diff}");
        }
    }

    fn notice(&self, notice: &str) {
        match self.json {
            true => self.line(&json!({"notice": notice})),
            false => println!("notice: {notice}"),
        }
    }

    fn end(&self, text: &str, line: Value) {
        match self.json {
            true => self.line(&line),
            false => println!("{text}"),
        }
    }

    fn failed(&self, error: &Error) -> ExitCode {
        let refused = match error {
            Error::Refused(refusals) => Some(refusals),
            _ => None,
        };
        match (self.json, refused) {
            (true, Some(refusals)) => {
                self.line(&json!({"outcome": "refused", "refusals": refusals}));
            }
            (true, None) => {
                self.line(&json!({"outcome": "failed", "error": error.to_string()}));
            }
            (false, Some(refusals)) => {
                refusals.iter().for_each(|refusal| eprintln!("refused: {refusal}"));
            }
            (false, None) => {
                eprintln!("{error}\nrun it again to finish, or `quay uninstall --yes` to undo it");
            }
        }
        ExitCode::FAILURE
    }

    /// Whoever reads these reads them as they come.
    fn line(&self, line: &Value) {
        // Nobody reads any more: the work goes on all the same.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }
}

/// A folder of our own, for a moment.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Error> {
        let name = format!("quay-sidecar-{}", uuid::Uuid::new_v4().simple());
        let path = std::env::temp_dir().join(name);
        let made = fs::create_dir(&path);
        made.map_err(|error| Error::Command(format!("{}: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is in the folder for such things.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn user_folder(below: &str) -> PathBuf {
    let home = std::env::var_os("HOME").unwrap_or_default();
    Path::new(&home).join(below)
}
