//! What attackers try with pushes and deletions. The numbers are those of the list of attacks that the
//! issues cite.

use reqwest::Method;
use serde_json::{Value, json};

use super::refusals::{counts, told};
use super::{Pusher, REPO, Registryd, StatusCode, World, image, pusher, refusal};
use crate::support::http;
use crate::support::images::{
    DOCKER_CONFIG, DOCKER_LAYER, DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, digest_of,
};

/// Names of tags that are alive, hidden ones left out.
fn tags(world: &World) -> String {
    let rows = world.database.sql(&format!(
        "SELECT name FROM tag WHERE repository_id = {} AND NOT hidden AND name <> 'latest'
         AND lifetime_end_ms IS NULL ORDER BY name",
        world.nested.repo_id
    ));
    rows.replace('\n', " ")
}

/// 5: `_` in a name is an underscore.
#[tokio::test]
async fn names_are_no_patterns() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let (one, two) = (image("one"), image("two"));
    for (tag, image) in [("w_1", &one), ("wx1", &two), ("__", &two), ("a.b", &one), ("aab", &two)] {
        pusher.push(tag, image).await;
    }
    // Moved and deleted is the one that was named.
    assert_eq!(pusher.put("w_1", &two).await.status(), StatusCode::CREATED);
    assert_eq!(pusher.put("a.b", &two).await.status(), StatusCode::CREATED);
    assert_eq!(tags(&world), "__ a.b aab w_1 wx1");
    for (tag, left) in [("w_1", "__ a.b aab wx1"), ("a.b", "__ aab wx1"), ("__", "aab wx1")] {
        assert_eq!(pusher.delete(tag).await.status(), StatusCode::ACCEPTED, "{tag}");
        assert_eq!(tags(&world), left);
        assert_eq!(pusher.delete(tag).await.status(), StatusCode::NOT_FOUND, "{tag}");
    }
    // The same of repositories, for somebody who may push to all that look like it.
    for name in ["demo/nested/dee_/repo", "dem_/nested/deep/repo", "____/______/____/____"] {
        let pusher = Pusher::of(&registryd, &world, &world.ada, name);
        for answer in [pusher.put("aab", &two).await, pusher.delete("aab").await] {
            assert_eq!(refusal(answer).await.1, "NAME_UNKNOWN", "{name}");
        }
    }
    assert_eq!(tags(&world), "aab wx1");
}

/// 7: an immutable tag stays what it is, whatever it is called and whatever way is tried.
#[tokio::test]
async fn immutable_tags_are_not_got_around() {
    let mut world = World::with_own_storage();
    world.configure("FEATURE_IMMUTABLE_TAGS", json!(true));
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let (fixed, other) = (image("fixed"), image("other"));
    pusher.prepare(&other).await;
    let signature = format!("{}.sig", fixed.digest.replace(':', "-"));
    let names = ["latest", "v1", "V1", "_", "sha256", &signature, &"a".repeat(128)];
    for tag in names {
        pusher.push(tag, &fixed).await;
    }
    world.database.sql(&format!(
        "UPDATE tag SET immutable = true WHERE repository_id = {} AND NOT hidden
         AND lifetime_end_ms IS NULL",
        world.nested.repo_id
    ));
    let before = counts(&world);
    for tag in names {
        for answer in [pusher.put(tag, &other).await, pusher.put(tag, &fixed).await] {
            assert_eq!(refusal(answer).await.0, 409, "{tag}");
        }
        assert_eq!(refusal(pusher.delete(tag).await).await.0, 409, "{tag}");
    }
    assert_eq!(refusal(pusher.delete(&fixed.digest).await).await.0, 409);
    assert_eq!(counts(&world), before);
    // By digest with the tag beside it: Quay does not look at the query, so the tag does not move.
    for query in ["?tag=v1", "?tag=v1&tag=latest", "?reference=v1", "?force=true"] {
        let path = format!("manifests/{}{query}", other.digest);
        let headers = [("Content-Type", OCI_MANIFEST)];
        let answer = pusher.send(Method::PUT, &path, &headers, other.bytes.clone()).await;
        assert_eq!(answer.status(), StatusCode::CREATED, "{query}");
    }
    let path = format!("manifests/v1?digest={}", other.digest);
    assert_eq!(pusher.send(Method::DELETE, &path, &[], "").await.status(), 409);
    // The other image goes, and takes nothing of this one along.
    assert_eq!(pusher.delete(&other.digest).await.status(), StatusCode::ACCEPTED);
    for tag in names {
        assert_eq!(pusher.manifest(tag).await.unwrap().1, fixed.bytes, "{tag}");
    }
}

