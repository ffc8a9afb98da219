//! `kill -9` at every step of a sync, and the worker that comes after.

use std::collections::{HashMap, HashSet};

use quay_sidecar::{mirroring, push};
use serde_json::{Value, json};

use super::wire::Wire;
use super::worker::{Worker, until_state};
use super::{Mirrored, SYNC_NOW};
use crate::support::images::{Blob, Manifest, OCI_LAYER, digest_of};
use crate::uploads::sound::assert_leftovers_are_found;

/// Those of a sync, and of the pushes that it consists of.
fn steps() -> impl Iterator<Item = &'static str> {
    let pushed = |step: &&str| !step.starts_with("patch") && !step.starts_with("cancel");
    let stored = |step: &&str| !step.starts_with("delete");
    mirroring::STEPS
        .into_iter()
        .chain(push::STEPS.into_iter().filter(pushed))
        .chain(push::MANIFEST_STEPS.into_iter().filter(stored))
}

/// Several batches, so that it can be cut in its middle; another one for each `seed`.
fn large(seed: u32) -> Blob {
    let noise = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 24) as u8;
    Blob::layer_of((0..3_000_000).map(noise).collect())
}

/// What the source has for one step: nothing of it was there for the step before.
struct Tags {
    latest: Manifest,
    multi: Manifest,
    own: (String, Manifest),
}

impl Tags {
    fn new(round: u32) -> Tags {
        let large = large(round);
        let image = |architecture: &str, text: &str| {
            let layer = Blob::layer(OCI_LAYER, &[("hello", &format!("{text} {round}"))]);
            Manifest::oci(architecture, vec![large.clone(), layer])
        };
        let children = vec![("amd64", image("amd64", "child")), ("arm64", image("arm64", "child"))];
        let own = (Tags::own(round), image("amd64", "own"));
        Tags { latest: image("amd64", "latest"), multi: Manifest::index(children), own }
    }

    /// The tag that no other step has.
    fn own(round: u32) -> String {
        format!("round-{round:02}")
    }

    fn all(&self) -> [(&str, &Manifest); 3] {
        let (name, own) = &self.own;
        [("latest", &self.latest), ("multi", &self.multi), (name, own)]
    }
}

/// After each of them every tag is whole, and a worker that starts afterwards ends the sync within
/// one lease, without fetching again what was committed.
#[test]
fn killed_at_every_step() {
    let mut mirrored = Mirrored::new(&["*"]);
    mirrored.world.configure("QUAY_SIDECAR", json!({"repo_mirror_lease_s": 2}));
    mirrored.world.configure("REPO_MIRROR_INTERVAL", json!(1));
    let wire = Wire::before(&mirrored);
    for (round, step) in (0..).zip(steps()) {
        let tags = Tags::new(round);
        for (tag, manifest) in tags.all() {
            mirrored.source.push(tag, manifest);
        }
        if round > 0 {
            mirrored.source.untag(&Tags::own(round - 1));
        } else {
            // For the deletion's step to come by in the first round, too.
            mirrored.source.push("old", &tags.latest);
            mirrored.sync();
            mirrored.source.untag("old");
        }
        let logged = mirrored.log().len();
        mirrored.sql(SYNC_NOW);
        Worker::dying_at(&mirrored, step).dead(step);
        assert_alive_is_whole(&mirrored, step);
        assert_leftovers_are_found(&mirrored.world);

        if !step.ends_with("committed") && !step.ends_with("claimed") {
            // As it is when the lease has ended: it takes its time, which two of them show.
            mirrored.sql(
                "UPDATE repomirrorconfig SET sync_expiration_date = '2026-01-01 00:00:00' \
                 WHERE sync_status = 2",
            );
        }
        let (here, asked) = (committed(&mirrored), wire.len());
        let worker = Worker::start(&mirrored);
        until_state(&mirrored, "1|3");
        worker.stop();
        assert!(mirrored.has(&tags.all()), "{step}: {:?}", mirrored.tags());
        assert_alive_is_whole(&mirrored, step);
        assert_leftovers_are_found(&mirrored.world);
        let fetched = wire.blobs(asked);
        let once: HashSet<&String> = fetched.iter().collect();
        assert_eq!(once.len(), fetched.len(), "{step}: {fetched:?}");
        let again: Vec<_> = once.into_iter().filter(|digest| here.contains(*digest)).collect();
        assert!(again.is_empty(), "{step}: fetched although they were here: {again:?}");
        assert_log(&mirrored.log()[logged..], step, &tags);
    }
    // Nothing of all that is in the way of anything.
    let report = mirrored.sync();
    assert_eq!((&report["unchanged"], &report["failed"]), (&json!(3), &json!({})), "{report}");
}

