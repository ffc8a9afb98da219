//! `kill -9` at every step of a push.

use quay_sidecar::push::STEPS;
use redis::Commands as _;
use reqwest::{Method, StatusCode};

use super::sound::{assert_leftovers_are_found, assert_resumable, assert_sound};
use super::{Pusher, header, leftovers, refusal};
use crate::events::Redis;
use crate::support::images::digest_of;
use crate::support::{Registryd, World, eventually};

/// What a client knows when its registry has died.
#[derive(Debug, Default)]
pub struct Known {
    pub uuid: Option<String>,
    /// Bytes that were acknowledged.
    pub bytes: usize,
    pub committed: bool,
}

/// A registryd that dies where it comes by `step`.
pub fn mortal(world: &World, step: &str) -> Registryd {
    Registryd::start_with(&world.conf, &[], &[("QUAY_SIDECAR_DIE_AT", step)])
}

pub fn assert_dead(mortal: &Registryd, step: &str) {
    eventually(
        || mortal.admin_get("/healthz").is_none().then_some(()),
        || format!("it came by {step:?} without dying"),
    );
}

/// Pushes `blob`, or gives it up where that is the step, until registryd dies: its first `at` bytes
/// in a request of their own, the rest with the end.
pub async fn push_until_death(pusher: &Pusher<'_>, blob: &[u8], at: usize, step: &str) -> Known {
    let mut known = Known::default();
    let Ok(answer) = pusher.try_send(Method::POST, "blobs/uploads/", &[], "").await else {
        return known;
    };
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    let path = format!("blobs/uploads/{}", header(&answer, "docker-upload-uuid"));
    known.uuid = Some(header(&answer, "docker-upload-uuid").to_owned());
    let Ok(answer) = pusher.try_send(Method::PATCH, &path, &[], blob[..at].to_vec()).await else {
        return known;
    };
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    known.bytes = at;
    let end = match step.starts_with("cancel") {
        true => pusher.try_send(Method::DELETE, &path, &[], "").await,
        false => {
            let path = format!("{path}?digest={}", digest_of(blob));
            pusher.try_send(Method::PUT, &path, &[], blob[at..].to_vec()).await
        }
    };
    known.committed = end.is_ok();
    known
}

