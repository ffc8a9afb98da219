//! What uploads lean on goes away: room on the disk, the database, Redis, the clock.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::Commands as _;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::overlap::until;
use super::sound::{assert_resumable, assert_sound, assert_stored_as_committed};
use super::{Pusher, REPO, header, leftovers, refusal};
use crate::events::Redis;
use crate::support::images::digest_of;
use crate::support::process::AtExit;
use crate::support::{Folder, HOSTNAME, Registryd, TableLock, World, postgres_only};

const MIB: usize = 1 << 20;

/// A file system that is soon full. Only root can make one.
struct SmallDisk {
    folder: Folder,
    _at_exit: AtExit,
}

impl SmallDisk {
    fn mount(size: usize) -> Option<SmallDisk> {
        let folder = Folder::new();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(folder.path());
        if !mount.status().is_ok_and(|status| status.success()) {
            crate::support::left_out("mounting a small disk needs root");
            return None;
        }
        let _at_exit = AtExit::run(format!("umount -l '{}'", folder.path().display()));
        Some(SmallDisk { folder, _at_exit })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.folder.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[tokio::test]
async fn a_full_disk() {
    let Some(disk) = SmallDisk::mount(12 * MIB) else { return };
    let mut world = World::new();
    world.move_storage(disk.folder.path().join("storage"));
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let (uuid, first) = (pusher.start().await, vec![b'1'; 2 * MIB]);
    pusher.patch(&uuid, first.clone()).await;

    // In a chunk, and with the end.
    let last = vec![b'2'; 20 * MIB];
    let full = [
        pusher.patch(&uuid, last.clone()).await,
        pusher.finish(&uuid, &digest_of(&[first.clone(), last.clone()].concat()), last).await,
    ];
    for answer in full {
        assert_eq!(header(&answer, "retry-after"), "1");
        assert_eq!(refusal(answer).await.0, 503);
        assert_resumable(&world);
        let range = header(&pusher.status(&uuid).await, "range").to_owned();
        assert_eq!(range, format!("0-{}", first.len() - 1));
        // What did not fit takes no room from others.
        assert_sound(&world, &pusher, &vec![b'3'; 3 * MIB]).await;
    }
    // And there is room again for this one.
    let last = vec![b'4'; 2 * MIB];
    let blob = [first, last.clone()].concat();
    let end = pusher.finish(&uuid, &digest_of(&blob), last).await;
    assert_eq!(end.status(), StatusCode::CREATED);
    assert!(pusher.pull(&digest_of(&blob)).await.unwrap() == blob);
    assert_eq!(leftovers(&world), ("0".to_owned(), 0));
    // With the disk full to the brim nobody can even begin, or is told so.
    let _ = std::fs::write(world.storage.join("brim"), vec![0; 12 * MIB]);
    let uuid = pusher.start().await;
    assert_eq!(refusal(pusher.patch(&uuid, vec![b'5'; MIB]).await).await.0, 503);
    std::fs::remove_file(world.storage.join("brim")).unwrap();
    assert_eq!(pusher.patch(&uuid, vec![b'5'; MIB]).await.status(), StatusCode::ACCEPTED);
}

/// Pushes blob after blob until it is told to end, whatever happens, and returns what was
/// acknowledged.
async fn push_all_along(
    pusher: &Pusher<'_>,
    name: usize,
    ended: &AtomicBool,
    pushed: &AtomicUsize,
    refused: &AtomicUsize,
) -> Vec<Vec<u8>> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let blob = format!("pusher {name}, blob {number}").repeat(50).into_bytes();
        match push_once(pusher, &blob).await {
            Ok(()) => {
                acknowledged.push(blob);
                pushed.fetch_add(1, Ordering::Relaxed);
            }
            Err(status) => {
                // A row may be gone whose end was not told: the client begins anew.
                assert!([503, 404, 416, 400].contains(&status.as_u16()), "{status}");
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    acknowledged
}

async fn push_once(pusher: &Pusher<'_>, blob: &[u8]) -> Result<(), StatusCode> {
    let begun = pusher.send(Method::POST, "blobs/uploads/", &[], "").await;
    if begun.status() != StatusCode::ACCEPTED {
        return Err(begun.status());
    }
    let uuid = header(&begun, "docker-upload-uuid");
    let added = pusher.patch(uuid, blob.to_vec()).await;
    if added.status() != StatusCode::ACCEPTED {
        return Err(added.status());
    }
    match pusher.finish(uuid, &digest_of(blob), "").await.status() {
        StatusCode::CREATED => Ok(()),
        status => Err(status),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_restarts_under_pushes() {
    if !postgres_only("a database that restarts") {
        return;
    }
    // Its storage is its own, too.
    let (world, cluster) = World::apart();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let (ended, pushed, refused) =
        (AtomicBool::default(), AtomicUsize::default(), AtomicUsize::default());
    let more = async |count: &AtomicUsize| {
        let before = count.load(Ordering::Relaxed);
        until(|| count.load(Ordering::Relaxed) >= before + 3).await;
    };
    let (acknowledged, ()) = tokio::join!(
        join_all((0..3).map(|name| push_all_along(&pusher, name, &ended, &pushed, &refused))),
        async {
            for crash in [false, true, true] {
                more(&pushed).await;
                if crash {
                    cluster.crash()
                } else {
                    cluster.stop()
                }
                more(&refused).await;
                cluster.start_again();
                let started = Instant::now();
                more(&pushed).await;
                let took = started.elapsed();
                assert!(took < Duration::from_secs(5), "recovery took {took:?}");
            }
            ended.store(true, Ordering::Relaxed);
        }
    );
    for blob in acknowledged.concat() {
        assert!(pusher.pull(&digest_of(&blob)).await.unwrap() == blob);
    }
    assert_sound(&world, &pusher, b"after all").await;
}

/// The commit fails when the bytes are in their place already. The same end works later.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_at_the_end() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    // Once to be put into place, once to be found there; and as often with bytes in the end.
    for (blob, first) in [("nearly", 6), ("nearly", 6), ("there", 2), ("there", 2)] {
        let uuid = pusher.start().await;
        pusher.patch(&uuid, &blob[..first]).await;
        let lock = TableLock::take(&world.database, "imagestorage").await;
        // Until the statement takes too long.
        let digest = digest_of(blob.as_bytes());
        let end = pusher.finish(&uuid, &digest, &blob[first..]).await;
        assert_eq!(end.status(), StatusCode::SERVICE_UNAVAILABLE);
        lock.release().await;
        assert_stored_as_committed(&world);
        let end = pusher.finish(&uuid, &digest, &blob[first..]).await;
        assert_eq!(end.status(), StatusCode::CREATED);
        assert_eq!(leftovers(&world), ("0".to_owned(), 0));
        assert_sound(&world, &pusher, blob.as_bytes()).await;
    }
}

/// The database commits what it was asked to, whoever has gone: until then nobody may take the bytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_while_its_blob_is_committed() {
    let redis = Redis::start();
    let mut world = World::with_own_storage();
    world.configure("USER_EVENTS_REDIS", redis.map(0));
    world.configure("QUAY_SIDECAR", json!({"db_statement_timeout_ms": 60_000}));
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let (blob, uuid) = (b"whoever has gone", pusher.start().await);
    pusher.patch(&uuid, blob.to_vec()).await;
    let digest = digest_of(blob);
    let table = TableLock::take(&world.database, "imagestorage").await;
    let address = registryd.base().trim_start_matches("http://");
    let mut client = TcpStream::connect(address).await.unwrap();
    let (path, token) = (format!("/v2/{REPO}/blobs/uploads/{uuid}?digest={digest}"), &pusher.token);
    let head =
        format!("PUT {path} HTTP/1.1\r\nHost: {HOSTNAME}\r\nAuthorization: Bearer {token}\r\n");
    let request = format!("{head}Content-Length: 0\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    until(|| world.blob_path(&digest).exists()).await;
    client.set_zero_linger().unwrap();
    drop(client);
    until(|| registryd.metric("http_requests_in_flight") == 0.0).await;
    let mut quay = redis.connect(0);
    let lock = format!("lock:BLOB_DELETE_{digest}");
    let mut is_locked = || quay.exists::<_, bool>(&lock).unwrap();
    for _ in 0..20 {
        assert_eq!(pusher.status(&uuid).await.status(), StatusCode::NO_CONTENT);
        assert!(is_locked(), "Quay's garbage collector may take the bytes away");
    }
    table.release().await;
    until(|| !is_locked()).await;
    assert!(pusher.pull(&digest).await.unwrap() == blob);
    assert_sound(&world, &pusher, blob).await;
}

#[tokio::test]
async fn redis_goes_in_the_middle() {
    let redis = Redis::start();
    let mut world = World::with_own_storage();
    world.configure("USER_EVENTS_REDIS", redis.map(0));
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    assert_eq!(pusher.in_halves(b"with Redis").await, StatusCode::CREATED);
    let uuid = pusher.start().await;
    pusher.patch(&uuid, "without").await;
    drop(redis);
    let end = pusher.finish(&uuid, &digest_of(b"without"), "").await;
    assert_eq!(end.status(), StatusCode::CREATED);
    assert_sound(&world, &pusher, b"without").await;
    assert!(registryd.metric("blob_locks_total{outcome=\"held\"}") > 0.0);
    assert!(registryd.metric("blob_locks_total{outcome=\"no_redis\"}") > 0.0);
}

/// Debian's libfaketime.
fn faketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let found = folders.map(|folder| folder.join("faketime/libfaketime.so.1"));
    found.into_iter().find(|path| path.exists()).expect("libfaketime: scripts/test installs it")
}

/// Registryd's clock jumps by days between the requests of one upload.
#[tokio::test]
async fn a_clock_that_jumps() {
    let world = World::with_own_storage();
    let folder = Folder::new();
    let clock = folder.path().join("clock");
    let set = |seconds: i64| {
        let moved = folder.path().join("moved");
        std::fs::write(&moved, format!("{seconds:+}\n")).unwrap();
        std::fs::rename(&moved, &clock).unwrap();
    };
    set(0);
    let library = faketime();
    let registryd = Registryd::start_with(
        &world.conf,
        &[],
        &[
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ],
    );
    // A token of the time that it is there.
    let at = |seconds: i64| {
        let mut claims = world.claims(Some(&world.ada), REPO, &["pull", "push"]);
        for name in ["iat", "nbf", "exp"] {
            claims[name] = Value::from(claims[name].as_i64().unwrap() + seconds);
        }
        Pusher {
            token: world.key.sign(&claims),
            ..Pusher::of(&registryd, &world, &world.ada, REPO)
        }
    };
    const DAY: i64 = 86_400;
    let (blob, uuid) = (b"yesterday, tomorrow, today", at(0).start().await);
    for (days, chunk) in [(-1, 0..11), (1, 11..21), (-30, 21..26)] {
        set(days * DAY);
        let pusher = at(days * DAY);
        // One that is not remembered.
        let today = at(7).status(&uuid).await;
        assert_eq!(today.status(), StatusCode::UNAUTHORIZED, "its clock does not jump");
        let answer = pusher.patch(&uuid, blob[chunk].to_vec()).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED, "{days}");
    }
    assert_resumable(&world);
    set(2 * DAY);
    let pusher = at(2 * DAY);
    let end = pusher.finish(&uuid, &digest_of(blob), "").await;
    assert_eq!(end.status(), StatusCode::CREATED);
    assert_sound(&world, &pusher, blob).await;
}

/// The bytes of the row's upload are gone, or some of them.
#[tokio::test]
async fn bytes_that_are_gone() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let remove = |path: &Path| std::fs::remove_file(path).unwrap();
    let cut = |path: &Path| std::fs::write(path, "by").unwrap();
    for spoil in [&remove as &dyn Fn(&Path), &cut] {
        for end in [false, true] {
            let uuid = pusher.start().await;
            pusher.patch(&uuid, "bytes").await;
            spoil(&world.storage.join("uploads").join(&uuid));
            let answer = match end {
                true => pusher.finish(&uuid, &digest_of(b"bytes"), "").await,
                false => pusher.patch(&uuid, " and more").await,
            };
            assert_eq!(refusal(answer).await.1, "BLOB_UPLOAD_INVALID");
        }
    }
    assert_eq!(pusher.pull(&digest_of(b"bytes")).await, Err(StatusCode::NOT_FOUND));
    assert_sound(&world, &pusher, b"bytes").await;
}

/// A storage that is not mounted: what is in it is there when it is back.
#[tokio::test]
async fn a_storage_that_is_not_mounted() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let uuid = pusher.start().await;
    pusher.patch(&uuid, "bytes").await;
    let before = world.database.sql("SELECT * FROM blobupload");
    let elsewhere = world.storage.with_extension("elsewhere");
    std::fs::rename(&world.storage, &elsewhere).unwrap();
    // The folder that it is mounted on, or not even that.
    for there in [true, false] {
        match there {
            true => std::fs::create_dir(&world.storage).unwrap(),
            false => std::fs::remove_dir(&world.storage).unwrap(),
        }
        let path = format!("blobs/uploads/{uuid}");
        for answer in [
            pusher.patch(&uuid, " and more").await,
            pusher.finish(&uuid, &digest_of(b"bytes"), "").await,
            pusher.send(Method::DELETE, &path, &[], "").await,
        ] {
            let (status, code, _) = refusal(answer).await;
            assert_eq!((status, code.as_str()), (503, "UNAVAILABLE"));
            assert_eq!(world.database.sql("SELECT * FROM blobupload"), before);
        }
    }
    std::fs::rename(&elsewhere, &world.storage).unwrap();
    let end = pusher.finish(&uuid, &digest_of(b"bytes"), "").await;
    assert_eq!(end.status(), StatusCode::CREATED);
    assert_sound(&world, &pusher, b"bytes").await;
}
