//! Many tags, and one large layer: what goes over the wire, counted there.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use bytes::Bytes;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::wire::Wire;
use super::worker::Worker;
use super::{Mirrored, SYNC_NOW};
use crate::support::fault_proxy::Fault;
use crate::support::images::{Blob, Manifest, OCI_LAYER, digest_of};
use crate::support::{eventually, on_sqlite};

const TAGS: usize = 1000;

/// A thousand images of twenty layers and one that all share.
fn images() -> Vec<(String, Manifest)> {
    let base = Blob::layer(OCI_LAYER, &[("etc/os-release", "NAME=\"Example Linux\"\n")]);
    let kinds: Vec<Manifest> = (0..20)
        .map(|kind| {
            let own = Blob::layer(OCI_LAYER, &[("hello", &kind.to_string())]);
            Manifest::oci("amd64", vec![base.clone(), own])
        })
        .collect();
    let image = |number: usize| {
        let kind = &kinds[number % kinds.len()];
        let mut body: serde_json::Value = serde_json::from_slice(&kind.bytes).unwrap();
        body["annotations"] = json!({"org.example.number": number.to_string()});
        let bytes = Bytes::from(body.to_string());
        // The blobs are pushed with the first of a kind.
        let blobs = if number < kinds.len() { kind.blobs.clone() } else { Vec::new() };
        let manifest = Manifest { digest: digest_of(&bytes), bytes, blobs, ..kind.clone() };
        (format!("v{number:04}"), manifest)
    };
    (0..TAGS).map(image).collect()
}

/// Once everything, and every blob once; and then a request for each tag.
#[test]
fn a_thousand_tags() {
    let mirrored = Mirrored::new(&["v*"]);
    let images = images();
    images.iter().for_each(|(tag, image)| mirrored.source.push(tag, image));
    let wire = Wire::before(&mirrored);
    // In pages, which docker-registry does not make.
    let page = |names: &[(String, Manifest)]| {
        let names: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
        json!({"name": "team/app", "tags": names}).to_string()
    };
    let in_pages = || {
        let next = "Link: </v2/team/app/tags/list?last=v0599&n=1000>; rel=\"next\"\r\n";
        wire.fail("tags/list?n=", 1, Fault::Say("200 OK", next.to_owned(), page(&images[..600])));
        wire.fail("last=v0599", 1, Fault::Say("200 OK", String::new(), page(&images[600..])));
    };
    in_pages();
    let report = mirrored.sync();
    assert_eq!((&report["copied"], &report["failed"]), (&json!(TAGS), &json!({})), "{report}");
    let expected: Vec<(&str, &Manifest)> =
        images.iter().map(|(tag, image)| (tag.as_str(), image)).collect();
    assert!(mirrored.has(&expected));
    let mut times = HashMap::new();
    wire.blobs(0).into_iter().for_each(|digest| *times.entry(digest).or_insert(0) += 1);
    let blobs: Vec<&Blob> = images.iter().flat_map(|(_, image)| &image.blobs).collect();
    assert!(blobs.iter().all(|blob| times[&blob.digest] == 1), "{times:?}");
    // One that all share, and for each kind a layer and a configuration.
    assert_eq!(times.len(), 1 + 2 * 20, "{times:?}");
    let first = wire.len();
    // Before all that it is asked for which protocol it speaks.
    assert_eq!(first, wire.seen("GET /v2/ ") + 2 + 2 * TAGS + times.len());

    in_pages();
    let report = mirrored.sync();
    assert_eq!(report["unchanged"], TAGS, "{report}");
    let heads = wire.heads().split_off(first);
    let asked = |mark: &str| heads.iter().filter(|head| head.starts_with(mark)).count();
    assert_eq!((asked("GET /v2/team/app/tags/"), asked("HEAD /v2/team/app/manifests/")), (2, TAGS));
    assert_eq!(heads.len(), asked("GET /v2/ ") + 2 + TAGS);
}

