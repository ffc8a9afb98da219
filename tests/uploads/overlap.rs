//! Requests on one upload that get in each other's way, in one process and in two.

use std::io::Write as _;
use std::net::TcpStream;

use bytes::Bytes;
use futures_util::future::join_all;
use redis::Commands as _;
use reqwest::{Method, StatusCode};
use rustix::fs::{CWD, Mode, OFlags, mkfifoat, open};
use tokio::sync::mpsc;

use super::sound::{assert_resumable, assert_sound};
use super::{Pusher, header, leftovers};
use crate::events::Redis;
use crate::support::images::digest_of;
use crate::support::{Registryd, World, eventually};

/// A body whose pieces the test decides about.
pub fn open_body() -> (mpsc::UnboundedSender<Bytes>, reqwest::Body) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let pieces = futures_util::stream::poll_fn(move |context| {
        receiver.poll_recv(context).map(|piece| piece.map(Ok::<_, std::io::Error>))
    });
    (sender, reqwest::Body::wrap_stream(pieces))
}

fn contents(world: &World, uuid: &str) -> Vec<u8> {
    std::fs::read(world.storage.join("uploads").join(uuid)).unwrap_or_default()
}

/// While an end waits for Quay's lock its bytes are stored, and nobody may write over them.
async fn a_patch_during_an_end(processes: usize) {
    let redis = Redis::start();
    let mut world = World::with_own_storage();
    world.configure("USER_EVENTS_REDIS", redis.map(0));
    let registryds: Vec<Registryd> = (0..processes).map(|_| world.registryd()).collect();
    let pushers: Vec<_> = registryds.iter().map(|one| Pusher::new(one, &world)).collect();
    let (ending, other) = (&pushers[0], &pushers[processes - 1]);
    let (first, last) = (vec![b'a'; 100_000], vec![b'b'; 100_000]);
    let blob = [first.clone(), last.clone()].concat();
    let (uuid, digest) = (ending.start().await, digest_of(&blob));
    ending.patch(&uuid, first).await;

    let mut quay = redis.connect(0);
    let lock = format!("lock:BLOB_DELETE_{digest}");
    quay.set::<_, _, ()>(&lock, "somebody else").unwrap();
    let (pieces, body) = open_body();
    pieces.send(vec![b'X'; 3_000_000].into()).unwrap();
    let refused = "http_requests_total{route=\"upload\",status=\"503\"}";
    let (end, patch, ()) = tokio::join!(
        ending.finish(&uuid, &digest, last),
        async {
            until(|| contents(&world, &uuid) == blob).await;
            other.patch(&uuid, body).await
        },
        async {
            until(|| contents(&world, &uuid) == blob).await;
            // It writes, or waits for its turn: in vain.
            let other = &registryds[processes - 1];
            until(|| contents(&world, &uuid) != blob || other.metric(refused) > 0.0).await;
            quay.del::<_, ()>(&lock).unwrap();
            drop(pieces);
        }
    );
    assert!(patch.status().is_client_error() || patch.status() == 503, "{}", patch.status());
    assert_eq!(end.status(), StatusCode::CREATED);
    assert!(ending.pull(&digest).await.unwrap() == blob, "other bytes than were hashed");
    assert_sound(&world, other, &blob).await;
}

pub async fn until(mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "it never came to that");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_patch_during_an_end_in_one_process() {
    a_patch_during_an_end(1).await;
}

#[tokio::test]
async fn a_patch_during_an_end_in_another_process() {
    a_patch_during_an_end(2).await;
}

#[tokio::test]
async fn one_of_two_patches_wins() {
    let world = World::with_own_storage();
    let registryds = [world.registryd(), world.registryd()];
    let pushers = [0, 1].map(|one| Pusher::new(&registryds[one], &world));
    for (one, other) in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 1), (1, 0)] {
        let uuid = pushers[0].start().await;
        let halves = [b'a', b'b'].map(|byte| vec![byte; 700_000]);
        let (first, second) = tokio::join!(
            pushers[one].patch(&uuid, halves[0].clone()),
            pushers[other].patch(&uuid, halves[1].clone()),
        );
        let statuses = [first.status(), second.status()];
        let won: Vec<usize> =
            (0..2).filter(|half| statuses[*half] == StatusCode::ACCEPTED).collect();
        assert_resumable(&world);
        // One after the other is no conflict.
        let blob: Vec<u8> = match won[..] {
            [half] => {
                assert!([416, 503].contains(&statuses[1 - half].as_u16()), "{statuses:?}");
                halves[half].clone()
            }
            [_, _] => contents(&world, &uuid),
            _ => panic!("both lost: {statuses:?}"),
        };
        let told = header(&pushers[other].status(&uuid).await, "range").to_owned();
        assert_eq!(told, format!("0-{}", blob.len() - 1));
        let end = pushers[one].finish(&uuid, &digest_of(&blob), "").await;
        assert_eq!(end.status(), StatusCode::CREATED);
        assert_sound(&world, &pushers[other], &blob).await;
    }
}

