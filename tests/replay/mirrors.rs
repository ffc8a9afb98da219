//! A mirror in the recorded Quay's database, filled from a registry of this machine: the rows that
//! come are those that Python's worker leaves (contract §7), and what is pulled from it is what the
//! source has.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::installation::{Installation, run};
use crate::bundle::http::Client;
use crate::mirroring::source::Source;
use crate::support::images::{ACCEPT, Blob, DOCKER_LAYER, Manifest, OCI_LAYER};
use crate::support::registryd::program;

/// The mirror of the repository that was recorded without one, with its robot, and somebody who
/// wants to know.
const CONFIGURE: &str = "
    INSERT INTO repositorypermission (user_id, repository_id, role_id)
        SELECT u.id, r.id, w.id FROM \"user\" u, repository r, role w
        WHERE u.username = 'acme+ci' AND r.name = 'mirror' AND w.name = 'write';
    INSERT INTO repomirrorrule (uuid, repository_id, creation_date, rule_type, rule_value)
        SELECT 'rule', id, '2026-11-01 00:00:00', 1, '[\"v*\", \"multi\"]' FROM repository
        WHERE name = 'mirror';
    INSERT INTO repomirrorconfig (repository_id, creation_date, is_enabled, mirror_type,
            internal_robot_id, external_registry_config, sync_interval, sync_start_date,
            sync_retries_remaining, sync_status, sync_transaction_id, root_rule_id,
            external_reference, skopeo_timeout)
        SELECT l.repository_id, l.creation_date, true, 1, u.id,
            '{\"verify_tls\": false, \"unsigned_images\": true}', 3600, '2026-11-01 00:30:00', 2, -1,
            'before', l.id, '@SOURCE@', 300
        FROM repomirrorrule l, \"user\" u WHERE u.username = 'acme+ci';
    INSERT INTO repositorynotification (uuid, repository_id, event_id, method_id, config_json,
            event_config_json, number_of_failures)
        SELECT 'notification', l.repository_id, e.id, m.id, '{}', '{}', 0
        FROM repomirrorrule l, externalnotificationevent e, externalnotificationmethod m
        WHERE e.name = 'repo_mirror_sync_success' AND m.name = 'webhook';";

/// Kind, performer, address and metadata of the log of the mirror, in order.
const LOG: &str = "
    SELECT k.name, coalesce(u.username, ''), coalesce(l.ip, ''), l.metadata_json FROM logentry3 l
    JOIN logentrykind k ON k.id = l.kind_id JOIN repository r ON r.id = l.repository_id
    LEFT JOIN \"user\" u ON u.id = l.performer_id WHERE r.name = 'mirror' ORDER BY l.id";

fn image(text: &str) -> Manifest {
    Manifest::oci("amd64", vec![Blob::layer(OCI_LAYER, &[("hello", text)])])
}

#[test]
fn a_mirror_is_filled_as_python_fills_it() {
    let Some(installation) = Installation::restore() else { return };
    let source = Source::start();
    let one = image("one");
    let two = Manifest::docker("amd64", vec![Blob::layer(DOCKER_LAYER, &[("hello", "two")])]);
    let multi = Manifest::index(vec![("amd64", image("amd64")), ("arm64", image("arm64"))]);
    let images = [("multi", &multi), ("v1", &one), ("v2", &two)];
    images.iter().for_each(|(tag, image)| source.push(tag, image));
    source.push("other", &image("other"));
    let reference = source.reference();
    installation.database.sql(&CONFIGURE.replace("@SOURCE@", &reference));
    let before = installation.rows("SELECT coalesce(max(id), 0) FROM queueitem");

    let report = sync(&installation);
    assert_eq!((&report["copied"], &report["failed"]), (&json!(3), &json!({})), "{report}");
    assert_log(&installation, &reference);
    assert_notified(&installation, &before[0][0], &reference);
    // Free, with its retries, and due at the next of the moments that its start makes.
    let left = installation.rows(
        "SELECT sync_status, sync_retries_remaining, coalesce(sync_expiration_date, now()) > now(), \
         sync_start_date > now(), sync_transaction_id <> 'before', \
         substr(sync_start_date || '', 15, 5) FROM repomirrorconfig",
    );
    let truth = |text: &str| ["t", "1"].contains(&text);
    assert_eq!((&*left[0][0], &*left[0][1]), ("1", "3"));
    assert!(!truth(&left[0][2]) && truth(&left[0][3]) && truth(&left[0][4]), "{left:?}");
    // Each hour at half past.
    assert_eq!(left[0][5], "30:00", "{left:?}");

    pulled_back(&installation, &images);
    let report = sync(&installation);
    assert_eq!(report["unchanged"], 3, "{report}");
}

fn sync(installation: &Installation) -> Value {
    let allowed = json!({"SSRF_ALLOWED_HOSTS": ["127.0.0.0/8"]}).to_string();
    let printed = run(Command::new(program())
        .args(["mirror", "sync", "acme/mirror", "--json", "--config"])
        .arg(installation.conf())
        .env("QUAY_OVERRIDE_CONFIG", allowed));
    serde_json::from_slice(&printed).unwrap()
}

