//! Uploads of blobs: what clients see, what is in the database and the storage afterwards.

pub mod crashes;
mod durable;
mod gates;
mod hostile;
mod memory;
mod outages;
pub mod overlap;
mod python;
mod ranges;
pub mod sound;
pub mod states;

use reqwest::{Method, StatusCode};

use crate::support::images::digest_of;
use crate::support::pusher::{Pusher, header, refusal};
use crate::support::{HOSTNAME, World};

/// The repository that is pushed to.
const REPO: &str = "demo/private";

/// Uploads in the middle: rows, and what lies in the storage for them.
pub fn leftovers(world: &World) -> (String, usize) {
    let rows = world.database.sql("SELECT count(*) FROM blobupload");
    let files = std::fs::read_dir(world.storage.join("uploads")).map_or(0, Iterator::count);
    (rows, files)
}

#[tokio::test]
async fn in_chunks() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let (first, second) = (vec![b'a'; 100_000], vec![b'b'; 200_000]);
    let blob = [first.clone(), second.clone()].concat();
    let digest = digest_of(&blob);

    let answer = pusher.send(Method::POST, "blobs/uploads/", &[], "").await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    let uuid = header(&answer, "docker-upload-uuid").to_owned();
    let location = format!("http://{HOSTNAME}/v2/{REPO}/blobs/uploads/{uuid}");
    assert_eq!(header(&answer, "location"), location);
    assert_eq!(header(&answer, "range"), "bytes=0--1");
    assert_eq!(std::fs::metadata(world.storage.join("uploads").join(&uuid)).unwrap().len(), 0);

    let answer = pusher.patch(&uuid, first).await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert_eq!(header(&answer, "location"), location);
    assert_eq!(header(&answer, "range"), "0-99999");
    assert_eq!(header(&answer, "docker-upload-uuid"), uuid);

    let answer = pusher.status(&uuid).await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    assert_eq!(header(&answer, "range"), "0-99999");

    let answer = pusher.patch(&uuid, second).await;
    assert_eq!(header(&answer, "range"), "0-299999");
    assert_eq!(
        world.database.sql("SELECT byte_count, chunk_count, storage_metadata FROM blobupload"),
        "300000|2|{}"
    );
    assert_eq!(pusher.pull(&digest).await, Err(StatusCode::NOT_FOUND));

    let answer = pusher.finish(&uuid, &digest, "").await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert_eq!(header(&answer, "docker-content-digest"), digest);
    let location = format!("http://{HOSTNAME}/v2/{REPO}/blobs/{digest}");
    assert_eq!(header(&answer, "location"), location);

    assert_eq!(pusher.pull(&digest).await.unwrap(), blob);
    assert_eq!(leftovers(&world), ("0".to_owned(), 0));
    assert_eq!(
        world.database.sql(&format!(
            "SELECT s.image_size, s.uncompressed_size, s.uploading, s.cas_path, l.name,
                 u.repository_id
             FROM imagestorage s JOIN imagestorageplacement p ON p.storage_id = s.id
             JOIN imagestoragelocation l ON l.id = p.location_id
             JOIN uploadedblob u ON u.blob_id = s.id WHERE s.content_checksum = '{digest}'"
        )),
        format!("300000||t|t|default|{}", world.private.repo_id)
    );
    // It is another's by now.
    let (status, code, _) = refusal(pusher.finish(&uuid, &digest, "").await).await;
    assert_eq!((status, code.as_str()), (404, "BLOB_UPLOAD_UNKNOWN"));
}

#[tokio::test]
async fn in_one_request() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    for (body, by_post) in [("one", true), ("two", false), ("", true), ("one", true), ("", false)] {
        let digest = digest_of(body.as_bytes());
        let answer = match by_post {
            true => {
                let path = format!("blobs/uploads/?digest={digest}");
                pusher.send(Method::POST, &path, &[], body).await
            }
            false => pusher.finish(&pusher.start().await, &digest, body).await,
        };
        assert_eq!(answer.status(), StatusCode::CREATED, "{body} {by_post}");
        assert_eq!(header(&answer, "docker-content-digest"), digest);
        assert_eq!(pusher.pull(&digest).await.unwrap(), body.as_bytes());
    }
    assert_eq!(leftovers(&world), ("0".to_owned(), 0));
    // The same bytes twice are stored once.
    let one = digest_of(b"one");
    let count = format!("SELECT count(*) FROM imagestorage WHERE content_checksum = '{one}'");
    assert_eq!(world.database.sql(&count), "1");
    assert_eq!(registryd.metric("uploads_read_again_total"), 0.0);
}

