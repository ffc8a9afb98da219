//! The worker that fills mirrors changes hands: Python's (a stand-in) and ours, of which never two
//! are alive at once. Both hold the same lock while they live, and say so when they find it held.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use super::{Booted, command, said};
use crate::bundle::backend::Backend;
use crate::bundle::http::Client;
use crate::bundle::quay::{Quay, Variant};
use crate::mirroring::Mirrored;
use crate::support::fault_proxy::{Fault, FaultProxy};
use crate::support::images::{Blob, Manifest, OCI_LAYER};
use crate::support::{World, free_port};

const PYTHON: &str = "repomirrorworker";
const OURS: &str = "repomirror";
const SWITCH: &str = "WORKER_OWNER_REPOMIRRORWORKER";

/// What is promised for a switch, in either direction.
const PROMISED: Duration = Duration::from_secs(30);

/// With `stubborn` it does not end before that file is gone.
const STAND_IN: &str = r#"#!/bin/sh
exec 9>>ROOT/lock
flock -n 9 || echo python >>ROOT/two
echo python >>ROOT/ran
told=
trap 'told=1' TERM
while [ -z "$told" ] || [ -e ROOT/stubborn ]; do sleep 0.05 9>&-; done
"#;

/// Ours is the real one. With `broken` it ends at once, as with a configuration that it cannot use.
const OURS_IN_A_LOCK: &str = r#"#!/bin/sh
echo ours >>ROOT/ran
[ ! -e ROOT/broken ] || exit 64
exec 9>>ROOT/lock
flock -n 9 || echo ours >>ROOT/two
exec QUAY "$@"
"#;

/// A Quay that starts its worker.
struct Workers(Booted);

impl Workers {
    fn new(world: World) -> Workers {
        Workers::edited(world, false, |programs| programs)
    }

    /// `only`: a Quay that does nothing but mirror, without nginx.
    fn edited(world: World, only: bool, edit: impl FnOnce(String) -> String) -> Workers {
        let variant = Variant { same_user: true, no_nginx: only, ..Variant::default() };
        let quay = Quay::new(variant);
        let python = Backend::start("python", &quay.python_socket());
        let root = quay.root().display().to_string();
        let binary = env!("CARGO_BIN_EXE_quay");
        for (name, script) in [("stand-in", STAND_IN), ("ours", OURS_IN_A_LOCK)] {
            let path = quay.root().join(name);
            fs::write(&path, script.replace("ROOT", &root).replace("QUAY", binary)).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        let stand_in = format!("{root}/stand-in\nautostart = true\nstopwaitsecs = 60");
        let theirs = quay.read("supervisord.conf");
        let theirs = theirs.replace("/bin/sleep 1003\nautostart = false", &stand_in);
        fs::write(quay.conf("supervisord.conf"), theirs).unwrap();
        let booted = Booted::edited(quay, world, Box::new(python), |programs| {
            let ours = format!("{binary} worker repomirror");
            assert!(programs.contains(&ours) && programs.contains(&stand_in), "{programs}");
            edit(programs.replace(&ours, &format!("{root}/ours worker repomirror")))
        });
        let workers = Workers(booted);
        workers.until("RUNNING", "STOPPED");
        workers
    }

    fn set(&self, owner: &str) -> Output {
        self.0.set(&format!("{SWITCH}={owner}"))
    }

    fn begin(&self, owner: &str) {
        let switch = format!("{SWITCH}={owner}");
        let set = command(&self.0.quay, &["switch", "set", &switch, "--no-wait"]);
        assert!(set.status.success(), "{set:?}");
    }

    /// Set, in effect when that is said, and in time.
    fn move_to(&self, owner: &str) {
        let began = Instant::now();
        let set = self.set(owner);
        assert!(set.status.success() && said(&set).contains("applied after"), "{owner}: {set:?}");
        assert!(began.elapsed() < PROMISED, "{owner}: {:?}", began.elapsed());
        let states = match owner {
            "rust" => ["STOPPED", "RUNNING"],
            "off" => ["STOPPED", "STOPPED"],
            _ => ["RUNNING", "STOPPED"],
        };
        assert_eq!(self.states(), states, "{owner}");
    }

    /// Python's, and ours.
    fn states(&self) -> [String; 2] {
        [PYTHON, OURS].map(|program| {
            self.0.supervisor.state(program).unwrap_or_else(|error| error.to_string())
        })
    }

    fn until(&self, python: &str, ours: &str) {
        self.0.eventually(&format!("{python} and {ours}"), || self.states() == [python, ours]);
    }

    /// Who was started so far, in order.
    fn ran(&self) -> Vec<String> {
        let ran = fs::read_to_string(self.0.quay.root().join("ran")).unwrap_or_default();
        ran.lines().map(str::to_owned).collect()
    }

    fn touch(&self, file: &str) {
        fs::write(self.0.quay.root().join(file), "").unwrap();
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.0.quay.root().join(file)).unwrap();
    }

