//! The watcher itself: what it says, what it remembers, and that nothing holds it up.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::{Booted, PULL, command, said};
use crate::bundle::http::Client;
use crate::support::eventually;

const WORKER: &str = "pullstatsredisflushworker";
const WORKER_SWITCH: &str = "WORKER_OWNER_PULLSTATSREDISFLUSHWORKER";

impl Booted {
    pub(super) fn shown(&self) -> serde_json::Value {
        serde_json::from_str(&said(&command(&self.quay, &["switch", "show", "--json"]))).unwrap()
    }

    pub(super) fn watcher_log(&self) -> String {
        fs::read_to_string(self.quay.root().join("owner-switch.log")).unwrap_or_default()
    }

    pub(super) fn watcher_metrics(&self) -> String {
        self.metrics_of("owner-switch")
    }

    pub(super) fn metrics_of(&self, program: &str) -> String {
        Client::new(self.admin_port(program)).send("GET", "/metrics", &[], None).unwrap().text()
    }

    /// Where a program has said that its admin listener is.
    pub(super) fn admin_port(&self, program: &str) -> u16 {
        let said = self.quay.root().join(format!("{program}.out"));
        eventually(
            || {
                let said = fs::read_to_string(&said).unwrap_or_default();
                let address = said.lines().rev().find(|line| line.contains("admin listening"))?;
                address.rsplit(':').next()?.parse().ok()
            },
            || format!("{program} names no admin address"),
        )
    }

    pub(super) fn restart_watcher(&self, meanwhile: impl FnOnce()) {
        self.supervisor.stop("owner-switch").unwrap();
        meanwhile();
        self.supervisor.start("owner-switch").unwrap();
    }

    fn worker_is(&self, state: &str) -> bool {
        self.supervisor.state(WORKER).is_ok_and(|found| found == state)
    }
}

/// An nginx whose test of a configuration takes as long as a file is there.
struct SlowTest {
    held: PathBuf,
    asked: PathBuf,
}

impl SlowTest {
    fn install(booted: &Booted) -> SlowTest {
        let root = booted.quay.root();
        let (held, asked) = (root.join("held"), root.join("asked"));
        let script = format!(
            "#!/bin/sh\nPATH=${{PATH#*:}}\nif [ \"$1\" = -t ]; then\n\
             [ ! -e {held} ] || echo >{asked}\nwhile [ -e {held} ]; do sleep 0.05; done\nfi\n\
             exec nginx \"$@\"\n",
            held = held.display(),
            asked = asked.display()
        );
        let nginx = root.join("path/nginx");
        fs::create_dir(root.join("path")).unwrap();
        fs::write(&nginx, script).unwrap();
        fs::set_permissions(&nginx, fs::Permissions::from_mode(0o755)).unwrap();
        // It finds its programs when it starts.
        booted.restart_watcher(|| ());
        SlowTest { held, asked }
    }
}

/// Neither the way back, nor the guard, nor the status waits for `nginx -t`.
#[test]
fn a_slow_test_of_the_map_holds_nothing_up() {
    let booted = Booted::of_our_user();
    let slow = SlowTest::install(&booted);
    assert!(booted.set(&format!("{PULL}=rust")).status.success());
    booted.eventually("rust", || booted.owner() == "rust");
    fs::write(&slow.held, "").unwrap();
    let canary = command(&booted.quay, &["switch", "set", "ROUTE_CANARY_PERCENT=100", "--no-wait"]);
    assert!(canary.status.success(), "{canary:?}");
    booted.eventually("tested", || slow.asked.exists());

    let written = || booted.shown()["written_ms"].as_u64();
    let before = written();
    assert!(before.is_some());
    booted.eventually("told", || written() > before);
    assert_eq!(booted.shown()["applied"], 1, "{}", booted.shown());
    booted.registryd("STOP");
    booted.eventually("python", || booted.owner() == "python");
    let back = booted.set(&format!("{PULL}=python"));
    assert!(said(&back).contains("applied after"), "{back:?}");
    assert!(slow.held.exists());

    fs::remove_file(&slow.held).unwrap();
    let again = booted.set(&format!("{PULL}=rust"));
    assert!(said(&again).contains("applied after"), "{again:?}");
    booted.eventually("rust", || booted.owner() == "rust");
}

/// What is withdrawn while nginx tests it never becomes nginx's map.
#[test]
fn a_map_that_is_no_longer_wanted_is_not_loaded() {
    let booted = Booted::of_our_user();
    let slow = SlowTest::install(&booted);
    let narrow = "ROUTE_CANARY_ORGS=[other]";
    let set = command(&booted.quay, &["switch", "set", &format!("{PULL}=rust"), narrow]);
    assert!(set.status.success(), "{set:?}");
    let reloads = || {
        let metrics = booted.watcher_metrics();
        let line = "quay_owner_nginx_reloads_total{result=\"ok\"} ";
        let count = metrics.lines().find_map(|found| found.strip_prefix(line)?.parse::<u32>().ok());
        count.unwrap_or_default()
    };
    assert_eq!(reloads(), 1);
    fs::write(&slow.held, "").unwrap();
    for canary in ["ROUTE_CANARY_ORGS=[other, demo]", narrow] {
        let set = command(&booted.quay, &["switch", "set", canary, "--no-wait"]);
        assert!(set.status.success(), "{set:?}");
        booted.eventually("tested", || slow.asked.exists());
    }
    booted.eventually("seen", || booted.shown()["seen"] == 3);
    fs::remove_file(&slow.held).unwrap();
    booted.eventually("applied", || booted.shown()["applied"] == 3);
    // One for the map that is wanted again; none for the one in between.
    assert_eq!(reloads(), 2);
}