#[tokio::test]
async fn the_wrong_digest_ends_an_upload() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let sha512 = format!("sha512:{}", "0a".repeat(64));
    for wrong in [digest_of(b"other").as_str(), "garbage", &sha512, ""] {
        let uuid = pusher.start().await;
        pusher.patch(&uuid, "bytes").await;
        let (status, code, _) = refusal(pusher.finish(&uuid, wrong, "").await).await;
        assert_eq!((status, code.as_str()), (400, "BLOB_UPLOAD_INVALID"), "{wrong}");
        assert_eq!(pusher.status(&uuid).await.status(), StatusCode::NOT_FOUND, "{wrong}");
        let path = format!("blobs/uploads/?digest={wrong}");
        let (status, ..) = refusal(pusher.send(Method::POST, &path, &[], "bytes").await).await;
        assert_eq!(status, 400, "{wrong}");
    }
    // Without any, the client has only forgotten it.
    let uuid = pusher.start().await;
    let answer = pusher.send(Method::PUT, &format!("blobs/uploads/{uuid}"), &[], "").await;
    assert_eq!(refusal(answer).await.0, 400);
    assert_eq!(pusher.status(&uuid).await.status(), StatusCode::NO_CONTENT);
    let answer = pusher.send(Method::DELETE, &format!("blobs/uploads/{uuid}"), &[], "").await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    assert_eq!(leftovers(&world), ("0".to_owned(), 0));
}

/// As many as the design says: what a push costs in statements.
#[tokio::test]
async fn statements_are_counted() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    // Lookup tables and keys are read once.
    pusher.start().await;
    let statements = || {
        registryd.metric("db_statements_total{route=\"uploads\"}")
            + registryd.metric("db_statements_total{route=\"upload\"}")
    };
    let before = statements();
    let uuid = pusher.start().await;
    assert_eq!(statements() - before, 1.0, "POST: the row");
    let before = statements();
    pusher.patch(&uuid, "bytes").await;
    assert_eq!(statements() - before, 2.0, "PATCH: the row, and the row again");
    let before = statements();
    assert_eq!(pusher.finish(&uuid, &digest_of(b"bytes"), "").await.status(), StatusCode::CREATED);
    assert_eq!(
        statements() - before,
        6.0,
        "PUT: the row; then it goes, and storage, placement and link come"
    );
}

/// A gzip is also measured unpacked, if it came whole.
#[tokio::test]
async fn the_uncompressed_size_is_noted() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let layer = &world.public.manifest.layers()[0];
    let (_, length) = layer.uncompressed.as_ref().expect("layers are compressed");
    let mut other = layer.bytes.to_vec();
    other.extend_from_slice(b"trailing");
    let size = |digest: &str| {
        world.database.sql(&format!(
            "SELECT uncompressed_size FROM imagestorage WHERE content_checksum = '{digest}'"
        ))
    };
    let whole = digest_of(&other);
    pusher.finish(&pusher.start().await, &whole, other.clone()).await;
    assert_eq!(size(&whole), length.to_string());
    other.push(b'!');
    let halves = digest_of(&other);
    let uuid = pusher.start().await;
    pusher.patch(&uuid, other[..100].to_vec()).await;
    pusher.patch(&uuid, other[100..].to_vec()).await;
    assert_eq!(pusher.finish(&uuid, &halves, "").await.status(), StatusCode::CREATED);
    assert_eq!(size(&halves), "");
}

#[tokio::test]
async fn an_upload_belongs_to_its_repository() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let (owner, other) = (
        Pusher::new(&registryd, &world),
        Pusher::of(&registryd, &world, &world.ada, "demo/public"),
    );
    let uuid = owner.start().await;
    owner.patch(&uuid, "bytes").await;
    let before = world.database.sql("SELECT * FROM blobupload");
    let digest = digest_of(b"bytes");
    let path = format!("blobs/uploads/{uuid}");
    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::PATCH, path.clone()),
        (Method::PUT, format!("{path}?digest={digest}")),
        (Method::DELETE, path.clone()),
    ] {
        let answer = other.send(method.clone(), &path, &[], "").await;
        let (status, code, _) = refusal(answer).await;
        assert_eq!((status, code.as_str()), (404, "BLOB_UPLOAD_UNKNOWN"), "{method}");
        assert_eq!(world.database.sql("SELECT * FROM blobupload"), before, "{method}");
    }
    assert_eq!(owner.finish(&uuid, &digest, "").await.status(), StatusCode::CREATED);
    assert_eq!(other.pull(&digest).await, Err(StatusCode::NOT_FOUND));
}

#[tokio::test]
async fn mounting_what_may_be_read() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::of(&registryd, &world, &world.ada, "demo/nested/deep/repo");
    let public = world.public.manifest.layers()[0].digest.clone();
    let (private, nowhere) = (world.loose.digest.clone(), digest_of(b"nowhere"));
    let mount = async |digest: &str, from: &str| {
        let path = format!("blobs/uploads/?mount={digest}&from={from}");
        let answer = pusher.send(Method::POST, &path, &[], "").await;
        (answer.status().as_u16(), pusher.pull(digest).await.is_ok())
    };
    for (digest, from) in [
        (private.as_str(), "demo/private"),
        (&nowhere, "demo/public"),
        (&private, "demo/public"),
        ("garbage", "demo/public"),
    ] {
        assert_eq!(mount(digest, from).await, (202, false), "{digest} from {from}");
    }
    for from in ["", "demo/nope", "de%20mo/public"] {
        assert_eq!(mount(&public, from).await.0, 202, "{from}");
    }
    assert_eq!(mount(&public, "demo/public").await, (201, true));
    assert_eq!(
        world
            .database
            .sql(&format!("SELECT count(*) FROM imagestorage WHERE content_checksum = '{public}'")),
        "1"
    );
}
