//! Pushes through registryd into a storage that fails: what was acknowledged is there and right,
//! what was not is told so, and the same request again goes on from there.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use reqwest::{Method, Response, StatusCode};
use serde_json::json;

use super::fault_proxy::{FULL, INTERNAL, LATE_ERROR, SLOW_DOWN};
use super::uploads::{MIB, bytes, until_quiet};
use super::{BUCKET, ObjectStorage, location};
use crate::events::Redis;
use crate::support::fault_proxy::{Fault, FaultProxy};
use crate::support::images::{Blob, Manifest, OCI_LAYER, digest_of};
use crate::support::pusher::{Pusher, header, refusal};
use crate::support::{Registryd, TableLock, World, http};
use crate::uploads::overlap::{open_body, until};

/// More often than a request is sent.
const ALWAYS: usize = usize::MAX;

struct Place {
    proxy: FaultProxy,
    registryd: Registryd,
    world: World,
    storage: ObjectStorage,
}

impl Place {
    async fn new() -> Place {
        Place::of(World::new()).await
    }

    async fn of(mut world: World) -> Place {
        let storage = ObjectStorage::empty();
        let proxy = FaultProxy::to(storage.port).await;
        let mut location = storage.location("/registry");
        location[1]["endpoint_url"] = format!("http://127.0.0.1:{}", proxy.port).into();
        world.configure("DISTRIBUTED_STORAGE_CONFIG", json!({"default": location}));
        let registryd = world.registryd();
        Place { proxy, registryd, world, storage }
    }

    fn pusher(&self) -> Pusher<'_> {
        Pusher::new(&self.registryd, &self.world)
    }

    /// Files in the bucket's folder, those of parts too.
    fn stored(&self) -> usize {
        fn count(folder: &Path) -> usize {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
        }
        count(&self.storage.folder.path().join(BUCKET))
    }

    /// The blob as a client gets it, from where it is sent to.
    async fn pull(&self, digest: &str) -> Vec<u8> {
        let path = format!("blobs/{digest}");
        let answer = self.pusher().send(Method::GET, &path, &[], "").await;
        assert_eq!(answer.status(), StatusCode::FOUND);
        let answer = http().get(location(&answer)).send().await.unwrap();
        answer.bytes().await.unwrap().to_vec()
    }
}

/// That it will be better in a moment.
async fn assert_unavailable(answer: Response, what: &str) {
    assert_eq!(header(&answer, "retry-after"), "1", "{what}");
    let (status, code, _) = refusal(answer).await;
    assert_eq!((status, code.as_str()), (503, "UNAVAILABLE"), "{what}");
}

/// The blob is there already, and the database is away. Another process goes on with the upload.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_finds_its_blob_can_be_tried_again() {
    let redis = Redis::start();
    let mut world = World::new();
    world.configure("USER_EVENTS_REDIS", redis.map(0));
    let place = Place::of(world).await;
    let blob = bytes(1000);
    let (pusher, digest) = (place.pusher(), place.pusher().blob(blob.clone()).await);
    let uuid = pusher.start().await;
    assert_eq!(pusher.patch(&uuid, blob.clone()).await.status(), StatusCode::ACCEPTED);
    let table = TableLock::take(&place.world.database, "imagestorage").await;
    assert_unavailable(pusher.finish(&uuid, &digest, "").await, "a locked table").await;
    table.release().await;
    let other = place.world.registryd();
    let end = Pusher::new(&other, &place.world).finish(&uuid, &digest, "").await;
    assert_eq!(end.status(), StatusCode::CREATED);
    assert!(place.pull(&digest).await == blob);
}

