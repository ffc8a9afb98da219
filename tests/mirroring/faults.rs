//! A source that answers badly, and a way that breaks: what passes is waited for, what stays costs
//! its own tag and no other.

use std::collections::HashMap;

use serde_json::json;

use super::wire::Wire;
use super::{Mirrored, text};
use crate::support::World;
use crate::support::fault_proxy::Fault;
use crate::support::images::{Blob, Manifest, OCI_LAYER, digest_of};
use crate::support::keys::encrypt_field;

/// An image whose second layer is no other tag's.
fn image(tag: &str) -> Manifest {
    let own = tag.bytes().cycle().take(300_000).collect();
    Manifest::oci("amd64", vec![Blob::layer(OCI_LAYER, &[("base", "")]), Blob::layer_of(own)])
}

fn head(tag: &str) -> String {
    format!("HEAD /v2/team/app/manifests/{tag} ")
}

fn manifest(tag: &str) -> String {
    format!("GET /v2/team/app/manifests/{} ", image(tag).digest)
}

fn blob(tag: &str) -> String {
    format!("GET /v2/team/app/blobs/{} ", image(tag).layers()[1].digest)
}

#[test]
fn faults_that_pass() {
    let mirrored = Mirrored::new(&["*"]);
    let tags = ["a", "b", "c", "d", "e", "f"];
    tags.iter().for_each(|tag| mirrored.source.push(tag, &image(tag)));
    let wire = Wire::before(&mirrored);
    wire.fail("tags/list", 1, Fault::Reset);
    let pause = "Retry-After: 1\r\n";
    wire.fail(&head("a"), 1, Fault::Answer("429 Too Many Requests", pause, ""));
    wire.fail(&manifest("b"), 1, Fault::Reset);
    wire.fail(&blob("c"), 1, Fault::Cut(100_000));
    wire.fail(&blob("d"), 1, Fault::Answer("503 Service Unavailable", "", ""));
    wire.fail(&head("e"), 1, Fault::Without("docker-content-digest"));
    wire.fail(&manifest("f"), 1, Fault::Cut(50));
    let report = mirrored.sync();
    assert_eq!((&report["copied"], &report["failed"]), (&json!(6), &json!({})), "{report}");
    let mut times = HashMap::new();
    wire.blobs(0).into_iter().for_each(|digest| *times.entry(digest).or_insert(0) += 1);
    for tag in tags {
        let expected = if ["c", "d"].contains(&tag) { 2 } else { 1 };
        assert_eq!(times[&image(tag).layers()[1].digest], expected, "{tag}");
    }
    assert_eq!(times[&image("a").layers()[0].digest], 1, "the layer that all share");
    // Where it was cut it went on.
    assert_eq!(wire.seen("range: bytes="), 1);
    assert_eq!(mirrored.state(), "1|3");
}

#[test]
fn faults_that_stay() {
    let mirrored = Mirrored::new(&["*"]);
    // Seconds that anything may take.
    mirrored.sql("UPDATE repomirrorconfig SET skopeo_timeout = 3");
    let wire = Wire::before(&mirrored);
    let mut failing = HashMap::new();
    let mut fails = |tag: &'static str, mark: String, fault: Fault, why: &'static str| {
        wire.fail(&mark, usize::MAX, fault);
        failing.insert(tag, why);
    };
    fails("broken", head("broken"), Fault::Answer("500 Oops", "", ""), "500");
    fails("wrong-blob", blob("wrong-blob"), Fault::Flip, "the source sent another blob");
    let why = "its bytes are not those of sha256:";
    fails("wrong-manifest", manifest("wrong-manifest"), Fault::Flip, why);
    fails("cut", blob("cut"), Fault::Cut(100), "team/app");
    let hour = "Retry-After: 3600\r\n";
    fails("limited", head("limited"), Fault::Answer("429 Too Many", hour, ""), "429");
    fails("stalled", blob("stalled"), Fault::Stall(100_000), "not done within");
    fails("denied", head("denied"), Fault::Answer("403 Forbidden", "", ""), "403");
    let metadata = "Location: http://169.254.169.254/latest\r\n";
    let away = Fault::Answer("307 Temporary Redirect", metadata, "");
    fails("away", blob("away"), away, "SSRF_ALLOWED_HOSTS");
    failing.insert("lost", "404");
    for (tag, mark) in [("silent", blob("silent")), ("quiet", head("quiet"))] {
        wire.fail(&mark, 1, Fault::Answer("503 Out for lunch", "", ""));
        wire.fail(&mark, usize::MAX, Fault::Stall(0));
        failing.insert(tag, "all tries together; before that: ");
    }
    for tag in failing.keys().chain(&["good"]) {
        mirrored.source.push(tag, &image(tag));
    }
    mirrored.source.lose(&image("lost").layers()[1].digest);

    let report = mirrored.sync();
    let failed = report["failed"].as_object().unwrap_or_else(|| panic!("{report}"));
    assert_eq!(failed.len(), failing.len(), "{report}");
    for (tag, why) in &failing {
        assert!(failed[*tag].as_str().unwrap().contains(why), "{tag}: {report}");
    }
    assert!(mirrored.has(&[("good", &image("good"))]), "{:?}", mirrored.tags());
    assert_eq!(mirrored.state(), "-1|2");
    let log = mirrored.log();
    let failures = log.iter().filter(|(kind, _)| kind == "repo_mirror_sync_tag_failed");
    assert_eq!(failures.count(), failing.len());
    // Nothing of what is wrong was committed, and no upload is left half-way.
    let mut wrong = image("wrong-blob").layers()[1].bytes.to_vec();
    *wrong.last_mut().unwrap() ^= 1;
    for digest in [digest_of(&wrong), image("wrong-blob").layers()[1].digest.clone()] {
        let sql = format!("SELECT count(*) FROM imagestorage WHERE content_checksum = '{digest}'");
        assert_eq!(mirrored.sql(&sql).trim(), "0");
        assert!(!mirrored.world.blob_path(&digest).exists());
    }
    assert_eq!(mirrored.sql("SELECT count(*) FROM blobupload").trim(), "0");

    wire.heal();
    mirrored.source.push("lost", &image("lost"));
    let asked = wire.len();
    let report = mirrored.sync();
    assert_eq!((&report["failed"], &report["unchanged"]), (&json!({}), &json!(1)), "{report}");
    assert_eq!(mirrored.tags().len(), failing.len() + 1);
    let again = wire.blobs(asked);
    assert!(!again.contains(&image("good").layers()[1].digest), "{again:?}");
    assert_eq!(mirrored.state(), "1|3");
}

