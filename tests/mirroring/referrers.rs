//! Signatures, attestations and whatever else refers to an image, when they are wanted.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::Mirrored;
use super::wire::{Wire, blobs};
use crate::support::fault_proxy::FaultProxy;
use crate::support::images::{Blob, Manifest, OCI_LAYER};
use crate::support::{Pusher, World, http};

fn image(text: &str) -> Manifest {
    Manifest::oci("amd64", vec![Blob::layer(OCI_LAYER, &[("hello", text)])])
}

/// The tag under which cosign keeps what it has to say of a manifest.
fn cosign(manifest: &Manifest, suffix: &str) -> String {
    format!("{}.{suffix}", manifest.digest.replace(':', "-"))
}

const SIGNATURE: &str = "application/vnd.example.signature.v1";

/// What registryd lists, sorted by digest.
async fn listed(base: &str, repository: &str, token: &str, subject: &Manifest) -> Value {
    let url = format!("{base}/v2/{repository}/referrers/{}", subject.digest);
    let answer = http().get(url).bearer_auth(token).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let index: Value = answer.json().await.unwrap();
    let mut manifests = index["manifests"].as_array().unwrap().clone();
    manifests.sort_by_key(|entry| entry["digest"].to_string());
    manifests.into()
}

/// From a registry with the referrers API: they are listed here as they are there, byte for byte,
/// theirs too; the next syncs fetch and delete nothing.
#[tokio::test(flavor = "multi_thread")]
async fn by_the_api() {
    let mut mirrored = Mirrored::new(&["latest", "v1"]);
    mirrored.world.configure("QUAY_SIDECAR", json!({"repo_mirror_referrers": true}));
    let (origin, arguments) = World::reachable();
    let arguments = arguments.each_ref().map(String::as_str);
    let source = origin.registryd_with(&arguments);
    let (subject, signature) = (&origin.public.manifest, &origin.referrer.manifest);
    let pusher = Pusher::of(&source, &origin, &origin.ada, "demo/public");
    // A bill of materials that is an image, and a signature of the signature: in the API, and as
    // cosign keeps it.
    let bill = Manifest::referrer("application/vnd.example.sbom.v1", subject);
    let countersigned = Manifest::referrer(SIGNATURE, signature);
    let signed = image("a signature of the signature");
    for manifest in [&bill, &countersigned] {
        pusher.prepare(manifest).await;
        assert_eq!(pusher.put(&manifest.digest, manifest).await.status(), StatusCode::CREATED);
    }
    pusher.push(&cosign(signature, "sig"), &signed).await;
    pusher.push(&cosign(subject, "att"), &image("an attestation")).await;
    // Of an image that the rule does not mean.
    pusher.push(&cosign(&origin.docker.manifest, "sig"), &image("of another image")).await;

    let port = origin.hostname.rsplit_once(':').unwrap().1.parse().unwrap();
    let wire = FaultProxy::to(port).await;
    mirrored.follow(&format!("127.0.0.1:{}/demo/public", wire.port));
    let plan = tokio::task::block_in_place(|| mirrored.plan());
    let report = tokio::task::block_in_place(|| mirrored.sync());
    assert_eq!((&report["copied"], &report["failed"]), (&json!(2), &json!({})), "{report}");
    let names = |mirrored: &Mirrored| {
        let names = mirrored.tags().into_iter().map(|(name, _)| name);
        names.collect::<Vec<_>>()
    };
    let mut expected = vec![cosign(signature, "sig"), cosign(subject, "att")];
    expected.extend(["latest".to_owned(), "v1".to_owned()]);
    expected.sort();
    assert_eq!(names(&mirrored), expected);
    let planned = |plan: &Value| {
        let copy = plan["copy"].as_array().unwrap().iter();
        let mut names: Vec<String> =
            copy.map(|tag| tag["tag"].as_str().unwrap().to_owned()).collect();
        names.sort();
        (names, plan["referrers"].as_u64(), plan["delete"].clone())
    };
    assert_eq!(planned(&plan), (expected.clone(), Some(3), json!([])), "{plan}");
    let plan = tokio::task::block_in_place(|| mirrored.plan());
    assert_eq!(planned(&plan), (vec![], Some(0), json!([])), "{plan}");
    assert_eq!((&plan["unchanged"], &plan["bytes"]), (&json!(2), &json!(0)), "{plan}");

    let target = mirrored.world.registryd();
    let here = Pusher::of(&target, &mirrored.world, &mirrored.world.ada, "demo/mirror");
    for manifest in [subject, signature, &bill, &countersigned, &signed] {
        let stored = here.manifest(&manifest.digest).await.unwrap();
        assert_eq!(stored, (manifest.media_type.to_owned(), manifest.bytes.clone()));
        for blob in &manifest.blobs {
            assert_eq!(here.pull(&blob.digest).await.unwrap(), blob.bytes);
        }
        let there = listed(source.base(), "demo/public", &pusher.token, manifest).await;
        assert_eq!(listed(target.base(), "demo/mirror", &here.token, manifest).await, there);
    }
    let of_subject = listed(target.base(), "demo/mirror", &here.token, subject).await;
    assert_eq!(of_subject.as_array().unwrap().len(), 2, "{of_subject}");

    // Twice: what came along in the first is in the way of the second.
    for _ in 0..2 {
        let from = wire.seen("");
        let report = tokio::task::block_in_place(|| mirrored.sync());
        assert_eq!((&report["unchanged"], &report["deleted"]), (&json!(2), &json!(0)), "{report}");
        assert_eq!(report["requests"]["manifest"], 0, "{report}");
        assert!(blobs(&wire, from).is_empty());
        assert_eq!(names(&mirrored), expected);
    }
    // Nothing of it expires: a manifest that has no tag is kept by what it refers to.
    let expiring = mirrored.sql(&format!(
        "SELECT count(*) FROM tag t JOIN manifest m ON m.id = t.manifest_id \
         WHERE t.repository_id = {} AND t.hidden AND t.lifetime_end_ms IS NOT NULL \
         AND m.digest IN ('{}', '{}', '{}')",
        mirrored.repository_id, signature.digest, bill.digest, countersigned.digest
    ));
    assert_eq!(expiring.trim(), "0");
    // Not wanted any more, tags go as the rule says.
    mirrored.world.configure("QUAY_SIDECAR", json!(null));
    let report = tokio::task::block_in_place(|| mirrored.sync());
    assert_eq!(report["deleted"], 2, "{report}");
    assert_eq!(names(&mirrored), ["latest", "v1"]);
}

