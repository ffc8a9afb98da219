//! Answers that send us elsewhere, and what is told there.

use quay_sidecar::upstream::{AllowedHosts, Credentials, Fault as Whose, Options, Source};

use super::access::{Guarded, PASSWORD};
use super::origin::{Origin, fetch, image, tag};
use crate::support::fault_proxy::{Fault, FaultProxy};
use crate::support::images::Manifest;

/// A registry that wants credentials, and another place that has the same bytes.
struct Moved {
    registry: Guarded,
    elsewhere: FaultProxy,
    image: Manifest,
}

impl Moved {
    async fn new() -> Moved {
        let registry = Guarded::new().await;
        let elsewhere = FaultProxy::to(registry.open.port).await;
        Moved { registry, elsewhere, image: image() }
    }

    /// Layers are elsewhere the next time, at `location` of the layer's path.
    fn moves(&self, status: &'static str, base: &str) {
        let location = format!("Location: {base}{}\r\n", self.path());
        self.registry.proxy.fail("/blobs/", 1, Fault::Say(status, location, String::new()));
    }

    fn path(&self) -> String {
        format!("/v2/team/app/blobs/{}", self.image.layers()[0].digest)
    }
}

#[tokio::test]
async fn credentials_stay_at_home() {
    let it = Moved::new().await;
    let source = Source::open(it.registry.options()).unwrap();
    source.head(&tag("latest")).await.unwrap();
    let layer = &it.image.layers()[0];
    for status in ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect"]
    {
        it.moves(status, &format!("http://127.0.0.1:{}", it.elsewhere.port));
        assert_eq!(fetch(&source, layer).await.unwrap(), layer.bytes, "{status}");
    }
    assert_eq!(it.registry.proxy.seen("authorization: Basic"), 5);
    assert_eq!((it.elsewhere.seen(""), it.elsewhere.seen("authorization")), (4, 0));
    assert_eq!((source.counts().redirects, source.counts().retries), (4, 0));
    // Nor do they come back with an answer that sends us back; which fails, and is tried again.
    it.moves("307 Temporary Redirect", &format!("http://127.0.0.1:{}", it.elsewhere.port));
    let back = format!("Location: http://127.0.0.1:{}{}\r\n", it.registry.proxy.port, it.path());
    it.elsewhere.fail("/blobs/", 1, Fault::Say("307 Temporary Redirect", back, String::new()));
    let before = (it.registry.proxy.seen("/blobs/"), it.registry.proxy.seen("authorization"));
    assert_eq!(fetch(&source, layer).await.unwrap(), layer.bytes);
    let after = (it.registry.proxy.seen("/blobs/"), it.registry.proxy.seen("authorization"));
    assert_eq!((after.0 - before.0, after.1 - before.1), (3, 2));
}

/// A place that we were sent to may ask, but is told nothing.
#[tokio::test]
async fn strangers_learn_nothing() {
    let it = Moved::new().await;
    let source = Source::open(it.registry.options()).unwrap();
    let layer = &it.image.layers()[0];
    let ask = "WWW-Authenticate: Basic realm=\"x\"\r\n";
    it.elsewhere.fail("", usize::MAX, Fault::Answer("401 Unauthorized", ask, ""));
    for _ in 0..5 {
        it.moves("307 Temporary Redirect", &format!("http://127.0.0.1:{}", it.elsewhere.port));
    }
    let error = fetch(&source, layer).await.unwrap_err();
    assert_eq!(it.elsewhere.seen("authorization"), 0);
    assert!(error.host().ends_with(&it.elsewhere.port.to_string()), "{error}");
    assert!(!error.to_string().contains(PASSWORD), "{error}");
}

#[tokio::test]
async fn redirects_within_the_registry() {
    let it = Moved::new().await;
    let source = Source::open(it.registry.options()).unwrap();
    let layer = &it.image.layers()[0];
    source.head(&tag("latest")).await.unwrap();
    // A path alone, and for as long as it ends.
    it.moves("307 Temporary Redirect", "");
    assert_eq!(fetch(&source, layer).await.unwrap(), layer.bytes);
    for _ in 0..6 {
        it.moves("307 Temporary Redirect", "");
    }
    let error = fetch(&source, layer).await.unwrap_err();
    assert_eq!((error.fault(), error.can_retry()), (Whose::Source, false), "{error}");
    for location in ["", "Location: http://\r\n", "Location: http://a:b@127.0.0.1/\r\n"] {
        let nowhere = Fault::Say("302 Found", location.to_owned(), String::new());
        it.registry.proxy.fail("/blobs/", 1, nowhere);
        let error = fetch(&source, layer).await.unwrap_err();
        assert_eq!(error.fault(), Whose::Source, "{error}");
    }
    it.moves("302 Found", "file://");
    assert!(fetch(&source, layer).await.is_err());
}

/// Where a redirect leads is judged like where the mirror leads.
#[tokio::test]
async fn no_way_to_places_that_are_not_allowed() {
    let it = Origin::new().await;
    let (image, source) = (image(), it.source());
    let forbidden = FaultProxy::at("127.0.0.2", it.registry.port).await;
    for place in [
        format!("http://127.0.0.2:{}/", forbidden.port),
        format!("http://2130706434:{}/", forbidden.port),
        format!("http://[::ffff:127.0.0.2]:{}/", forbidden.port),
        "http://169.254.169.254/latest/meta-data".to_owned(),
    ] {
        let location = format!("Location: {place}\r\n");
        it.proxy.fail("/blobs/", 1, Fault::Say("307 Temporary Redirect", location, String::new()));
        let error = fetch(&source, &image.layers()[0]).await.unwrap_err();
        assert_eq!((error.fault(), error.can_retry()), (Whose::Refused, false), "{error}");
        assert!(error.to_string().contains("SSRF_ALLOWED_HOSTS"), "{error}");
    }
    assert_eq!(forbidden.seen(""), 0);
}

#[tokio::test]
async fn a_mirror_of_this_machine_is_refused() {
    let it = Origin::new().await;
    for allowed in [vec![], vec!["10.0.0.0/8", "quay.io"]] {
        let allowed_hosts = AllowedHosts::parse(allowed);
        let options = Options { allowed_hosts, ..it.options() };
        let credentials = Credentials { username: "ada".into(), password: PASSWORD.into() };
        let options = Options { credentials: Some(credentials), ..options };
        let error = Source::open(options).unwrap().tags().await.unwrap_err();
        assert_eq!((error.fault(), error.can_retry()), (Whose::Refused, false), "{error}");
    }
    assert_eq!(it.proxy.seen(""), 0);
}
