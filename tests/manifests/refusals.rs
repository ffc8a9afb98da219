//! What is no manifest, names what is not there, or comes from who may not push.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Pusher, REPO, StatusCode, World, image, pusher, refusal};
use crate::support::http;
use crate::support::images::{Manifest, OCI_INDEX, OCI_MANIFEST};

/// Status, code and detail.
pub async fn told(answer: reqwest::Response) -> (u16, String, Value) {
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap();
    let error = &body["errors"][0];
    (status, error["code"].as_str().unwrap_or_default().to_owned(), error["detail"].clone())
}

pub fn counts(world: &World) -> String {
    world.database.sql("SELECT (SELECT count(*) FROM manifest), (SELECT count(*) FROM tag)")
}

#[tokio::test]
async fn no_manifests() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let before = counts(&world);
    let layer =
        json!({"mediaType": "a/b", "digest": format!("sha256:{}", "0".repeat(64)), "size": 1});
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (body, begins) in [
        (String::new(), "failed to parse manifest: malformed manifest data: "),
        ("{".into(), "failed to parse manifest: malformed manifest data: "),
        (deep, "failed to parse manifest: malformed manifest data: "),
        ("[]".into(), "failed to parse manifest: manifest data does not match schema: "),
        (
            json!({"schemaVersion": 2, "layers": []}).to_string(),
            "failed to parse manifest: manifest data does not match schema: ",
        ),
        // Two readers would see two things (CVE-2021-41190).
        (
            json!({"schemaVersion": 2, "config": layer, "layers": [], "manifests": []}).to_string(),
            "failed to parse manifest: manifest data does not match schema: ",
        ),
        (
            format!(
                "{{\"schemaVersion\": 2, \"config\": {layer}, \"layers\": [], \"layers\": []}}"
            ),
            "failed to parse manifest: m",
        ),
        (json!({"schemaVersion": 2, "config": layer, "layers": []}).to_string(), "Unknown blob `"),
    ] {
        let shown = body.chars().take(80).collect::<String>();
        let (status, code, detail) = told(pusher.put_manifest("t", OCI_MANIFEST, body).await).await;
        assert_eq!((status, code.as_str()), (400, "MANIFEST_INVALID"), "{shown}");
        let message = detail["message"].as_str().unwrap_or_default();
        assert!(message.starts_with(begins), "{shown}: {message}");
        assert!(message.len() < 1000, "{shown}: {} bytes", message.len());
    }
    let latin1 = b"{\"schemaVersion\": 2, \"\xe9\": 1}".as_slice();
    assert_eq!(told(pusher.put_manifest("t", OCI_MANIFEST, latin1).await).await.0, 400);
    assert_eq!(counts(&world), before);
}

#[tokio::test]
async fn what_is_named_has_to_be_there() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let before = counts(&world);
    let image = image("absent");
    let (layer, config) = (&image.layers()[0].digest, &image.config().digest);
    // By digest Quay does not say what is wrong.
    let (status, code, detail) = told(pusher.put(&image.digest, &image).await).await;
    assert_eq!((status, code.as_str(), detail), (400, "MANIFEST_INVALID", json!({})));
    let (_, _, detail) = told(pusher.put("t", &image).await).await;
    assert_eq!(detail["message"], format!("Unknown blob `{layer}`"));
    pusher.blob(image.layers()[0].bytes.to_vec()).await;
    let (_, _, detail) = told(pusher.put("t", &image).await).await;
    assert_eq!(detail["message"], format!("Unknown blob `{config}`"));
    let index = Manifest::index(vec![("amd64", image.clone())]);
    let (_, _, detail) = told(pusher.put("t", &index).await).await;
    let missing = format!("Could not find child manifest with digest `{}`", image.digest);
    assert_eq!(detail["message"], missing);
    // A blob of another repository is none of this one.
    let elsewhere = &world.private.manifest;
    let (_, _, detail) = told(pusher.put("t", elsewhere).await).await;
    assert!(detail["message"].as_str().unwrap().starts_with("Unknown blob"), "{detail}");
    assert_eq!(counts(&world), before);
    // What an index says of its children is true.
    pusher.push("here", &image).await;
    let entry = |media_type: &str, size: usize| {
        let entry = json!({"mediaType": media_type, "digest": image.digest, "size": size});
        json!({"schemaVersion": 2, "manifests": [entry]}).to_string()
    };
    let size = image.bytes.len();
    for (body, ok) in [
        (entry(OCI_MANIFEST, size), true),
        (entry(OCI_MANIFEST, size + 1), false),
        (entry(OCI_INDEX, size), false),
    ] {
        let answer = pusher.put_manifest("lies", OCI_INDEX, body.clone()).await;
        assert_eq!(answer.status().as_u16(), if ok { 201 } else { 400 }, "{body}");
    }
}