#[tokio::test]
async fn an_upload_that_changes_processes() {
    let world = World::with_own_storage();
    let registryds = [world.registryd(), world.registryd()];
    let pushers = [0, 1].map(|one| Pusher::new(&registryds[one], &world));
    let blob: Vec<u8> = (0..50_000u32).map(|i| (i * 7 % 251) as u8).collect();
    let uuid = pushers[0].start().await;
    for (number, chunk) in blob.chunks(5_001).enumerate() {
        let answer = pushers[number % 2].patch(&uuid, chunk.to_vec()).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
    }
    assert_resumable(&world);
    let digest = digest_of(&blob);
    assert_eq!(pushers[1].finish(&uuid, &digest, "").await.status(), StatusCode::CREATED);
    let read_again: f64 = registryds.iter().map(|one| one.metric("uploads_read_again_total")).sum();
    assert_eq!(read_again, 1.0);
    assert_eq!(leftovers(&world), ("0".to_owned(), 0));
    assert_sound(&world, &pushers[0], &blob).await;
}

#[tokio::test]
async fn an_end_in_several_requests_at_once() {
    let world = World::with_own_storage();
    let registryds = [world.registryd(), world.registryd()];
    let pushers: Vec<_> = (0..6).map(|one| Pusher::new(&registryds[one % 2], &world)).collect();
    for (last, round) in ["", "end", "", "end"].into_iter().zip(0..) {
        let blob = format!("round {round}{last}").into_bytes();
        let (uuid, digest) = (pushers[0].start().await, digest_of(&blob));
        pushers[0].patch(&uuid, blob[..blob.len() - last.len()].to_vec()).await;
        let ends = join_all(pushers.iter().map(|pusher| pusher.finish(&uuid, &digest, last))).await;
        let statuses: Vec<u16> = ends.iter().map(|end| end.status().as_u16()).collect();
        assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
        // 400: the bytes have moved into place already, and more are to be added.
        let known = [201, 400, 404, 416, 503];
        assert!(statuses.iter().all(|status| known.contains(status)), "{statuses:?}");
        let links = format!(
            "SELECT count(*) FROM uploadedblob u JOIN imagestorage s ON s.id = u.blob_id
             WHERE s.content_checksum = '{digest}'"
        );
        assert_eq!(world.database.sql(&links), "1");
        assert_sound(&world, &pushers[1], &blob).await;
    }
}

/// The client goes away in the middle of a chunk: what was noted stays, and it can go on.
#[tokio::test]
async fn a_client_that_goes_away_in_mid_patch() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let blob: Vec<u8> = (0..3_000_000u32).map(|i| (i % 253) as u8).collect();
    let uuid = pusher.start().await;
    pusher.patch(&uuid, blob[..1000].to_vec()).await;
    for framing in ["Content-Length: 2999000", "Transfer-Encoding: chunked"] {
        let address = registryd.base().strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let (path, token) = (format!("/v2/{}/blobs/uploads/{uuid}", pusher.repo), &pusher.token);
        write!(
            stream,
            "PATCH {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{framing}\r\n\r\n"
        )
        .unwrap();
        if framing.ends_with("chunked") {
            write!(stream, "{:x}\r\n", 2_999_000).unwrap();
        }
        stream.write_all(&[b'?'; 2_500_000]).unwrap();
        eventually(
            || (contents(&world, &uuid).len() > 1000).then_some(()),
            || "nothing arrives".to_owned(),
        );
        drop(stream);
        eventually(
            || (registryd.metric("http_requests_in_flight") == 0.0).then_some(()),
            || "it is not noticed".to_owned(),
        );
        assert_eq!(header(&pusher.status(&uuid).await, "range"), "0-999", "{framing}");
        assert_resumable(&world);
    }
    assert_eq!(pusher.patch(&uuid, blob[1000..].to_vec()).await.status(), StatusCode::ACCEPTED);
    let end = pusher.finish(&uuid, &digest_of(&blob), "").await;
    assert_eq!(end.status(), StatusCode::CREATED);
    assert_sound(&world, &pusher, &blob).await;
}