/// From a registry that has no such API: by the tag that stands for it.
#[test]
fn by_the_fallback_tag() {
    let mut mirrored = Mirrored::new(&["v1"]);
    mirrored.world.configure("QUAY_SIDECAR", json!({"repo_mirror_referrers": true}));
    let subject = image("subject");
    let signature = Manifest::referrer(SIGNATURE, &subject);
    let list = Manifest::index(vec![("amd64", signature.clone())]);
    mirrored.source.push("v1", &subject);
    mirrored.source.push(&subject.digest.replace(':', "-"), &list);
    let wire = Wire::before(&mirrored);
    let report = mirrored.sync();
    assert_eq!((&report["copied"], &report["failed"]), (&json!(1), &json!({})), "{report}");
    let stored = mirrored.sql(&format!(
        "SELECT manifest_bytes, subject FROM manifest WHERE repository_id = {} AND digest = '{}'",
        mirrored.repository_id, signature.digest
    ));
    let bytes = String::from_utf8_lossy(&signature.bytes).into_owned();
    assert_eq!(stored.trim(), format!("{bytes}|{}", subject.digest));
    // The list is of the source's making: registryd lists by itself.
    assert!(mirrored.has(&[("v1", &subject)]), "{:?}", mirrored.tags());
    let from = wire.len();
    let report = mirrored.sync();
    assert_eq!((&report["unchanged"], &report["deleted"]), (&json!(1), &json!(0)), "{report}");
    assert!(wire.blobs(from).is_empty());
}