/// 7: cosign's tags of an image go with it, but not those that are immutable.
#[tokio::test]
async fn immutable_signatures_stay() {
    let mut world = World::with_own_storage();
    world.configure("FEATURE_IMMUTABLE_TAGS", json!(true));
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let (signed, signature) = (image("signed"), image("signature"));
    pusher.push("v1", &signed).await;
    let name = |suffix: &str| format!("{}.{suffix}", signed.digest.replace(':', "-"));
    for suffix in ["sig", "att"] {
        pusher.push(&name(suffix), &signature).await;
    }
    world.database.sql(&format!(
        "UPDATE tag SET immutable = true WHERE name = '{}' AND lifetime_end_ms IS NULL",
        name("sig")
    ));
    assert_eq!(pusher.delete("v1").await.status(), StatusCode::ACCEPTED);
    assert_eq!(tags(&world), name("sig"));
}

/// 8: for a repository that takes no pushes nobody is given a token that would do, and with the one
/// that there is nothing can be pushed or deleted, by tag or by digest.
#[tokio::test]
async fn repositories_that_nobody_may_change() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let new = image("new");
    // The fixture's own, and one for each state that Quay has beside the ordinary one.
    for (state, repo, image) in [
        (1, "demo/readonly", &world.readonly),
        (3, "demo/gone", &world.gone),
        (0, "demo/app", &world.application),
        (1, REPO, &world.nested),
        (2, REPO, &world.nested),
        (3, REPO, &world.nested),
        (4, REPO, &world.nested),
    ] {
        let id = image.repo_id;
        world.database.sql(&format!("UPDATE repository SET state = {state} WHERE id = {id}"));
        let Some(token) = token_of(&registryd, &world, repo).await else { continue };
        let pusher = Pusher { token, ..Pusher::of(&registryd, &world, &world.ada, repo) };
        let before = counts(&world);
        for reference in ["latest", &image.manifest.digest, "new", &new.digest] {
            let answers = [
                pusher.put(reference, &image.manifest).await,
                pusher.put(reference, &new).await,
                pusher.delete(reference).await,
            ];
            for answer in answers {
                let status = answer.status().as_u16();
                assert!([401, 404].contains(&status), "{repo} {state} {reference}: {status}");
            }
        }
        assert_eq!(counts(&world), before, "{repo} {state}");
        let alive = world.database.sql(&format!(
            "SELECT count(*) FROM tag WHERE repository_id = {id} AND lifetime_end_ms IS NULL"
        ));
        assert_eq!(alive, "1", "{repo} {state}");
    }
}

/// The token that ada is given for a repository; none where even that is refused.
async fn token_of(registryd: &Registryd, world: &World, repo: &str) -> Option<String> {
    let scope = format!("/v2/auth?scope=repository:{repo}:pull,push");
    let (ada, url) = (&world.ada, registryd.url(&scope));
    let asked = http().get(url).basic_auth(&ada.username, Some(&ada.password)).send().await;
    let answer = asked.unwrap();
    if answer.status() == StatusCode::METHOD_NOT_ALLOWED {
        return None;
    }
    let body: Value = answer.json().await.unwrap();
    Some(body["token"].as_str().unwrap_or_else(|| panic!("{repo}: {body}")).to_owned())
}