const MIB: u64 = 1 << 20;

/// Bytes of the layer: what comes over the wire is the same on every database, and takes a while.
fn layer_size() -> u64 {
    if on_sqlite() { 256 * MIB } else { 2048 * MIB }
}

/// A large layer on a connection that breaks ten times: every byte comes about once, and no more
/// than some of them are in memory.
#[test]
fn a_large_layer_on_a_connection_that_breaks() {
    let mirrored = Mirrored::new(&["v1"]);
    let size = layer_size();
    let (digest, manifest) = large(&mirrored, size);
    mirrored.source.push("v1", &manifest);
    let wire = Wire::before(&mirrored);
    let mark = format!("/blobs/{digest} ");
    // Odd, so that no break is where a piece ends.
    let piece = size / 11 + 12_345;
    wire.fail(&mark, 10, Fault::Cut(usize::try_from(piece).unwrap()));
    let before = wire.delivered();
    mirrored.sql(SYNC_NOW);
    let worker = Worker::start(&mirrored);
    let (began, mut pieces) = (Instant::now(), 0);
    // As long as it goes on.
    while mirrored.state() != "1|3" {
        let more = || {
            let delivered = wire.delivered();
            (delivered > pieces || mirrored.state() == "1|3").then_some(delivered)
        };
        pieces = eventually(more, || format!("{pieces} bytes of {size}: {:?}", mirrored.log()));
    }
    println!("{} MiB in {:?}", size / MIB, began.elapsed());
    let memory = worker.highest_memory();
    println!("highest memory: {} MiB", memory / MIB);
    assert!(memory < 64 * MIB, "{} MiB", memory / MIB);
    worker.stop();
    assert!(mirrored.has(&[("v1", &manifest)]));
    assert_eq!(sha256(&mirrored.world.blob_path(&digest)), digest);
    assert_eq!(wire.seen(&mark), 11);
    let delivered = wire.delivered() - before;
    assert!(delivered >= size && delivered < size + 12 * 64 * 1024, "{delivered} of {size}");
}

/// A layer of so many bytes, put into the source's storage: most are holes, so that it costs little
/// room there, but no two MiB of it are the same.
fn large(mirrored: &Mirrored, size: u64) -> (String, Manifest) {
    let data = mirrored.source.0.data().join("docker/registry/v2");
    fs::create_dir_all(&data).unwrap();
    let file = data.join("large");
    let holes = File::create(&file).unwrap();
    holes.set_len(size).unwrap();
    for number in 0..size / MIB {
        holes.write_all_at(&number.to_be_bytes(), number * MIB).unwrap();
    }
    let digest = sha256(&file);
    let hex = digest.strip_prefix("sha256:").unwrap();
    let blob = data.join("blobs/sha256").join(&hex[..2]).join(hex);
    fs::create_dir_all(&blob).unwrap();
    fs::rename(&file, blob.join("data")).unwrap();
    let link = data.join("repositories/team/app/_layers/sha256").join(hex);
    fs::create_dir_all(&link).unwrap();
    fs::write(link.join("link"), &digest).unwrap();
    // A manifest that names it: the one of another layer, with that replaced.
    let small = Manifest::oci("amd64", vec![Blob::layer(OCI_LAYER, &[("hello", "large")])]);
    let mut body: serde_json::Value = serde_json::from_slice(&small.bytes).unwrap();
    body["layers"][0]["digest"] = digest.as_str().into();
    body["layers"][0]["size"] = size.into();
    let bytes = Bytes::from(body.to_string());
    let blobs = vec![small.config().clone()];
    (digest, Manifest { digest: digest_of(&bytes), bytes, blobs, ..small })
}

/// Of a file that is too large to be read at once.
fn sha256(file: &std::path::Path) -> String {
    let (mut hash, mut file) = (Sha256::new(), File::open(file).unwrap());
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece).unwrap() {
            0 => break,
            read => hash.update(&piece[..read]),
        }
    }
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
