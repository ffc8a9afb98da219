//! Python on the same upload: it opens the file, writes when it pleases, and updates the row without
//! looking. Its row comes as SQL, its file from another process.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use quay_sidecar::blobs::ResumableSha256;
use redis::Commands as _;
use reqwest::StatusCode;

use super::overlap::until;
use super::sound::assert_sound;
use super::{Pusher, leftovers, refusal};
use crate::events::Redis;
use crate::support::World;
use crate::support::images::digest_of;
use crate::support::process::wait;

/// Opens a file as Quay's driver does, and writes to it when it is told to.
struct Writer {
    child: Child,
    told: Option<ChildStdin>,
    says: BufReader<ChildStdout>,
}

const WRITER: &str = "
import sys
with open(sys.argv[1], 'r+b') as upload:
    print('open', flush=True)
    for line in sys.stdin:
        at, text = line.split()
        upload.seek(int(at))
        upload.write(bytes.fromhex(text))
        upload.flush()
        print('written', flush=True)
";

impl Writer {
    fn open(world: &World, uuid: &str) -> Writer {
        let mut child = Command::new("python3")
            .args(["-c", WRITER])
            .arg(world.storage.join("uploads").join(uuid))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs: scripts/test installs it");
        let (told, says) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut writer = Writer { child, told, says };
        writer.expect("open");
        writer
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(self.told.as_mut().unwrap(), "{at} {hex}").unwrap();
        self.expect("written");
    }

    fn expect(&mut self, word: &str) {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), word);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.told.take());
        wait(&mut self.child, "python3");
    }
}

/// Python's UPDATE at the end of a PATCH that has led to `bytes`.
fn update_row(world: &World, uuid: &str, bytes: &[u8], chunk_count: usize) {
    let mut hash = ResumableSha256::default();
    hash.update(bytes);
    world.database.sql(&format!(
        "UPDATE blobupload SET byte_count = {}, chunk_count = {chunk_count}, sha_state = '{}'
         WHERE uuid = '{uuid}'",
        bytes.len(),
        hash.to_column()
    ));
}

/// What Python has written to stays whole only in a copy: it may go on after we have committed.
#[tokio::test]
async fn a_late_write_does_not_reach_the_blob() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    for last in ["", " and the end"] {
        let blob = format!("Python and we{last}").into_bytes();
        let (uuid, digest) = (pusher.start().await, digest_of(&blob));
        let mut python = Writer::open(&world, &uuid);
        python.write(0, b"Python");
        update_row(&world, &uuid, b"Python", 1);
        assert_eq!(pusher.patch(&uuid, " and we").await.status(), StatusCode::ACCEPTED);
        let end = pusher.finish(&uuid, &digest, last).await;
        assert_eq!(end.status(), StatusCode::CREATED);
        python.write(0, b"overwritten, and longer than the blob ever was");
        update_row(&world, &uuid, b"overwritten", 2);
        assert!(pusher.pull(&digest).await.unwrap() == blob);
        drop(python);
        assert_eq!(leftovers(&world), ("0".to_owned(), 0));
        assert_sound(&world, &pusher, &blob).await;
    }
    assert_eq!(registryd.metric("uploads_read_again_total"), 2.0);
}

/// The file is not what was hashed any more.
#[tokio::test]
async fn a_write_before_the_end_is_noticed() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    for (at, bytes) in [(3, "P"), (0, "hello"), (5, "longer"), (20, "far behind")] {
        let (uuid, digest) = (pusher.start().await, digest_of(b"hello"));
        let mut python = Writer::open(&world, &uuid);
        pusher.patch(&uuid, "hello").await;
        python.write(at, bytes.as_bytes());
        let end = pusher.finish(&uuid, &digest, "").await;
        match bytes {
            "P" => assert_eq!(refusal(end).await.1, "BLOB_UPLOAD_INVALID"),
            // The very same, or behind the end, where it is cut off.
            _ => assert_eq!(end.status(), StatusCode::CREATED, "{bytes} at {at}"),
        }
        assert_sound(&world, &pusher, b"hello").await;
    }
}

/// The same counts and an untouched file, but the hash of something else: from a PATCH that Python
/// had begun before ours.
#[tokio::test]
async fn an_update_before_the_end_is_noticed() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    for claimed in ["pythons", "rustics"] {
        let uuid = pusher.start().await;
        pusher.patch(&uuid, "rustics").await;
        update_row(&world, &uuid, b"pythons", 1);
        let end = pusher.finish(&uuid, &digest_of(claimed.as_bytes()), "").await;
        assert_eq!(refusal(end).await.1, "BLOB_UPLOAD_INVALID", "{claimed}");
        assert_eq!(pusher.pull(&digest_of(b"pythons")).await, Err(StatusCode::NOT_FOUND));
        assert_sound(&world, &pusher, b"rustics").await;
    }
}

