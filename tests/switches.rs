//! Owner switches from outside: documents and what they say. The rest is in the modules.

use std::collections::BTreeMap;
use std::time::Duration;

use quay_sidecar::switches::{
    Code, Declared, Effective, Hindrances, Naming, Owner, Poller, Reading, Resolver, Router, Stage,
    Standing, catalogue,
};

mod hostile;
mod nginx;
mod polls;
mod rules;

const S: fn(u64) -> Duration = Duration::from_secs;

/// Everything, so that only the switches decide.
fn everything() -> Declared {
    let all = catalogue();
    Declared {
        capabilities: all.routes.iter().map(|route| route.sub_capability.clone()).collect(),
        workers: all.workers.iter().map(|worker| worker.program.clone()).collect(),
    }
}

/// Every route and worker with its owner, and whether that is the cohort's only.
fn owners(effective: &Effective) -> BTreeMap<String, (Owner, bool)> {
    let (declared, hindered) = (everything(), Hindrances::default());
    let resolver = Resolver { switches: effective, declared: &declared, hindered: &hindered };
    let routes = catalogue().routes.iter().map(|route| {
        let decision = resolver.route(route);
        (route.tracker_id(), (decision.owner, decision.gated))
    });
    let workers = catalogue().workers.iter().map(|worker| {
        let decision = resolver.worker(worker);
        (worker.program.clone(), (decision.owner, decision.gated))
    });
    routes.chain(workers).collect()
}

fn has_rust(effective: &Effective) -> bool {
    owners(effective).values().any(|(owner, _)| *owner == Owner::Rust)
}

fn once(text: impl Into<Vec<u8>>) -> Poller {
    Poller::once(Stage::default(), &Reading::switches(text))
}

const FULL: &str = "\
# Who owns what.
schema: 1
version: 12
updated_at: \"2026-11-23T18:00:00Z\"
poll_seconds: 10
switches:
  ROUTE_OWNER_FAMILY_REGISTRY_V2: rust
  ROUTE_OWNER_CAP_V2_PUSH: python
  ROUTE_OWNER_CAP_V2_DELETE: {owner: rust, gated: false}
  ROUTE_OWNER_ROUTE_ROUTE_0336: python
  WORKER_OWNER_GCWORKER: rust
  WORKER_OWNER_BUILDER: off
  ROUTE_CANARY_ORGS:
    - mirror
    - openshift
  ROUTE_CANARY_REPOS: [acme/app, \"o/r\"]
  ROUTE_CANARY_PERCENT: 15
  ROUTE_CANARY_USERS: alice, mirror+ci
";

fn marked() -> String {
    format!("{FULL}...\n")
}

thread_local! {
    static ROUTER: Router = Router::new(Naming::default()).unwrap();
}

fn environment(variables: &[(&str, &str)]) -> Stage {
    Stage::read(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())))
}

#[test]
fn the_full_document_says_what_it_should() {
    let poller = once(marked());
    assert_eq!(poller.status().standing, Standing::Current, "{:?}", poller.status().problems);
    let owners = owners(&poller.effective());
    assert_eq!(owners["ROUTE-0327"], (Owner::Rust, true));
    assert_eq!(owners["ROUTE-0324"], (Owner::Python, false));
    assert_eq!(owners["ROUTE-0322"], (Owner::Rust, false));
    assert_eq!(owners["ROUTE-0336"], (Owner::Python, false));
    assert_eq!(owners["gcworker"], (Owner::Rust, false));
    assert_eq!(owners["builder"], (Owner::Off, false));
}

