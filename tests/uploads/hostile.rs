//! Uploads in the hands of an attacker.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use quay_sidecar::blobs::ResumableSha256;
use reqwest::{Method, StatusCode};

use super::sound::{assert_sound, assert_stored_as_committed};
use super::{Pusher, header, refusal};
use crate::support::World;
use crate::support::images::digest_of;

fn state_of(bytes: &[u8]) -> String {
    let mut hash = ResumableSha256::default();
    hash.update(bytes);
    hash.to_column()
}

fn set_state(world: &World, uuid: &str, state: &str) {
    let state = state.replace('\'', "''");
    world
        .database
        .sql(&format!("UPDATE blobupload SET sha_state = '{state}' WHERE uuid = '{uuid}'"));
}

/// Every verb that goes on with an upload.
async fn every_verb(pusher: &Pusher<'_>, id: &str) -> Vec<(Method, u16)> {
    let path = format!("blobs/uploads/{id}");
    let digest = digest_of(b"hello");
    let mut statuses = Vec::new();
    for (method, path, body) in [
        (Method::GET, path.clone(), ""),
        (Method::HEAD, path.clone(), ""),
        (Method::PATCH, path.clone(), "more"),
        (Method::PUT, format!("{path}?digest={digest}"), ""),
        (Method::DELETE, path.clone(), ""),
    ] {
        let answer = pusher.send(method.clone(), &path, &[], body).await;
        statuses.push((method, answer.status().as_u16()));
    }
    statuses
}

/// CVE-2026-32590. What is no state of that one class is Python's to refuse: nothing runs it, and
/// nothing happens to the upload.
#[tokio::test]
async fn foreign_pickles_are_not_touched() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let (uuid, witness) = (pusher.start().await, world.storage.join("executed"));
    pusher.patch(&uuid, "hello").await;
    let good = BASE64_STANDARD.decode(state_of(b"hello")).unwrap();
    let run = format!("cos\nsystem\n(S'touch {}'\ntR.", witness.display());
    let mut states = vec![
        String::new(),
        "not base64".to_owned(),
        BASE64_STANDARD.encode(&run),
        // Behind a state that is sound, and before it.
        BASE64_STANDARD.encode([&good[..], run.as_bytes()].concat()),
        BASE64_STANDARD.encode([run.as_bytes(), &good[..]].concat()),
        BASE64_STANDARD.encode(b"\x80\x04N."),
        "A".repeat(100_000),
        // A state, but of more bytes than there are.
        state_of(b"hello and more"),
        state_of(b""),
    ];
    // Any byte of the frame, and a few of the counts.
    states.extend((0..45).chain(109..125).chain(157..160).map(|at| {
        let mut bad = good.clone();
        bad[at] ^= 0x41;
        BASE64_STANDARD.encode(bad)
    }));
    for state in &states {
        set_state(&world, &uuid, state);
        let before = world.database.sql("SELECT * FROM blobupload");
        for (method, status) in every_verb(&pusher, &uuid).await {
            assert_eq!(status, 405, "{method} with {state:.80}");
        }
        assert_eq!(world.database.sql("SELECT * FROM blobupload"), before);
    }
    let declined = "quay_declined_total{reason=\"upload_state\"}";
    assert!(registryd.metric(declined) >= states.len() as f64);
    assert!(!witness.exists());
    // Sound again, it goes on.
    set_state(&world, &uuid, &state_of(b"hello"));
    let end = pusher.finish(&uuid, &digest_of(b"hello"), "").await;
    assert_eq!(end.status(), StatusCode::CREATED);
    assert_sound(&world, &pusher, b"hello").await;
}

/// A state that is well made but of other bytes commits nothing under their digest.
#[tokio::test]
async fn a_forged_state_gives_nobody_elses_digest() {
    let world = World::with_own_storage();
    let registryds = [world.registryd(), world.registryd()];
    let pushers = [0, 1].map(|one| Pusher::new(&registryds[one], &world));
    let wanted = digest_of(b"a trusted layer");
    // In the process that has carried it, and in one that has not.
    for pusher in &pushers {
        let uuid = pushers[0].start().await;
        pushers[0].patch(&uuid, "an evil one....").await;
        set_state(&world, &uuid, &state_of(b"a trusted layer"));
        let (status, code, _) = refusal(pusher.finish(&uuid, &wanted, "").await).await;
        assert_eq!((status, code.as_str()), (400, "BLOB_UPLOAD_INVALID"));
        assert_eq!(pusher.pull(&wanted).await, Err(StatusCode::NOT_FOUND));
    }
    assert_sound(&world, &pushers[0], b"a trusted layer").await;
}

/// Whatever is in the column: an answer, and nothing committed that the bytes are not.
#[tokio::test]
async fn any_column_is_answered() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let good = BASE64_STANDARD.decode(state_of(b"hello")).unwrap();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        // Xorshift: the same columns in each run.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let (mut uuid, mut taken_up) = (pusher.start().await, 0);
    pusher.patch(&uuid, "hello").await;
    for round in 0..120 {
        let mut column = good.clone();
        for _ in 0..=next(4) {
            // Most often in the state itself, where it may still be well made.
            let at = if next(3) == 0 { next(column.len()) } else { 45 + next(112) };
            column[at] = next(256) as u8;
        }
        column.truncate(if next(8) == 0 { next(160) } else { 160 });
        let column = BASE64_STANDARD.encode(column);
        set_state(&world, &uuid, &column);
        // As the state has it, if it is one.
        let state = ResumableSha256::from_column(&column).ok();
        let digest = state.map_or_else(|| digest_of(b"hello"), |state| state.digest().to_string());
        let end = pusher.finish(&uuid, &digest, "").await;
        let is_true = digest == digest_of(b"hello");
        match end.status().as_u16() {
            405 => continue,
            201 => assert!(is_true, "round {round}: {column}"),
            status => assert!(status == 400 && !is_true, "round {round}: {status}: {column}"),
        }
        taken_up += 1;
        assert_stored_as_committed(&world);
        uuid = pusher.start().await;
        pusher.patch(&uuid, "hello").await;
    }
    assert!(taken_up > 10, "only {taken_up} columns were states at all");
    assert_sound(&world, &pusher, b"hello").await;
}

