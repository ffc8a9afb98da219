//! The rows of a push, which are those that Quay leaves.

use serde_json::json;

use super::{REPO, Registryd, StatusCode, World, image, pusher};
use crate::support::images::{Manifest, OCI_MANIFEST, digest_of};

/// Tags of a repository, the oldest first: name or `$temp`, digest, hidden, and how long it lives:
/// empty for ever, else in milliseconds.
fn tags(world: &World) -> Vec<String> {
    let rows = world.database.sql(&format!(
        "SELECT CASE WHEN t.hidden THEN substr(t.name, 1, 5) ELSE t.name END, substr(m.digest, 8, 6),
             t.reversion, t.immutable, t.lifetime_end_ms - t.lifetime_start_ms
         FROM tag t JOIN manifest m ON m.id = t.manifest_id
         WHERE t.repository_id = {} AND t.name <> 'latest' ORDER BY t.id",
        world.nested.repo_id
    ));
    rows.lines().map(str::to_owned).collect()
}

fn short(manifest: &Manifest) -> &str {
    &manifest.digest[7..13]
}

#[tokio::test]
async fn a_new_image_by_tag() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let image = image("rows");
    pusher.push("one", &image).await;
    let id = world.database.sql(&format!(
        "SELECT id FROM manifest WHERE digest = '{}' AND repository_id = {}",
        image.digest, world.nested.repo_id
    ));
    let of = |columns: &str, table: &str| {
        world.database.sql(&format!(
            "SELECT {columns} FROM {table} x WHERE x.manifest_id = {id} ORDER BY x.id"
        ))
    };
    assert_eq!(
        world.database.sql(&format!(
            "SELECT t.name, m.config_media_type, m.layers_compressed_size, m.subject,
                 m.subject_backfilled, m.artifact_type, m.artifact_type_backfilled
             FROM manifest m JOIN mediatype t ON t.id = m.media_type_id WHERE m.id = {id}"
        )),
        format!(
            "{OCI_MANIFEST}|application/vnd.oci.image.config.v1+json|{}||t||t",
            image.layers()[0].bytes.len()
        )
    );
    assert_eq!(of("repository_id", "manifestblob").lines().count(), 2);
    assert_eq!(
        of(
            "index_status, error_json, indexer_hash, indexer_version, metadata_json, repository_id",
            "manifestsecuritystatus"
        ),
        format!("0|{{}}||4|{{}}|{}", world.nested.repo_id)
    );
    assert_eq!(
        world.database.sql(&format!(
            "SELECT l.key, l.value, t.name, s.name, ml.repository_id FROM manifestlabel ml
             JOIN label l ON l.id = ml.label_id JOIN mediatype t ON t.id = l.media_type_id
             JOIN labelsourcetype s ON s.id = l.source_type_id WHERE ml.manifest_id = {id}"
        )),
        format!("org.example.purpose|test|text/plain|manifest|{}", world.nested.repo_id)
    );
    // A first push by tag needs nothing else to keep it.
    assert_eq!(tags(&world), [format!("one|{}|f|f|", short(&image))]);
    assert_eq!(
        world.database.sql("SELECT k.name, l.performer_id, l.metadata_json FROM logentry3 l JOIN logentrykind k ON k.id = l.kind_id"),
        format!(
            r#"push_repo|{}|{{"repo": "nested/deep/repo", "namespace": "demo", "user-agent": "", "tag": "one", "mediaType": "{OCI_MANIFEST}", "username": "ada"}}"#,
            world.ada.id
        )
    );
}

