//! Pushes into a bucket, through registryd: what either runtime would have left there.

use std::path::PathBuf;

use quay_sidecar::push::STEPS;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::uploads::bytes;
use super::{BUCKET, ObjectStorage, location};
use crate::support::images::digest_of;
use crate::support::pusher::{Pusher, header, refusal};
use crate::support::{Registryd, World, free_port, http};
use crate::uploads::crashes::{assert_dead, blob, mortal, push_until_death};

struct Place {
    world: World,
    storage: ObjectStorage,
    registryd: Registryd,
}

impl Place {
    fn new() -> Place {
        let mut world = World::new();
        let storage = ObjectStorage::empty();
        let location = storage.location("/registry");
        world.configure("DISTRIBUTED_STORAGE_CONFIG", json!({"default": location}));
        let registryd = world.registryd();
        Place { world, storage, registryd }
    }

    fn pusher(&self) -> Pusher<'_> {
        Pusher::new(&self.registryd, &self.world)
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.storage.folder.path().join(BUCKET).join("registry").join(name)
    }

    /// Chunks of uploads that are in the bucket.
    fn chunks(&self) -> usize {
        std::fs::read_dir(self.folder("uploads")).map_or(0, Iterator::count)
    }

    /// The blob as a client gets it, from where it is sent to.
    async fn pull(&self, digest: &str) -> Vec<u8> {
        let answer = self.pusher().send(Method::GET, &format!("blobs/{digest}"), &[], "").await;
        assert_eq!(answer.status(), StatusCode::FOUND);
        let answer = http().get(location(&answer)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.bytes().await.unwrap().to_vec()
    }
}

#[tokio::test]
async fn whole_and_in_chunks() {
    let place = Place::new();
    let pusher = place.pusher();
    // Smaller and larger than what a storage puts together by itself.
    for sizes in [&[0][..], &[1000], &[6 << 20], &[1000, 2000], &[5 << 20, 6 << 20, 10]] {
        let blob = bytes(sizes.iter().sum());
        let (digest, uuid) = (digest_of(&blob), pusher.start().await);
        let mut from = 0;
        for (number, size) in (1..).zip(sizes) {
            let answer = pusher.patch(&uuid, blob[from..from + size].to_vec()).await;
            assert_eq!(answer.status(), StatusCode::ACCEPTED, "{sizes:?}");
            from += size;
            let chunks = if from == 0 { 0 } else { number };
            assert_eq!(place.chunks(), chunks, "each request is an object of its own");
        }
        let answer = pusher.finish(&uuid, &digest, "").await;
        assert_eq!(answer.status(), StatusCode::CREATED, "{sizes:?}");
        assert_eq!(header(&answer, "docker-content-digest"), digest);
        assert!(place.pull(&digest).await == blob, "{sizes:?}");
        assert_eq!(place.chunks(), 0, "{sizes:?}");
    }
    assert_eq!(place.world.database.sql("SELECT count(*) FROM blobupload"), "0");
    assert_eq!(place.registryd.metric("uploads_read_again_total"), 0.0);
}

#[tokio::test]
async fn the_wrong_digest_leaves_nothing() {
    let place = Place::new();
    let pusher = place.pusher();
    let uuid = pusher.start().await;
    pusher.patch(&uuid, "bytes").await;
    assert_eq!(place.chunks(), 1);
    let (status, ..) = refusal(pusher.finish(&uuid, &digest_of(b"other"), "").await).await;
    assert_eq!((status, place.chunks()), (400, 0));
    assert_eq!(place.world.database.sql("SELECT count(*) FROM blobupload"), "0");
}

/// Another process finishes what one has begun, once it has read it.
#[tokio::test]
async fn another_process_goes_on() {
    let mut place = Place::new();
    let blob = bytes(3000);
    let (digest, uuid) = (digest_of(&blob), place.pusher().start().await);
    place.pusher().patch(&uuid, blob[..1000].to_vec()).await;
    place.registryd = place.world.registryd();
    place.pusher().patch(&uuid, blob[1000..].to_vec()).await;
    assert_eq!(place.pusher().finish(&uuid, &digest, "").await.status(), StatusCode::CREATED);
    assert_eq!(place.registryd.metric("uploads_read_again_total"), 1.0);
    assert!(place.pull(&digest).await == blob);
    assert_eq!(place.chunks(), 0);
}

