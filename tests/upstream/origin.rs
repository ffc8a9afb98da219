//! A registry that is mirrored from.

use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use quay_sidecar::oci::Digest;
use quay_sidecar::upstream::{AllowedHosts, Options, Patience, Reference, Source, SourceName};
use reqwest::{StatusCode, Url};

use crate::support::docker_registry::DockerRegistry;
use crate::support::fault_proxy::FaultProxy;
use crate::support::http;
use crate::support::images::{Blob, Manifest, OCI_LAYER, digest_of};

pub const REPO: &str = "team/app";

/// Debian's docker-registry, with the image [`image`] at `team/app:latest`, behind a proxy that
/// fails as it is told.
pub struct Origin {
    pub registry: DockerRegistry,
    pub proxy: FaultProxy,
}

impl Origin {
    pub async fn new() -> Origin {
        Origin::with(&image()).await
    }

    /// One with another image.
    pub async fn with(image: &Manifest) -> Origin {
        let registry = DockerRegistry::start();
        let base = format!("http://127.0.0.1:{}", registry.port);
        push(&http(), &base, "latest", image).await;
        let proxy = FaultProxy::to(registry.port).await;
        Origin { registry, proxy }
    }

    pub fn source(&self) -> Source {
        Source::open(self.options()).unwrap()
    }

    pub fn options(&self) -> Options {
        options(&format!("127.0.0.1:{}/{REPO}", self.proxy.port))
    }
}

/// Of a registry on this machine, without TLS, by a client that does not wait between tries.
pub fn options(reference: &str) -> Options {
    let mut options = Options::new(SourceName::parse(reference).unwrap());
    options.plain_http = true;
    options.allowed_hosts = AllowedHosts::parse(["127.0.0.1"]);
    options.operation_timeout = Duration::from_secs(60);
    options.patience =
        Patience { answer: Duration::from_secs(20), pause: Duration::ZERO, ..Patience::default() };
    options
}

/// A small image: always the same.
pub fn image() -> Manifest {
    Manifest::oci("amd64", vec![Blob::layer(OCI_LAYER, &[("hello", "mirror\n")])])
}

/// An image with one layer of so many bytes that do not repeat.
pub fn large(bytes: usize) -> Manifest {
    let mut state = 0x9e37_79b9_u32;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    });
    let noise: Vec<u8> = noise.take(bytes.div_ceil(4)).flatten().collect();
    let digest = digest_of(&noise);
    let layer = Blob { uncompressed: Some((digest, noise.len())), ..Blob::new(OCI_LAYER, noise) };
    Manifest::oci("amd64", vec![layer])
}

/// Pushes as clients do, into [`REPO`].
pub async fn push(client: &reqwest::Client, base: &str, reference: &str, manifest: &Manifest) {
    for child in &manifest.children {
        Box::pin(push(client, base, &child.digest, child)).await;
    }
    for blob in &manifest.blobs {
        let started = client.post(format!("{base}/v2/{REPO}/blobs/uploads/")).send().await.unwrap();
        assert_eq!(started.status(), StatusCode::ACCEPTED);
        let location = started.headers()["location"].to_str().unwrap();
        let mut url = Url::parse(base).unwrap().join(location).unwrap();
        url.query_pairs_mut().append_pair("digest", &blob.digest);
        let stored = client.put(url).body(blob.bytes.clone()).send().await.unwrap();
        assert_eq!(stored.status(), StatusCode::CREATED);
    }
    let put = client.put(format!("{base}/v2/{REPO}/manifests/{reference}"));
    let put = put.header("content-type", manifest.media_type).body(manifest.bytes.clone());
    assert_eq!(put.send().await.unwrap().status(), StatusCode::CREATED);
}

pub fn tag(name: &str) -> Reference {
    Reference::tag(name).unwrap()
}

pub fn digest(text: &str) -> Digest {
    Digest::parse(text).unwrap()
}

/// All bytes of a blob, its digest verified.
pub async fn fetch(
    source: &Source,
    blob: &Blob,
) -> Result<Bytes, quay_sidecar::upstream::UpstreamError> {
    let stream = source.blob(&digest(&blob.digest), Some(blob.bytes.len() as u64), 0).await?;
    let pieces: Vec<Bytes> = stream.verified().try_collect().await?;
    Ok(pieces.concat().into())
}