/// Ends an upload of `blob` that waits before its rows are written, and does `meanwhile` then.
async fn held_before_its_rows(
    world: &World,
    blob: &[u8],
    meanwhile: impl AsyncFnOnce(&str),
) -> StatusCode {
    let fifo = world.storage.join("held");
    mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
    let wait = format!("put: in place={}", fifo.display());
    let held = Registryd::start_with(&world.conf, &[], &[("QUAY_SIDECAR_WAIT_AT", &wait)]);
    let pusher = Pusher::new(&held, world);
    let (uuid, digest) = (pusher.start().await, digest_of(blob));
    pusher.patch(&uuid, blob.to_vec()).await;
    let (end, ()) = tokio::join!(pusher.finish(&uuid, &digest, ""), async {
        let mut hold = None;
        until(|| {
            // Without a reader there is nothing to open.
            hold = open(&fifo, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).ok();
            hold.is_some()
        })
        .await;
        meanwhile(&uuid).await;
        drop(hold);
    });
    std::fs::remove_file(&fifo).unwrap();
    end.status()
}

/// Quay's clean-up would not find its bytes where they are by then.
#[tokio::test]
async fn an_upload_given_up_while_it_is_ended() {
    let redis = Redis::start();
    let mut world = World::with_own_storage();
    world.configure("USER_EVENTS_REDIS", redis.map(0));
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let blob = b"nobody wants these bytes";
    let place = world.blob_path(&digest_of(blob));
    for wanted in [false, true] {
        if wanted {
            assert_eq!(pusher.in_halves(blob).await, StatusCode::CREATED);
        }
        let end = held_before_its_rows(&world, blob, async |uuid| {
            assert!(place.exists());
            let path = format!("blobs/uploads/{uuid}");
            let given_up = pusher.send(Method::DELETE, &path, &[], "").await;
            assert_eq!(given_up.status(), StatusCode::NO_CONTENT);
        });
        assert_eq!(end.await, StatusCode::NOT_FOUND);
        assert_eq!(place.exists(), wanted);
        assert_eq!(leftovers(&world), ("0".to_owned(), 0));
    }
    assert_sound(&world, &pusher, blob).await;
}

/// Quay's garbage collector, which saw no row of the blob: without Redis nothing keeps it waiting.
#[tokio::test]
async fn bytes_that_are_collected_before_their_rows_are_there() {
    let redis = Redis::start();
    let mut world = World::with_own_storage();
    world.configure("USER_EVENTS_REDIS", redis.map(0));
    drop(redis);
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let blob = b"collected";
    let (digest, place) = (digest_of(blob), world.blob_path(&digest_of(blob)));
    let end = held_before_its_rows(&world, blob, async |_| {
        std::fs::remove_file(&place).unwrap();
    });
    assert_eq!(end.await, StatusCode::SERVICE_UNAVAILABLE);
    // The client, which asks before it pushes, has to be told that it is missing.
    assert_eq!(pusher.pull(&digest).await, Err(StatusCode::NOT_FOUND));
    assert_eq!(pusher.in_halves(blob).await, StatusCode::CREATED);
    assert_sound(&world, &pusher, blob).await;
    // And what is there without a lock is not relied on.
    std::fs::write(&place, b"COLLECTED").unwrap();
    assert_eq!(pusher.in_halves(blob).await, StatusCode::CREATED);
    assert!(pusher.pull(&digest).await.unwrap() == blob);
}

#[tokio::test]
async fn an_upload_given_up_in_mid_patch() {
    let world = World::with_own_storage();
    let registryds = [world.registryd(), world.registryd()];
    let pushers = [0, 1].map(|one| Pusher::new(&registryds[one], &world));
    for other in &pushers {
        let uuid = pushers[0].start().await;
        let (pieces, body) = open_body();
        let (patch, ()) = tokio::join!(pushers[0].patch(&uuid, body), async {
            for _ in 0..40 {
                pieces.send(Bytes::from_static(&[b'a'; 65_536])).unwrap();
            }
            until(|| !contents(&world, &uuid).is_empty()).await;
            let path = format!("blobs/uploads/{uuid}");
            let given_up = other.send(Method::DELETE, &path, &[], "").await;
            assert_eq!(given_up.status(), StatusCode::NO_CONTENT);
            drop(pieces);
        });
        assert_eq!(patch.status(), StatusCode::NOT_FOUND);
        assert_eq!(leftovers(&world), ("0".to_owned(), 0));
    }
    assert_sound(&world, &pushers[1], &[b'a'; 100]).await;
}