    /// SIGKILL; supervisord starts another one, which has said something when this returns.
    fn kill_watcher(&self) {
        let pid = || {
            let processes = self.0.supervisor.processes().unwrap();
            processes.iter().find(|process| process.name == "owner-switch").unwrap().pid
        };
        let written = || self.0.shown()["written_ms"].as_u64();
        let before = pid();
        self.0.supervisor.signal("owner-switch", "KILL").unwrap();
        self.0.eventually("another watcher", || ![0, before].contains(&pid()));
        let last = written();
        self.0.eventually("its word", || written() > last);
    }

    /// Owner and reason, as `switch show` has them.
    fn shown(&self) -> (String, String) {
        let shown = self.0.shown();
        let owners = shown["owners"].as_array().expect("owners");
        let line = owners.iter().find(|line| line["id"] == PYTHON).expect("the worker");
        let word = |key: &str| line[key].as_str().unwrap().to_owned();
        (word("owner"), word("reason"))
    }

    fn moving(&self) -> String {
        self.0.shown()["moving"].to_string()
    }

    fn transitions(&self, from: &str, to: &str, result: &str) -> u32 {
        let series = format!(
            "quay_owner_worker_transitions_total{{program=\"{PYTHON}\",from=\"{from}\",\
             to=\"{to}\",result=\"{result}\"}} "
        );
        let metrics = self.0.watcher_metrics();
        let count = metrics.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok());
        count.unwrap_or_default()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0.quay.root().join("stubborn"));
        let two = fs::read_to_string(self.0.quay.root().join("two"));
        if !std::thread::panicking() {
            assert!(two.is_err(), "two were alive when these began: {two:?}");
        }
    }
}

#[test]
fn python_rust_and_off_in_every_order() {
    let workers = Workers::new(World::new());
    for owner in ["rust", "python", "off", "rust", "off", "python", "rust"] {
        workers.move_to(owner);
    }
    assert_eq!(workers.ran(), ["python", "ours", "python", "ours", "python", "ours"]);
    assert_eq!(workers.shown(), ("rust".to_owned(), "worker".to_owned()));
    let log = fs::read_to_string(workers.0.quay.root().join("repomirror.log")).unwrap();
    assert!(log.contains("FEATURE_REPO_MIRROR is not true"), "it idles: {log}");
    for (from, to, times) in
        [("python", "rust", 2), ("rust", "python", 1), ("python", "off", 1), ("rust", "off", 1)]
    {
        assert_eq!(workers.transitions(from, to, "ok"), times, "{from} {to}");
    }
    let explained = said(&command(&workers.0.quay, &["switch", "explain", PYTHON]));
    assert!(explained.contains("owner       rust (worker)"), "{explained}");
    assert!(explained.contains("in effect   rust (worker)"), "{explained}");
    // Somebody starts Python's beside ours: it is not left there.
    workers.0.supervisor.begin_start(PYTHON).unwrap();
    workers.until("STOPPED", "RUNNING");
    fs::remove_file(workers.0.quay.root().join("two")).expect("that one found ours alive");
    // Everything at once, whatever else is set.
    assert!(workers.0.set("MIGRATION_FORCE_PYTHON=true").status.success());
    assert_eq!(workers.states(), ["RUNNING", "STOPPED"]);
    let page = Client::new(workers.0.admin_port("owner-switch"));
    let page = { page }.send("GET", "/status", &[], None).unwrap().text();
    assert!(
        page.contains(&format!("<td>{PYTHON}</td><td><span class=\"off\">off</span>")),
        "{page}"
    );
}

