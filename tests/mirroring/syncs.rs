//! One sync at a time: what is asked for, what is here afterwards, and what is told.

use serde_json::json;

use super::Mirrored;
use crate::support::images::{Blob, Manifest, OCI_LAYER};

fn layer(text: &str) -> Blob {
    Blob::layer(OCI_LAYER, &[("hello", text)])
}

fn image(text: &str) -> Manifest {
    Manifest::oci("amd64", vec![layer("base"), layer(text)])
}

/// Every kind of image, and then nothing to do.
#[test]
fn a_mirror_is_filled_and_stays() {
    let mirrored = Mirrored::new(&["latest", "m*", "docker"]);
    let world = &mirrored.world;
    let (latest, multi, docker) =
        (&world.public.manifest, &world.index.manifest, &world.docker.manifest);
    mirrored.source.push("latest", latest);
    mirrored.source.push("multi", multi);
    mirrored.source.push("docker", docker);
    mirrored.source.push("other", &image("other"));

    let report = mirrored.sync();
    assert_eq!(report["failed"], json!({}), "{report}");
    assert_eq!((&report["tags"], &report["copied"]), (&json!(3), &json!(3)), "{report}");
    let expected = [("docker", docker), ("latest", latest), ("multi", multi)];
    let expected: Vec<(String, String)> =
        expected.iter().map(|(tag, manifest)| (tag.to_string(), manifest.digest.clone())).collect();
    assert_eq!(mirrored.tags(), expected);
    for manifest in [latest, multi, docker] {
        for blob in manifest.blobs.iter().chain(manifest.children.iter().flat_map(|c| &c.blobs)) {
            let bytes = std::fs::read(world.blob_path(&blob.digest)).unwrap();
            assert_eq!(bytes, blob.bytes, "{}", blob.digest);
        }
    }
    assert_eq!(mirrored.state(), "1|3");
    assert_eq!(mirrored.sql("SELECT count(*) FROM blobupload").trim(), "0");

    // Once more: a request for each tag, one for their names, and nothing else.
    let again = mirrored.sync();
    assert_eq!(again["unchanged"], 3, "{again}");
    let requests =
        json!({"tags": 1, "head": 3, "manifest": 0, "blob": 0, "token": 0, "referrers": 0});
    assert_eq!(again["requests"], requests, "{again}");
    let rows = "SELECT count(*) FROM tag t JOIN repository r ON r.id = t.repository_id \
                WHERE r.name = 'mirror' AND NOT t.hidden";
    assert_eq!(mirrored.sql(rows).trim(), "3");
}

/// What Python's worker writes, in its words and in its order.
#[test]
fn the_log_reads_like_quays() {
    let mirrored = Mirrored::new(&["v*"]);
    mirrored.source.push("v1", &image("one"));
    mirrored.sync();
    assert_eq!(
        mirrored.kinds(),
        [
            "repo_mirror_sync_started",
            "push_repo",
            "repo_mirror_sync_tag_success",
            "repo_mirror_sync_success"
        ]
    );
    let log = mirrored.log();
    let (reference, digest) = (mirrored.source.reference(), image("one").digest);
    let about = format!("'{reference}' with tag pattern 'v*'");
    assert_eq!(
        log[0].1,
        json!({"verb": "start", "namespace": "demo", "repo": "mirror", "message": about,
               "tag": null, "tags": null, "stdout": null, "stderr": null})
    );
    assert_eq!(log[1].1["tag"], "v1");
    assert_eq!(log[1].1["username"], mirrored.robot.username);
    assert_eq!(
        log[2].1,
        json!({"verb": "finish", "namespace": "demo", "repo": "mirror",
               "message": format!("Source 'docker://{reference}:v1' successful sync"), "tag": "v1",
               "tags": null, "stdout": format!("copied, {digest}"), "stderr": ""})
    );
    assert_eq!(
        log[3].1,
        json!({"verb": "end", "namespace": "demo", "repo": "mirror", "message": about, "tag": null,
               "tags": "v1", "stdout": null, "stderr": null})
    );
    let nobody = "SELECT count(*) FROM logentry3 l JOIN logentrykind k ON k.id = l.kind_id \
                  WHERE k.name LIKE 'repo_mirror%' AND l.performer_id IS NULL AND l.ip IS NULL";
    assert_eq!(mirrored.sql(nobody).trim(), "3");
}

/// Blobs are fetched once, however many tags share them.
#[test]
fn shared_layers_are_fetched_once() {
    let mirrored = Mirrored::new(&["*"]);
    let images: Vec<Manifest> = (0..12).map(|number| image(&format!("image {number}"))).collect();
    for (number, image) in images.iter().enumerate() {
        mirrored.source.push(&format!("v{number}"), image);
    }
    let report = mirrored.sync();
    assert_eq!(report["copied"], 12, "{report}");
    // One base, and for each image a layer of its own and a configuration.
    let mut digests: Vec<&str> =
        images.iter().flat_map(|image| &image.blobs).map(|blob| blob.digest.as_str()).collect();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(report["requests"]["blob"], digests.len(), "{report}");
}

