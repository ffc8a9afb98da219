//! The worker: what is due, what somebody asks for, two at once, and one that dies.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{Mirrored, SYNC_NOW};
use crate::bundle::http;
use crate::support::eventually;
use crate::support::images::{Blob, Manifest, OCI_LAYER};
use crate::support::process::{AtExit, signal, wait};
use crate::support::registryd::program;

/// `quay worker repomirror`.
pub struct Worker {
    child: Child,
    port: u16,
    _at_exit: AtExit,
}

impl Worker {
    pub fn start(mirrored: &Mirrored) -> Worker {
        Worker::on(&mirrored.world.conf)
    }

    /// One that is killed at this step.
    pub fn dying_at(mirrored: &Mirrored, step: &str) -> Worker {
        Worker::with(&mirrored.world.conf, &[("QUAY_SIDECAR_DIE_AT", step)])
    }

    /// Of the registry with this configuration.
    pub fn on(conf: &Path) -> Worker {
        Worker::with(conf, &[])
    }

    fn with(conf: &Path, environment: &[(&str, &str)]) -> Worker {
        let mut child = Command::new(program())
            .args(["worker", "repomirror", "--admin-listen", "127.0.0.1:0", "--config"])
            .arg(conf)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary of this build");
        let _at_exit = AtExit::run(format!("kill -KILL {}", child.id()));
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).unwrap();
        assert!(line.starts_with("admin listening"), "{line}");
        let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
        Worker { child, port: port.expect("where it listens"), _at_exit }
    }

    /// What operators see.
    pub fn metrics(&self) -> String {
        http::send(self.port, "GET", "/metrics", &[]).text()
    }

    pub fn stop(mut self) {
        signal(&self.child, "TERM");
        assert!(wait(&mut self.child, "the worker").success());
    }

    /// Waits until it was killed.
    pub fn dead(mut self, step: &str) {
        let status = wait(&mut self.child, &format!("the worker that is killed at {step}"));
        assert_eq!(status.signal(), Some(9), "{step}: {status}");
    }

    /// Bytes of memory that it had at its highest.
    pub fn highest_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn image(text: &str) -> Manifest {
    Manifest::oci("amd64", vec![Blob::layer(OCI_LAYER, &[("hello", text)])])
}

pub fn until_state(mirrored: &Mirrored, state: &str) {
    let is = || (mirrored.state() == state).then_some(());
    eventually(is, || format!("it is {}, {:?}", mirrored.state(), mirrored.log()));
}

/// Due mirrors are filled by themselves, and again when somebody asks.
#[test]
fn due_mirrors_and_those_that_are_asked_for() {
    let mirrored = Mirrored::new(&["*"]);
    mirrored.source.push("a", &image("a"));
    let worker = Worker::start(&mirrored);
    until_state(&mirrored, "1|3");
    assert_eq!(mirrored.tags().len(), 1);
    mirrored.source.push("b", &image("b"));
    // As Quay's API does it.
    mirrored.sql(
        "UPDATE repomirrorconfig SET sync_status = 3, sync_expiration_date = NULL, \
         sync_transaction_id = 'asked'",
    );
    eventually(|| (mirrored.tags().len() == 2).then_some(()), || format!("{:?}", mirrored.log()));
    until_state(&mirrored, "1|3");
    worker.stop();
    // Switched off, it is nobody's.
    mirrored.sql("UPDATE repomirrorconfig SET is_enabled = false, sync_start_date = '2026-01-01'");
}

/// A source that is away for a moment costs one of three tries: the next one waits for Quay's
/// interval, unless somebody asks.
#[test]
fn what_failed_is_not_tried_again_at_once() {
    let mirrored = Mirrored::new(&["*"]);
    mirrored.source.push("a", &image("a"));
    mirrored.source.lose(&image("a").layers()[0].digest);
    let worker = Worker::start(&mirrored);
    until_state(&mirrored, "-1|2");
    let statements = || -> u64 {
        let metrics = worker.metrics();
        let name = "db_statements_total{route=\"repomirror\"} ";
        metrics.lines().find_map(|line| line.strip_prefix(name)?.parse().ok()).expect(name)
    };
    let before = statements();
    // It looks, and looks again.
    eventually(|| (statements() >= before + 2).then_some(()), || "it has stopped".to_owned());
    assert_eq!(mirrored.state(), "-1|2");
    mirrored.sql(SYNC_NOW);
    until_state(&mirrored, "-1|2");
    let tries = mirrored.kinds().iter().filter(|kind| *kind == "repo_mirror_sync_started").count();
    assert_eq!(tries, 2);
    worker.stop();
}

/// Two of them: every sync is done once.
#[test]
fn two_workers_share_the_mirrors() {
    let mirrored = Mirrored::new(&["*"]);
    for number in 0..10 {
        mirrored.source.push(&format!("v{number}"), &image(&format!("{number}")));
    }
    let workers = [Worker::start(&mirrored), Worker::start(&mirrored)];
    until_state(&mirrored, "1|3");
    workers.into_iter().for_each(Worker::stop);
    let started =
        mirrored.kinds().iter().filter(|kind| *kind == "repo_mirror_sync_started").count();
    assert_eq!(started, 1);
    assert_eq!(mirrored.tags().len(), 10);
}

/// A mirror whose worker was killed is filled when its lease has ended. Quay leaves it in SYNCING
/// for ever.
#[test]
fn a_dead_workers_mirror_goes_on() {
    let mirrored = Mirrored::new(&["*"]);
    mirrored.source.push("a", &image("a"));
    mirrored.sql(
        "UPDATE repomirrorconfig SET sync_status = 2, sync_transaction_id = 'dead', \
         sync_expiration_date = '2026-01-01 00:00:00', sync_start_date = NULL",
    );
    let worker = Worker::start(&mirrored);
    until_state(&mirrored, "1|3");
    assert_eq!(mirrored.tags().len(), 1);
    worker.stop();
}

/// A cancelled mirror is nobody's to begin but a person's.
#[test]
fn a_cancelled_mirror_is_filled_by_hand() {
    let mirrored = Mirrored::new(&["*"]);
    mirrored.source.push("a", &image("a"));
    mirrored.sql("UPDATE repomirrorconfig SET sync_status = -2, sync_retries_remaining = 0");
    let report = mirrored.sync();
    assert_eq!(report["copied"], 1, "{report}");
    assert_eq!(mirrored.state(), "1|3");
}

/// One that another worker holds is left to it.
#[test]
fn a_living_workers_mirror_is_left_alone() {
    let mirrored = Mirrored::new(&["*"]);
    mirrored.source.push("a", &image("a"));
    mirrored.sql(
        "UPDATE repomirrorconfig SET sync_status = 2, sync_transaction_id = 'other', \
         sync_expiration_date = '2126-01-01 00:00:00'",
    );
    let output = mirrored.quay(&["sync"], &["demo/mirror"]);
    assert!(!output.status.success());
    let words = super::text(&output.stderr);
    assert!(words.contains("a worker is filling it right now"), "{words}");
    assert!(mirrored.tags().is_empty());
}