/// While our end waits for Quay's lock.
#[tokio::test]
async fn python_during_the_end() {
    let redis = Redis::start();
    let mut world = World::with_own_storage();
    world.configure("USER_EVENTS_REDIS", redis.map(0));
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let mut quay = redis.connect(0);
    for writes in [true, false] {
        let blob = format!("a blob, {writes}").into_bytes();
        let (uuid, digest) = (pusher.start().await, digest_of(&blob));
        let mut python = Writer::open(&world, &uuid);
        pusher.patch(&uuid, blob.clone()).await;
        let lock = format!("lock:BLOB_DELETE_{digest}");
        quay.set::<_, _, ()>(&lock, "somebody else").unwrap();
        let before = redis.calls("set");
        let (end, ()) = tokio::join!(pusher.finish(&uuid, &digest, ""), async {
            until(|| redis.calls("set") > before).await;
            match writes {
                true => python.write(2, b"BLOB"),
                false => update_row(&world, &uuid, b"something else", 2),
            }
            quay.del::<_, ()>(&lock).unwrap();
        });
        assert!([400, 416, 503].contains(&end.status().as_u16()), "{writes}: {}", end.status());
        assert_eq!(pusher.pull(&digest).await, Err(StatusCode::NOT_FOUND), "{writes}");
        drop(python);
        assert_sound(&world, &pusher, &blob).await;
    }
}

/// Python had read the row before we committed, and ends the upload once more: it finds the blob in
/// its place, gives the upload's bytes up, writes its rows and removes that of the upload.
#[tokio::test]
async fn an_end_replayed_on_python() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let (blob, uuid) = (b"ended twice".to_vec(), pusher.start().await);
    let digest = digest_of(&blob);
    pusher.patch(&uuid, blob.clone()).await;
    assert_eq!(pusher.finish(&uuid, &digest, "").await.status(), StatusCode::CREATED);
    assert!(world.blob_path(&digest).exists());
    assert!(!world.storage.join("uploads").join(&uuid).exists());
    world.database.sql(&format!(
        "INSERT INTO uploadedblob (repository_id, blob_id, uploaded_at, expires_at)
         SELECT {}, id, now(), now() FROM imagestorage WHERE content_checksum = '{digest}';
         DELETE FROM blobupload WHERE uuid = '{uuid}'",
        world.private.repo_id
    ));
    // And once more on us.
    assert_eq!(pusher.finish(&uuid, &digest, "").await.status(), StatusCode::NOT_FOUND);
    assert!(pusher.pull(&digest).await.unwrap() == blob);
    assert_sound(&world, &pusher, &blob).await;
}

/// An upload that Python has begun, by its row and its file, as its own module hashed it.
#[tokio::test]
async fn what_python_has_begun_is_ended() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    /// Its buffer still holds 28 bytes of the block before, as only Python leaves them.
    const HUNDRED_X: &str = "gASVlQAAAAAAAACMD3Jlc3VtYWJsZXNoYTI1NpSMBnNoYTI1NpSTlCmBlENweHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eCQAAAAAAAAAAAIAAAAAAABGzTKLRC130BmOFeTichTtGCqkNeDO7DZbKZLi3v+thZRiLg==";
    for last in ["", "y", &"y".repeat(1000)] {
        let uuid = uuid::Uuid::new_v4().to_string();
        let folder = world.storage.join("uploads");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(&uuid), [b'x'; 100]).unwrap();
        world.database.sql(&format!(
            "INSERT INTO blobupload (repository_id, uuid, byte_count, sha_state, location_id,
                 storage_metadata, chunk_count, created)
             SELECT {}, '{uuid}', 100, '{HUNDRED_X}', id, '{{}}', 2, now()
             FROM imagestoragelocation WHERE name = 'default'",
            world.private.repo_id
        ));
        let blob = ["x".repeat(100).as_str(), last].concat().into_bytes();
        if last.len() > 1 {
            let answer = pusher.patch(&uuid, last.to_owned()).await;
            assert_eq!(answer.status(), StatusCode::ACCEPTED);
        }
        let rest = if last.len() > 1 { "" } else { last }.to_owned();
        let end = pusher.finish(&uuid, &digest_of(&blob), rest).await;
        assert_eq!(end.status(), StatusCode::CREATED, "{} bytes more", last.len());
        assert!(pusher.pull(&digest_of(&blob)).await.unwrap() == blob);
        assert_eq!(leftovers(&world), ("0".to_owned(), 0));
    }
}

/// Where scripts/test puts what Python needs: beside the build.
pub fn python() -> std::path::PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_quay")).parent().and_then(Path::parent);
    target.expect("a target folder").join("tools/venv/bin/python")
}
