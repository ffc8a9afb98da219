//! Object storages that fail, and uploads that meet them.

use std::time::Duration;

use quay_sidecar::blobs::{BucketUploads, Patience, UploadError};
use quay_sidecar::config::Secret;

use super::fault_proxy::{FULL, LATE_ERROR, NO_UPLOAD, SLOW_DOWN};
use super::uploads::{MIB, Uploads, bytes, digest, settings};
use crate::support::fault_proxy::Fault;
use crate::support::process::signal;

const NOTHING: &str = r#"{"chunks": []}"#;

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let it = Uploads::new().await;
    let sent = bytes(11 * MIB);
    it.proxy.fail("POST /blobs/registry/uploads/", 1, SLOW_DOWN);
    it.proxy.fail("partNumber=2", 3, SLOW_DOWN);
    it.proxy.fail("partNumber=1", 1, Fault::Cut(0));
    let metadata = it.append(&[&sent]).await;
    assert_eq!(it.proxy.seen("partNumber=2"), 4);
    // A good status, and then an error.
    it.proxy.fail("x-amz-copy-source", 2, LATE_ERROR);
    it.complete(&metadata, &sent).await;
    assert_eq!(it.proxy.seen("x-amz-copy-source"), 3);
    // Bodies that break off are read on from there.
    let ranges = it.proxy.seen("GET ");
    it.proxy.fail("range: bytes=", 2, Fault::Cut(2 * MIB));
    assert!(it.read(&metadata).await.unwrap() == sent);
    assert_eq!(it.proxy.seen("GET ") - ranges, 3);
}

/// What was done is recognised although its answer was lost, also by a storage that then knows
/// nothing of it any more.
#[tokio::test]
async fn a_lost_answer_is_no_failure() {
    let it = Uploads::new().await;
    let sent = bytes(11 * MIB);
    it.proxy.fail("?uploadId=", 1, Fault::Cut(0));
    it.proxy.fail("?uploadId=", 1, NO_UPLOAD);
    let metadata = it.append(&[&sent[..6 * MIB], &sent[6 * MIB..]]).await;
    assert_eq!((it.proxy.seen("?uploadId="), it.proxy.seen("HEAD ")), (2, 1));
    it.proxy.fail("?uploadId=", 1, Fault::Cut(0));
    it.complete(&metadata, &sent).await;
    assert_eq!(it.proxy.seen("DELETE "), 0, "nothing was aborted");
    // One that never was completed is none.
    it.proxy.fail("?uploadId=", 1, NO_UPLOAD);
    let mut appender = it.uploads.append("u", NOTHING, 0).await.unwrap();
    appender.write(sent.into()).await.unwrap();
    let outcome = appender.finish().await;
    assert!(matches!(outcome, Err(UploadError::Unavailable(_))), "{outcome:?}");
}

#[tokio::test]
async fn it_is_not_tried_for_ever() {
    let it = Uploads::new().await;
    it.proxy.fail("PUT ", usize::MAX, SLOW_DOWN);
    let mut appender = it.uploads.append("u", NOTHING, 0).await.unwrap();
    appender.write(bytes(10).into()).await.unwrap();
    let outcome = appender.finish().await;
    assert!(matches!(outcome, Err(UploadError::Unavailable(_))), "{outcome:?}");
    assert_eq!(it.proxy.seen("PUT "), 4);
}

#[tokio::test]
async fn a_full_storage_is_not_asked_again() {
    let it = Uploads::new().await;
    it.proxy.fail("PUT ", 1, FULL);
    let mut appender = it.uploads.append("u", NOTHING, 0).await.unwrap();
    appender.write(bytes(10).into()).await.unwrap();
    let outcome = appender.finish().await;
    assert!(matches!(outcome, Err(UploadError::Full(_))), "{outcome:?}");
    assert_eq!(it.proxy.seen("PUT "), 1);
}

#[tokio::test]
async fn wrong_credentials_are_the_operators() {
    let it = Uploads::with(|s3| s3.secret_key = Secret::new("not-the-secret")).await;
    let mut appender = it.uploads.append("u", NOTHING, 0).await.unwrap();
    appender.write(bytes(10).into()).await.unwrap();
    let refused = appender.finish().await.unwrap_err();
    assert!(matches!(refused, UploadError::Refused(_)), "{refused:?}");
    let text = refused.to_string();
    assert!(text.contains("SignatureDoesNotMatch") && text.contains("registry/uploads/"), "{text}");
    assert!(!text.contains("not-the-secret"));
    assert_eq!(it.proxy.seen(""), 1);
    let stored = it.uploads.stored(&digest(b"x")).await;
    assert!(matches!(stored, Err(UploadError::Refused(_))), "{stored:?}");
}

#[tokio::test]
async fn a_storage_that_dies_in_the_middle() {
    let it = Uploads::new().await;
    let sent = bytes(11 * MIB);
    let metadata = it.append(&[&sent[..6 * MIB], &sent[6 * MIB..]]).await;
    let mut appender = it.uploads.append("u", NOTHING, 0).await.unwrap();
    appender.write(sent[..6 * MIB].to_vec().into()).await.unwrap();
    // The first part of the blob is copied, then it is over.
    it.proxy.fail("partNumber=2", usize::MAX, Fault::Cut(0));
    let completed = it.uploads.complete("u", &metadata, &digest(&sent)).await;
    assert!(matches!(completed, Err(UploadError::Unavailable(_))), "{completed:?}");
    signal(&it.storage.child, "KILL");
    let completed = it.uploads.complete("u", &metadata, &digest(&sent)).await;
    assert!(matches!(completed, Err(UploadError::Unavailable(_))), "{completed:?}");
    let finished = appender.finish().await;
    assert!(matches!(finished, Err(UploadError::Unavailable(_))), "{finished:?}");
    let read = it.read(&metadata).await.unwrap_err();
    let inner = read.get_ref().unwrap().downcast_ref();
    assert!(matches!(inner, Some(UploadError::Unavailable(_))), "{read:?}");
    assert!(!it.blob(&digest(&sent)).exists());
    assert_eq!(it.chunks().len(), 2);
}

#[tokio::test]
async fn nobody_waits_for_ever() {
    let it = Uploads::new().await;
    let metadata = it.append(&[b"abc"]).await;
    let patience = Patience {
        connect: Duration::from_millis(100),
        answer: Duration::from_millis(100),
        pause: Duration::ZERO,
    };
    let uploads = BucketUploads::with_patience(&settings(it.proxy.port), patience).unwrap();
    it.proxy.fail("", usize::MAX, Fault::Hang);
    let stored = uploads.stored(&digest(b"abc")).await;
    assert!(matches!(stored, Err(UploadError::Unavailable(_))), "{stored:?}");
    let completed = uploads.complete("u", &metadata, &digest(b"abc")).await;
    assert!(matches!(completed, Err(UploadError::Unavailable(_))), "{completed:?}");
}
