//! The worker and organizations: what somebody asks for and cancels, two at once, and one that dies.

use serde_json::json;

use super::catalogue::Api;
use super::{Following, image};
use crate::mirroring::Mirrored;
use crate::mirroring::worker::{Worker, until_state};
use crate::support::eventually;

fn until(it: &Following, what: &str, is: impl Fn(&Following) -> bool) {
    eventually(
        || is(it).then_some(()),
        || format!("{what}: {}, {:?}, {:?}", it.state(), it.rows(), it.log()),
    );
}

/// It has asked what is due.
fn until_looked(it: &Following, worker: &Worker) {
    let looked = "db_statements_total{route=\"repomirror\"}";
    until(it, "looked", |_| worker.metrics().contains(looked));
}

/// Due, and without anybody asking: found, made, and filled. Without the feature nothing happens.
#[test]
fn an_organization_is_filled() {
    let mut it = Following::new(Api::Quay);
    it.shelve(&["app", "web"]);
    it.world.configure("FEATURE_ORG_MIRROR", json!(false));
    let worker = Worker::on(&it.world.conf);
    until_looked(&it, &worker);
    worker.stop();
    assert_eq!((it.state().as_str(), it.catalogue.seen("")), ("0|3", 0));

    it.world.configure("FEATURE_ORG_MIRROR", json!(true));
    let worker = Worker::on(&it.world.conf);
    until(&it, "filled", |it| it.rows() == ["app|1|3|-", "web|1|3|-"]);
    assert_eq!((it.state().as_str(), it.tags().len()), ("1|3", 2));
    let names = [
        "quay_org_mirror_discovery_total{status=\"success\"} 1",
        "quay_org_mirror_repos_discovered 2",
        "quay_org_mirror_repos_created_total 2",
        "quay_org_mirror_repo_sync_total{status=\"success\"} 2",
    ];
    let metrics = worker.metrics();
    for name in names {
        assert!(metrics.contains(name), "{name}: {metrics}");
    }
    worker.stop();
}

/// A cancel reaches a copy that is going on, within seconds, and the next sync goes on from there.
#[test]
fn a_cancel_ends_what_goes_on() {
    let it = Following::new(Api::Quay);
    it.shelve(&["app", "web"]);
    it.catalogue.hold("/blobs/");
    let worker = Worker::on(&it.world.conf);
    until(&it, "held", |it| {
        ["app/blobs/", "web/blobs/"].iter().all(|mark| it.catalogue.seen(mark) > 0)
    });
    it.cancel();
    until(&it, "cancelled", |it| it.rows() == ["app|-2|0|-", "web|-2|0|-"] && it.state() == "1|3");
    // The copies themselves have ended, and given back what they had.
    until(&it, "given back", |it| {
        let cancelled = it.kinds().into_iter().filter(|kind| kind == "org_mirror_sync_cancelled");
        cancelled.count() == 2
    });
    let log = it.log();
    let told = |(kind, by_robot, metadata): &(String, bool, serde_json::Value)| {
        kind == "org_mirror_sync_failed"
            && *by_robot
            && metadata["message"] == "Sync cancelled: 2 repos set to cancelled"
    };
    assert!(log.iter().any(told), "{log:?}");
    assert!(it.tags().is_empty());
    it.catalogue.release();
    it.sync_now();
    until(&it, "filled", |it| it.rows() == ["app|1|3|-", "web|1|3|-"]);
    assert_eq!(it.sql("SELECT count(*) FROM blobupload"), "0");
    worker.stop();
}

/// While its source is being listed, too: nothing is written of what was found.
#[test]
fn a_cancel_ends_a_discovery() {
    let it = Following::new(Api::Quay);
    it.shelve(&["app"]);
    it.catalogue.hold("/api/v1/repository");
    let worker = Worker::on(&it.world.conf);
    until(&it, "held", |it| it.catalogue.seen("/api/v1/repository") == 1);
    it.cancel();
    until(&it, "cancelled", |it| it.state() == "1|3");
    it.catalogue.release();
    worker.stop();
    assert!(it.rows().is_empty());
}

/// A worker that is told to stop gives back what it has; the next one goes on at once.
#[test]
fn a_stop_is_no_failure() {
    let it = Following::new(Api::Quay);
    it.shelve(&["app"]);
    it.catalogue.hold("/blobs/");
    let worker = Worker::on(&it.world.conf);
    until(&it, "held", |it| it.catalogue.seen("/blobs/") >= 1);
    worker.stop();
    assert_eq!((it.rows(), it.state().as_str()), (vec!["app|3|3|-".to_owned()], "1|3"));
    it.catalogue.release();
    let worker = Worker::on(&it.world.conf);
    until(&it, "filled", |it| it.rows() == ["app|1|3|-"]);
    worker.stop();
}