/// The log begins with a start, names every tag as done, and ends with a success.
fn assert_log(log: &[(String, Value)], step: &str, tags: &Tags) {
    let first = log.first().map(|(kind, _)| kind.as_str());
    assert_eq!(first, Some("repo_mirror_sync_started"), "{step}: {log:?}");
    let (kind, last) = log.last().unwrap();
    assert_eq!(kind, "repo_mirror_sync_success", "{step}");
    let names: Vec<&str> = tags.all().iter().map(|(name, _)| *name).collect();
    assert_eq!(last["tags"], names.join(", "), "{step}");
    for name in names {
        let done = |(kind, row): &(String, Value)| {
            kind == "repo_mirror_sync_tag_success" && row["tag"] == name
        };
        assert!(log.iter().any(done), "{step}: {name}: {log:?}");
    }
    let failed = |(kind, _): &(String, Value)| kind.ends_with("failed");
    assert!(!log.iter().any(failed), "{step}: {log:?}");
}

/// Digests of the blobs that the repository has.
fn committed(mirrored: &Mirrored) -> HashSet<String> {
    let rows = mirrored.sql(&format!(
        "SELECT s.content_checksum FROM uploadedblob u JOIN imagestorage s ON s.id = u.blob_id \
         WHERE u.repository_id = {}",
        mirrored.repository_id
    ));
    rows.lines().map(str::to_owned).collect()
}

/// That all which an alive tag names is here: manifests with the bytes of their digests, children,
/// and blobs that the repository has and whose bytes are theirs.
fn assert_alive_is_whole(mirrored: &Mirrored, step: &str) {
    let (stored, mut seen) = (Stored::read(mirrored), HashSet::new());
    for (tag, digest) in mirrored.tags() {
        stored.assert_whole(mirrored, &digest, &format!("{step}: {tag}"), &mut seen);
    }
}

/// What the database has of the repository.
struct Stored {
    /// Bytes by digest.
    manifests: HashMap<String, String>,
    /// Digests of a list and of what it lists, or of a manifest and of a blob that is in its place.
    named: HashSet<(String, String)>,
}

impl Stored {
    fn read(mirrored: &Mirrored) -> Stored {
        let id = mirrored.repository_id;
        let pairs = |sql: &str| -> Vec<(String, String)> {
            let rows = mirrored.sql(sql);
            let pair = |line: &str| line.split_once('|').map(|(a, b)| (a.to_owned(), b.to_owned()));
            rows.lines().map(|line| pair(line).expect("two columns")).collect()
        };
        let manifests = pairs(&format!(
            "SELECT digest, manifest_bytes FROM manifest WHERE repository_id = {id}"
        ));
        let named = pairs(&format!(
            "SELECT m.digest, c.digest FROM manifestchild l \
             JOIN manifest m ON m.id = l.manifest_id \
             JOIN manifest c ON c.id = l.child_manifest_id WHERE m.repository_id = {id} \
             UNION SELECT m.digest, s.content_checksum FROM manifestblob b \
             JOIN manifest m ON m.id = b.manifest_id JOIN imagestorage s ON s.id = b.blob_id \
             JOIN imagestorageplacement p ON p.storage_id = s.id WHERE m.repository_id = {id}"
        ));
        Stored { manifests: manifests.into_iter().collect(), named: named.into_iter().collect() }
    }

    fn assert_whole(
        &self,
        mirrored: &Mirrored,
        digest: &str,
        what: &str,
        seen: &mut HashSet<String>,
    ) {
        if !seen.insert(digest.to_owned()) {
            return;
        }
        let bytes = self.manifests.get(digest).unwrap_or_else(|| panic!("{what}: no {digest}"));
        assert_eq!(digest_of(bytes.as_bytes()), digest, "{what}");
        let manifest: Value = serde_json::from_str(bytes).unwrap();
        let list = |key: &str| manifest[key].as_array().cloned().unwrap_or_default();
        let name = |named: Value| {
            let named = named["digest"].as_str().unwrap().to_owned();
            let pair = (digest.to_owned(), named.clone());
            assert!(self.named.contains(&pair), "{what}: {digest} without {named}");
            named
        };
        for child in list("manifests") {
            self.assert_whole(mirrored, &name(child), what, seen);
        }
        for blob in list("layers").into_iter().chain(manifest.get("config").cloned()) {
            let blob = name(blob);
            if seen.insert(blob.clone()) {
                let stored = std::fs::read(mirrored.world.blob_path(&blob)).unwrap();
                assert_eq!(digest_of(&stored), blob, "{what}");
            }
        }
    }
}