/// The same pushes as in the record of what Quay did, and the same tags after them.
#[tokio::test]
async fn tags_move_as_in_quay() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let (one, two) = (image("one"), image("two"));
    let (first, second) = (short(&one), short(&two));
    // New, the same again, a second tag, by digest: nothing, moved, and back.
    pusher.push("a", &one).await;
    assert_eq!(pusher.put("a", &one).await.status(), StatusCode::CREATED);
    assert_eq!(pusher.put("b", &one).await.status(), StatusCode::CREATED);
    assert_eq!(pusher.put(&one.digest, &one).await.status(), StatusCode::CREATED);
    let alive = |tag: &str, digest: &str| format!("{tag}|{digest}|f|f|");
    let now = tags(&world);
    assert_eq!(now.len(), 3, "{now:?}");
    assert_eq!(now[1..], [alive("a", first), alive("b", first)]);
    pusher.push("a", &two).await;
    assert_eq!(pusher.put("a", &one).await.status(), StatusCode::CREATED);
    let now = tags(&world);
    assert_eq!(now.len(), 5, "{now:?}");
    assert_eq!(now[2..3], [alive("b", first)]);
    assert!(now[3].starts_with(&format!("a|{second}|f|f|")) && now[3] != alive("a", second));
    assert_eq!(now[4], alive("a", first));
    // What no tag keeps any more is kept for five minutes when it comes again, then tagged.
    assert_eq!(pusher.put("c", &two).await.status(), StatusCode::CREATED);
    assert_eq!(tags(&world)[5..], [format!("$temp|{second}|f|f|300000"), alive("c", second)]);
    // By digest alone it is kept for an hour.
    let three = image("three");
    pusher.prepare(&three).await;
    assert_eq!(pusher.put(&three.digest, &three).await.status(), StatusCode::CREATED);
    assert_eq!(tags(&world)[7..], [format!("$temp|{}|f|f|3600000", short(&three))]);
    // An index keeps those of its children that nothing else keeps for as long.
    let index = Manifest::index(vec![("amd64", one.clone()), ("arm64", three.clone())]);
    assert_eq!(pusher.put("idx", &index).await.status(), StatusCode::CREATED);
    assert_eq!(tags(&world)[8..], [alive("idx", short(&index))]);
    // A referrer is kept for ever.
    let referrer = Manifest::referrer("application/x-test", &one);
    pusher.prepare(&referrer).await;
    assert_eq!(pusher.put(&referrer.digest, &referrer).await.status(), StatusCode::CREATED);
    assert_eq!(tags(&world)[9..], [format!("$temp|{}|f|f|", short(&referrer))]);
    // Pushes by digest are not logged.
    assert_eq!(world.database.sql("SELECT count(*) FROM logentry3"), "7");
    // Also one that comes again, before it was collected.
    assert_eq!(pusher.delete(&referrer.digest).await.status(), StatusCode::ACCEPTED);
    assert_eq!(pusher.put(&referrer.digest, &referrer).await.status(), StatusCode::CREATED);
    assert_eq!(tags(&world)[10..], [format!("$temp|{}|f|f|", short(&referrer))]);
}

/// An image with annotations, which stand in for labels of its config.
fn annotated(annotations: serde_json::Value) -> Manifest {
    let mut manifest = image(&annotations.to_string());
    let mut body: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap();
    body["annotations"] = annotations;
    manifest.bytes = body.to_string().into();
    manifest.digest = digest_of(&manifest.bytes);
    manifest
}

#[tokio::test]
async fn labels_that_end_a_tag() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    for (value, lives) in [("1h", "3600000"), ("2w", "1209600000"), ("0s", ""), ("soon", "")] {
        let image = annotated(json!({"quay.expires-after": value, "quay.immutable": "true"}));
        pusher.push("ends", &image).await;
        let label = format!("ends|{}|f|f|{lives}", short(&image));
        assert_eq!(tags(&world).last(), Some(&label), "{value}");
        // Another tag of it has a life of its own.
        assert_eq!(pusher.put("too", &image).await.status(), StatusCode::CREATED);
        let label = format!("too|{}|f|f|{lives}", short(&image));
        assert_eq!(tags(&world).last(), Some(&label), "{value}");
    }
    // An index obeys what all of its children say.
    let hour = annotated(json!({"quay.expires-after": "1h", "n": "1"}));
    let hour_too = annotated(json!({"quay.expires-after": "1h", "n": "2"}));
    let day = annotated(json!({"quay.expires-after": "1d"}));
    for (children, lives) in [([&hour, &hour_too], "3600000"), ([&hour, &day], "")] {
        let children = children.map(|child| ("amd64", child.clone())).to_vec();
        let index = Manifest::index(children);
        for tag in ["new", "again"] {
            pusher.push(tag, &index).await;
            let label = format!("{tag}|{}|f|f|{lives}", short(&index));
            assert_eq!(tags(&world).last(), Some(&label));
        }
    }
}

