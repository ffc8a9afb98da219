//! What refers to a manifest: signatures, attestations, bills of materials.

use std::collections::HashSet;

use reqwest::Method;

use super::counts::Kind;
use super::exchange::Ask;
use super::manifests::content_type;
use super::tags::next_path;
use super::{Fault, Reference, Source, UpstreamError};
use crate::oci::manifest::{Child, Descriptor, PushedManifest};
use crate::oci::{Digest, ManifestType};

const INDEX: &str = ManifestType::OciIndex.as_str();
/// Bytes of one page.
const LONGEST_PAGE: usize = 4 * 1024 * 1024;
const MOST_PAGES: usize = 100;
const MOST_REFERRERS: usize = 10_000;

/// The next page's path, behind the descriptors of one.
type Page = (Vec<Descriptor>, Option<String>);

impl Source {
    /// The manifests that name this one as their subject, each once, by the referrers API or, where
    /// a registry has none, by the tag that stands for it (distribution-spec 1.1, "Referrers Tag
    /// Schema"). None for a manifest that is not there.
    pub async fn referrers(&self, digest: &Digest) -> Result<Vec<Descriptor>, UpstreamError> {
        let listing = async {
            match self.listed(digest).await {
                Ok(Some(listed)) => Ok(listed),
                Ok(None) => self.tagged(digest).await,
                // Old registries route it nowhere, or take it for something else.
                Err(error) if matches!(error.status(), Some(400 | 404 | 405 | 501)) => {
                    self.tagged(digest).await
                }
                Err(error) => Err(error),
            }
        };
        let listed = self.in_time(listing).await?;
        let mut seen = HashSet::new();
        Ok(listed.into_iter().filter(|one| seen.insert(one.digest.clone())).collect())
    }

    /// By the API, or `None` where its answer is not one of the API.
    async fn listed(&self, digest: &Digest) -> Result<Option<Vec<Descriptor>>, UpstreamError> {
        let ask = self.ask(Kind::Referrers, Method::GET, &format!("referrers of {digest}"));
        let ask = ask.accept(&[INDEX]);
        let mut path = self.path(&format!("referrers/{digest}"));
        let mut descriptors = Vec::new();
        for _ in 0..MOST_PAGES {
            let page = self.retrying(|| self.referrers_page(&ask, &path)).await?;
            let Some((page, next)) = page else { return Ok(None) };
            descriptors.extend(page);
            match next {
                Some(next) if descriptors.len() <= MOST_REFERRERS => path = next,
                Some(_) => break,
                None => return Ok(Some(descriptors)),
            }
        }
        let reason = format!("more than {MOST_REFERRERS} referrers or {MOST_PAGES} pages");
        Err(UpstreamError::new(Fault::Source, self.name().authority(), &ask.what, reason))
    }

    async fn referrers_page(&self, ask: &Ask, path: &str) -> Result<Option<Page>, UpstreamError> {
        let mut answer = self.answer(ask, path).await?;
        if content_type(&answer).as_deref() != Some(INDEX) {
            return Ok(None);
        }
        let next = next_path(&answer, path)?;
        let body = self.client().body(&mut answer, LONGEST_PAGE).await?;
        let page = children(&body).map_err(|problem| answer.error(Fault::Source, problem))?;
        Ok(Some((page, next)))
    }

    /// By the tag `sha256-<hex>`.
    async fn tagged(&self, digest: &Digest) -> Result<Vec<Descriptor>, UpstreamError> {
        let Some(tag) = Reference::tag(&format!("sha256-{}", digest.hex())) else {
            return Ok(Vec::new());
        };
        match self.manifest(&tag, LONGEST_PAGE).await {
            Ok(fetched) if fetched.media_type == INDEX => {
                children(&fetched.bytes).map_err(|problem| {
                    let request = format!("manifest {tag} of {}", self.name().path());
                    UpstreamError::new(Fault::Source, self.name().authority(), &request, problem)
                })
            }
            // A tag of that name that is something else.
            Ok(_) => Ok(Vec::new()),
            Err(error) if error.fault() == Fault::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

fn children(index: &[u8]) -> Result<Vec<Descriptor>, String> {
    let index = PushedManifest::parse(INDEX, index).map_err(|error| error.to_string())?;
    Ok(index.children.into_iter().map(|Child { manifest, .. }| manifest).collect())
}
