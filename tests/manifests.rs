//! Manifests, pushed and deleted: what clients see, and what is in the database afterwards.

mod clients;
mod conflicts;
mod crashes;
mod deletes;
mod immutable;
mod quotas;
mod refusals;
mod rows;

use std::collections::BTreeSet;

use reqwest::StatusCode;

use crate::support::images::{Blob, Manifest, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, digest_of};
use crate::support::pusher::{Pusher, header, refusal};
use crate::support::{Registryd, World};

/// The repository that is pushed to: private, and nothing of it is looked at elsewhere.
const REPO: &str = "demo/nested/deep/repo";

fn pusher<'a>(registryd: &'a Registryd, world: &World) -> Pusher<'a> {
    Pusher::of(registryd, world, &world.ada, REPO)
}

/// An image that is nobody else's.
pub fn image(text: &str) -> Manifest {
    Manifest::oci("amd64", vec![Blob::layer(OCI_LAYER, &[("hello", text)])])
}

#[tokio::test]
async fn every_kind_of_image_comes_back_as_it_was() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let kinds = [&world.public, &world.docker, &world.index, &world.referrer];
    for (number, image) in kinds.into_iter().enumerate() {
        let (tag, manifest) = (format!("kind{number}"), &image.manifest);
        pusher.prepare(manifest).await;
        for reference in [&manifest.digest, &tag] {
            let answer = pusher.put(reference, manifest).await;
            assert_eq!(answer.status(), StatusCode::CREATED, "{tag}");
            assert_eq!(header(&answer, "docker-content-digest"), manifest.digest);
            let location = format!("/v2/{REPO}/manifests/{}", manifest.digest);
            assert_eq!(header(&answer, "location"), location);
            let subject = manifest.subject.as_deref().unwrap_or_default();
            assert_eq!(header(&answer, "oci-subject"), subject, "{tag}");
            assert_eq!(answer.text().await.unwrap(), "OK");
            let stored = (manifest.media_type.to_owned(), manifest.bytes.clone());
            assert_eq!(pusher.manifest(reference).await, Ok(stored), "{tag}");
        }
        for child in &manifest.children {
            let stored = (child.media_type.to_owned(), child.bytes.clone());
            assert_eq!(pusher.manifest(&child.digest).await, Ok(stored), "{tag}");
        }
    }
}

#[tokio::test]
async fn indexes_of_all_shapes() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let inner = Manifest::index(vec![("amd64", image("inner"))]);
    let empty = Manifest::index(Vec::new());
    // An index of an index, the same child twice, and no child at all.
    let twice = Manifest::index(vec![("amd64", image("twice")), ("arm64", image("twice"))]);
    let outer = Manifest::index(vec![("amd64", inner), ("arm64", empty.clone())]);
    for (tag, index) in [("outer", outer), ("twice", twice), ("empty", empty)] {
        pusher.push(tag, &index).await;
        assert_eq!(pusher.manifest(tag).await, Ok((OCI_INDEX.to_owned(), index.bytes.clone())));
        let children = format!(
            "SELECT count(*) FROM manifestchild c JOIN manifest m ON m.id = c.manifest_id
             WHERE m.digest = '{}'",
            index.digest
        );
        let distinct: BTreeSet<&str> = index.children.iter().map(|c| c.digest.as_str()).collect();
        assert_eq!(world.database.sql(&children), distinct.len().to_string(), "{tag}");
    }
}