/// A storage that is away is told as such, and the same upload goes on when it is back.
#[tokio::test]
async fn a_storage_that_is_away() {
    let Place { mut world, storage, registryd } = Place::new();
    let (uuid, digest) = (Pusher::new(&registryd, &world).start().await, digest_of(b"bytes"));
    let mut away = storage.location("/registry");
    let there = away.clone();
    away[1]["endpoint_url"] = format!("http://127.0.0.1:{}", free_port()).into();
    world.configure("DISTRIBUTED_STORAGE_CONFIG", json!({"default": away}));
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let (status, code, _) = refusal(pusher.finish(&uuid, &digest, "bytes").await).await;
    assert_eq!((status, code.as_str()), (503, "UNAVAILABLE"));
    world.configure("DISTRIBUTED_STORAGE_CONFIG", json!({"default": there}));
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    assert_eq!(pusher.finish(&uuid, &digest, "bytes").await.status(), StatusCode::CREATED);
}

/// Another process goes on with what a killed one has left.
#[tokio::test]
async fn killed_at_every_step() {
    let blob = blob();
    let digest = digest_of(&blob);
    let is_with_bytes = |step: &&str| !step.starts_with("post") && !step.starts_with("cancel");
    for step in STEPS.into_iter().filter(is_with_bytes) {
        let place = Place::new();
        let dying = mortal(&place.world, step);
        let dying_pusher = Pusher::new(&dying, &place.world);
        let known = push_until_death(&dying_pusher, &blob, blob.len(), step).await;
        assert_dead(&dying, step);
        assert!(!known.committed, "{step}");
        let (pusher, uuid) = (place.pusher(), known.uuid.unwrap());
        if step != "put: committed" {
            let byte_count = place.world.database.sql("SELECT byte_count FROM blobupload");
            let byte_count: usize = byte_count.parse().unwrap();
            assert!(byte_count >= known.bytes, "{step}: {byte_count} bytes");
            let end = pusher.finish(&uuid, &digest, blob[byte_count..].to_vec()).await;
            assert_eq!(end.status(), StatusCode::CREATED, "{step}");
            // What a request had stored of which nobody was told is named by nothing.
            assert!(place.chunks() == 0 || known.bytes == 0, "{step}");
        }
        assert!(place.pull(&digest).await == blob, "{step}");
        assert_eq!(place.world.database.sql("SELECT count(*) FROM blobupload"), "0", "{step}");
    }
}

/// Each request writes objects of its own, so neither waits for the other; the row says who was first.
#[tokio::test]
async fn one_of_two_patches_wins() {
    let place = Place::new();
    let other = place.world.registryd();
    let pushers = [place.pusher(), Pusher::new(&other, &place.world)];
    for _ in 0..5 {
        let uuid = pushers[0].start().await;
        let halves = [b'a', b'b'].map(|byte| vec![byte; 700_000]);
        let (one, two) = tokio::join!(
            pushers[0].patch(&uuid, halves[0].clone()),
            pushers[1].patch(&uuid, halves[1].clone()),
        );
        let statuses = [one.status(), two.status()];
        let won = statuses.map(|status| status == StatusCode::ACCEPTED);
        let blob = match won {
            [true, false] => &halves[0],
            [false, true] => &halves[1],
            // One after the other is no conflict.
            [true, true] => {
                assert_eq!(header(&pushers[0].status(&uuid).await, "range"), "0-1399999");
                continue;
            }
            [false, false] => panic!("both lost: {statuses:?}"),
        };
        assert!(statuses.contains(&StatusCode::RANGE_NOT_SATISFIABLE), "{statuses:?}");
        let end = pushers[1].finish(&uuid, &digest_of(blob), "").await;
        assert_eq!(end.status(), StatusCode::CREATED);
        assert!(place.pull(&digest_of(blob)).await == *blob);
    }
}
