//! Uploads into a bucket, through the library: what they leave there, and by which requests.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use quay_sidecar::blobs::{BlobPath, BucketUploads, Patience, UploadError};
use quay_sidecar::config::{S3, S3Uploads, Secret, SignatureVersion};
use quay_sidecar::oci::Digest;
use sha2::{Digest as _, Sha256};

use super::{ACCESS, BUCKET, ObjectStorage, SECRET};
use crate::support::eventually;
use crate::support::fault_proxy::{Fault, FaultProxy};

pub const MIB: usize = 1 << 20;

const NOTHING: &str = r#"{"chunks": []}"#;

/// An object storage with a proxy before it, and uploads to it.
pub struct Uploads {
    pub storage: ObjectStorage,
    pub proxy: FaultProxy,
    pub uploads: BucketUploads,
}

impl Uploads {
    pub async fn new() -> Uploads {
        Uploads::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut S3)) -> Uploads {
        let storage = ObjectStorage::empty();
        let proxy = FaultProxy::to(storage.port).await;
        let mut settings = settings(proxy.port);
        change(&mut settings);
        let patience = Patience {
            answer: Duration::from_secs(20),
            pause: Duration::ZERO,
            ..Patience::default()
        };
        let uploads = BucketUploads::with_patience(&settings, patience).unwrap();
        Uploads { storage, proxy, uploads }
    }

    /// Appends a body for each of `bodies` and returns the metadata.
    pub async fn append(&self, bodies: &[&[u8]]) -> String {
        let mut metadata = self.uploads.begin("u").await.unwrap().metadata;
        let mut count = 0;
        for body in bodies {
            let mut appender = self.uploads.append("u", &metadata, count).await.unwrap();
            for bytes in body.chunks(300_000) {
                appender.write(Bytes::copy_from_slice(bytes)).await.unwrap();
            }
            let appended = appender.finish().await.unwrap();
            assert_eq!(appended.written, body.len() as u64);
            count += appended.written;
            metadata = appended.metadata;
        }
        metadata
    }

    pub async fn read(&self, metadata: &str) -> std::io::Result<Vec<u8>> {
        let chunks = self.uploads.read("u", metadata).await.unwrap();
        let chunks: Vec<Bytes> = chunks.try_collect().await?;
        Ok(chunks.concat())
    }

    /// Completes and holds what is there against what was sent.
    pub async fn complete(&self, metadata: &str, sent: &[u8]) {
        let digest = digest(sent);
        self.uploads.complete("u", metadata, &digest).await.unwrap();
        assert_eq!(self.uploads.stored(&digest).await.unwrap(), Some(sent.len() as u64));
        assert!(std::fs::read(self.blob(&digest)).unwrap() == sent, "the blob has other bytes");
    }

    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.root().join(BlobPath::content_address(digest).as_str())
    }

    /// Names of the chunks that there are.
    pub fn chunks(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root().join("uploads")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn root(&self) -> PathBuf {
        self.storage.folder.path().join(BUCKET).join("registry")
    }
}

/// Until the count is not zero and grows no more, for as long as it takes to be sure.
pub async fn until_quiet(count: impl Fn() -> usize) -> usize {
    let (mut last, mut quiet) = (0, 0);
    let mut look = tokio::time::interval(Duration::from_millis(20));
    while quiet < 25 {
        look.tick().await;
        let now = count();
        quiet = if now == last && now > 0 { quiet + 1 } else { 0 };
        last = now;
    }
    last
}

pub fn settings(port: u16) -> S3 {
    S3 {
        endpoint: format!("http://127.0.0.1:{port}"),
        virtual_host: false,
        bucket: BUCKET.to_owned(),
        prefix: "registry".to_owned(),
        region: "us-east-1".to_owned(),
        version: SignatureVersion::V4,
        request_version: SignatureVersion::V4,
        access_key: ACCESS.to_owned(),
        secret_key: Secret::new(SECRET),
        session_token: None,
        uploads: S3Uploads {
            encrypted: true,
            minimum_chunk_size: 5 * MIB as u64,
            maximum_chunk_size: 5 << 30,
            server_side_assembly: true,
        },
    }
}

/// Bytes that are nowhere the same.
pub fn bytes(length: usize) -> Vec<u8> {
    let words = (0..length as u64 / 8 + 1).map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_le_bytes).take(length).collect()
}