#[tokio::test]
async fn an_index_may_lack_some_where_that_is_allowed() {
    let mut world = World::with_own_storage();
    world.configure("FEATURE_SPARSE_INDEX", json!(true));
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let (here, absent) = (image("here"), image("absent"));
    pusher.push("here", &here).await;
    let index = Manifest::index(vec![("amd64", here), ("arm64", absent)]);
    assert_eq!(pusher.put("idx", &index).await.status(), StatusCode::CREATED);
    assert_eq!(pusher.manifest("idx").await.unwrap().1, index.bytes);
}

#[tokio::test]
async fn types_and_references() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let image = image("types");
    pusher.prepare(&image).await;
    let body = || image.bytes.clone();
    for unknown in ["application/vnd.foo+json", &format!("{OCI_MANIFEST}; charset=utf-8")] {
        let (status, code, detail) = told(pusher.put_manifest("t", unknown, body()).await).await;
        assert_eq!((status, code.as_str()), (415, "MANIFEST_INVALID"), "{unknown}");
        assert_eq!(detail, json!({"message": "manifest schema version not supported"}));
    }
    // The type is judged before who asks.
    let url = registryd.url(&format!("/v2/{REPO}/manifests/t"));
    let anonymous = http().put(&url).header("Content-Type", "text/plain").send().await.unwrap();
    assert_eq!(anonymous.status(), 415);
    // Schema 1 is Python's.
    let (status, _, message) =
        refusal(pusher.put_manifest("t", "application/json", body()).await).await;
    assert_eq!(status, 405);
    assert!(message.contains("schema1"), "{message}");
    let other = format!("sha256:{}", "0".repeat(64));
    for (reference, code) in [
        (other.as_str(), "MANIFEST_INVALID"),
        ("sha512:00", "MANIFEST_INVALID"),
        ("sha256:garbage", "DIGEST_INVALID"),
    ] {
        let (status, found, _) = told(pusher.put(reference, &image).await).await;
        assert_eq!((status, found.as_str()), (400, code), "{reference}");
    }
    for none in ["-bad", &"a".repeat(129)] {
        assert_eq!(pusher.put(none, &image).await.status(), 404, "{none}");
        assert_eq!(pusher.delete(none).await.status(), 404, "{none}");
    }
}

#[tokio::test]
async fn namespaces_with_rules_of_their_own() {
    for (key, value, oci, docker) in [
        ("FEATURE_GENERAL_OCI_SUPPORT", json!(false), 415, 201),
        ("V22_NAMESPACE_BLACKLIST", json!(["demo"]), 415, 415),
        ("V22_NAMESPACE_BLACKLIST", json!(["other"]), 201, 201),
    ] {
        let mut world = World::with_own_storage();
        world.configure(key, value);
        let registryd = world.registryd();
        let pusher = pusher(&registryd, &world);
        for (manifest, expected) in
            [(&world.public.manifest, oci), (&world.docker.manifest, docker)]
        {
            pusher.prepare(manifest).await;
            let status = pusher.put("t", manifest).await.status().as_u16();
            assert_eq!(status, expected, "{key}: {}", manifest.media_type);
        }
    }
}