/// Ours is not started beside a Python worker that does not end, whoever watches; and the way back
/// from there is to start it once more.
#[test]
fn a_worker_that_does_not_end_is_waited_for() {
    let workers = Workers::new(World::new());
    workers.touch("stubborn");
    workers.begin("rust");
    workers.until("STOPPING", "STOPPED");
    workers
        .0
        .eventually("told", || workers.moving().contains("Python's repomirrorworker is STOPPING"));
    workers.kill_watcher();
    workers.0.eventually("told again", || workers.moving().contains("is STOPPING"));
    let shown = said(&command(&workers.0.quay, &["switch", "show"]));
    assert!(shown.contains("moving: repomirrorworker: Python's"), "{shown}");
    workers.begin("python");
    workers.0.eventually("read", || workers.shown().0 == "python");
    workers.remove("stubborn");
    workers.until("RUNNING", "STOPPED");
    assert_eq!(workers.ran(), ["python", "python"]);

    workers.touch("stubborn");
    workers.begin("rust");
    workers.until("STOPPING", "STOPPED");
    workers.kill_watcher();
    assert_eq!(workers.states(), ["STOPPING", "STOPPED"]);
    workers.remove("stubborn");
    workers.until("STOPPED", "RUNNING");
    assert_eq!(workers.ran(), ["python", "python", "ours"]);
}

/// Killed before, between and after what it does, on both ways: the next one ends where it would
/// have.
#[test]
fn a_watcher_that_is_killed_in_between_changes_nothing() {
    let workers = Workers::new(World::new());
    let states = |index: usize, state: &str| {
        let what = format!("{} {state}", [PYTHON, OURS][index]);
        workers.0.eventually(&what, || workers.states()[index] == state);
    };
    let moments: [&dyn Fn(usize); 3] =
        [&|_| {}, &|from| states(from, "STOPPED"), &|from| states(1 - from, "STARTING")];
    for moment in moments {
        for (owner, from) in [("rust", 0), ("python", 1)] {
            workers.begin(owner);
            moment(from);
            workers.kill_watcher();
            let [python, ours] = [["STOPPED", "RUNNING"], ["RUNNING", "STOPPED"]][from];
            workers.until(python, ours);
            workers.0.eventually("settled", || workers.moving() == "[]");
        }
    }
    let took = ["python", "ours", "python", "ours", "python", "ours", "python"];
    assert_eq!(workers.ran(), took, "each was started once");
}

/// One of ours that hangs is killed by supervisord within its limit, and Python's comes after it.
#[test]
fn a_worker_of_ours_that_hangs_is_replaced_in_time() {
    let workers = Workers::new(World::new());
    workers.move_to("rust");
    workers.0.supervisor.signal(OURS, "STOP").unwrap();
    let began = Instant::now();
    workers.begin("python");
    workers.until("STOPPED", "STOPPING");
    workers.kill_watcher();
    workers.until("RUNNING", "STOPPED");
    assert!(began.elapsed() < PROMISED, "{:?}", began.elapsed());
    assert_eq!(workers.ran(), ["python", "ours", "python"]);
    workers.0.eventually("settled", || workers.moving() == "[]");
}