pub fn digest(bytes: &[u8]) -> Digest {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Digest::parse(&format!("sha256:{hex}")).unwrap()
}

#[tokio::test]
async fn a_small_body_is_one_request() {
    let it = Uploads::new().await;
    let sent = bytes(5 * MIB);
    let metadata = it.append(&[&sent]).await;
    assert_eq!(it.proxy.seen(""), 1, "just the bytes");
    let chunk = &it.chunks()[0];
    assert_eq!(metadata, format!(r#"{{"chunks": [["uploads/{chunk}", 0, {}]]}}"#, sent.len()));
    assert!(it.read(&metadata).await.unwrap() == sent);
    assert_eq!(it.uploads.stored(&digest(&sent)).await.unwrap(), None);

    it.complete(&metadata, &sent).await;
    assert_eq!(it.proxy.seen("x-amz-copy-source: blobs/registry/uploads/"), 1, "a copy of all");
    // Whoever comes again finds it done, also when the chunk is gone.
    it.complete(&metadata, &sent).await;
    it.uploads.cancel("u", &metadata).await.unwrap();
    assert!(it.chunks().is_empty());
    it.uploads.cancel("u", &metadata).await.unwrap();
    it.complete(&metadata, &sent).await;
}

#[tokio::test]
async fn a_large_body_goes_in_parts() {
    let it = Uploads::new().await;
    let sent = bytes(12 * MIB);
    let metadata = it.append(&[&sent]).await;
    assert_eq!(it.proxy.seen(""), 5, "begin, three parts, complete");
    assert_eq!(it.proxy.seen("partNumber="), 3);
    assert_eq!(it.proxy.seen("x-amz-server-side-encryption: AES256"), 1);
    assert_eq!(it.proxy.seen("content-type: application/octet-stream"), 1);
    assert!(it.read(&metadata).await.unwrap() == sent);
    it.complete(&metadata, &sent).await;
}

#[tokio::test]
async fn chunks_that_are_large_enough_are_put_together_by_the_storage() {
    let it = Uploads::new().await;
    let sent = bytes(11 * MIB + 1);
    let metadata =
        it.append(&[&sent[..5 * MIB], &sent[5 * MIB..11 * MIB], &sent[11 * MIB..]]).await;
    assert!(it.read(&metadata).await.unwrap() == sent);
    let gets = it.proxy.seen("GET ");
    // With the offsets that Python records when a client names them.
    let python =
        metadata.replacen("0, 6291456", "5242880, 6291456", 1).replacen("0, 1]", "11534336, 1]", 1);
    assert_ne!(python, metadata);
    it.complete(&python, &sent).await;
    assert_eq!(it.proxy.seen("x-amz-copy-source-range: bytes=0-"), 3);
    assert_eq!(it.proxy.seen("GET "), gets, "no byte came by here");
}

#[tokio::test]
async fn smaller_ones_and_those_of_simpler_storages_come_by_here() {
    let sent = bytes(9 * MIB + 10);
    for server_side_assembly in [true, false] {
        let it = Uploads::with(|s3| s3.uploads.server_side_assembly = server_side_assembly).await;
        let at = if server_side_assembly { 3 * MIB } else { 6 * MIB };
        let metadata = it.append(&[&sent[..at], &sent[at..9 * MIB], &sent[9 * MIB..]]).await;
        it.complete(&metadata, &sent).await;
        assert_eq!(it.proxy.seen("x-amz-copy-source"), 0);
        let one = it.append(&[&sent]).await;
        std::fs::remove_file(it.blob(&digest(&sent))).unwrap();
        it.complete(&one, &sent).await;
        assert_eq!(it.proxy.seen("x-amz-copy-source:"), 1);
    }
}

/// As S3Storage would with chunks of 5 GiB and more.
#[tokio::test]
async fn a_chunk_that_is_too_large_for_one_copy() {
    let it = Uploads::with(|s3| s3.uploads.maximum_chunk_size = 10 * MIB as u64).await;
    let sent = bytes(25 * MIB + 3);
    let metadata = it.append(&[&sent]).await;
    it.complete(&metadata, &sent).await;
    assert_eq!(it.proxy.seen("x-amz-copy-source-range: bytes="), 3);
}

#[tokio::test]
async fn nothing_is_a_blob_too() {
    let it = Uploads::new().await;
    let metadata = it.append(&[b""]).await;
    assert_eq!(metadata, NOTHING);
    assert!(it.read(&metadata).await.unwrap().is_empty());
    assert_eq!(it.proxy.seen(""), 0);
    it.complete(&metadata, b"").await;
}

#[tokio::test]
async fn an_upload_whose_bytes_are_gone_is_unusable() {
    let it = Uploads::new().await;
    let sent = bytes(6 * MIB);
    for bodies in [vec![&sent[..]], vec![&sent[..5 * MIB], &sent[5 * MIB..]]] {
        let metadata = it.append(&bodies).await;
        let refused = || async {
            let completed = it.uploads.complete("u", &metadata, &digest(&sent)).await;
            assert!(matches!(completed, Err(UploadError::Invalid(_))), "{completed:?}");
            let read = it.read(&metadata).await.unwrap_err();
            let inner = read.get_ref().unwrap().downcast_ref();
            assert!(matches!(inner, Some(UploadError::Invalid(_))), "{read:?}");
            assert_eq!(it.uploads.stored(&digest(&sent)).await.unwrap(), None);
        };
        // Fewer bytes than were recorded, then none.
        let longer = metadata.replacen("0, ", "0, 1", 1);
        let completed = it.uploads.complete("u", &longer, &digest(&sent)).await;
        assert!(matches!(completed, Err(UploadError::Invalid(_))), "{completed:?}");
        it.uploads.cancel("u", &metadata).await.unwrap();
        refused().await;
    }
    // The row and its metadata disagree.
    let metadata = it.append(&[b"abc"]).await;
    let appended = it.uploads.append("u", &metadata, 4).await;
    assert!(matches!(appended.err(), Some(UploadError::Invalid(_))));
}

/// Only the bytes that were recorded count.
#[tokio::test]
async fn a_chunk_may_hold_more_than_was_recorded() {
    let it = Uploads::new().await;
    let metadata = it.append(&[b"abcdef"]).await.replace("0, 6", "0, 3");
    assert_eq!(it.read(&metadata).await.unwrap(), b"abc");
    it.complete(&metadata, b"abc").await;
}

#[tokio::test]
async fn blobs_are_read_whole_within_a_limit() {
    let it = Uploads::new().await;
    let sent = bytes(10_000);
    let path = BlobPath::content_address(&digest(&sent));
    assert_eq!(it.uploads.get(&path, 10_000).await.unwrap(), None);
    let metadata = it.append(&[&sent]).await;
    it.complete(&metadata, &sent).await;
    assert!(it.uploads.get(&path, 10_000).await.unwrap().unwrap() == sent);
    let long = it.uploads.get(&path, 9_999).await;
    assert!(matches!(long, Err(UploadError::Invalid(_))), "{long:?}");
}

#[tokio::test]
async fn an_upload_takes_two_parts_of_memory_whatever_its_size() {
    let it = Uploads::new().await;
    let sent = bytes(40 * MIB);
    let mut appender = it.uploads.append("u", NOTHING, 0).await.unwrap();
    let held = AtomicUsize::new(0);
    it.proxy.fail("partNumber=1&", 1, Fault::Hold);
    let writing = async {
        for piece in sent.chunks(MIB / 2).map(Bytes::copy_from_slice) {
            let length = piece.len();
            appender.write(piece).await.unwrap();
            held.fetch_add(length, Ordering::Relaxed);
        }
    };
    let stuck = async {
        until_quiet(|| held.load(Ordering::Relaxed)).await;
        assert_eq!(held.load(Ordering::Relaxed), 10 * MIB);
        it.proxy.release();
    };
    tokio::join!(writing, stuck);
    let appended = appender.finish().await.unwrap();
    assert_eq!(it.proxy.seen("partNumber="), 8);
    it.complete(&appended.metadata, &sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_given_up_leaves_nothing() {
    let it = Uploads::new().await;
    let mut appender = it.uploads.append("u", NOTHING, 0).await.unwrap();
    appender.write(bytes(11 * MIB).into()).await.unwrap();
    drop(appender);
    eventually(|| (it.proxy.seen("DELETE ") == 1).then_some(()), || "no abort".to_owned());
    assert!(it.chunks().is_empty());
    // Small ones have not been sent at all.
    let mut appender = it.uploads.append("u", NOTHING, 0).await.unwrap();
    appender.write(bytes(100).into()).await.unwrap();
    drop(appender);
    assert!(it.chunks().is_empty());
}
