//! SIGTERM: what is under way is finished, what is new goes elsewhere.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use serde_json::json;

use super::*;
use crate::support::images::{Blob, OCI_LAYER};
use crate::support::{Folder, World};

/// More than all the buffers between registryd and a client that does not read.
const BIG: usize = 24 << 20;

/// Makes a layer of demo/public a big one, in a storage folder of its own.
pub(super) fn big_blob(world: &mut World) -> (Folder, Blob) {
    let layer = world.public.manifest.layers()[1].clone();
    let content = (0..BIG).map(|i| (i % 251) as u8 ^ (i >> 16) as u8).collect();
    let big = Blob::new(OCI_LAYER, content);
    world.database.sql(&format!(
        "UPDATE imagestorage SET content_checksum = '{}', image_size = {BIG}
         WHERE content_checksum = '{}'",
        big.digest, layer.digest
    ));
    let folder = Folder::new();
    let storage = json!({"default": ["LocalStorage", {"storage_path": folder.path()}]});
    world.configure("DISTRIBUTED_STORAGE_CONFIG", storage);
    folder.path().clone_into(&mut world.storage);
    let file = world.blob_path(&big.digest);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, &big.bytes).unwrap();
    (folder, big)
}

/// A download that has begun, and that nobody goes on reading for now.
pub(super) struct Download(BufReader<TcpStream>);

impl Download {
    pub(super) fn begin(registryd: &Registryd, path: &str) -> Download {
        let mut stream = connect(registryd).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut stream = BufReader::with_capacity(1024, stream);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert_eq!(line, "HTTP/1.1 200 OK\r\n");
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).unwrap();
        }
        Download(stream)
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let mut body = Vec::new();
        // The length tells, however the connection ends.
        let _ = self.0.by_ref().take(BIG as u64).read_to_end(&mut body);
        body
    }
}

fn connect(registryd: &Registryd) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(registryd.base().strip_prefix("http://").unwrap())?;
    stream.set_read_timeout(Some(HANGS))?;
    Ok(stream)
}

fn term(registryd: &Registryd) {
    registryd.signal("TERM");
    logs_say(registryd, &["draining"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_are_finished() {
    let mut world = World::new();
    let (_storage, layer) = big_blob(&mut world);
    let mut registryd = world.registryd();
    let client = Client::of(&registryd);
    // Its connection is kept.
    assert_eq!(client.get(&tags(&world.public)).await.status, 200);

    let download = Download::begin(&registryd, &blob(&world.public, &layer.digest));
    let lock = TableLock::take(&world.database, "logentry3").await;
    let pulls: Vec<_> = (0..10).map(|_| Client::of(&registryd)).collect();
    let pulls: Vec<_> = pulls.iter().map(|client| client.start(&by_tag(&world.public))).collect();
    eventually(
        || (registryd.metric("http_requests_in_flight") >= 11.0).then_some(()),
        || "the requests are not in flight".to_owned(),
    );
    term(&registryd);

    // Not ready from now on, or not even there.
    let ready = registryd.admin_get("/readyz");
    assert!(ready.as_ref().is_none_or(|(status, _)| *status == 503), "{ready:?}");
    let refused = || connect(&registryd).is_err().then_some(());
    eventually(refused, || "new connections are accepted".to_owned());
    let kept = client.get(&tags(&world.public)).await;
    assert_eq!((kept.status, kept.header("connection")), (200, "close"));

    // Longer than a stop waits when there is nothing to wait for.
    let began = Instant::now();
    let held = || (began.elapsed() > Duration::from_secs(1)).then_some(());
    eventually(held, || "time stands still".to_owned());
    lock.release().await;
    for pull in pulls {
        let answer = pull.await.unwrap();
        assert_eq!((answer.status, answer.header("connection")), (200, "close"));
    }
    assert_eq!(Blob::new(OCI_LAYER, download.finish()).digest, layer.digest);
    assert!(registryd.terminate().success());
    assert!(registryd.logs().contains("stopped"), "{}", registryd.logs());
    assert_eq!(logged(&world.database, "user-agent"), 10);
}

#[test]
fn the_deadline_is_kept() {
    let mut world = World::new();
    let (_storage, layer) = big_blob(&mut world);
    world.configure("QUAY_SIDECAR", json!({"drain_s": 1}));
    let mut registryd = world.registryd();
    let download = Download::begin(&registryd, &blob(&world.public, &layer.digest));
    let asked = Instant::now();
    assert!(registryd.terminate().success());
    assert!(asked.elapsed() < RECOVERY, "stopping took {:?}", asked.elapsed());
    let logs = registryd.logs();
    let cut = |line: &str| line.contains("requests were cut") && line.contains("cut=1");
    assert!(logs.lines().any(cut), "{logs}");
    assert!(!logs.contains("not flushed"), "{logs}");
    assert!(download.finish().len() < BIG);
}

#[test]
fn idle_connections_keep_nobody_waiting() {
    let world = World::new();
    let mut registryd = world.registryd();
    let idle: Vec<_> = (0..20).map(|_| connect(&registryd).unwrap()).collect();
    let asked = Instant::now();
    assert!(registryd.terminate().success());
    assert!(asked.elapsed() < RECOVERY, "stopping took {:?}", asked.elapsed());
    let logs = registryd.logs();
    assert!(logs.contains("stopped") && !logs.contains("not flushed"), "{logs}");
    drop(idle);
}