#[tokio::test]
async fn uploads_go_on_when_the_storage_does() {
    let place = Place::new().await;
    let pusher = place.pusher();
    let (first, rest) = (bytes(6 * MIB), bytes(1000));
    let blob = [first.as_slice(), rest.as_slice()].concat();
    let (uuid, digest) = (pusher.start().await, digest_of(&blob));
    let reached = || async { header(&pusher.status(&uuid).await, "range").to_owned() };
    for (what, mark, fault) in [
        ("slow down", "partNumber=2", SLOW_DOWN),
        ("an error", "partNumber=1", INTERNAL),
        ("full", "partNumber=1", FULL),
        ("reset on the way", "partNumber=1", Fault::Reset),
        ("no answer to the first", "POST ", Fault::Cut(0)),
        ("half of an answer", "partNumber=2", Fault::Cut(20)),
        ("another object", "partNumber=1", Fault::WrongEtag),
        ("a late error", "POST ", LATE_ERROR),
    ] {
        place.proxy.fail(mark, ALWAYS, fault);
        assert_unavailable(pusher.patch(&uuid, first.clone()).await, what).await;
        assert_eq!(reached().await, "0-0", "{what}");
        place.proxy.heal();
    }
    assert_eq!(pusher.patch(&uuid, first.clone()).await.status(), StatusCode::ACCEPTED);
    // What is to be the blob is made of it, or not.
    for (what, mark, fault) in [
        ("slow down", "PUT ", SLOW_DOWN),
        ("a late error", "x-amz-copy-source", LATE_ERROR),
        ("half of an answer", "x-amz-copy-source", Fault::Cut(40)),
    ] {
        place.proxy.fail(mark, ALWAYS, fault);
        assert_unavailable(pusher.finish(&uuid, &digest, rest.clone()).await, what).await;
        place.proxy.heal();
        assert_eq!(pusher.pull(&digest).await, Err(StatusCode::NOT_FOUND), "{what}");
        assert_eq!(reached().await, format!("0-{}", first.len() - 1), "{what}");
    }
    let answer = pusher.finish(&uuid, &digest, rest).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert!(place.pull(&digest).await == blob);
    assert_eq!(place.world.database.sql("SELECT count(*) FROM blobupload"), "0");
}

/// Before the end is told, the storage is asked what it has, and freed of what nobody needs.
#[tokio::test]
async fn an_end_whose_questions_fail() {
    let redis = Redis::start();
    let mut world = World::new();
    world.configure("USER_EVENTS_REDIS", redis.map(0));
    let place = Place::of(world).await;
    let pusher = place.pusher();
    let blob = bytes(1000);
    let (uuid, digest) = (pusher.start().await, digest_of(&blob));
    pusher.patch(&uuid, blob.clone()).await;
    let row = || place.world.database.sql("SELECT * FROM blobupload");
    let before = row();
    for fault in [SLOW_DOWN, INTERNAL, Fault::Reset] {
        place.proxy.fail("HEAD ", ALWAYS, fault.clone());
        assert_unavailable(pusher.finish(&uuid, &digest, "").await, &format!("{fault:?}")).await;
        place.proxy.heal();
        assert_eq!(row(), before);
    }
    // Quay's clean-up finds the chunks that cannot be removed; the blob is a blob.
    place.proxy.fail("DELETE ", ALWAYS, SLOW_DOWN);
    let end = pusher.finish(&uuid, &digest, "").await;
    assert_eq!(end.status(), StatusCode::CREATED);
    assert!(place.proxy.seen("DELETE ") > 0, "no chunk was removed");
    assert!(place.pull(&digest).await == blob);
    // An upload that cannot be removed is there, and is told to be.
    place.proxy.heal();
    let uuid = pusher.start().await;
    pusher.patch(&uuid, blob.clone()).await;
    let (path, before) = (format!("blobs/uploads/{uuid}"), row());
    place.proxy.fail("DELETE ", ALWAYS, SLOW_DOWN);
    let answer = pusher.send(Method::DELETE, &path, &[], "").await;
    assert_unavailable(answer, "a cancel").await;
    assert_eq!(row(), before);
    place.proxy.heal();
    let answer = pusher.send(Method::DELETE, &path, &[], "").await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    assert_eq!(row(), "");
}

