//! Deleted means gone, for the next request.

use super::{REPO, Registryd, StatusCode, World, image, pusher, refusal};
use crate::support::images::Manifest;

/// Names of tags that are alive, hidden ones as `$temp`.
fn alive(world: &World) -> String {
    let now = chrono::Utc::now().timestamp_millis();
    let rows = world.database.sql(&format!(
        "SELECT CASE WHEN hidden THEN '$temp' ELSE name END FROM tag WHERE repository_id = {}
         AND name <> 'latest' AND (lifetime_end_ms IS NULL OR lifetime_end_ms > {now}) ORDER BY id",
        world.nested.repo_id
    ));
    rows.replace('\n', " ")
}

/// The same without hidden ones.
fn visible(world: &World) -> String {
    alive(world).split(' ').filter(|tag| *tag != "$temp").collect::<Vec<_>>().join(" ")
}

fn log(world: &World) -> Vec<String> {
    let rows = world.database.sql(
        "SELECT l.metadata_json FROM logentry3 l JOIN logentrykind k ON k.id = l.kind_id
         WHERE k.name = 'delete_tag' ORDER BY l.id",
    );
    rows.lines().map(str::to_owned).collect()
}

fn logged(tag: &str, by: &str) -> String {
    format!(
        r#"{{"repo": "nested/deep/repo", "namespace": "demo", "user-agent": "", "tag": "{tag}", "digest": "{by}", "username": "ada"}}"#
    )
}

#[tokio::test]
async fn by_tag() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let image = image("by tag");
    pusher.push("a", &image).await;
    pusher.put("b", &image).await;
    let answer = pusher.delete("a").await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert_eq!(answer.text().await.unwrap(), "");
    assert_eq!(pusher.manifest("a").await, Err(404));
    assert!(pusher.manifest("b").await.is_ok() && pusher.manifest(&image.digest).await.is_ok());
    for missing in ["a", "never"] {
        let (status, code, _) = refusal(pusher.delete(missing).await).await;
        assert_eq!((status, code.as_str()), (404, "MANIFEST_UNKNOWN"), "{missing}");
    }
    assert_eq!(pusher.delete("b").await.status(), StatusCode::ACCEPTED);
    assert_eq!(pusher.manifest(&image.digest).await, Err(404));
    assert_eq!(alive(&world), "");
    assert_eq!(log(&world), [logged("a", "a"), logged("b", "b")]);
    // It comes back.
    assert_eq!(pusher.put("a", &image).await.status(), StatusCode::CREATED);
    assert_eq!(pusher.manifest("a").await.unwrap().1, image.bytes);
}

#[tokio::test]
async fn by_digest() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let image = image("by digest");
    pusher.prepare(&image).await;
    // By digest first: a hidden tag keeps it, which Quay would not delete.
    for reference in [&image.digest, "a", "b"] {
        assert_eq!(pusher.put(reference, &image).await.status(), StatusCode::CREATED);
    }
    assert_eq!(alive(&world), "$temp a b");
    assert_eq!(pusher.delete(&image.digest).await.status(), StatusCode::ACCEPTED);
    assert_eq!(alive(&world), "");
    for reference in [&image.digest, "a", "b"] {
        assert_eq!(pusher.manifest(reference).await, Err(404), "{reference}");
    }
    let by = image.digest.as_str();
    assert_eq!(log(&world), [logged("a", by), logged("b", by)]);
    let (status, code, _) = refusal(pusher.delete(by).await).await;
    assert_eq!((status, code.as_str()), (404, "MANIFEST_UNKNOWN"));
    // Only a hidden tag: an artifact that nothing but its deletion ends.
    let artifact = Manifest::referrer("application/x-test", &image);
    pusher.prepare(&artifact).await;
    assert_eq!(pusher.put(&artifact.digest, &artifact).await.status(), StatusCode::CREATED);
    assert_eq!(pusher.delete(&artifact.digest).await.status(), StatusCode::ACCEPTED);
    assert_eq!(pusher.manifest(&artifact.digest).await, Err(404));
    let by = artifact.digest.as_str();
    assert_eq!(log(&world).last(), Some(&logged(by, by)));
    for unknown in [format!("sha256:{}", "0".repeat(64)), "sha512:00".to_owned()] {
        assert_eq!(refusal(pusher.delete(&unknown).await).await.0, 404, "{unknown}");
    }
}

