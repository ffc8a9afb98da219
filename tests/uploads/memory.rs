//! What an upload costs in memory, whatever its size, and many at once.

use std::time::Instant;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream;
use reqwest::StatusCode;
use sha2::{Digest as _, Sha256};

use super::Pusher;
use super::overlap::{open_body, until};
use crate::support::World;
use crate::support::images::digest_of;

const MIB: usize = 1 << 20;

/// `length` MiB of which no two are the same, as they are asked for.
fn pieces(length: usize, seed: u8) -> impl Iterator<Item = Bytes> + Send + 'static {
    (0..length).map(move |number| {
        let mut piece = vec![seed; MIB];
        piece[..8].copy_from_slice(&number.to_le_bytes());
        piece.into()
    })
}

fn digest(length: usize, seed: u8) -> String {
    let mut hash = Sha256::new();
    pieces(length, seed).for_each(|piece| hash.update(&piece));
    let hex = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("sha256:{hex}")
}

async fn push(pusher: &Pusher<'_>, length: usize, seed: u8) {
    let uuid = pusher.start().await;
    let body = || stream::iter(pieces(length, seed).map(Ok::<_, std::io::Error>));
    let answer = pusher.patch(&uuid, reqwest::Body::wrap_stream(body())).await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    let end = pusher.finish(&uuid, &digest(length, seed), "").await;
    assert_eq!(end.status(), StatusCode::CREATED);
}

/// registryd's peak after so many uploads at once, each of so many MiB.
async fn peak(uploads: u8, length: usize) -> f64 {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    join_all((0..uploads).map(|seed| push(&pusher, length, seed))).await;
    registryd.memory().1 as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_costs_the_same_whatever_its_size() {
    let (small, large) = (peak(1, 30).await, peak(1, 300).await);
    println!("peak with 30 MiB: {small}, with 300 MiB: {large}");
    assert!(large < small * 1.2, "{large} bytes for a blob of 300 MiB, {small} for one of 30");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_uploads_share_what_there_is() {
    let (one, many) = (peak(1, 8).await, peak(50, 8).await);
    println!("peak with one upload: {one}, with 50: {many}");
    assert!(many < one + 64.0 * MIB as f64, "{many} bytes for 50 uploads, {one} for one");
}

/// Clients that hardly send anything hold up nobody, and cost no thread each.
#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies() {
    const SLOW: usize = 300;
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let threads = || std::fs::read_dir(format!("/proc/{}/task", registryd.pid())).unwrap().count();
    assert_eq!(pusher.in_halves(b"before").await, StatusCode::CREATED);
    let (threads_before, memory_before) = (threads(), registryd.memory().1);

    let uuids = join_all((0..SLOW).map(|_| pusher.start())).await;
    let (senders, bodies): (Vec<_>, Vec<_>) = (0..SLOW).map(|_| open_body()).unzip();
    let patches = uuids.iter().zip(bodies).map(|(uuid, body)| pusher.patch(uuid, body));
    let (answers, ()) = tokio::join!(join_all(patches), async {
        senders.iter().for_each(|sender| sender.send(Bytes::from_static(b"s")).unwrap());
        until(|| registryd.metric("http_requests_in_flight") >= SLOW as f64).await;
        let began = Instant::now();
        for number in 0..10 {
            let blob = format!("quick {number}");
            assert_eq!(pusher.in_halves(blob.as_bytes()).await, StatusCode::CREATED);
        }
        let took = began.elapsed();
        assert!(took.as_secs() < 5, "others waited for {took:?}");
        senders.iter().for_each(|sender| sender.send(Bytes::from_static(b"low")).unwrap());
        let threads = threads();
        assert!(threads < threads_before + SLOW / 4, "{threads}, {threads_before} before");
        let grown = registryd.memory().1 - memory_before;
        assert!(grown < (SLOW * 256 * 1024) as u64, "{grown} bytes for {SLOW} slow clients");
        drop(senders);
    });
    assert!(answers.iter().all(|answer| answer.status() == StatusCode::ACCEPTED));
    let end = pusher.finish(&uuids[0], &digest_of(b"slow"), "").await;
    assert_eq!(end.status(), StatusCode::CREATED);
}
