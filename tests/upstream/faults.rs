//! Registries that fail: what is tried again, how often, and what is said of it in the end.

use std::time::{Duration, Instant};

use quay_sidecar::upstream::{Fault as Whose, Source};

use super::origin::{Origin, digest, image, tag};
use crate::support::fault_proxy::Fault;

const UNAVAILABLE: Fault = Fault::Answer("503 Service Unavailable", "", "");

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let it = Origin::new().await;
    let (source, image) = (it.source(), image());
    for (mark, times, fault) in [
        ("tags/list", 2, UNAVAILABLE),
        ("tags/list", 1, Fault::Answer("429 Too Many Requests", "", "")),
        ("HEAD ", 2, Fault::Cut(0)),
        ("HEAD ", 1, Fault::Answer("502 Bad Gateway", "", "<html>")),
        // In the head, and in the body.
        ("GET /v2/team/app/manifests", 1, Fault::Cut(20)),
        ("GET /v2/team/app/manifests", 1, Fault::Cut(300)),
    ] {
        it.proxy.fail(mark, times, fault);
    }
    assert_eq!(source.tags().await.unwrap(), ["latest"]);
    assert_eq!(source.head(&tag("latest")).await.unwrap().digest.as_str(), image.digest);
    let fetched = source.manifest(&tag("latest"), 1 << 20).await.unwrap();
    assert_eq!(fetched.bytes, image.bytes);
    let counts = source.counts();
    assert_eq!((counts.tag_pages, counts.heads, counts.manifests), (4, 4, 3));
    assert_eq!(counts.retries, 8);
    assert_eq!(it.proxy.seen("") as u64, counts.requests());
}

#[tokio::test]
async fn it_is_not_tried_for_ever() {
    let it = Origin::new().await;
    it.proxy.fail("", usize::MAX, UNAVAILABLE);
    let source = it.source();
    let error = source.head(&tag("latest")).await.unwrap_err();
    assert_eq!((error.fault(), error.can_retry()), (Whose::Source, true), "{error}");
    assert_eq!((error.status(), it.proxy.seen("")), (Some(503), 5));
}

#[tokio::test]
async fn a_pause_that_is_asked_for_is_made() {
    let it = Origin::new().await;
    let limit = Fault::Answer("429 Too Many Requests", "Retry-After: 1\r\n", "");
    it.proxy.fail("tags/list", 1, limit);
    let (source, before) = (it.source(), Instant::now());
    // Also by those who did not hear of it.
    let other = source.clone();
    assert_eq!(source.tags().await.unwrap(), ["latest"]);
    assert!(before.elapsed() >= Duration::from_secs(1));
    assert_eq!((other.counts().tag_pages, other.counts().retries), (2, 1));
}

#[tokio::test]
async fn a_pause_that_is_too_long_is_reported() {
    let it = Origin::new().await;
    let body =
        r#"{"errors": [{"code": "TOOMANYREQUESTS", "message": "You have reached your limit"}]}"#;
    it.proxy.fail("", 1, Fault::Answer("429 Too Many Requests", "Retry-After: 21600\r\n", body));
    let error = it.source().head(&tag("latest")).await.unwrap_err();
    // An answer to HEAD has no body.
    assert_eq!((error.fault(), error.can_retry()), (Whose::RateLimited, true));
    assert_eq!(error.retry_after(), Some(Duration::from_secs(21_600)));
    assert_eq!(it.proxy.seen(""), 1);
    it.proxy.fail("", 1, Fault::Answer("429 Too Many Requests", "Retry-After: 21600\r\n", body));
    let text = it.source().tags().await.unwrap_err().to_string();
    assert!(text.contains("TOOMANYREQUESTS, You have reached your limit"), "{text}");
}

/// Nobody's word is taken for what bytes are.
#[tokio::test]
async fn manifests_that_are_others() {
    let it = Origin::new().await;
    let image = image();
    for reference in [tag("latest"), digest(&image.digest).into()] {
        it.proxy.fail("GET ", 1, Fault::Flip);
        let error = it.source().manifest(&reference, 1 << 20).await.unwrap_err();
        assert_eq!((error.fault(), error.can_retry()), (Whose::Source, false), "{error}");
        assert!(error.to_string().contains(&image.digest), "{error}");
    }
    // A HEAD that says another digest than the one that was asked for is not believed.
    let other = format!("Docker-Content-Digest: sha256:{}\r\n", "0".repeat(64));
    let head = format!("{other}Content-Type: application/vnd.oci.image.manifest.v1+json\r\n");
    it.proxy.fail("HEAD ", 1, Fault::Say("200 OK", head, String::new()));
    let head = it.source().head(&digest(&image.digest).into()).await.unwrap();
    assert_eq!(head.digest.as_str(), image.digest);
}

#[tokio::test]
async fn answers_that_are_too_long_or_encoded() {
    let it = Origin::new().await;
    let (source, size) = (it.source(), image().bytes.len());
    assert!(source.manifest(&tag("latest"), size).await.is_ok());
    let error = source.manifest(&tag("latest"), size - 1).await.unwrap_err();
    assert_eq!(error.fault(), Whose::Source, "{error}");
    it.proxy.fail("", 1, Fault::Answer("200 OK", "Content-Encoding: gzip\r\n", "x"));
    let error = source.manifest(&tag("latest"), size).await.unwrap_err();
    assert!(error.to_string().contains("encoded as gzip"), "{error}");
    assert_eq!(source.counts().retries, 0);
}

#[tokio::test]
async fn nobody_waits_for_ever() {
    let it = Origin::new().await;
    it.proxy.fail("", usize::MAX, Fault::Hang);
    // For one answer, and for all tries together.
    for (answer, operation) in [(50, 60_000), (60_000, 200)] {
        let mut options = it.options();
        options.patience.connect = Duration::from_millis(50);
        options.patience.answer = Duration::from_millis(answer);
        options.operation_timeout = Duration::from_millis(operation);
        let error = Source::open(options).unwrap().tags().await.unwrap_err();
        assert_eq!((error.fault(), error.can_retry()), (Whose::Timeout, true), "{error}");
    }
}

#[tokio::test]
async fn a_registry_that_is_gone() {
    let it = Origin::new().await;
    let options = it.options();
    drop(it);
    let error = Source::open(options).unwrap().tags().await.unwrap_err();
    assert_eq!((error.fault(), error.can_retry()), (Whose::Network, true), "{error}");
    assert!(error.to_string().contains("could not connect"), "{error}");
}
