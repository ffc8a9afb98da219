//! What is sent is what was stored, under the type that it was stored with (CVE-2021-41190).

use super::*;
use crate::support::images::{DOCKER_MANIFEST, OCI_INDEX};

const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

async fn ask(client: &Client<'_>, path: &str, accept: &str) -> (StatusCode, String, String) {
    let headers = [(ACCEPT.as_str(), accept)];
    let headers = if accept.is_empty() { &[][..] } else { &headers };
    let response = client.send(Method::GET, path, headers).await;
    let header = |name| header(&response, name).to_owned();
    (response.status(), header("content-type"), header("docker-content-digest"))
}

#[tokio::test]
async fn nothing_is_sent_under_another_type() {
    let world = World::new();
    let registryd = world.registryd();
    let client = Client::anonymous(&registryd);
    for image in [&world.public, &world.docker, &world.index] {
        let manifest = &image.manifest;
        let stored = (StatusCode::OK, manifest.media_type.to_owned(), manifest.digest.clone());
        for accept in [OCI, DOCKER_MANIFEST, OCI_INDEX, LIST, "*/*", "application/json", "", "x/y"]
        {
            // By digest nothing is negotiated; by tag it is this or Python's.
            assert_eq!(ask(&client, &by_digest(image), accept).await, stored, "{accept}");
            let (status, sent, _) = ask(&client, &by_tag(image), accept).await;
            let child = manifest.media_type == OCI_INDEX && accept == OCI;
            match accept == manifest.media_type || child {
                true => assert_eq!((status, sent.as_str()), (StatusCode::OK, accept)),
                false => assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{accept}"),
            }
        }
    }
    // A body that calls itself something else does not change what it was stored as.
    let posing = format!("{{\"mediaType\": \"{LIST}\", \"layers\": [], \"manifests\": []}}");
    world.database.sql(&format!(
        "UPDATE manifest SET manifest_bytes = '{posing}' WHERE digest = '{}'",
        world.public.manifest.digest
    ));
    assert_eq!(ask(&client, &by_tag(&world.public), LIST).await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(ask(&client, &by_tag(&world.public), OCI).await.1, OCI);
}

#[tokio::test]
async fn who_takes_no_index_gets_its_amd64() {
    let world = World::new();
    let registryd = world.registryd();
    let client = Client::anonymous(&registryd);
    let (path, child) = (by_tag(&world.index), &world.index.manifest.children[0]);
    for method in [Method::GET, Method::HEAD] {
        let response = client.send(method.clone(), &path, &[(ACCEPT.as_str(), OCI)]).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(&response, "content-type"), OCI);
        assert_eq!(header(&response, "docker-content-digest"), child.digest);
        assert_eq!(header(&response, "content-length"), child.bytes.len().to_string());
        let body = response.bytes().await.unwrap();
        assert!(method == Method::HEAD || body == child.bytes);
    }
    // The log names the tag, and the type that was sent.
    let logged = world.database.sql("SELECT metadata_json FROM logentry3 ORDER BY id DESC LIMIT 1");
    let logged: serde_json::Value = serde_json::from_str(&logged).unwrap();
    assert_eq!((&logged["tag"], &logged["mediaType"]), (&"multi".into(), &OCI.into()));
    // What has no such child is Python's to convert.
    let index = &world.index.manifest.digest;
    for gone in [
        "UPDATE manifest SET manifest_bytes = replace(manifest_bytes, 'amd64', 's390x')",
        "UPDATE manifest SET manifest_bytes = '{}'",
    ] {
        world.database.sql(&format!("{gone} WHERE digest = '{index}'"));
        assert_eq!(ask(&client, &path, OCI).await.0, StatusCode::METHOD_NOT_ALLOWED, "{gone}");
    }
}
