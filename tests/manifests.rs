//! Manifests, pushed and deleted: what clients see, and what is in the database afterwards.

mod clients;
mod conflicts;
mod crashes;
mod deletes;
mod extremes;
mod hostile;
mod immutable;
mod outages;
mod quotas;
mod races;
mod refusals;
mod rows;

use std::collections::BTreeSet;

use reqwest::StatusCode;

use crate::support::images::{Blob, Manifest, OCI_INDEX, OCI_LAYER};
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

/// Waits for something that is about to happen.
pub async fn until(mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + crate::support::process::PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "it never came to that");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
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
