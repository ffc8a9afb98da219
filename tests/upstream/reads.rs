//! What is there, and by how many requests it is had.

use quay_sidecar::upstream::{Counts, Fault as Whose, Source};

use super::origin::{Origin, REPO, digest, fetch, image, options, push, tag};
use crate::support::fault_proxy::Fault;
use crate::support::images::{Manifest, OCI_INDEX, OCI_MANIFEST};
use crate::support::{World, http};

#[tokio::test]
async fn an_image_as_it_is() {
    let it = Origin::new().await;
    let (source, image) = (it.source(), image());
    assert_eq!(source.tags().await.unwrap(), ["latest"]);
    let head = source.head(&tag("latest")).await.unwrap();
    assert_eq!(head.digest.as_str(), image.digest);
    assert_eq!(head.media_type, OCI_MANIFEST);
    assert_eq!(head.size, Some(image.bytes.len() as u64));
    for reference in [tag("latest"), digest(&image.digest).into()] {
        let fetched = source.manifest(&reference, 1 << 20).await.unwrap();
        assert_eq!(fetched.bytes, image.bytes);
        assert_eq!(fetched.digest.as_str(), image.digest);
        assert_eq!(fetched.media_type, OCI_MANIFEST);
    }
    for blob in &image.blobs {
        assert_eq!(fetch(&source, blob).await.unwrap(), blob.bytes);
    }
    let counts = source.counts();
    let expected = Counts {
        tag_pages: 1,
        heads: 1,
        manifests: 2,
        blobs: image.blobs.len() as u64,
        bytes_received: counts.bytes_received,
        ..Counts::default()
    };
    assert_eq!(counts, expected);
    assert_eq!(counts.requests(), it.proxy.seen("/v2/") as u64);
    let blobs: usize = image.blobs.iter().map(|blob| blob.bytes.len()).sum();
    assert!(counts.bytes_received as usize >= 2 * image.bytes.len() + blobs);
    // Nothing is asked for that would have to be unpacked, and nothing is told to nobody.
    assert_eq!(it.proxy.seen("accept-encoding: identity"), it.proxy.seen(""));
    assert_eq!(it.proxy.seen("authorization"), 0);
}

#[tokio::test]
async fn what_is_not_there() {
    let it = Origin::new().await;
    let source = it.source();
    let nothing = digest(&format!("sha256:{}", "0".repeat(64)));
    for error in [
        source.head(&tag("none")).await.unwrap_err(),
        source.manifest(&tag("none"), 1 << 20).await.unwrap_err(),
        source.manifest(&nothing.clone().into(), 1 << 20).await.unwrap_err(),
        source.blob(&nothing, None, 0).await.err().unwrap(),
    ] {
        assert_eq!((error.fault(), error.can_retry()), (Whose::NotFound, false), "{error}");
        assert_eq!(error.status(), Some(404));
    }
    assert_eq!(it.proxy.seen(""), 4, "nothing was asked twice");
    let other = format!("127.0.0.1:{}/team/none", it.proxy.port);
    let error = Source::open(options(&other)).unwrap().tags().await.unwrap_err();
    assert_eq!(error.fault(), Whose::NotFound);
    let text = error.to_string();
    assert!(text.starts_with(&format!("127.0.0.1:{}: GET tags of team/none: 404", it.proxy.port)));
    assert!(text.contains("NAME_UNKNOWN"), "{text}");
}

/// 2,600 tags in registryd: as many pages as it makes of them.
#[tokio::test]
async fn tags_of_many_pages() {
    let world = World::new();
    let sql = format!(
        "INSERT INTO tag (name, repository_id, manifest_id, lifetime_start_ms, hidden, reversion, \
         immutable, tag_kind_id) WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 2599) \
         SELECT 't' || n.i, t.repository_id, t.manifest_id, t.lifetime_start_ms, t.hidden, \
         t.reversion, t.immutable, t.tag_kind_id FROM tag t, n WHERE t.name = 'v1' AND t.repository_id = {}",
        world.public.repo_id
    );
    world.database.sql(&sql);
    let registryd = world.registryd();
    let authority = registryd.base().strip_prefix("http://").unwrap();
    let source = Source::open(options(&format!("{authority}/demo/public"))).unwrap();
    let mut tags = source.tags().await.unwrap();
    assert!(tags.len() >= 2600 && tags.contains(&"t2599".to_owned()), "{}", tags.len());
    tags.sort();
    tags.dedup();
    assert!(tags.len() >= 2600);
    assert!(source.counts().tag_pages > 2);
}

