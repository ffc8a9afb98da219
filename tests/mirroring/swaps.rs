//! Python's worker on the same tables, as far as the database can tell (contract §7.2): whoever
//! claims a mirror has it, and what the other writes later changes nothing.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use quay_sidecar::catalog::{Catalog, SyncStatus};
use quay_sidecar::config::{Config, ProcessEnvironment};
use quay_sidecar::oci::RepoName;
use quay_sidecar::telemetry::Metrics;

use super::wire::Wire;
use super::worker::{Worker, until_state};
use super::{Mirrored, SYNC_NOW};
use crate::support::fault_proxy::Fault;
use crate::support::images::{Blob, Manifest, OCI_LAYER};
use crate::support::{TableLock, eventually};

/// Python's claim for twelve hours, of a mirror that it has read with this transaction. Prints the
/// row's number where it has won.
fn claim(known: &str, mine: &str) -> String {
    let until = Utc::now().naive_utc() + TimeDelta::hours(12);
    format!(
        "UPDATE repomirrorconfig SET sync_status = 2, sync_transaction_id = '{mine}', \
         sync_expiration_date = '{}' \
         WHERE id = 1 AND sync_transaction_id = '{known}' RETURNING id",
        until.format("%Y-%m-%d %H:%M:%S%.6f")
    )
}

/// Python's release after a success.
fn release(mine: &str, next: &str) -> String {
    format!(
        "UPDATE repomirrorconfig SET sync_status = 1, sync_transaction_id = '{next}', \
         sync_start_date = '2126-01-01 00:00:00', sync_expiration_date = NULL, \
         sync_retries_remaining = 3 WHERE id = 1 AND sync_transaction_id = '{mine}' RETURNING id"
    )
}

/// What Python would claim of the first mirror.
const ELIGIBLE: &str = "SELECT c.id FROM repomirrorconfig c JOIN repository r \
    ON r.id = c.repository_id WHERE r.state = 2 AND c.id = 1 AND ( \
    (c.sync_status = 3 AND c.sync_expiration_date IS NULL) \
    OR (c.sync_start_date <= now() AND c.sync_retries_remaining > 0 AND c.is_enabled \
        AND ((c.sync_status <> 2 AND c.sync_expiration_date IS NULL) \
             OR (c.sync_status = 2 AND c.sync_expiration_date <= now()))))";

fn image(text: &str) -> Manifest {
    Manifest::oci("amd64", vec![Blob::layer(OCI_LAYER, &[("hello", text)])])
}

/// Two of ours and two of Python's, all with the same knowledge, in the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_claim_is_won_once() {
    let mirrored = Arc::new(Mirrored::new(&["*"]));
    let config = Config::load(&mirrored.world.conf, &ProcessEnvironment).unwrap().config;
    let catalog = Catalog::new(&config.database, &config.sidecar, 4, Arc::new(Metrics::default()));
    let catalog = catalog.unwrap();
    let name = RepoName { namespace: "demo".into(), repository: "mirror".into() };
    for round in 0..6 {
        let known = format!("round-{round}");
        mirrored.sql(&format!(
            "UPDATE repomirrorconfig SET sync_status = 3, sync_expiration_date = NULL, \
             sync_transaction_id = '{known}'"
        ));
        let mirror = catalog.session("test").mirror(&name).await.unwrap().unwrap();
        let lock = TableLock::take(&mirrored.world.database, "repomirrorconfig").await;
        let pythons = [0, 1].map(|number| {
            let (mirrored, known) = (mirrored.clone(), known.clone());
            let claim = claim(&known, &format!("python-{number}"));
            tokio::task::spawn_blocking(move || mirrored.sql(&claim).trim() == "1")
        });
        let ours = [0, 1].map(|_| {
            let (catalog, mirror) = (catalog.clone(), mirror.clone());
            let lease = config.sidecar.mirror_lease;
            tokio::spawn(async move {
                catalog.session("test").claim(&mirror.claimable(), lease).await.unwrap().is_some()
            })
        });
        lock.release().await;
        let mut won = 0;
        for one in pythons.into_iter().chain(ours) {
            won += usize::from(one.await.unwrap());
        }
        assert_eq!(won, 1, "{round}");
        let after = catalog.session("test").mirror(&name).await.unwrap().unwrap();
        assert_eq!(after.status, SyncStatus::Syncing);
        assert_ne!(after.transaction_id, mirror.transaction_id);
    }
}