/// Who moved what, when and why is in the log and in the metrics, each by itself.
#[test]
fn a_flip_is_told_whole() {
    let booted = Booted::of_our_user();
    assert!(booted.set(&format!("{PULL}=rust")).status.success());
    booted.eventually("rust", || booted.owner() == "rust");
    let log = booted.watcher_log();
    let line = log.lines().find(|line| line.contains("switch applied"));
    let line = line.unwrap_or_else(|| panic!("no such line in\n{log}"));
    let key = format!("key=\"{PULL}\"");
    let source = "source=\"migration-switches.yaml:";
    for part in ["version=1", &key, "from=\"unset\"", "to=\"rust\"", source, "propagation_s="] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let changed = log.lines().find(|line| line.contains("owner changed"));
    assert!(changed.is_some_and(|line| line.contains("v2_pull") && line.contains("rust")), "{log}");

    let has = |wanted: &str| {
        let metrics = booted.watcher_metrics();
        assert!(metrics.lines().any(|line| line == wanted), "{wanted}:\n{metrics}");
    };
    let id = "kind=\"capability\",id=\"V2_PULL\",owner=\"rust\",reason=\"capability\"";
    has(&format!("quay_owner_decisions_total{{{id}}} 1"));
    has(&format!("quay_owner_info{{{id},gated=\"false\"}} 1"));
    has("quay_owner_snapshot_version{state=\"applied\"} 1");
    has("quay_owner_propagation_seconds_count 1");
    has("quay_owner_force_python{source=\"none\"} 1");
    assert!(booted.watcher_metrics().contains("\nquay_owner_snapshot_age_seconds "));
    assert!(booted.set("MIGRATION_FORCE_PYTHON=true").status.success());
    has("quay_owner_force_python{source=\"file\"} 1");
    has("quay_owner_force_python{source=\"none\"} 0");
}

/// Every one of thirty flips arrives within the thirty seconds that are promised.
#[test]
fn thirty_flips_arrive_in_time() {
    let booted = Booted::of_our_user();
    let mut took: Vec<f64> = (0..30)
        .map(|flip| {
            let owner = if flip % 2 == 0 { "rust" } else { "python" };
            let set = booted.set(&format!("{PULL}={owner}"));
            let told = said(&set);
            let after = told.lines().find_map(|line| line.strip_prefix("applied after "));
            let took = after.and_then(|after| after.strip_suffix(" s")?.parse::<f64>().ok());
            // What was applied is so, also where it had to start registryd first.
            assert_eq!(booted.owner(), owner, "flip {flip}: {told}");
            took.unwrap_or_else(|| panic!("{set:?}"))
        })
        .collect();
    took.sort_by(f64::total_cmp);
    println!("propagation: min {} s, median {} s, max {} s", took[0], took[15], took[29]);
    assert!(took[29] < 30.0, "{took:?}");
}

/// What a switch stopped is given back even by a watcher that did not stop it.
#[test]
fn a_new_watcher_gives_workers_back() {
    let booted = Booted::of_our_user();
    assert!(booted.set(&format!("{WORKER_SWITCH}=off")).status.success());
    booted.eventually("stopped", || booted.worker_is("STOPPED"));
    booted.restart_watcher(|| {
        let back = format!("{WORKER_SWITCH}=python");
        let set = command(&booted.quay, &["switch", "set", &back, "--no-wait"]);
        assert!(set.status.success(), "{set:?}");
    });
    booted.eventually("running", || booted.worker_is("RUNNING"));
    let moved = format!(
        "quay_owner_worker_transitions_total{{program=\"{WORKER}\",from=\"off\",to=\"python\",\
         result=\"ok\"}} 1"
    );
    booted.eventually("counted", || booted.watcher_metrics().lines().any(|line| line == moved));
}

/// This binary does not run it: the switch is taken, and Python's goes on running.
#[test]
fn a_worker_that_is_not_built_stays_with_python() {
    let booted = Booted::of_our_user();
    booted.eventually("running", || booted.worker_is("RUNNING"));
    assert!(booted.set(&format!("{WORKER_SWITCH}=rust")).status.success());
    let shown = booted.shown();
    let owners = shown["owners"].as_array().unwrap();
    let line = owners.iter().find(|line| line["id"] == WORKER).unwrap();
    assert_eq!(line["owner"], "python", "{line}");
    assert_eq!(line["reason"], "unsupported_capability", "{line}");
    assert!(booted.worker_is("RUNNING"));
}

/// A clock that is wrong is worth a warning, and no more.
#[test]
fn a_document_from_the_future_is_used_with_a_warning() {
    let booted = Booted::of_our_user();
    let text = format!(
        "schema: 1\nversion: 1\nupdated_at: \"2999-01-01T00:00:00Z\"\n\
         switches:\n  {PULL}: rust\n...\n"
    );
    fs::write(booted.quay.conf("stack/migration-switches.yaml"), text).unwrap();
    booted.eventually("rust", || booted.owner() == "rust");
    let shown = booted.shown();
    assert!(shown["problems"][0].as_str().unwrap().contains("updated_in_future"), "{shown}");
    assert!(booted.watcher_log().contains("updated_in_future"));
}