#[tokio::test]
async fn a_large_index() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let one = image("one");
    pusher.prepare(&one).await;
    assert_eq!(pusher.put(&one.digest, &one).await.status(), StatusCode::CREATED);
    // Its other children are made as rows: a push of each takes longer than the test is worth.
    world.database.sql(&format!(
        "INSERT INTO manifest (repository_id, digest, media_type_id, manifest_bytes)
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
         SELECT {}, 'sha256:' || substr('{}', 1, 64 - length(CAST(i AS text))) || i,
             m.media_type_id, '{{}}' FROM n, manifest m WHERE m.digest = '{}' AND m.repository_id = {0}",
        world.nested.repo_id,
        "0".repeat(64),
        one.digest,
    ));
    let zeros = "0".repeat(64);
    let children: Vec<_> = (1..=1000)
        .map(|i| format!("sha256:{}{i}", &zeros[..64 - i.to_string().len()]))
        .map(|digest| {
            serde_json::json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": 2,
                "platform": {"architecture": "amd64", "os": "linux"}})
        })
        .collect();
    let body = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": children})
    .to_string();
    let statements = || registryd.metric("db_statements_total{route=\"manifest_by_tag\"}");
    let before = statements();
    let answer = pusher.put_manifest("large", OCI_INDEX, body.clone()).await;
    assert_eq!(answer.status(), StatusCode::CREATED, "{}", answer.text().await.unwrap());
    assert!(statements() - before < 20.0, "{}", statements() - before);
    assert_eq!(
        world.database.sql(&format!(
            "SELECT count(*) FROM manifestchild c JOIN manifest m ON m.id = c.manifest_id
             WHERE m.digest = '{}'",
            digest_of(body.as_bytes())
        )),
        "1000"
    );
    // Each of them is kept until the index is.
    let kept = format!(
        "SELECT count(*) FROM tag WHERE hidden AND repository_id = {} AND lifetime_end_ms > 0",
        world.nested.repo_id
    );
    assert_eq!(world.database.sql(&kept), "1001");
}

/// One tag, many pushes at once: each of them is in the tag's history, one after the other.
#[tokio::test]
async fn pushes_of_one_tag_at_once() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let images: Vec<Manifest> = (0..6).map(|i| image(&format!("racer {i}\n"))).collect();
    for image in &images {
        pusher.prepare(image).await;
    }
    let pushes = images.iter().chain(&images).map(|image| pusher.put("race", image));
    for answer in futures_util::future::join_all(pushes).await {
        assert_eq!(answer.status(), StatusCode::CREATED);
    }
    let of_tag = |what: &str| {
        let repository = world.nested.repo_id;
        world.database.sql(&format!(
            "SELECT {what} FROM tag t WHERE t.repository_id = {repository} AND t.name = 'race'"
        ))
    };
    assert_eq!(of_tag("count(*)"), "12");
    assert_eq!(of_tag("sum(CASE WHEN lifetime_end_ms IS NULL THEN 1 ELSE 0 END)"), "1");
    // Where one ends the next begins.
    assert_eq!(
        of_tag(
            "sum(CASE WHEN lifetime_end_ms IS NULL OR EXISTS (SELECT 1 FROM tag n
                 WHERE n.repository_id = t.repository_id AND n.name = t.name
                 AND n.lifetime_start_ms = t.lifetime_end_ms) THEN 1 ELSE 0 END)"
        ),
        "12"
    );
    // One image a digest, whoever made it.
    assert_eq!(
        world.database.sql(&format!(
            "SELECT count(*) FROM manifest WHERE repository_id = {} AND digest IN ('{}')",
            world.nested.repo_id,
            images.iter().map(|image| image.digest.as_str()).collect::<Vec<_>>().join("', '"),
        )),
        "6"
    );
}

/// The process ends on the way: nothing is half there, and the client's next try succeeds.
#[tokio::test]
async fn killed_on_the_way() {
    for (step, tagged) in [("manifest: checked", "0"), ("manifest: stored", "1")] {
        let world = World::with_own_storage();
        let image = image("killed");
        {
            let variables = [("QUAY_SIDECAR_DIE_AT", step)];
            let registryd = Registryd::start_with(&world.conf, &[], &variables);
            let pusher = pusher(&registryd, &world);
            pusher.prepare(&image).await;
            let path = registryd.url(&format!("/v2/{REPO}/manifests/t"));
            let request = crate::support::http().put(path).bearer_auth(&pusher.token);
            let request = request.header("Content-Type", image.media_type);
            request.body(image.bytes.clone()).send().await.unwrap_err();
        }
        let count = |table: &str, column: &str, value: &str| {
            let repository = world.nested.repo_id;
            world.database.sql(&format!(
                "SELECT count(*) FROM {table} WHERE repository_id = {repository}
                 AND {column} = '{value}'"
            ))
        };
        assert_eq!(count("manifest", "digest", &image.digest), tagged, "{step}");
        assert_eq!(count("tag", "name", "t"), tagged, "{step}");
        let registryd = world.registryd();
        let pusher = pusher(&registryd, &world);
        pusher.push("t", &image).await;
        assert_eq!(pusher.manifest("t").await.unwrap().1, image.bytes, "{step}");
    }
}
