//! Manifests: what they are now, and their bytes.

use bytes::Bytes;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};

use super::counts::Kind;
use super::exchange::{Answer, Ask};
use super::{Fault, Reference, Source, UpstreamError};
use crate::oci::{Digest, ManifestType, is_schema1};

/// All that there are; a registry converts what is not accepted, and the digest with it.
const ACCEPTED: [&str; 6] = [
    ManifestType::OciImage.as_str(),
    ManifestType::OciIndex.as_str(),
    ManifestType::DockerImage.as_str(),
    ManifestType::DockerList.as_str(),
    SCHEMA1_SIGNED,
    "application/vnd.docker.distribution.manifest.v1+json",
];
const SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// The digest of a manifest, as registries say it.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// Bytes of a manifest that is fetched only to know its digest.
const LONGEST_MANIFEST: usize = 4 * 1024 * 1024;

/// What a registry says of a manifest. Nothing of it is verified: compare it with what was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// `Docker-Content-Digest`; computed where a registry sends none.
    pub digest: Digest,
    /// `Content-Type`, without parameters.
    pub media_type: String,
    /// Bytes, where it says.
    pub size: Option<u64>,
}

/// A manifest as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedManifest {
    /// Computed from the bytes. It is the digest that was asked for, and the one the registry said.
    pub digest: Digest,
    /// `Content-Type` without parameters, or what the body says where that says nothing.
    pub media_type: String,
    /// Exactly what was sent.
    pub bytes: Bytes,
}

impl Source {
    /// What a manifest is now: one HEAD, and a GET of up to 4 MiB where that says too little.
    pub async fn head(&self, reference: &Reference) -> Result<Head, UpstreamError> {
        let ask = self.manifest_ask(Kind::Head, Method::HEAD, reference);
        let path = self.path(&format!("manifests/{reference}"));
        let head = self.retrying(|| async {
            let answer = self.answer(&ask, &path).await?;
            let digest = answer.header(CONTENT_DIGEST).and_then(Digest::parse);
            let media_type = content_type(&answer);
            Ok(digest.zip(media_type).map(|(digest, media_type)| Head {
                digest,
                media_type,
                size: answer.length(),
            }))
        });
        match head.await {
            Ok(Some(head)) if agrees(reference, &head.digest) => return Ok(head),
            Ok(_) => {}
            Err(error) if is_unknown_method(error.status()) => {}
            Err(error) => return Err(error),
        }
        let FetchedManifest { digest, media_type, bytes } =
            self.manifest(reference, LONGEST_MANIFEST).await?;
        Ok(Head { digest, media_type, size: Some(bytes.len() as u64) })
    }

    /// A manifest of at most that many bytes, its digest verified.
    ///
    /// Docker's schema 1 has a digest that leaves out its signatures: by tag its `digest` here is
    /// not the one that the registry knows it by, by digest it is an error.
    pub async fn manifest(
        &self,
        reference: &Reference,
        most: usize,
    ) -> Result<FetchedManifest, UpstreamError> {
        let ask = self.manifest_ask(Kind::Manifest, Method::GET, reference);
        let path = self.path(&format!("manifests/{reference}"));
        self.retrying(|| self.manifest_once(&ask, &path, reference, most)).await
    }

    async fn manifest_once(
        &self,
        ask: &Ask,
        path: &str,
        reference: &Reference,
        most: usize,
    ) -> Result<FetchedManifest, UpstreamError> {
        let mut answer = self.answer(ask, path).await?;
        let bytes = self.client().body(&mut answer, most).await?;
        let digest = Digest::of_sha256(&Sha256::digest(&bytes).into());
        let media_type = content_type(&answer).or_else(|| media_type_of(&bytes));
        let media_type = media_type.ok_or_else(|| {
            answer.error(Fault::Source, "neither its type nor its bytes are a manifest's")
        })?;
        let said = answer.header(CONTENT_DIGEST).and_then(Digest::parse);
        let said = said.filter(|_| !is_schema1(&media_type));
        let expected = match reference {
            Reference::Digest(asked) => Some(asked.clone()),
            Reference::Tag(_) => said,
        };
        match expected.filter(|expected| *expected != digest) {
            Some(expected) => {
                let reason = format!("its bytes are not those of {expected} but of {digest}");
                Err(answer.error(Fault::Source, reason))
            }
            None => Ok(FetchedManifest { digest, media_type, bytes }),
        }
    }

    fn manifest_ask(&self, kind: Kind, method: Method, reference: &Reference) -> Ask {
        self.ask(kind, method, &format!("manifest {reference}")).accept(&ACCEPTED)
    }
}

/// What a registry says of a digest is the digest.
fn agrees(reference: &Reference, said: &Digest) -> bool {
    match reference {
        Reference::Digest(asked) => asked == said,
        Reference::Tag(_) => true,
    }
}

fn is_unknown_method(status: Option<u16>) -> bool {
    let unknown = [StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED];
    unknown.iter().any(|known| Some(known.as_u16()) == status)
}

/// The type of an answer, unless it is one that anything may have.
pub(super) fn content_type(answer: &Answer) -> Option<String> {
    let header = answer.header(CONTENT_TYPE)?;
    let media_type = header.split(';').next().unwrap_or_default().trim();
    let vague = ["", "application/json", "application/octet-stream", "text/plain", "text/html"];
    (!vague.contains(&media_type)).then(|| media_type.to_owned())
}

/// The type that a manifest says it has, or has to have by its members.
fn media_type_of(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Members {
        media_type: Option<String>,
        manifests: Option<IgnoredAny>,
        layers: Option<IgnoredAny>,
        fs_layers: Option<IgnoredAny>,
    }
    let members: Members = serde_json::from_slice(bytes).ok()?;
    let guessed = match members {
        Members { media_type: Some(media_type), .. } => return Some(media_type),
        Members { manifests: Some(_), .. } => ManifestType::OciIndex.as_str(),
        Members { layers: Some(_), .. } => ManifestType::OciImage.as_str(),
        Members { fs_layers: Some(_), .. } => SCHEMA1_SIGNED,
        _ => return None,
    };
    Some(guessed.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_without_a_header() {
        for (body, expected) in [
            (r#"{"mediaType": "application/x"}"#, Some("application/x")),
            (r#"{"manifests": []}"#, Some(ManifestType::OciIndex.as_str())),
            (r#"{"config": {}, "layers": []}"#, Some(ManifestType::OciImage.as_str())),
            (r#"{"schemaVersion": 1, "fsLayers": []}"#, Some(SCHEMA1_SIGNED)),
            ("{}", None),
            ("<html>", None),
        ] {
            assert_eq!(media_type_of(body.as_bytes()).as_deref(), expected, "{body}");
        }
        assert!(ACCEPTED[4..].iter().all(|known| is_schema1(known)));
    }
}