/// A child lives as long as a tag of its index, whatever becomes of its own.
#[tokio::test]
async fn children() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let child = image("child");
    let index = Manifest::index(vec![("amd64", child.clone())]);
    pusher.push("idx", &index).await;
    assert_eq!(pusher.put("child", &child).await.status(), StatusCode::CREATED);
    assert_eq!(pusher.delete(&child.digest).await.status(), StatusCode::ACCEPTED);
    assert_eq!(pusher.manifest(&child.digest).await.unwrap().1, child.bytes);
    assert_eq!(pusher.delete("idx").await.status(), StatusCode::ACCEPTED);
    assert_eq!(pusher.manifest(&child.digest).await, Err(404));
    // What a push keeps for a while stays, unless the operator wants otherwise.
    for (reset, left) in [(false, "$temp"), (true, "")] {
        let mut world = World::with_own_storage();
        world.configure("RESET_CHILD_MANIFEST_EXPIRATION", reset.into());
        let registryd = world.registryd();
        let pusher = pusher_of(&registryd, &world);
        pusher.push("idx", &index).await;
        assert_eq!(pusher.delete("idx").await.status(), StatusCode::ACCEPTED);
        assert_eq!(alive(&world), left);
    }
}

fn pusher_of<'a>(registryd: &'a Registryd, world: &World) -> crate::support::pusher::Pusher<'a> {
    pusher(registryd, world)
}

/// cosign's tags of an image go with its last other tag, moved or deleted.
#[tokio::test]
async fn signatures_go_with_their_image() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let (one, two, signature) = (image("one"), image("two"), image("signature"));
    let tags = |image: &Manifest| {
        ["sig", "att"].map(|suffix| format!("{}.{suffix}", image.digest.replace(':', "-")))
    };
    let sign = async |image: &Manifest| {
        for tag in tags(image) {
            pusher.push(&tag, &signature).await;
        }
    };
    pusher.push("a", &one).await;
    pusher.put("b", &one).await;
    sign(&one).await;
    let [sig, att] = tags(&one);
    assert_eq!(visible(&world), format!("a b {sig} {att}"));
    pusher.delete("a").await;
    assert_eq!(visible(&world), format!("b {sig} {att}"), "another tag is left");
    pusher.push("b", &two).await;
    assert_eq!(visible(&world), "b", "moved");
    sign(&two).await;
    pusher.delete(&two.digest).await;
    assert_eq!(visible(&world), "", "deleted by digest");
    // A signature's own tag takes nothing along.
    pusher.push("a", &one).await;
    sign(&one).await;
    pusher.delete(&sig).await;
    assert_eq!(visible(&world), format!("a {att}"));
}

#[tokio::test]
async fn pull_statistics_go_with_their_tag() {
    let mut world = World::with_own_storage();
    world.configure("FEATURE_IMAGE_PULL_STATS", true.into());
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    pusher.push("a", &image("counted")).await;
    let repository = world.nested.repo_id;
    for tag in ["a", "b"] {
        world.database.sql(&format!(
            "INSERT INTO tagpullstatistics
                 (repository_id, tag_name, tag_pull_count, last_tag_pull_date)
             VALUES ({repository}, '{tag}', 1, '2026-01-01')"
        ));
    }
    pusher.delete("a").await;
    assert_eq!(world.database.sql("SELECT tag_name FROM tagpullstatistics"), "b");
    assert!(pusher.manifest(&format!("{REPO}-nothing")).await.is_err());
}

/// Python's cache would go on serving what was deleted: where it cannot be cleared, deletes are
/// Python's, and so are pushes of what Python would not list.
#[tokio::test]
async fn a_cache_that_cannot_be_cleared() {
    let mut world = World::with_own_storage();
    world.configure("DATA_MODEL_CACHE_CONFIG", serde_json::json!({"engine": "rediscluster"}));
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let image = image("cached");
    pusher.push("a", &image).await;
    let referrer = Manifest::referrer("application/x-test", &image);
    pusher.prepare(&referrer).await;
    for answer in [
        pusher.delete("a").await,
        pusher.delete(&image.digest).await,
        pusher.put(&referrer.digest, &referrer).await,
    ] {
        let (status, code, message) = refusal(answer).await;
        assert_eq!((status, code.as_str()), (405, "UNSUPPORTED"));
        assert!(message.contains("model_cache"), "{message}");
    }
    assert_eq!(alive(&world), "a");
    assert_eq!(registryd.metric("quay_declined_total{reason=\"model_cache\"}"), 3.0);
}