#[tokio::test]
async fn lists_that_are_odd() {
    let it = Origin::new().await;
    let list = |link: &str, tags: &str| {
        let link = if link.is_empty() { String::new() } else { format!("Link: {link}\r\n") };
        Fault::Say("200 OK", link, format!("{{\"name\": \"x\", \"tags\": {tags}}}"))
    };
    // Names that are none are left out, and each comes once; a link leads to no other host.
    let elsewhere = r#"<http://192.0.2.1/v2/team/app/tags/list?last=b>; rel="next""#;
    it.proxy.fail("tags/list?n=", 1, list(elsewhere, r#"["b", "sha256:00", "../x", "b"]"#));
    it.proxy.fail("last=b", 1, list("", r#"["a", "b"]"#));
    assert_eq!(it.source().tags().await.unwrap(), ["b", "a"]);
    // Nor does its path, where that looks like one.
    let elsewhere = r#"<http://x//192.0.2.1/v2/team/app/tags/list?last=c>; rel="next""#;
    it.proxy.fail("tags/list?n=", 1, list(elsewhere, r#"["c"]"#));
    it.proxy.fail("last=c", 1, list("", r#"["d"]"#));
    assert_eq!(it.source().tags().await.unwrap(), ["c", "d"]);
    assert_eq!(it.proxy.seen("//192.0.2.1/v2/"), 1);
    it.proxy.fail("tags/list?n=", 1, list("", "null"));
    assert!(it.source().tags().await.unwrap().is_empty());
    // In circles.
    it.proxy.fail("tags/list", 2, list("<?last=x>; rel=next", "[]"));
    let error = it.source().tags().await.unwrap_err();
    assert!(error.to_string().contains("in circles"), "{error}");
    it.proxy.fail("tags/list", 1, list("", "{}"));
    let error = it.source().tags().await.unwrap_err();
    assert_eq!((error.fault(), error.can_retry()), (Whose::Source, false), "{error}");
    // One that takes no number.
    it.proxy.fail("tags/list?n=", 1, Fault::Answer("400 Bad Request", "", ""));
    assert_eq!(it.source().tags().await.unwrap(), ["latest"]);
}

#[tokio::test]
async fn heads_that_say_too_little() {
    let it = Origin::new().await;
    let image = image();
    for fault in [
        Fault::Without("docker-content-digest"),
        Fault::Without("content-type"),
        Fault::Answer("405 Method Not Allowed", "", ""),
    ] {
        it.proxy.fail("HEAD ", 1, fault);
        let source = it.source();
        let head = source.head(&tag("latest")).await.unwrap();
        assert_eq!((head.digest.as_str(), &*head.media_type), (&*image.digest, OCI_MANIFEST));
        assert_eq!(head.size, Some(image.bytes.len() as u64));
        assert_eq!((source.counts().heads, source.counts().manifests), (1, 1));
    }
}

#[tokio::test]
async fn manifests_without_a_type() {
    let it = Origin::new().await;
    it.proxy.fail("GET ", 1, Fault::Without("content-type"));
    let fetched = it.source().manifest(&tag("latest"), 1 << 20).await.unwrap();
    assert_eq!(fetched.media_type, OCI_MANIFEST);
}

/// By the API that registryd has, and by the tag that stands for it in a registry that has none.
#[tokio::test]
async fn referrers() {
    let world = World::new();
    let registryd = world.registryd();
    let authority = registryd.base().strip_prefix("http://").unwrap();
    let source = Source::open(options(&format!("{authority}/demo/public"))).unwrap();
    let subject = digest(&world.public.manifest.digest);
    let found = source.referrers(&subject).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].digest, world.referrer.manifest.digest);
    assert_eq!((source.counts().referrers, source.counts().manifests), (1, 0));

    let it = Origin::new().await;
    let base = format!("http://127.0.0.1:{}", it.registry.port);
    let signature = Manifest::referrer("application/vnd.example.signature.v1", &image());
    let list = Manifest::index(vec![("amd64", signature.clone())]);
    let source = it.source();
    let subject = digest(&image().digest);
    assert!(source.referrers(&subject).await.unwrap().is_empty());
    push(&http(), &base, &image().digest.replace(':', "-"), &list).await;
    let found = source.referrers(&subject).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].digest, &*found[0].media_type), (&signature.digest, OCI_MANIFEST));
    assert_eq!(found[0].size, signature.bytes.len() as i64);
    // Whatever a registry has there that is no index is none.
    it.proxy.fail("/referrers/", 1, Fault::Answer("200 OK", "content-type: text/html\r\n", "hi"));
    assert_eq!(source.referrers(&subject).await.unwrap(), found);
    let odd = format!("content-type: {OCI_INDEX}\r\n");
    it.proxy.fail("/referrers/", 1, Fault::Say("200 OK", odd, "{}".to_owned()));
    assert_eq!(source.referrers(&subject).await.unwrap_err().fault(), Whose::Source);
    assert_eq!(it.proxy.seen(&format!("/v2/{REPO}/referrers/")), 4);
}