/// Nothing is left of a request whose client has gone, also where its first parts were stored; the
/// upload goes on from where it was.
#[tokio::test]
async fn a_client_that_goes_in_the_middle() {
    let place = Place::new().await;
    let pusher = place.pusher();
    let (uuid, first, rest) = (pusher.start().await, bytes(1000), bytes(12 * MIB));
    pusher.patch(&uuid, first.clone()).await;
    let (pieces, body) = open_body();
    let going = async {
        pieces.send(rest.clone().into()).unwrap();
        // Two parts are on their way or there, one fills.
        until(|| place.proxy.seen("partNumber=2") > 0 && place.stored() > 1).await;
    };
    tokio::select! {
        answer = pusher.patch(&uuid, body) => panic!("{answer:?}"),
        () = going => {}
    }
    until(|| place.registryd.metric("http_requests_in_flight") == 0.0).await;
    // The first chunk, and no part of a second.
    until(|| place.stored() == 1).await;
    assert_eq!(header(&pusher.status(&uuid).await, "range"), "0-999");
    let blob = [first, rest.clone()].concat();
    let end = pusher.finish(&uuid, &digest_of(&blob), rest).await;
    assert_eq!(end.status(), StatusCode::CREATED);
    assert!(place.pull(&digest_of(&blob)).await == blob);
}

/// What passes within a request is nobody's business.
#[tokio::test]
async fn short_outages_are_not_seen() {
    let place = Place::new().await;
    let pusher = place.pusher();
    place.proxy.fail("partNumber=1", 2, SLOW_DOWN);
    place.proxy.fail("partNumber=2", 1, Fault::Reset);
    place.proxy.fail("x-amz-copy-source", 1, INTERNAL);
    let blob = bytes(6 * MIB);
    let digest = pusher.blob(blob.clone()).await;
    assert!(place.pull(&digest).await == blob);
}

/// A storage that takes its time makes the client wait, not this process grow.
#[tokio::test]
async fn a_slow_storage() {
    const LENGTH: usize = 128;
    let place = Place::new().await;
    let pusher = place.pusher();
    pusher.blob("warm").await;
    let before = place.registryd.memory().1;
    let (uuid, asked) = (pusher.start().await, Arc::new(AtomicUsize::new(0)));
    let counter = asked.clone();
    let body = stream::iter(0..LENGTH).map(move |number| {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok::<_, std::io::Error>(Bytes::from(vec![number as u8; MIB]))
    });
    place.proxy.fail("partNumber=1&", 1, Fault::Hold);
    let patch = pusher.patch(&uuid, reqwest::Body::wrap_stream(body));
    let stuck = async {
        let last = until_quiet(|| asked.load(Ordering::Relaxed)).await;
        place.proxy.release();
        last
    };
    let (answer, taken) = tokio::join!(patch, stuck);
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert!(taken < LENGTH / 2, "{taken} MiB were taken before the first was stored");
    let grown = place.registryd.memory().1 - before;
    assert!(grown < 40 * MIB as u64, "{} MiB", grown >> 20);
    let all: Vec<u8> = (0..LENGTH).flat_map(|number| vec![number as u8; MIB]).collect();
    let digest = digest_of(&all);
    assert_eq!(pusher.finish(&uuid, &digest, "").await.status(), StatusCode::CREATED);
    assert!(place.pull(&digest).await == all);
}

/// A manifest needs its config, to read the labels.
#[tokio::test]
async fn manifests_wait_for_their_config() {
    let place = Place::new().await;
    let pusher = place.pusher();
    let image = Manifest::oci("amd64", vec![Blob::layer(OCI_LAYER, &[("hello", "outage")])]);
    pusher.prepare(&image).await;
    for (what, fault) in
        [("slow down", SLOW_DOWN), ("reset", Fault::Reset), ("half of an answer", Fault::Cut(60))]
    {
        place.proxy.fail("GET ", ALWAYS, fault);
        assert_unavailable(pusher.put("outage", &image).await, what).await;
        place.proxy.heal();
        assert_eq!(pusher.manifest("outage").await, Err(404), "{what}");
    }
    let known = format!("SELECT count(*) FROM manifest WHERE digest = '{}'", image.digest);
    assert_eq!(place.world.database.sql(&known), "0");
    place.proxy.fail("GET ", 2, SLOW_DOWN);
    assert_eq!(pusher.put("outage", &image).await.status(), StatusCode::CREATED);
    assert_eq!(pusher.manifest("outage").await.unwrap().1, image.bytes);
}