/// What a dead worker had, organization or repository, goes on when its lease has ended, with all of
/// its tries.
#[test]
fn a_dead_workers_organization_goes_on() {
    let it = Following::new(Api::Quay);
    it.shelve(&["app", "web"]);
    it.sql(
        "UPDATE orgmirrorconfig SET sync_status = 2, sync_transaction_id = 'dead', \
             sync_retries_remaining = 1, sync_expiration_date = '2026-01-01 00:00:00'",
    );
    it.sql(
        "INSERT INTO orgmirrorrepository (org_mirror_config_id, repository_name, discovery_date, \
             sync_status, sync_start_date, sync_expiration_date, sync_retries_remaining, \
             sync_transaction_id, creation_date) \
         SELECT id, 'app', '2026-01-01 00:00:00', 2, '2026-01-01 00:00:00', \
             '2026-01-01 00:00:00', 1, 'dead', '2026-01-01 00:00:00' FROM orgmirrorconfig",
    );
    let worker = Worker::on(&it.world.conf);
    until(&it, "filled", |it| it.rows() == ["app|1|3|-", "web|1|3|-"] && it.state() == "1|3");
    worker.stop();
}

/// Killed in the middle of a copy: another goes on within a lease, and nothing is left over.
#[test]
fn a_killed_workers_repository_goes_on() {
    let mut it = Following::new(Api::Quay);
    it.world.configure("QUAY_SIDECAR", json!({"repo_mirror_lease_s": 2}));
    it.shelve(&["app"]);
    it.catalogue.hold("/blobs/");
    let worker = Worker::on(&it.world.conf);
    until(&it, "held", |it| it.catalogue.seen("/blobs/") > 0);
    drop(worker);
    assert_eq!(it.rows(), ["app|2|3|-"]);
    it.catalogue.release();
    let worker = Worker::on(&it.world.conf);
    until(&it, "filled", |it| it.rows() == ["app|1|3|-"]);
    worker.stop();
    assert_eq!(it.tags().len(), 1);
}

/// Two of them: each repository is made and filled once.
#[test]
fn two_workers_share_an_organization() {
    let it = Following::new(Api::Quay);
    let names: Vec<String> = (0..8).map(|number| format!("app{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    it.shelve(&names);
    let workers = [Worker::on(&it.world.conf), Worker::on(&it.world.conf)];
    until(&it, "filled", |it| {
        let rows = it.rows();
        rows.len() == names.len() && rows.iter().all(|row| row.ends_with("|1|3|-"))
    });
    workers.into_iter().for_each(Worker::stop);
    let count = |kind: &str| it.kinds().into_iter().filter(|one| one == kind).count();
    assert_eq!(count("org_mirror_repo_created"), names.len());
    assert_eq!(count("push_repo"), names.len());
    // One look, and one for each repository.
    assert_eq!(count("org_mirror_sync_started"), names.len() + 1);
    assert_eq!(it.tags().len(), names.len());
}

/// Another worker's organization and repositories are left to it, and its organization that is
/// switched off to nobody.
#[test]
fn what_is_not_ours() {
    let it = Following::new(Api::Quay);
    it.shelve(&["app"]);
    it.sync();
    it.source.push_to("team/app", "v2", &image("v2"));
    it.sql(
        "UPDATE orgmirrorrepository SET sync_status = 2, sync_transaction_id = 'other', \
             sync_expiration_date = '2126-01-01 00:00:00'",
    );
    let report = it.sync();
    assert_eq!(
        (&report["scheduled"], &report["repositories"]),
        (&json!(0), &json!({})),
        "{report}"
    );
    assert_eq!(it.rows(), ["app|2|3|-"]);
    it.sql(
        "UPDATE orgmirrorconfig SET is_enabled = false, sync_status = 0, \
             sync_start_date = '2026-01-01 00:00:00'",
    );
    let asked = it.catalogue.seen("");
    let worker = Worker::on(&it.world.conf);
    until_looked(&it, &worker);
    worker.stop();
    assert_eq!(it.catalogue.seen(""), asked);
}

/// A Quay whose tables of organizations are not what we know: its other mirrors are filled.
#[test]
fn tables_that_are_others_are_nobody_elses_trouble() {
    let mut mirrored = Mirrored::new(&["*"]);
    mirrored.source.push("v1", &image("v1"));
    mirrored.sql("ALTER TABLE orgmirrorrepository RENAME COLUMN repository_name TO name");
    mirrored.world.configure("FEATURE_ORG_MIRROR", json!(true));
    let worker = Worker::start(&mirrored);
    until_state(&mirrored, "1|3");
    worker.stop();
}