/// Several batches, so that it can be cut in the middle of a request.
pub fn blob() -> Vec<u8> {
    (0..5_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

async fn killed_at(step: &str, at: usize, blob: &[u8]) {
    println!("{step}, {at} bytes before the end");
    let world = World::with_own_storage();
    let dying = mortal(&world, step);
    let known = push_until_death(&Pusher::new(&dying, &world), blob, at, step).await;
    assert_dead(&dying, step);
    assert!(!known.committed, "{known:?}");
    assert_leftovers_are_found(&world);

    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    if let Some(uuid) = &known.uuid {
        go_on(&world, &pusher, uuid, &known, step, blob).await;
    }
    assert_sound(&world, &pusher, blob).await;
}

/// The client comes back for its upload.
async fn go_on(
    world: &World,
    pusher: &Pusher<'_>,
    uuid: &str,
    known: &Known,
    step: &str,
    blob: &[u8],
) {
    let digest = digest_of(blob);
    match step {
        // It is a blob; nobody was told.
        "put: committed" => {
            assert_eq!(pusher.status(uuid).await.status(), StatusCode::NOT_FOUND);
            assert!(pusher.pull(&digest).await.unwrap() == blob);
        }
        "cancel: bytes gone" => {
            let answer = pusher.patch(uuid, "more").await;
            assert_eq!(refusal(answer).await.1, "BLOB_UPLOAD_INVALID");
            let path = format!("blobs/uploads/{uuid}");
            let again = pusher.send(Method::DELETE, &path, &[], "").await;
            assert_eq!(again.status(), StatusCode::NO_CONTENT);
        }
        // The bytes have moved already: only the same end can follow.
        "put: in place" => {
            for rest in [&b"other bytes"[..], &blob[known.bytes - 1..]] {
                let answer = pusher.finish(uuid, &digest, rest.to_vec()).await;
                assert_eq!(refusal(answer).await.1, "BLOB_UPLOAD_INVALID");
            }
            let answer = pusher.finish(uuid, &digest, blob[known.bytes..].to_vec()).await;
            assert_eq!(answer.status(), StatusCode::CREATED);
            assert!(pusher.pull(&digest).await.unwrap() == blob);
        }
        _ => {
            assert_resumable(world);
            let status = pusher.status(uuid).await;
            assert_eq!(status.status(), StatusCode::NO_CONTENT);
            let byte_count = world.database.sql("SELECT byte_count FROM blobupload");
            let byte_count: usize = byte_count.parse().unwrap();
            assert!(byte_count >= known.bytes, "{byte_count} of {} bytes", known.bytes);
            let answer = pusher.finish(uuid, &digest, blob[byte_count..].to_vec()).await;
            assert_eq!(answer.status(), StatusCode::CREATED);
            assert!(pusher.pull(&digest).await.unwrap() == blob);
        }
    }
}

/// Chunks, and an end without bytes: as Docker pushes.
#[tokio::test]
async fn killed_at_every_step() {
    let blob = blob();
    for step in STEPS {
        killed_at(step, blob.len(), &blob).await;
    }
}

/// Bytes with the end: as containerd pushes.
#[tokio::test]
async fn killed_at_every_step_of_an_end_with_bytes() {
    let blob = blob();
    for step in STEPS.iter().filter(|step| step.starts_with("put")) {
        killed_at(step, 1_000_000, &blob).await;
    }
}

fn ends() -> impl Iterator<Item = &'static str> {
    STEPS.into_iter().filter(|step| step.starts_with("put"))
}

/// One request for all of it, of whose upload the client knows nothing.
#[tokio::test]
async fn killed_at_every_step_of_a_push_in_one_request() {
    let blob = blob();
    let path = format!("blobs/uploads/?digest={}", digest_of(&blob));
    let comes_by = |step: &&str| !step.starts_with("patch") && !step.starts_with("cancel");
    for step in STEPS.into_iter().filter(comes_by) {
        let world = World::with_own_storage();
        let dying = mortal(&world, step);
        let pusher = Pusher::new(&dying, &world);
        let answer = pusher.try_send(Method::POST, &path, &[], blob.clone()).await;
        assert!(answer.is_err(), "{step}: {answer:?}");
        assert_dead(&dying, step);
        let registryd = world.registryd();
        let pusher = Pusher::new(&registryd, &world);
        let pulled = pusher.pull(&digest_of(&blob)).await;
        assert_eq!(pulled.is_ok(), step == "put: committed", "{step}");
        assert_sound(&world, &pusher, &blob).await;
    }
}

/// The bytes came by another process: they are read again, and copied.
#[tokio::test]
async fn killed_at_every_step_of_an_end_that_reads_again() {
    let blob = blob();
    let digest = digest_of(&blob);
    for step in ends() {
        let world = World::with_own_storage();
        let registryd = world.registryd();
        let pusher = Pusher::new(&registryd, &world);
        let uuid = pusher.start().await;
        pusher.patch(&uuid, blob.clone()).await;
        let dying = mortal(&world, step);
        let path = format!("blobs/uploads/{uuid}?digest={digest}");
        let answer = Pusher::new(&dying, &world).try_send(Method::PUT, &path, &[], "").await;
        assert!(answer.is_err(), "{step}: {answer:?}");
        assert_dead(&dying, step);
        let expected = match step {
            "put: committed" => StatusCode::NOT_FOUND,
            _ => StatusCode::CREATED,
        };
        assert_eq!(pusher.finish(&uuid, &digest, "").await.status(), expected, "{step}");
        assert!(pusher.pull(&digest).await.unwrap() == blob, "{step}");
        assert_sound(&world, &pusher, &blob).await;
    }
}

/// The blob is there already, and trusted under Quay's lock.
#[tokio::test]
async fn killed_at_every_step_of_an_end_that_finds_its_blob() {
    let (blob, redis) = (blob(), Redis::start());
    let digest = digest_of(&blob);
    for step in ends() {
        let mut world = World::with_own_storage();
        world.configure("USER_EVENTS_REDIS", redis.map(0));
        let registryd = world.registryd();
        let pusher = Pusher::new(&registryd, &world);
        assert_eq!(pusher.in_halves(&blob).await, StatusCode::CREATED);
        let dying = mortal(&world, step);
        let known = push_until_death(&Pusher::new(&dying, &world), &blob, blob.len(), step).await;
        assert_dead(&dying, step);
        // As time does it.
        redis.connect(0).del::<_, ()>(format!("lock:BLOB_DELETE_{digest}")).unwrap();
        let expected = match step {
            "put: committed" => StatusCode::NOT_FOUND,
            _ => StatusCode::CREATED,
        };
        let end = pusher.finish(&known.uuid.unwrap(), &digest, "").await;
        assert_eq!(end.status(), expected, "{step}");
        assert_eq!(leftovers(&world), ("0".to_owned(), 0), "{step}");
        assert!(pusher.pull(&digest).await.unwrap() == blob, "{step}");
        assert_sound(&world, &pusher, &blob).await;
    }
}