#[tokio::test]
async fn workers_are_told() {
    let mut world = World::with_own_storage();
    world.configure("FEATURE_STORAGE_REPLICATION", json!(true));
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let image = image("told");
    let repository = world.nested.repo_id;
    world.database.sql(&format!(
        "INSERT INTO repositorynotification
             (uuid, repository_id, event_id, method_id, config_json, event_config_json)
         SELECT 'the-uuid', {repository}, e.id, m.id, '{{}}', '{{}}'
         FROM externalnotificationevent e, externalnotificationmethod m"
    ));
    pusher.push("told", &image).await;
    let rows = world.database.sql(
        "SELECT queue_name, body, available, retries_remaining, length(state_id) FROM queueitem
         ORDER BY id",
    );
    let blobs = world.database.sql(&format!(
        "SELECT s.uuid, r.namespace_user_id FROM manifestblob b
         JOIN imagestorage s ON s.id = b.blob_id JOIN repository r ON r.id = b.repository_id
         JOIN manifest m ON m.id = b.manifest_id WHERE m.digest = '{}' ORDER BY s.id",
        image.digest
    ));
    let mut expected: Vec<String> = blobs
        .lines()
        .map(|row| {
            let (uuid, namespace) = row.split_once('|').unwrap();
            format!(
                r#"imagestoragereplication/{uuid}/|{{"namespace_user_id": {namespace}, "storage_id": "{uuid}"}}|t|5|36"#
            )
        })
        .collect();
    let host = &world.hostname;
    expected.push(format!(
        r#"notification/{REPO}/repo_push/|{{"notification_uuid": "the-uuid", "event_data": {{"repository": "{REPO}", "namespace": "demo", "name": "nested/deep/repo", "docker_url": "{host}/{REPO}", "homepage": "http://{host}/repository/{REPO}", "updated_tags": ["told"]}}, "performer_data": {{"entity_id": {}, "entity_name": "ada"}}}}|t|5|36"#,
        world.ada.id
    ));
    assert_eq!(rows.lines().collect::<Vec<_>>(), expected);
}

/// Counts of bytes that nobody keeps up to date are made void, once.
#[tokio::test]
async fn quota_counts_are_made_void() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let repository = world.nested.repo_id;
    world.database.sql(&format!(
        "INSERT INTO quotarepositorysize
             (repository_id, size_bytes, backfill_start_ms, backfill_complete)
             VALUES ({repository}, 7, 1, true);
         INSERT INTO quotanamespacesize
             (namespace_user_id, size_bytes, backfill_start_ms, backfill_complete)
             SELECT namespace_user_id, 7, 1, true FROM repository WHERE id = {repository}"
    ));
    let image = image("counted");
    pusher.push("a", &image).await;
    let counts = "SELECT size_bytes, backfill_start_ms, backfill_complete FROM quotarepositorysize
        UNION ALL SELECT size_bytes, backfill_start_ms, backfill_complete FROM quotanamespacesize";
    assert_eq!(world.database.sql(counts), "0||f\n0||f");
}

/// As many as the design says: what a push costs in statements.
#[tokio::test]
async fn statements_are_counted() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let (one, two) = (image("one"), image("two"));
    pusher.push("warm", &one).await;
    pusher.prepare(&two).await;
    let statements = |registryd: &Registryd, route: &str| {
        registryd.metric(&format!("db_statements_total{{route=\"{route}\"}}"))
    };
    // On SQLite the transaction is the lock.
    let lock = if crate::support::on_sqlite() { 0.0 } else { 1.0 };
    for (what, manifest, expected) in [
        // Repository and performer; blobs; a free moment, manifest, blobs, two counts, scanner,
        // labels and their links; what it obeys, the old tag, the new one; whom to notify.
        ("a new image", &two, 14.0 + lock),
        // The same without what is there, but with what keeps it; and the old tag ends.
        ("the same again", &two, 10.0 + lock),
    ] {
        let before = statements(&registryd, "manifest_by_tag");
        assert_eq!(pusher.put("two", manifest).await.status(), StatusCode::CREATED);
        let found = statements(&registryd, "manifest_by_tag") - before;
        assert_eq!(found, expected, "{what}");
    }
    let before = statements(&registryd, "manifest_by_tag");
    assert_eq!(pusher.delete("two").await.status(), StatusCode::ACCEPTED);
    // Repository and performer; a free moment, the tag; its notifications, its end, cosign's.
    assert_eq!(statements(&registryd, "manifest_by_tag") - before, 6.0 + lock);
}