/// Whatever keeps ours from running, Python's comes back by itself, and it is said why.
#[test]
fn one_that_does_not_start_is_given_back() {
    let workers = Workers::new(World::new());
    workers.touch("broken");
    let began = Instant::now();
    let set = workers.set("rust");
    assert!(began.elapsed() < PROMISED, "{:?}", began.elapsed());
    assert_eq!(set.status.code(), Some(1), "{set:?}");
    let why = "WORKER_OWNER_REPOMIRRORWORKER: repomirror does not stay up (";
    assert!(said(&set).contains(why) && said(&set).contains("Exited too quickly"), "{set:?}");
    assert_eq!(workers.states(), ["RUNNING", "STOPPED"]);
    assert_eq!(workers.shown(), ("python".to_owned(), "not_started".to_owned()));
    let shown = said(&command(&workers.0.quay, &["switch", "show"]));
    assert!(shown.contains(&format!("problem: {why}")), "{shown}");
    assert_eq!(workers.transitions("python", "rust", "failed"), 1);
    assert!(workers.0.watcher_log().contains("our worker does not run"));

    workers.move_to("python");
    workers.remove("broken");
    workers.move_to("rust");
    assert!(!said(&command(&workers.0.quay, &["switch", "show"])).contains("problem"));
    // One that ran, and ends again and again.
    workers.touch("broken");
    workers.0.supervisor.signal(OURS, "KILL").unwrap();
    workers.until("RUNNING", "STOPPED");
    assert_eq!(workers.shown(), ("python".to_owned(), "not_started".to_owned()));

    workers.move_to("python");
    workers.remove("broken");
    workers.remove("ours");
    let set = workers.set("rust");
    assert_eq!(set.status.code(), Some(1), "{set:?}");
    assert!(said(&set).contains("can't find command"), "{set:?}");
    assert_eq!(workers.states(), ["RUNNING", "STOPPED"]);
}

/// It lives long enough to pass for running, and ends again and again.
#[test]
fn one_that_keeps_ending_is_given_back() {
    let workers = Workers::new(World::new());
    workers.move_to("rust");
    let mut kills = 0;
    loop {
        let is_given_back = || workers.states() == ["RUNNING", "STOPPED"];
        let is_there = || workers.states() == ["STOPPED", "RUNNING"];
        workers.0.eventually("it runs, or is given back", || is_there() || is_given_back());
        if is_given_back() {
            break;
        }
        // Perhaps it is being stopped already.
        let _ = workers.0.supervisor.signal(OURS, "KILL");
        kills += 1;
        assert!(kills <= 10, "it is not given back");
        workers.0.eventually("noticed", || workers.states()[1] != "RUNNING");
    }
    // The watcher looks every few seconds, and may miss every other one.
    assert!(kills >= 5, "given back after {kills}");
    assert_eq!(workers.shown(), ("python".to_owned(), "not_started".to_owned()));
    let shown = said(&command(&workers.0.quay, &["switch", "show"]));
    assert!(shown.contains("repomirror ended 5 times within 10 minutes"), "{shown}");
    // Set anew, it has all of its chances again.
    workers.move_to("python");
    workers.move_to("rust");
}

