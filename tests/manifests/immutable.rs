//! Tags that may not be moved: by label, by policy, and by what an administrator did.

use reqwest::Response;
use serde_json::json;

use super::{StatusCode, World, image, pusher, refusal};
use crate::support::images::{Manifest, digest_of};

fn world() -> World {
    let mut world = World::with_own_storage();
    world.configure("FEATURE_IMMUTABLE_TAGS", json!(true));
    world
}

fn labelled(label: (&str, &str), expires: &str) -> Manifest {
    let mut manifest = image(&format!("{label:?} {expires}"));
    let mut body: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap();
    body["annotations"] = json!({label.0: label.1, "quay.expires-after": expires});
    manifest.bytes = body.to_string().into();
    manifest.digest = digest_of(&manifest.bytes);
    manifest
}

async fn is_immutable(answer: Response, tag: &str) {
    let status = answer.status();
    let body: serde_json::Value = answer.json().await.unwrap();
    let error = &body["errors"][0];
    assert_eq!((status.as_u16(), &error["code"]), (409, &json!("TAG_IMMUTABLE")));
    assert_eq!(error["detail"], json!({"message": format!("tag '{tag}' is immutable")}));
}

fn tag(world: &World, name: &str) -> String {
    world.database.sql(&format!(
        "SELECT immutable, lifetime_end_ms - lifetime_start_ms FROM tag WHERE name = '{name}'
         AND repository_id = {}",
        world.nested.repo_id
    ))
}

#[tokio::test]
async fn by_label() {
    let world = world();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let (fixed, other) = (labelled(("quay.immutable", " True"), "1h"), image("other"));
    pusher.push("v1", &fixed).await;
    // It does not end either.
    assert_eq!(tag(&world, "v1"), "t|");
    pusher.push("free", &other).await;
    let manifests = || world.database.sql("SELECT count(*) FROM manifest");
    let before = manifests();
    let fresh = image("fresh");
    pusher.prepare(&fresh).await;
    for manifest in [&fixed, &other, &fresh] {
        is_immutable(pusher.put("v1", manifest).await, "v1").await;
    }
    is_immutable(pusher.delete("v1").await, "v1").await;
    is_immutable(pusher.delete(&fixed.digest).await, "v1").await;
    assert_eq!(manifests(), before, "what was refused is not there");
    assert_eq!(pusher.manifest("v1").await.unwrap().1, fixed.bytes);
    // The feature off, it is only a label.
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = super::pusher(&registryd, &world);
    pusher.push("v1", &fixed).await;
    assert_eq!(tag(&world, "v1"), "f|3600000");
}

#[tokio::test]
async fn by_policy() {
    let mut world = world();
    world.configure("FEATURE_IMMUTABLE_TAGS_CAN_EXPIRE", json!(true));
    // Older Quays do not have it.
    world.database.sql("INSERT INTO logentrykind (name) VALUES ('tag_made_immutable_by_policy')");
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let repository = world.nested.repo_id;
    world.database.sql(&format!(
        "INSERT INTO repositoryimmutabilitypolicy (uuid, repository_id, namespace_id, policy)
             SELECT 'a', id, namespace_user_id, '{{\"tag_pattern\": \"v[0-9]+\"}}'
             FROM repository WHERE id = {repository};
         INSERT INTO namespaceimmutabilitypolicy (uuid, namespace_id, policy)
             SELECT 'b', namespace_user_id,
                 '{{\"tag_pattern\": \"(dev|v).*\", \"tag_pattern_matches\": false}}'
             FROM repository WHERE id = {repository}"
    ));
    let image = labelled(("a", "b"), "1h");
    for (name, immutable) in [("v1", "t"), ("v1-rc", "f"), ("dev", "f"), ("release", "t")] {
        pusher.push(name, &image).await;
        assert_eq!(tag(&world, name), format!("{immutable}|3600000"), "{name}");
    }
    assert_eq!(
        world.database.sql(
            "SELECT l.performer_id, l.metadata_json FROM logentry3 l
             JOIN logentrykind k ON k.id = l.kind_id
             WHERE k.name = 'tag_made_immutable_by_policy' ORDER BY l.id LIMIT 1"
        ),
        r#"|{"tag": "v1", "repo": "nested/deep/repo", "namespace": "demo", "immutable": true}"#
    );
    // A pattern that only Python understands is Python's.
    world
        .database
        .sql("UPDATE repositoryimmutabilitypolicy SET policy = '{\"tag_pattern\": \"(?!x)v.*\"}'");
    let (status, code, message) = refusal(pusher.put("dev", &image).await).await;
    assert_eq!((status, code.as_str()), (405, "UNSUPPORTED"));
    assert!(message.contains("immutability_policy"), "{message}");
    assert_eq!(pusher.delete("dev").await.status(), StatusCode::ACCEPTED);
}