/// What the source or the rule has no longer goes; what it cannot give costs nobody a tag.
#[test]
fn obsolete_tags_go_and_failures_cost_nothing() {
    let mirrored = Mirrored::new(&["*"]);
    for tag in ["a", "b", "c"] {
        mirrored.source.push(tag, &image(tag));
    }
    mirrored.sync();
    mirrored.source.untag("b");
    let broken = image("broken");
    mirrored.source.push("d", &broken);
    mirrored.source.push("e", &image("e"));
    mirrored.source.lose(&broken.layers()[1].digest);

    let report = mirrored.sync();
    assert_eq!(report["failed"].as_object().unwrap().keys().collect::<Vec<_>>(), ["d"], "{report}");
    let names =
        |mirrored: &Mirrored| mirrored.tags().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    // Not b either: a sync that fails deletes nothing.
    assert_eq!(names(&mirrored), ["a", "b", "c", "e"]);
    assert_eq!(mirrored.state(), "-1|2");
    let log = mirrored.log();
    let (kind, failed) = log.last().unwrap();
    assert_eq!(kind, "repo_mirror_sync_failed");
    assert_eq!(failed["verb"], "lost");
    assert!(failed["message"].as_str().unwrap().ends_with(": PARTIAL SYNC"), "{failed}");
    assert_eq!(failed["tags"], "a, c, d(FAILED), e");
    assert!(failed["stderr"].as_str().unwrap().starts_with("d: "), "{failed}");

    mirrored.source.untag("d");
    let report = mirrored.sync();
    assert_eq!(report["deleted"], 1, "{report}");
    assert_eq!(names(&mirrored), ["a", "c", "e"]);
    assert_eq!(mirrored.state(), "1|3");
}

/// With `REPO_MIRROR_ROLLBACK` a sync that fails leaves every tag where it was.
#[test]
fn a_rollback_undoes_everything() {
    let mut mirrored = Mirrored::new(&["*"]);
    mirrored.world.configure("REPO_MIRROR_ROLLBACK", json!(true));
    mirrored.source.push("a", &image("a"));
    mirrored.sync();
    let before = mirrored.tags();
    mirrored.source.push("a", &image("another a"));
    mirrored.source.push("b", &image("b"));
    let broken = image("broken");
    mirrored.source.push("c", &broken);
    mirrored.source.lose(&broken.layers()[1].digest);
    let report = mirrored.sync();
    assert_eq!(report["failed"].as_object().unwrap().len(), 1, "{report}");
    assert_eq!(mirrored.tags(), before);
    let reversions = "SELECT count(*) FROM tag WHERE reversion";
    assert_eq!(mirrored.sql(reversions).trim(), "1");
}

/// Nothing is changed, and what would be is said, with bytes.
#[test]
fn a_dry_run_changes_nothing() {
    let mirrored = Mirrored::new(&["*"]);
    mirrored.source.push("a", &image("a"));
    mirrored.sync();
    let before = (mirrored.tags(), mirrored.kinds());
    mirrored.source.untag("a");
    let image = image("b");
    mirrored.source.push("b", &image);
    let plan = mirrored.plan();
    assert_eq!(plan["delete"], json!(["a"]), "{plan}");
    assert_eq!(plan["copy"][0]["tag"], "b");
    // The base is here already.
    let missing = [image.config(), &image.layers()[1]];
    let bytes: usize = missing.iter().map(|blob| blob.bytes.len()).sum();
    assert_eq!(plan["bytes"], bytes, "{plan}");
    assert_eq!((mirrored.tags(), mirrored.kinds()), before);

    // What one tag lacks costs no other tag, and a tag that fails keeps all of them.
    mirrored.source.push("c", &self::image("c"));
    mirrored.source.lose(&self::image("c").digest);
    let plan = mirrored.plan();
    assert_eq!((&plan["copy"][0]["tag"], &plan["delete"]), (&json!("b"), &json!([])), "{plan}");
    assert!(plan["failed"]["c"].is_string(), "{plan}");
    let output = mirrored.quay(&["sync"], &["demo/mirror", "--dry-run"]);
    let said = super::text(&output.stdout);
    assert!(said.contains("cannot  c: "), "{said}");
    assert!(said.contains("1 to copy, 0 to delete, 0 unchanged, 1 cannot be copied"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}

/// A mirror whose robot may not write, or whose registry takes nothing, says so and does nothing.
#[test]
fn what_a_push_would_not_be_allowed() {
    let mut mirrored = Mirrored::new(&["*"]);
    mirrored.source.push("a", &image("a"));
    let denied = |mirrored: &Mirrored, words: &str| {
        let report = mirrored.sync();
        let error = report["error"].as_str().unwrap_or_else(|| panic!("{report}"));
        assert!(error.contains(words), "{error}");
        assert!(mirrored.tags().is_empty());
    };
    for (key, words) in
        [("DISABLE_PUSHES", "DISABLE_PUSHES"), ("ROBOTS_DISALLOW", "ROBOTS_DISALLOW")]
    {
        mirrored.world.configure(key, json!(true));
        denied(&mirrored, words);
        mirrored.world.configure(key, json!(null));
    }
    mirrored.sql(&format!("UPDATE \"user\" SET enabled = false WHERE id = {}", mirrored.robot.id));
    denied(&mirrored, "is disabled");
    mirrored.sql(&format!("UPDATE \"user\" SET enabled = true WHERE id = {}", mirrored.robot.id));
    mirrored.sql(&format!(
        "DELETE FROM repositorypermission WHERE user_id = {} AND repository_id = {}",
        mirrored.robot.id, mirrored.repository_id
    ));
    denied(&mirrored, "no write permission");
    mirrored.world.configure("SSRF_ALLOWED_HOSTS", json!(null));
    mirrored.sql(&format!(
        "INSERT INTO repositorypermission (user_id, repository_id, role_id) \
         SELECT {}, {}, id FROM role WHERE name = 'write'",
        mirrored.robot.id, mirrored.repository_id
    ));
    denied(&mirrored, "127.0.0.1");
    let log = mirrored.log();
    let (kind, last) = log.last().unwrap();
    assert_eq!(kind, "repo_mirror_sync_failed");
    assert_eq!(last["message"], "Source registry location is not allowed");
}