/// An id is looked up, and nothing else: none of these is one.
#[tokio::test]
async fn ids_that_are_no_uploads() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let uuid = pusher.start().await;
    pusher.patch(&uuid, "hello").await;
    let before = world.database.sql("SELECT * FROM blobupload");
    let long = "a".repeat(20_000);
    let encoded: String = uuid.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for id in [
        "%2e%2e",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e%2f%2e%2e%2fconfig.yaml",
        "%252e%252e%252f",
        "..%5c..%5c",
        "%00",
        "%ff%fe",
        "%0d%0aX-Evil:%201",
        "'%20OR%20'1'='1",
        "%25",
        "____________________________________",
        "00000000-0000-0000-0000-000000000000",
        &format!("{uuid}%00"),
        &format!("{uuid}%2f"),
        &format!("{uuid}%2f..%2f{uuid}"),
        &format!("%20{uuid}"),
        &format!("{uuid}.reread"),
        &uuid.replace('-', ""),
        &format!("urn:uuid:{uuid}"),
        &format!("%7b{uuid}%7d"),
        &long,
    ] {
        for (method, status) in every_verb(&pusher, id).await {
            assert!((400..500).contains(&status), "{method} {id:.80}: {status}");
        }
        assert_eq!(world.database.sql("SELECT * FROM blobupload"), before, "{id:.80}");
    }
    // Another spelling of the same is the same.
    assert_eq!(pusher.status(&encoded).await.status(), StatusCode::NO_CONTENT);
    assert_sound(&world, &pusher, b"hello").await;
}

/// Rows that name a file elsewhere: the path is made of a uuid, or not at all.
#[tokio::test]
async fn rows_that_lead_elsewhere() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let outside = world.storage.join("outside");
    for (name, id) in [("../outside", "..%2foutside"), ("outside", "outside")] {
        std::fs::write(&outside, "hello").unwrap();
        let uuid = pusher.start().await;
        pusher.patch(&uuid, "hello").await;
        world.database.sql(&format!("UPDATE blobupload SET uuid = '{name}' WHERE uuid = '{uuid}'"));
        let path = format!("blobs/uploads/{id}");
        for (method, path) in [
            (Method::PATCH, path.clone()),
            (Method::PUT, format!("{path}?digest={}", digest_of(b"hello"))),
            (Method::DELETE, path.clone()),
        ] {
            let answer = pusher.send(method.clone(), &path, &[], "").await;
            assert!(answer.status().is_client_error(), "{method} {name}: {}", answer.status());
            assert_eq!(std::fs::read(&outside).unwrap(), b"hello", "{method} {name}");
        }
        world.database.sql("DELETE FROM blobupload");
        std::fs::remove_dir_all(world.storage.join("uploads")).unwrap();
    }
    std::fs::remove_file(&outside).unwrap();
    assert_sound(&world, &pusher, b"hello").await;
}

/// Bytes are stored as they come: what a client says is packed is not taken, and nothing is unpacked.
#[tokio::test]
async fn encoded_bodies_are_refused() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let packed = world.public.manifest.layers()[0].bytes.to_vec();
    let (uuid, digest) = (pusher.start().await, digest_of(&packed));
    let before = world.database.sql("SELECT * FROM blobupload");
    let image = &world.public.manifest;
    for (method, path, body) in [
        (Method::POST, format!("blobs/uploads/?digest={digest}"), packed.clone()),
        (Method::PATCH, format!("blobs/uploads/{uuid}"), packed.clone()),
        (Method::PUT, format!("blobs/uploads/{uuid}?digest={digest}"), packed.clone()),
        (Method::PUT, "manifests/packed".to_owned(), image.bytes.to_vec()),
    ] {
        for coding in ["gzip", "identity, zstd", "GZIP", "x"] {
            let headers = [("Content-Encoding", coding), ("Content-Type", image.media_type)];
            let answer = pusher.send(method.clone(), &path, &headers, body.clone()).await;
            assert_eq!(header(&answer, "accept-encoding"), "identity", "{method} {coding}");
            let (status, code, message) = refusal(answer).await;
            assert_eq!((status, code.as_str()), (415, "UNSUPPORTED"), "{method} {coding}");
            assert!(message.contains(coding), "{message}");
        }
    }
    assert_eq!(world.database.sql("SELECT * FROM blobupload"), before);
    assert_eq!(pusher.manifest("packed").await, Err(404));
    // Said to be nothing, it is nothing; and the upload goes on.
    let path = format!("blobs/uploads/{uuid}?digest={digest}");
    let headers = [("Content-Encoding", "Identity")];
    let answer = pusher.send(Method::PUT, &path, &headers, packed.clone()).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert_eq!(pusher.pull(&digest).await, Ok(packed));
}