#[test]
fn every_problem_is_reported_with_its_line() {
    let text = "\
schema: 2
version: -1
version: 3
updated_at: yesterday
poll_seconds: 60
route_table: \"sha256:0\"
default: rust
families: {}
switches:
  ROUTE_OWNER_CAP_V2_PULL: RUST
  ROUTE_OWNER_CAP_V2_PULL: rust
  ROUTE_OWNER_CAP_V2_AUTH: off
  ROUTE_OWNER_CAP_V2_PUL: rust
  ROUTE_OWNER_FAMILY_X: rust
  ROUTE_OWNER_ROUTE_ROUTE_0999: rust
  ROUTE_OWNER_ROUTE_ROUTE_0336: rust
  ROUTE_OWNER_ROUTE_ROUTE_0324: rust
  ROUTE_OWNER_V2_GET_V2: rust
  WORKER_OWNER_NGINX: rust
  WORKER_OWNER_IP_RESOLVER_UPDATE_WORKER: rust
  WORKER_OWNER_NOBODY: rust
  ROUTE_OWNER_CAP_WEB_HEALTH: rust
  ROUTE_CANARY_ORGS: [\"$x\"]
  ROUTE_CANARY_PERCENT: 101
  MIGRATION_FORCE_PYTHON: perhaps
...
";
    let poller = once(text);
    let mut found: Vec<(u64, &str)> = poller
        .status()
        .problems
        .iter()
        .filter(|problem| problem.is_error())
        .map(|problem| {
            assert!(!problem.reason.is_empty() && !problem.remedy.is_empty());
            (problem.place.line, problem.code.as_str())
        })
        .collect();
    found.sort_unstable();
    let expected = [
        (1, "bad_schema"),
        (2, "bad_version"),
        (3, "duplicate_key"),
        (4, "bad_updated_at"),
        (5, "bad_poll"),
        (7, "unknown_owner"),
        (8, "unknown_key"),
        (10, "unknown_owner"),
        (11, "duplicate_key"),
        (12, "off_not_allowed"),
        (13, "unknown_capability"),
        (14, "unknown_family"),
        (15, "unknown_route"),
        (16, "route_table_mismatch"),
        (17, "split_push"),
        (18, "legacy_route_key"),
        (19, "not_switchable"),
        (20, "retired_program"),
        (21, "unknown_worker"),
        (22, "pinned_route"),
        (23, "bad_selector"),
        (24, "bad_percent"),
        (25, "bad_type"),
    ];
    assert_eq!(found, expected);
    let effective = poller.effective();
    assert!(effective.invalid && effective.force.is_some_and(|place| place.line == 25));
}

#[test]
fn warnings_do_not_reject() {
    let codes = |text: &str| {
        let poller = once(text);
        assert_eq!(poller.status().standing, Standing::Current);
        poller.status().problems.iter().map(|problem| problem.code.as_str()).collect::<Vec<_>>()
    };
    let head = "version: 1\nswitches:\n";
    assert_eq!(codes(head), ["no_end_mark"]);
    assert_eq!(
        codes(&format!("{head}  ROUTE_OWNER_CAP_V2_AUTH: go\n...\n")),
        ["go_means_rust", "auth_base_split"]
    );
    assert_eq!(
        codes(&format!("{head}  ROUTE_OWNER_CAP_V2_PULL: rust\n  ROUTE_CANARY_ORGS: []\n...\n")),
        ["empty_canary"]
    );
    assert_eq!(
        codes(&format!("{head}  ROUTE_OWNER_ROUTE_ROUTE_0391: rust\n...\n")),
        ["unreachable_route", "missing_route_table"]
    );
}

#[test]
fn the_switch_file_hides_the_section_but_not_its_kill() {
    let both = |config: &str| {
        let mut reading = Reading::config(config);
        reading.switches = Reading::switches(marked()).switches;
        Poller::once(Stage::default(), &reading)
    };
    let section =
        "A: 1\nMIGRATION_SWITCHES:\n  version: 3\n  switches:\n    ROUTE_OWNER_CAP_V2_PULL: rust\n";
    let poller = both(section);
    assert_eq!(poller.status().seen, Some(12));
    assert!(poller.status().problems.iter().any(|problem| problem.code == Code::BothPresent));
    assert_eq!(both("A: [").status().standing, Standing::Current);
    for kill in [
        "MIGRATION_FORCE_PYTHON: true\n",
        "MIGRATION_SWITCHES: {switches: {MIGRATION_FORCE_PYTHON: 1}}\n",
        "A: [\nMIGRATION_FORCE_PYTHON: true\n",
    ] {
        assert!(both(kill).effective().force.is_some(), "{kill}");
    }
    let alone = Poller::once(Stage::default(), &Reading::config(section));
    assert_eq!((alone.status().seen, alone.status().standing), (Some(3), Standing::Current));
    let twice = format!("{section}MIGRATION_SWITCHES: {{version: 4}}\n");
    let twice = Poller::once(Stage::default(), &Reading::config(twice));
    assert_eq!(twice.status().problems[0].code, Code::DuplicateKey);
}
