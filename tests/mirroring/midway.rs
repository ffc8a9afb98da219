//! What somebody does to a mirror while it is filled.

use std::time::{Duration, Instant};

use super::wire::Wire;
use super::worker::{Worker, until_state};
use super::{Mirrored, SYNC_NOW};
use crate::support::eventually;
use crate::support::fault_proxy::Fault;
use crate::support::images::{Blob, Manifest, OCI_LAYER};

fn image(text: &str) -> Manifest {
    Manifest::oci("amd64", vec![Blob::layer(OCI_LAYER, &[("hello", text)])])
}

/// A mirror whose worker waits for the source in the middle of a sync.
struct Midway {
    mirrored: Mirrored,
    wire: Wire,
    _worker: Worker,
    /// Where the log was before.
    logged: usize,
}

const ROW: &str = "SELECT sync_status, sync_transaction_id, sync_retries_remaining, \
    sync_expiration_date, sync_start_date FROM repomirrorconfig";

impl Midway {
    fn new() -> Midway {
        let mut mirrored = Mirrored::new(&["*"]);
        mirrored.world.configure("REPO_MIRROR_INTERVAL", 1.into());
        // Not by itself.
        mirrored.sql("UPDATE repomirrorconfig SET sync_start_date = '2126-01-01 00:00:00'");
        let wire = Wire::before(&mirrored);
        let _worker = Worker::start(&mirrored);
        Midway { mirrored, wire, _worker, logged: 0 }
    }

    /// Begins a sync of tag `done`, which ends, and of tag `held`, of which `mark` waits: another
    /// image each time.
    fn begin(&mut self, round: &str, mark: impl Fn(&Manifest) -> String) -> [Manifest; 2] {
        let images = [image(&format!("done {round}")), image(&format!("held {round}"))];
        for (tag, image) in ["done", "held"].iter().zip(&images) {
            self.mirrored.source.push(tag, image);
        }
        self.logged = self.mirrored.log().len();
        let mark = mark(&images[1]);
        let seen = self.wire.seen(&mark);
        self.wire.fail(&mark, 1, Fault::Hold);
        self.mirrored.sql(SYNC_NOW);
        let is_held = || self.wire.seen(&mark) > seen;
        let is_done = || self.new_kinds().contains(&"repo_mirror_sync_tag_success".to_owned());
        let midway = || (is_held() && is_done()).then_some(());
        eventually(midway, || format!("{round}: {:?}", self.mirrored.log()));
        images
    }

    fn new_kinds(&self) -> Vec<String> {
        self.mirrored.kinds().split_off(self.logged)
    }

    fn wait_for(&self, kind: &str) {
        let is_there = || self.new_kinds().iter().any(|found| found == kind).then_some(());
        eventually(is_there, || format!("{kind}: {:?}", self.mirrored.log()));
    }

    fn held(&self) -> String {
        let tags = self.mirrored.tags();
        tags.into_iter()
            .find(|(name, _)| name == "held")
            .map(|(_, digest)| digest)
            .unwrap_or_default()
    }

    fn row(&self) -> String {
        self.mirrored.sql(ROW).trim().to_owned()
    }
}

fn head(_: &Manifest) -> String {
    "HEAD /v2/team/app/manifests/held ".to_owned()
}

fn layer(image: &Manifest) -> String {
    format!("/blobs/{} ", image.layers()[0].digest)
}

/// Ends within seconds, whatever it waits for; the row stays as Quay's API has written it.
#[test]
fn cancelled() {
    let mut midway = Midway::new();
    for (round, mark) in [("in a head", head as fn(&Manifest) -> String), ("in a layer", layer)] {
        midway.begin(round, mark);
        let before = midway.held();
        // As Quay's API does it (contract §7.2).
        midway.mirrored.sql(
            "UPDATE repomirrorconfig SET sync_status = -2, sync_expiration_date = NULL, \
             sync_retries_remaining = 0, sync_transaction_id = 'cancel'",
        );
        let (row, asked) = (midway.row(), Instant::now());
        midway.wait_for("repo_mirror_sync_failed");
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        let log = midway.mirrored.log();
        assert_eq!(log.last().unwrap().1["verb"], "Cancelled", "{log:?}");
        let tags = log[midway.logged..].iter().filter(|(kind, _)| kind.contains("sync_tag"));
        assert_eq!(tags.count(), 1, "the tag that was not done has no line: {log:?}");
        assert_eq!(midway.row(), row);
        assert_eq!(midway.held(), before);
        assert_eq!(midway.mirrored.sql("SELECT count(*) FROM blobupload").trim(), "0");
        midway.wire.release();
    }
    // While the tags are listed there is nothing yet to name.
    midway.wire.fail("tags/list", 1, Fault::Hold);
    let (listed, logged) = (midway.wire.seen("tags/list"), midway.mirrored.log().len());
    midway.mirrored.sql(SYNC_NOW);
    let is_held = || (midway.wire.seen("tags/list") > listed).then_some(());
    eventually(is_held, || "the tags are not listed".to_owned());
    midway.mirrored.sql(
        "UPDATE repomirrorconfig SET sync_status = -2, sync_expiration_date = NULL, \
         sync_retries_remaining = 0, sync_transaction_id = 'cancel'",
    );
    midway.logged = logged;
    midway.wait_for("repo_mirror_sync_failed");
    assert_eq!(midway.mirrored.log().last().unwrap().1["verb"], "Cancelled");
    midway.wire.release();

    // Nobody does anything to it before somebody asks; then it is done.
    midway.mirrored.sql(SYNC_NOW);
    until_state(&midway.mirrored, "1|3");
    assert_eq!(midway.held(), image("held in a layer").digest);
}

