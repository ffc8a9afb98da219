//! Polls in sequence: grace, versions, the kill switch.

use quay_sidecar::switches::{Code, Event, Owner, Poller, Reading, Stage};

use super::{S, environment, has_rust, owners};

const V1: &str = "version: 1\nswitches:\n  ROUTE_OWNER_CAP_V2_PULL: rust\n...\n";
const V2: &str = "version: 2\nswitches:\n  ROUTE_OWNER_CAP_V2_PULL: python\n...\n";

fn is_rust(poller: &Poller) -> bool {
    owners(&poller.effective())["ROUTE-0327"].0 == Owner::Rust
}

#[test]
fn the_last_good_snapshot_holds_for_two_polls() {
    for damage in ["", "version: [", "version: 2\nswitches: {X: rust}\n...\n"] {
        let mut poller = Poller::new(Stage::default());
        assert!(matches!(poller.poll(S(0), &Reading::switches(V1)), Event::Accepted { .. }));
        poller.confirm(1);
        assert_eq!(poller.poll(S(10), &Reading::switches(damage)), Event::Held { until: S(28) });
        assert!(matches!(poller.poll(S(20), &Reading::switches(damage)), Event::Held { .. }));
        assert!(is_rust(&poller));
        assert_eq!(poller.wait(S(20)), S(8));
        assert_eq!(poller.poll(S(28), &Reading::switches(damage)), Event::FellBack);
        assert!(!is_rust(&poller) && poller.effective().invalid);
        assert_eq!(poller.poll(S(38), &Reading::switches(damage)), Event::Unchanged);
        assert_eq!(poller.poll(S(48), &Reading::switches(V1)), Event::Restored { version: 1 });
        assert!(is_rust(&poller));
        assert_eq!(poller.status().applied, Some(1));
    }
}

#[test]
fn a_file_that_goes_away_is_damage() {
    let gone = Reading::config("A: 1\n");
    let stage = || environment(&[("ROUTE_OWNER_CAP_V2_BASE", "rust")]);
    let mut poller = Poller::new(stage());
    assert_eq!(poller.poll(S(0), &gone), Event::Unchanged);
    assert!(has_rust(&poller.effective()), "the environment holds until there is a file");
    poller.poll(S(10), &Reading::switches(V2));
    assert!(has_rust(&poller.effective()), "and fills its gaps");
    assert!(matches!(poller.poll(S(20), &gone), Event::Held { .. }));
    assert_eq!(poller.poll(S(50), &gone), Event::FellBack);
    assert!(!has_rust(&poller.effective()), "but does not stand in for it");
    let mut poller = Poller::new(stage());
    assert_eq!(poller.poll(S(0), &Reading::switches("version: [")), Event::FellBack);
    assert!(!has_rust(&poller.effective()));
}

#[test]
fn versions_only_rise() {
    let mut poller = Poller::new(Stage::default());
    poller.poll(S(0), &Reading::switches(V2));
    let code = |poller: &Poller| poller.status().problems.last().map(|problem| problem.code);
    assert!(matches!(poller.poll(S(10), &Reading::switches(V1)), Event::Held { .. }));
    assert_eq!((code(&poller), poller.status().seen), (Some(Code::VersionRegression), Some(1)));
    let reused = V1.replace("version: 1", "version: 2");
    assert!(matches!(poller.poll(S(12), &Reading::switches(&*reused)), Event::Held { .. }));
    assert_eq!(code(&poller), Some(Code::VersionReuse));
    let problems = poller.status().problems;
    assert_eq!(problems.last().unwrap().remedy, "write version: 3");
    let relaid = format!("# the same\n{V2}");
    assert_eq!(poller.poll(S(14), &Reading::switches(relaid)), Event::Restored { version: 2 });
    let higher = V1.replace("version: 1", "version: 30");
    let event = poller.poll(S(20), &Reading::switches(higher));
    let Event::Accepted { from: Some(2), to: 30, changes } = event else { panic!("{event:?}") };
    assert_eq!(changes.len(), 1);
    assert_eq!(
        (changes[0].from.as_deref(), changes[0].to.as_deref()),
        (Some("python"), Some("rust"))
    );
    assert_eq!(changes[0].place.to_string(), "migration-switches.yaml:3");
}

#[test]
fn a_kill_is_obeyed_at_once_and_lifted_by_a_usable_document_only() {
    let mut poller = Poller::new(Stage::default());
    poller.poll(S(0), &Reading::switches(V1));
    for (now, kill) in [
        (
            10,
            "version: 1\nswitches:\n  ROUTE_OWNER_CAP_V2_PULL: rust\n  MIGRATION_FORCE_PYTHON: true\n",
        ),
        (11, "version: [\n  MIGRATION_FORCE_PYTHON: yes\n"),
        (12, "version: 0\nswitches: {X: y, MIGRATION_FORCE_PYTHON: what}\n"),
    ] {
        poller.poll(S(now), &Reading::switches(V1));
        assert!(is_rust(&poller), "lifted by the good one");
        poller.poll(S(now), &Reading::switches(kill));
        assert!(!is_rust(&poller) && poller.effective().force.is_some(), "{kill}");
        poller.poll(S(now), &Reading::switches("version: ["));
        assert!(!is_rust(&poller), "damage does not lift it");
    }
    let stage = environment(&[("MIGRATION_FORCE_PYTHON", "1")]);
    let file = V1.replace("switches:\n", "switches:\n  MIGRATION_FORCE_PYTHON: false\n");
    let mut poller = Poller::new(stage);
    poller.poll(S(0), &Reading::switches(file));
    assert!(!is_rust(&poller), "nobody cancels a kill from the other place");
}

#[test]
fn damage_is_over_within_thirty_seconds_at_every_interval() {
    for poll in [5_u64, 10, 15] {
        let good = format!("poll_seconds: {poll}\n{V1}");
        let mut poller = Poller::new(Stage::default());
        poller.poll(S(0), &Reading::switches(good));
        let mut now = S(0);
        let mut held = 0;
        while is_rust(&poller) {
            now += poller.wait(now);
            if let Event::Held { .. } = poller.poll(now, &Reading::switches("")) {
                held += 1;
            }
        }
        assert!(now < S(30) && held >= 1, "{now:?} {held}");
        assert!(held == 2 || poll == 15);
    }
}

#[test]
fn a_restarted_watcher_keeps_its_version() {
    let mut poller = Poller::new(Stage::default());
    assert!(poller.resume(S(0), &Reading::switches(V2)));
    assert!(matches!(poller.poll(S(1), &Reading::switches(V1)), Event::Held { .. }));
    assert_eq!(poller.poll(S(2), &Reading::switches(V2)), Event::Restored { version: 2 });
    assert_eq!(poller.status().applied, Some(2));
}