/// 14: what a document is, is said three times: by the header, by itself, and by what it holds.
#[tokio::test]
async fn confused_documents() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let child = image("confused");
    pusher.push("child", &child).await;
    let of_child: Value = serde_json::from_slice(&child.bytes).unwrap();
    let (config, layers) = (&of_child["config"], &of_child["layers"]);
    let entry = json!({"mediaType": OCI_MANIFEST, "digest": child.digest,
        "size": child.bytes.len(), "platform": {"architecture": "amd64", "os": "linux"}});
    let typed = |value: &Value, media_type: &str| {
        let mut value = value.clone();
        value["mediaType"] = media_type.into();
        value
    };
    let docker = json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
        "config": typed(config, DOCKER_CONFIG), "layers": [typed(&layers[0], DOCKER_LAYER)]});
    let oci = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config,
        "layers": layers});
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]});
    let list = json!({"schemaVersion": 2, "mediaType": DOCKER_LIST,
        "manifests": [typed(&entry, DOCKER_MANIFEST)]});
    let kinds = [
        (OCI_MANIFEST, &oci),
        (DOCKER_MANIFEST, &docker),
        (OCI_INDEX, &index),
        (DOCKER_LIST, &list),
    ];
    let mut documents: Vec<(String, &str, String)> = Vec::new();
    for (header, _) in kinds {
        for (says, body) in kinds {
            if header != says {
                documents.push((format!("{says} as {header}"), header, body.to_string()));
                // And one that says what the header says, but is not. An OCI image it may be: those
                // have config and layers of any type.
                if (says, header) != (DOCKER_MANIFEST, OCI_MANIFEST) {
                    let lies = typed(body, header).to_string();
                    documents.push((format!("{says} that says {header}"), header, lies));
                }
            }
        }
    }
    let with = |body: &Value, name: &str, value: &Value| {
        let mut body = body.clone();
        body[name] = value.clone();
        body.to_string()
    };
    let twice = |body: &Value, text: &str| {
        format!("{},{text}}}", body.to_string().strip_suffix('}').unwrap())
    };
    for (name, header, body) in [
        ("layers in an index", OCI_INDEX, with(&index, "layers", layers)),
        ("a config in an index", OCI_INDEX, with(&index, "config", config)),
        ("manifests in an image", OCI_MANIFEST, with(&oci, "manifests", &json!([entry]))),
        ("fsLayers in an image", OCI_MANIFEST, with(&oci, "fsLayers", &json!([]))),
        ("Layers beside layers", OCI_MANIFEST, with(&oci, "Layers", layers)),
        ("MANIFESTS beside manifests", OCI_INDEX, with(&index, "MANIFESTS", &json!([]))),
        ("layers twice", OCI_MANIFEST, twice(&oci, "\"layers\":[]")),
        ("mediaType twice", OCI_MANIFEST, twice(&oci, &format!("\"mediaType\":\"{OCI_INDEX}\""))),
        ("layers twice, spelled otherwise", OCI_MANIFEST, twice(&oci, "\"l\\u0061yers\":[]")),
    ] {
        documents.push((name.to_owned(), header, body));
    }
    let before = counts(&world);
    for (name, header, body) in documents {
        let (status, code, _) = told(pusher.put_manifest("t", header, body.clone()).await).await;
        assert_eq!((status, code.as_str()), (400, "MANIFEST_INVALID"), "{name}");
        let digest = digest_of(body.as_bytes());
        let (status, _, _) = told(pusher.put_manifest(&digest, header, body).await).await;
        assert_eq!(status, 400, "{name}");
    }
    assert_eq!(counts(&world), before);
    // What is stored is what was declared, and is said.
    let stored = pusher.manifest("child").await.unwrap();
    assert_eq!(stored, (OCI_MANIFEST.to_owned(), child.bytes.clone()));
}

/// 16: a reference is a tag or a digest, and nothing else finds its way to a row or a file.
#[tokio::test]
async fn references_that_lead_elsewhere() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let image = image("elsewhere");
    pusher.push("here", &image).await;
    let before = (counts(&world), tags(&world));
    let long = "a".repeat(70_000);
    for reference in [
        "..",
        "%2e%2e",
        "../here",
        "..%2fhere",
        "here/..",
        "here%2f..%2fhere",
        "%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "here%00",
        "%00here",
        "here%0a",
        "here%0d%0aX-Evil:1",
        "here%20",
        "%20here",
        "here%5c",
        "here'--",
        "here%27%20OR%20%271%27=%271",
        "%ff",
        "here%E2%80%8B",
        "sha256:",
        "sha256:..%2f..%2fquay.pem",
        "SHA256:00",
        "sha512:00",
        ":",
        "*",
        "%25",
        &long,
    ] {
        let path = format!("manifests/{reference}");
        for method in [Method::PUT, Method::DELETE] {
            let headers = [("Content-Type", OCI_MANIFEST)];
            let answer =
                pusher.try_send(method.clone(), &path, &headers, image.bytes.clone()).await;
            // One that is too long for a head may be told by the end of the connection.
            let status = answer.map_or(414, |answer| answer.status().as_u16());
            assert!((300..500).contains(&status), "{method} {reference:.60}: {status}");
            assert_eq!((counts(&world), tags(&world)), before, "{method} {reference:.60}");
        }
    }
    assert!(!world.storage.join("etc").exists());
    assert_eq!(pusher.manifest("here").await.unwrap().1, image.bytes);
}

/// Where Docker's schema 1 is named, Python decides: only it can read what is named.
#[tokio::test]
async fn lists_that_name_schema_1() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let behind_nginx = world.registryd_with(&["--behind-nginx"]);
    let entry = json!({"mediaType": "application/vnd.docker.distribution.manifest.v1+json",
        "digest": world.public.manifest.digest, "size": 2,
        "platform": {"architecture": "amd64", "os": "linux"}});
    let list = json!({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [entry]});
    let before = counts(&world);
    let pushers = [pusher(&registryd, &world), pusher(&behind_nginx, &world)];
    let answer = pushers[0].put_manifest("old", DOCKER_LIST, list.to_string()).await;
    let (status, code, message) = refusal(answer).await;
    assert_eq!((status, code.as_str()), (405, "UNSUPPORTED"));
    assert!(message.contains("schema1_child"), "{message}");
    let answer = pushers[1].put_manifest("old", DOCKER_LIST, list.to_string()).await;
    assert_eq!(super::header(&answer, "x-accel-redirect"), "@quay_python");
    assert_eq!(counts(&world), before);
}
