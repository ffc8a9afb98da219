//! `kill -9` at every step of a push.

use reqwest::{Method, StatusCode};

use quay_sidecar::push::STEPS;

use super::sound::{assert_leftovers_are_found, assert_resumable, assert_sound};
use super::{Pusher, header, refusal};
use crate::support::images::digest_of;
use crate::support::{Registryd, World, eventually};

/// What a client knows when its registry has died.
#[derive(Debug, Default)]
struct Known {
    uuid: Option<String>,
    /// Bytes that were acknowledged.
    bytes: usize,
    committed: bool,
}

/// Pushes `blob`, or gives it up where that is the step, until registryd dies: its first `at` bytes
/// in a request of their own, the rest with the end.
async fn push_until_death(pusher: &Pusher<'_>, blob: &[u8], at: usize, step: &str) -> Known {
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
fn blob() -> Vec<u8> {
    (0..5_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

async fn killed_at(step: &str, at: usize, blob: &[u8]) {
    println!("{step}, {at} bytes before the end");
    let world = World::with_own_storage();
    let dying = Registryd::start_with(&world.conf, &[], &[("QUAY_SIDECAR_DIE_AT", step)]);
    let known = push_until_death(&Pusher::new(&dying, &world), blob, at, step).await;
    eventually(
        || dying.admin_get("/healthz").is_none().then_some(()),
        || format!("it came by without dying: {known:?}"),
    );
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
            let answer = pusher.finish(uuid, &digest, blob[known.bytes..].to_vec()).await;
            match known.bytes == blob.len() {
                true => assert_eq!(answer.status(), StatusCode::CREATED),
                false => assert_eq!(refusal(answer).await.1, "BLOB_UPLOAD_INVALID"),
            }
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