/// A robot that is disabled writes nothing more; the tags that it has written stay.
#[test]
fn its_robot_is_disabled_or_another() {
    let mut midway = Midway::new();
    let robot = midway.mirrored.robot.id;
    let [done, _] = midway.begin("disabled", head);
    midway.mirrored.sql(&format!("UPDATE \"user\" SET enabled = false WHERE id = {robot}"));
    midway.wire.release();
    midway.wait_for("repo_mirror_sync_failed");
    assert!(midway.mirrored.has(&[("done", &done)]), "{:?}", midway.mirrored.tags());
    let failed = &midway.mirrored.log().pop().unwrap().1;
    assert_eq!(failed["tags"], "done, held(FAILED)");
    assert!(failed["stderr"].as_str().unwrap().contains("is disabled"), "{failed}");
    until_state(&midway.mirrored, "-1|2");
    midway.mirrored.sql(&format!("UPDATE \"user\" SET enabled = true WHERE id = {robot}"));

    // Another robot: the sync begins anew in its name.
    midway.begin("robot", head);
    let other = midway.mirrored.sql(
        "INSERT INTO \"user\" (uuid, username, email, verified, organization, robot, enabled, \
             invoice_email, invalid_login_attempts, last_invalid_login, removed_tag_expiration_s, \
             creation_date) \
         SELECT 'other', 'demo+other', 'other', verified, organization, robot, enabled, \
             invoice_email, invalid_login_attempts, last_invalid_login, removed_tag_expiration_s, \
             creation_date \
         FROM \"user\" WHERE username = 'demo+puller' RETURNING id",
    );
    let other = other.trim();
    midway.mirrored.sql(&format!(
        "INSERT INTO repositorypermission (user_id, repository_id, role_id) \
         SELECT {other}, {}, id FROM role WHERE name = 'write'",
        midway.mirrored.repository_id
    ));
    midway.mirrored.sql(&format!("UPDATE repomirrorconfig SET internal_robot_id = {other}"));
    midway.wait_for("repo_mirror_sync_success");
    midway.wire.release();
    assert_eq!(midway.held(), image("held robot").digest);
    let pushed = midway.mirrored.log().into_iter().rev().find(|(kind, _)| kind == "push_repo");
    assert_eq!(pushed.unwrap().1["username"], "demo+other");
    until_state(&midway.mirrored, "1|3");
}

/// A repository that is no mirror any more is its users', or nobody's: nothing is written to it, and
/// its row does not say for ever that somebody is at it.
#[test]
fn its_repository_is_no_mirror_any_more() {
    let mut midway = Midway::new();
    let state = |midway: &Midway, state: i32| {
        let id = midway.mirrored.repository_id;
        midway.mirrored.sql(&format!("UPDATE repository SET state = {state} WHERE id = {id}"));
    };
    // What the source has no longer would be deleted in the end.
    midway.mirrored.source.push("old", &image("old"));
    midway.mirrored.sql(SYNC_NOW);
    until_state(&midway.mirrored, "1|3");
    midway.mirrored.source.untag("old");
    for (round, other) in [("normal", 0), ("deleted", 3)] {
        let [done, _] = midway.begin(round, head);
        let before = midway.held();
        state(&midway, other);
        let is_free = || midway.row().starts_with("3|").then_some(());
        eventually(is_free, || format!("{round}: {}", midway.row()));
        midway.wire.release();
        assert_eq!(midway.held(), before, "{round}");
        let tags = midway.mirrored.tags();
        assert!(tags.contains(&("done".to_owned(), done.digest.clone())), "{round}: {tags:?}");
        assert!(tags.iter().any(|(name, _)| name == "old"), "{round}: {tags:?}");
        state(&midway, 2);
        midway.wait_for("repo_mirror_sync_success");
        until_state(&midway.mirrored, "1|3");
        assert_eq!(midway.held(), image(&format!("held {round}")).digest);
        // For the next round.
        midway.mirrored.source.push("old", &image("old"));
        midway.mirrored.sql(SYNC_NOW);
        eventually(
            || midway.mirrored.tags().iter().any(|(name, _)| name == "old").then_some(()),
            || format!("{:?}", midway.mirrored.tags()),
        );
        until_state(&midway.mirrored, "1|3");
        midway.mirrored.source.untag("old");
    }
}

/// The last layer of an image may come hours after the first, which nothing names until then.
#[test]
fn layers_are_kept_until_the_last_one_is_there() {
    let mut mirrored = Mirrored::new(&["*"]);
    mirrored.world.configure("PUSH_TEMP_TAG_EXPIRATION_SEC", 3.into());
    mirrored.world.configure("REPO_MIRROR_INTERVAL", 1.into());
    let layers = ["first", "last"].map(|text| Blob::layer(OCI_LAYER, &[("hello", text)]));
    let image = Manifest::oci("amd64", layers.to_vec());
    mirrored.source.push("large", &image);
    let [first, last] = layers.map(|layer| layer.digest);
    let wire = Wire::before(&mirrored);
    wire.fail(&format!("/blobs/{last} "), 1, Fault::Hold);
    let _worker = Worker::start(&mirrored);
    let kept = format!(
        "SELECT count(*) FROM uploadedblob u JOIN imagestorage s ON s.id = u.blob_id \
         WHERE s.content_checksum = '{first}'"
    );
    let again = || (mirrored.sql(&kept).trim().parse::<u32>().unwrap() > 2).then_some(());
    eventually(again, || format!("{:?}", mirrored.log()));
    wire.release();
    until_state(&mirrored, "1|3");
    assert!(mirrored.tags().contains(&("large".to_owned(), image.digest.clone())));
}