/// Python's rows, in its order. What differs: skopeo's words in `stdout` and `stderr` are ours; tags
/// are copied several at once, so that their rows may stand in another order; and the pushes of
/// skopeo come from an address and with its name, ours from none and with our name.
fn assert_log(installation: &Installation, reference: &str) {
    let about = format!("'{reference}' with tag pattern 'v*,multi'");
    let log = installation.rows(LOG);
    let kinds: Vec<&str> = log.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(kinds.first(), Some(&"repo_mirror_sync_started"), "{kinds:?}");
    assert_eq!(kinds.last(), Some(&"repo_mirror_sync_success"), "{kinds:?}");
    let count = |kind: &str| kinds.iter().filter(|found| **found == kind).count();
    assert_eq!((count("push_repo"), count("repo_mirror_sync_tag_success")), (3, 3), "{kinds:?}");
    assert_eq!(kinds.len(), 8, "{kinds:?}");
    for row in &log {
        // The columns' separator does not occur in the metadata.
        let [kind, performer, ip, metadata] = &row[..] else { panic!("{row:?}") };
        let metadata: Value = serde_json::from_str(metadata).unwrap();
        assert_eq!(ip, "", "{row:?}");
        if kind == "push_repo" {
            assert_eq!(performer, "acme+ci");
            continue;
        }
        assert_eq!(performer, "", "{row:?}");
        let mut expected = json!({
            "verb": "start", "namespace": "acme", "repo": "mirror", "message": about, "tag": null,
            "tags": null, "stdout": null, "stderr": null,
        });
        match kind.as_str() {
            "repo_mirror_sync_success" => {
                expected["verb"] = "end".into();
                expected["tags"] = "multi, v1, v2".into();
            }
            "repo_mirror_sync_tag_success" => {
                let tag = metadata["tag"].as_str().unwrap();
                expected["verb"] = "finish".into();
                let message = format!("Source 'docker://{reference}:{tag}' successful sync");
                expected["message"] = message.into();
                expected["tag"] = tag.into();
                expected["stdout"] = metadata["stdout"].clone();
                expected["stderr"] = "".into();
                assert!(metadata["stdout"].as_str().unwrap().starts_with("copied, sha256:"));
            }
            _ => {}
        }
        assert_eq!(metadata, expected, "{kind}");
        // Keys in Python's order, too.
        let keys = r#"{"verb": "#;
        assert!(row[3].starts_with(keys), "{row:?}");
    }
}

/// One item for whoever asked for successes, and what pushes bring.
fn assert_notified(installation: &Installation, before: &str, reference: &str) {
    let items = installation.rows(&format!(
        "SELECT queue_name, body FROM queueitem WHERE id > {before} \
         AND queue_name LIKE '%repo_mirror%'"
    ));
    assert_eq!(items.len(), 1, "{items:?}");
    // The body is JSON, in which the columns' separator does not occur.
    let (queue, body) = (&items[0][0], &items[0][1]);
    assert_eq!(queue, "notification/acme/mirror/repo_mirror_sync_success/");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["notification_uuid"], "notification");
    let event = &body["event_data"];
    assert_eq!((&event["repository"], &event["name"]), (&json!("acme/mirror"), &json!("mirror")));
    assert_eq!(event["message"], format!("'{reference}' with tag pattern 'v*,multi'"));
    assert_eq!(body["performer_data"], json!({}));
}

/// Byte for byte what the source has, by a client with a token.
fn pulled_back(installation: &Installation, images: &[(&str, &Manifest)]) {
    let registryd = installation.reachable_registryd();
    let address = registryd.base().strip_prefix("http://").expect("an address");
    let mut client = Client::new(address.rsplit_once(':').unwrap().1.parse().unwrap());
    let login = format!("acme+ci:{}", installation.secret("acme+ci"));
    let basic = format!("Basic {}", STANDARD.encode(login));
    let path = format!("/v2/auth?service={address}&scope=repository:acme/mirror:pull");
    let answer = client.send("GET", &path, &[("Authorization", &basic)], None).unwrap();
    let token: Value = serde_json::from_slice(&answer.body).unwrap();
    let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
    let mut pull = |path: String| {
        let headers = [("Authorization", bearer.as_str()), ("Accept", ACCEPT)];
        let answer =
            client.send("GET", &format!("/v2/acme/mirror/{path}"), &headers, None).unwrap();
        assert_eq!(answer.status, 200, "{path}");
        answer.body
    };
    for (tag, image) in images {
        assert_eq!(pull(format!("manifests/{tag}")), image.bytes, "{tag}");
        for child in &image.children {
            assert_eq!(pull(format!("manifests/{}", child.digest)), child.bytes);
        }
        for blob in image.blobs.iter().chain(image.children.iter().flat_map(|c| &c.blobs)) {
            assert_eq!(pull(format!("blobs/{}", blob.digest)), blob.bytes);
        }
    }
}