/// A layer that fails must not leave others of its image half-way.
#[test]
fn uploads_end_when_another_fails() {
    let mirrored = Mirrored::new(&["*"]);
    mirrored.sql("UPDATE repomirrorconfig SET skopeo_timeout = 3");
    mirrored.source.push("a", &image("a"));
    let wire = Wire::before(&mirrored);
    let lost = format!("/blobs/{}", image("a").layers()[0].digest);
    wire.fail(&lost, 1, Fault::Answer("404 Not Found", "", ""));
    wire.fail(&blob("a"), usize::MAX, Fault::Stall(200_000));
    let report = mirrored.sync();
    assert!(report["failed"]["a"].as_str().unwrap().contains("404"), "{report}");
    assert_eq!(mirrored.sql("SELECT count(*) FROM blobupload").trim(), "0");
}

/// Tokens that expire are renewed; a password is told to the source's own token service and to
/// nobody else, whatever an answer says, and is written down nowhere.
#[test]
fn credentials_stay_with_the_source() {
    let mirrored = Mirrored::new(&["latest"]);
    let (origin, arguments) = World::reachable();
    let arguments = arguments.each_ref().map(String::as_str);
    let _registryd = origin.registryd_with(&arguments);
    let port = origin.hostname.rsplit_once(':').unwrap().1.parse().unwrap();
    let wire = Wire::to("127.0.0.1", port);
    mirrored.follow(&wire.reference("demo/private"));
    let secret = mirrored.world.settings["DATABASE_SECRET_KEY"].as_str().unwrap();
    mirrored.sql(&format!(
        "UPDATE repomirrorconfig SET external_registry_username = '{}', \
         external_registry_password = '{}'",
        encrypt_field(secret, &origin.puller.username),
        encrypt_field(secret, &origin.puller.password),
    ));
    let challenge = |realm: &str| {
        let service = &origin.hostname;
        let asks = format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"{service}\"\r\n");
        Fault::Say("401 Unauthorized", asks, String::new())
    };

    // A token that is refused in mid-sync, and a layer that is elsewhere: docker-registry has it.
    let image = &origin.private.manifest;
    mirrored.source.push("same", image);
    let stranger = wire.beside("127.0.0.2", mirrored.source.0.port);
    let [first, second] = [0, 1].map(|layer| &image.layers()[layer].digest);
    wire.fail(
        &format!("/blobs/{first} "),
        1,
        challenge(&format!("http://{}/v2/auth", origin.hostname)),
    );
    let elsewhere = format!("http://127.0.0.2:{}/v2/team/app/blobs/{second}", stranger.port);
    let location = format!("Location: {elsewhere}\r\n");
    let moved = Fault::Say("307 Temporary Redirect", location, String::new());
    wire.fail(&format!("/blobs/{second} "), 1, moved);
    let report = mirrored.sync();
    assert_eq!((&report["copied"], &report["failed"]), (&json!(1), &json!({})), "{report}");
    assert_eq!(report["requests"]["token"], 2, "{report}");
    assert_eq!((stranger.seen(""), stranger.seen("authorization")), (1, 0));
    assert_eq!(wire.seen("authorization: Basic"), 0);

    // A token service that is another's.
    let evil = format!("http://127.0.0.2:{}/v2/auth", stranger.port);
    wire.fail("tags/list", 1, challenge(&evil));
    let output = mirrored.quay(&["sync"], &["demo/mirror", "--json"]);
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(said.contains(&evil), "{said}");
    assert_eq!(stranger.seen(""), 1);
    let log = format!("{:?}", mirrored.log());
    assert!(!said.contains(&origin.puller.password) && !log.contains(&origin.puller.password));
    assert!(log.contains("repo_mirror_sync_failed"), "{log}");
    assert_eq!(mirrored.state(), "-1|2");
}