/// A mirror in the middle of a sync is given back as it was, in time, and the next worker goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_sync_is_given_back() {
    let mirrored = Mirrored::new(&["*"]);
    let layer = Blob::layer(OCI_LAYER, &[("hello", "world")]);
    mirrored.source.push("v1", &Manifest::oci("amd64", vec![layer]));
    let proxy = FaultProxy::to(mirrored.source.0.port).await;
    proxy.fail("/blobs/", usize::MAX, Fault::Hang);
    let reference = format!("127.0.0.1:{}/team/app", proxy.port);
    mirrored.sql(&format!("UPDATE repomirrorconfig SET external_reference = '{reference}'"));
    let Mirrored { mut world, source: _source, .. } = mirrored;
    // Where everybody else asks how far it is.
    let admin = format!("127.0.0.1:{}", free_port());
    world.configure("QUAY_SIDECAR", serde_json::json!({"repo_mirror_admin": admin}));
    let workers = Workers::edited(world, false, |programs| {
        programs.replace("worker repomirror --admin-listen 127.0.0.1:0", "worker repomirror")
    });
    let booted = &workers.0;
    let state = || {
        let columns = "sync_status, sync_retries_remaining, sync_expiration_date";
        let rows = booted.world.database.sql(&format!("SELECT {columns} FROM repomirrorconfig"));
        rows.trim().to_owned()
    };
    let before = state();
    assert!(before.starts_with("0|3|"), "{before}");
    workers.move_to("rust");
    booted.eventually("asked for the blob", || proxy.seen("/blobs/") > 0);
    assert!(state().starts_with("2|3|2"), "{}", state());

    let status = || {
        let mut status = Command::new(env!("CARGO_BIN_EXE_quay"));
        status.args(["mirror", "status", "--config"]).arg(booted.quay.conf("stack"));
        let output = status.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        (said(&output), String::from_utf8(output.stderr).unwrap())
    };
    let (told, complaint) = status();
    assert!(told.starts_with("demo/mirror  SYNCING 0% (0 of 1 tags, 0 B of "), "{told}");
    assert_eq!(complaint, "");
    let pages = ["owner-switch", OURS].map(|program| booted.admin_port(program));
    for port in pages {
        let page = Client::new(port).send("GET", "/", &[], None).unwrap().text();
        assert!(page.contains("<td>demo/mirror</td>") && page.contains("0 of 1"), "{page}");
    }

    workers.move_to("python");
    assert_eq!(state(), before);
    let (told, complaint) = status();
    assert!(told.contains("demo/mirror") && !told.contains('%'), "{told}");
    assert!(complaint.starts_with(&format!("no worker answers at {admin}: ")), "{complaint}");
    let page = Client::new(pages[0]).send("GET", "/", &[], None).unwrap().text();
    assert!(!page.contains("demo/mirror"), "{page}");

    proxy.heal();
    workers.move_to("rust");
    booted.eventually("filled", || state().starts_with("1|3|"));
    assert_eq!(workers.ran(), ["python", "ours", "python", "ours"]);
}

/// In Quay's mode `repomirror` there is nobody to serve: registryd is not started, whatever the
/// switches say, and the worker changes hands all the same.
#[test]
fn a_quay_that_only_mirrors_is_switched_too() {
    let workers = Workers::edited(World::new(), true, |programs| programs);
    let pulls = format!("{}=rust", super::PULL);
    let set = command(&workers.0.quay, &["switch", "set", &pulls, &format!("{SWITCH}=rust")]);
    assert!(set.status.success() && said(&set).contains("applied after"), "{set:?}");
    assert_eq!(workers.states(), ["STOPPED", "RUNNING"]);
    let shown = said(&command(&workers.0.quay, &["switch", "show"]));
    let line = shown.lines().find(|line| line.contains("V2_PULL")).unwrap_or_default();
    assert!(line.ends_with("python (no_nginx)"), "{shown}");
    for program in ["registryd", "nginx"] {
        assert_eq!(workers.0.supervisor.state(program).unwrap(), "STOPPED");
    }
    workers.move_to("python");
}

/// Where the tables are not what we know, nothing is taken from Python.
#[test]
fn a_broken_schema_leaves_the_worker_alone() {
    let world = World::new();
    world.database.sql("ALTER TABLE repomirrorconfig RENAME COLUMN sync_status TO status");
    let workers = Workers::new(world);
    assert!(workers.set("rust").status.success());
    assert_eq!(workers.shown(), ("python".to_owned(), "schema".to_owned()));
    assert_eq!(workers.states(), ["RUNNING", "STOPPED"]);
    assert_eq!(workers.ran(), ["python"]);
    // Nothing else is Python's because of that.
    assert!(workers.0.set(&format!("{}=rust", super::PULL)).status.success());
    workers.0.eventually("rust", || workers.0.owner() == "rust");
}