#[tokio::test]
async fn larger_than_allowed() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let image = image("large");
    pusher.prepare(&image).await;
    let padded = |length: usize| {
        let mut body = image.bytes.to_vec();
        body.resize(length, b' ');
        body
    };
    let most = 4 << 20;
    let answer = pusher.put_manifest("just", OCI_MANIFEST, padded(most)).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert_eq!(pusher.manifest("just").await.unwrap().1.len(), most);
    let (status, code, _) =
        refusal(pusher.put_manifest("large", OCI_MANIFEST, padded(most + 1)).await).await;
    assert_eq!((status, code.as_str()), (413, "SIZE_INVALID"));
}

#[tokio::test]
async fn only_who_may_write() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let image = image("gates");
    pusher(&registryd, &world).push("t", &image).await;
    let before = counts(&world);
    for (who, actions) in [(None, &["pull"][..]), (Some(&world.ada), &["pull"]), (None, &[])] {
        let pusher =
            Pusher { token: world.token(who, REPO, actions), ..pusher(&registryd, &world) };
        for reference in ["t", &image.digest] {
            for method in [Method::PUT, Method::DELETE] {
                let path = format!("manifests/{reference}");
                let headers = [("Content-Type", OCI_MANIFEST)];
                let answer =
                    pusher.send(method.clone(), &path, &headers, image.bytes.clone()).await;
                assert_eq!(refusal(answer).await.0, 401, "{method} {reference} {actions:?}");
            }
        }
    }
    // The token of another repository.
    let other = Pusher::of(&registryd, &world, &world.ada, "demo/private");
    let (status, code, _) = refusal(other.delete("t").await).await;
    assert_eq!((status, code.as_str()), (404, "MANIFEST_UNKNOWN"));
    for gone in ["demo/nope", "demo/gone"] {
        let pusher = Pusher::of(&registryd, &world, &world.ada, gone);
        for answer in [pusher.put("t", &image).await, pusher.delete("t").await] {
            assert_eq!(refusal(answer).await.1, "NAME_UNKNOWN", "{gone}");
        }
    }
    assert_eq!(counts(&world), before);
}

#[tokio::test]
async fn modes_in_which_nothing_is_written() {
    for (key, value) in [
        ("REGISTRY_STATE", json!("readonly")),
        ("DISABLE_PUSHES", json!(true)),
        ("ACCOUNT_RECOVERY_MODE", json!(true)),
        ("LOGS_MODEL", json!("elasticsearch")),
    ] {
        let mut world = World::with_own_storage();
        world.configure(key, value);
        let registryd = world.registryd();
        let pusher = pusher(&registryd, &world);
        let before = counts(&world);
        let image = &world.nested.manifest;
        for reference in ["latest", &image.digest] {
            assert_eq!(pusher.put(reference, image).await.status(), 405, "{key} {reference}");
            assert_eq!(pusher.delete(reference).await.status(), 405, "{key} {reference}");
        }
        assert_eq!(counts(&world), before, "{key}");
    }
}

/// A config that Quay cannot read: it stores such a manifest and fails with 500; here it is refused.
#[tokio::test]
async fn configs_of_no_use() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let before = counts(&world);
    for config in ["not JSON", "{\"os\": \"linux\"}"] {
        let digest = pusher.blob(config).await;
        for (media_type, config_type) in [
            (OCI_MANIFEST, crate::support::images::OCI_CONFIG),
            (crate::support::images::DOCKER_MANIFEST, crate::support::images::DOCKER_CONFIG),
        ] {
            let config = json!({"mediaType": config_type, "digest": digest, "size": config.len()});
            let body = json!({"schemaVersion": 2, "mediaType": media_type, "config": config,
                "layers": []});
            let answer = pusher.put_manifest("t", media_type, body.to_string()).await;
            assert_eq!(told(answer).await.0, 400, "{config}");
        }
    }
    assert_eq!(counts(&world), before);
}