#[test]
fn a_python_worker_beside_ours() {
    let mut mirrored = Mirrored::new(&["*"]);
    mirrored.world.configure("REPO_MIRROR_INTERVAL", 1.into());
    mirrored.source.push("a", &image("a"));
    let wire = Wire::before(&mirrored);
    let (robot, reference) = (mirrored.robot.username.clone(), wire.reference("team/app"));
    let won = |statement: &str| mirrored.sql(statement).trim() == "1";
    let row = || mirrored.sql("SELECT * FROM repomirrorconfig WHERE id = 1");
    let first = |tag: &str, digest: &str| {
        let id = mirrored.repository_id;
        let sql = format!(
            "SELECT count(*) FROM tag t JOIN manifest m ON m.id = t.manifest_id \
             WHERE t.repository_id = {id} AND t.name = '{tag}' AND m.digest = '{digest}' \
             AND t.lifetime_end_ms IS NULL"
        );
        mirrored.sql(&sql).trim() == "1"
    };

    // What it has claimed is its own, also where it is due and was asked for; ours does the others.
    assert!(won(&claim("old", "python")));
    let claimed = row();
    mirrored.another("demo", "second", &robot, &reference);
    let worker = Worker::start(&mirrored);
    let second = "SELECT sync_status FROM repomirrorconfig WHERE sync_transaction_id <> 'python'";
    let is_done = || (mirrored.sql(second).trim() == "1").then_some(());
    eventually(is_done, || format!("the second mirror: {}", mirrored.sql(second)));
    assert_eq!(row(), claimed);
    assert_eq!(mirrored.sql(ELIGIBLE), "", "nor is it claimed twice by Python");
    assert!(mirrored.tags().is_empty());
    assert!(won(&release("python", "released")));
    mirrored.sql("DELETE FROM repomirrorconfig WHERE id <> 1");

    // Its worker dies in the next one: ours goes on when the claim has ended, and what the dead one
    // writes after all changes nothing.
    assert!(won(&claim("released", "dead")));
    mirrored.sql("UPDATE repomirrorconfig SET sync_expiration_date = '2026-01-01 00:00:00'");
    until_state(&mirrored, "1|3");
    assert!(first("a", &image("a").digest), "{:?}", mirrored.tags());
    assert!(!won(&release("dead", "late")));

    // What ours has claimed Python does not see, and cannot claim by what it has seen before.
    mirrored.source.push("b", &image("b"));
    let held = "HEAD /v2/team/app/manifests/b ";
    wire.fail(held, 1, Fault::Hold);
    mirrored.sql(SYNC_NOW);
    let is_held = || (wire.seen(held) > 0).then_some(());
    eventually(is_held, || format!("{:?}", mirrored.log()));
    assert_eq!(mirrored.sql(ELIGIBLE), "");
    assert!(!won(&claim("sync-now", "late")));
    wire.release();
    until_state(&mirrored, "1|3");
    assert!(first("b", &image("b").digest));

    // It is left as Python leaves it: due at its next moment, free, and with another transaction.
    assert_eq!(mirrored.sql(ELIGIBLE), "");
    let free = "SELECT count(*) FROM repomirrorconfig WHERE sync_expiration_date IS NULL \
                AND sync_start_date > now() AND sync_transaction_id <> 'sync-now'";
    assert_eq!(mirrored.sql(free).trim(), "1");
    worker.stop();
}
