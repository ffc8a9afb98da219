//! Blobs on connections that break, and blobs that are not what they should be.

use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use quay_sidecar::upstream::{Fault as Whose, Source, UpstreamError};

use super::origin::{Origin, digest, fetch, image, large};
use crate::support::fault_proxy::Fault;
use crate::support::images::Blob;

const MIB: usize = 1 << 20;

/// The first byte that each request for a blob wanted.
fn wanted(it: &Origin) -> Vec<usize> {
    let heads = it.proxy.heads();
    let blobs = heads.iter().filter(|head| head.contains("/blobs/"));
    let range = |head: &String| {
        let range = head.lines().find_map(|line| line.strip_prefix("range: bytes="))?;
        Some(range.strip_suffix('-').unwrap().parse().unwrap())
    };
    blobs.map(|head| range(head).unwrap_or(0)).collect()
}

#[tokio::test]
async fn a_connection_that_breaks_ten_times() {
    let image = large(8 * MIB);
    let (it, layer) = (Origin::with(&image).await, &image.layers()[0]);
    it.proxy.fail("/blobs/", 10, Fault::Cut(MIB / 2));
    let source = it.source();
    assert!(fetch(&source, layer).await.unwrap() == layer.bytes);
    let wanted = wanted(&it);
    assert_eq!(wanted.len(), 11);
    assert!(wanted.is_sorted() && wanted[1] > 0 && wanted[10] > 4 * MIB, "{wanted:?}");
    // Every byte came once.
    let counts = source.counts();
    assert_eq!(counts.bytes_received, layer.bytes.len() as u64);
    assert_eq!((counts.blobs, counts.retries), (11, 10));
}

#[tokio::test]
async fn a_body_that_stops_coming() {
    let image = large(MIB);
    let (it, layer) = (Origin::with(&image).await, &image.layers()[0]);
    it.proxy.fail("/blobs/", 2, Fault::Stall(MIB / 4));
    let mut options = it.options();
    options.patience.answer = Duration::from_millis(300);
    let source = Source::open(options).unwrap();
    assert!(fetch(&source, layer).await.unwrap() == layer.bytes);
    // Once more each time that this machine is slower than that.
    assert!(wanted(&it).len() >= 3);
    assert_eq!(source.counts().bytes_received, layer.bytes.len() as u64);
}

/// It is asked often, but not for ever, where nothing comes at all.
#[tokio::test]
async fn no_progress_is_an_error() {
    let image = large(MIB);
    let (it, layer) = (Origin::with(&image).await, &image.layers()[0]);
    it.proxy.fail("/blobs/", 1, Fault::Cut(MIB / 2));
    it.proxy.fail("/blobs/", usize::MAX, Fault::Cut(0));
    let error = fetch(&it.source(), layer).await.unwrap_err();
    assert_eq!((error.fault(), error.can_retry()), (Whose::Network, true), "{error}");
    assert_eq!(wanted(&it).len(), 5);
}

#[tokio::test]
async fn a_registry_that_knows_no_ranges() {
    let image = large(MIB);
    let (it, layer) = (Origin::with(&image).await, &image.layers()[0]);
    it.proxy.fail("/blobs/", 1, Fault::Cut(MIB / 2));
    it.proxy.fail("/blobs/", 1, Fault::Unasked("range"));
    let source = it.source();
    assert!(fetch(&source, layer).await.unwrap() == layer.bytes);
    // What was skipped came twice.
    assert!(source.counts().bytes_received > layer.bytes.len() as u64);
}

async fn rest(
    source: &Source,
    layer: &Blob,
    size: Option<usize>,
    from: usize,
) -> Result<Bytes, UpstreamError> {
    let size = size.map(|size| size as u64);
    let stream = source.blob(&digest(&layer.digest), size, from as u64).await?;
    let pieces: Vec<Bytes> = stream.try_collect().await?;
    Ok(pieces.concat().into())
}

#[tokio::test]
async fn from_the_middle() {
    let it = Origin::new().await;
    let (image, source) = (image(), it.source());
    let layer = &image.layers()[0];
    let length = layer.bytes.len();
    for size in [None, Some(length)] {
        assert_eq!(rest(&source, layer, size, 7).await.unwrap(), layer.bytes[7..]);
        assert_eq!(rest(&source, layer, size, 0).await.unwrap(), layer.bytes);
    }
    // Nothing is left to ask for.
    let before = source.counts().blobs;
    assert!(rest(&source, layer, Some(length), length).await.unwrap().is_empty());
    assert_eq!(source.counts().blobs, before);
    // Which cannot be verified.
    let stream = source.blob(&digest(&layer.digest), Some(length as u64), 7).await.unwrap();
    let pieces: Result<Vec<Bytes>, _> = stream.verified().try_collect().await;
    assert!(pieces.unwrap_err().to_string().contains("first byte"));
}

#[tokio::test]
async fn another_length_or_other_bytes() {
    let it = Origin::new().await;
    let (image, source) = (image(), it.source());
    let layer = &image.layers()[0];
    let length = layer.bytes.len();
    for wrong in [length - 1, length + 1] {
        let error = rest(&source, layer, Some(wrong), 0).await.unwrap_err();
        assert_eq!((error.fault(), error.can_retry()), (Whose::Source, false), "{error}");
    }
    // A length that is not said does not let more bytes through.
    it.proxy.fail("/blobs/", 1, Fault::Without("content-length"));
    let error = rest(&source, layer, Some(length - 1), 0).await.unwrap_err();
    assert_eq!(error.fault(), Whose::Source, "{error}");
    it.proxy.fail("/blobs/", 1, Fault::Flip);
    let error = fetch(&source, layer).await.unwrap_err();
    assert_eq!((error.fault(), error.can_retry()), (Whose::Source, false), "{error}");
    assert!(error.to_string().contains("its bytes are those of sha256:"), "{error}");
    // A part that is another part.
    let part = "content-range: bytes 9-10/11\r\n";
    it.proxy.fail("/blobs/", 1, Fault::Answer("206 Partial Content", part, "xy"));
    let error = rest(&source, layer, None, 7).await.unwrap_err();
    assert_eq!(error.fault(), Whose::Source, "{error}");
    assert_eq!(source.counts().retries, 0);
}
