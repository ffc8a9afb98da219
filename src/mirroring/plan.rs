//! What a sync would do, without doing it.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::Parts;
use super::SyncError;
use super::claim::ROUTE;
use super::copy::{no_tag, parse};
use super::settings::Settings;
use crate::catalog::Mirror;
use crate::oci::Digest;
use crate::oci::manifest::PushedManifest;
use crate::upstream::{Reference, Source};

/// What would be copied and deleted.
#[derive(Debug, Default, Serialize)]
pub struct Plan {
    /// Tags that are as they are at the source.
    pub unchanged: usize,
    /// Tags that would be moved.
    pub copy: Vec<PlannedTag>,
    /// Tags that would be deleted.
    pub delete: Vec<String>,
    /// Bytes of blobs that would be fetched, each once.
    pub bytes: u64,
}

/// A tag that would be moved.
#[derive(Debug, Serialize)]
pub struct PlannedTag {
    /// Its name.
    pub tag: String,
    /// What it would point to.
    pub digest: String,
    /// Blobs that would be fetched for it and for no tag before it.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Bytes of a manifest at most.
const LARGEST: usize = 4 << 20;

/// How deep indexes may name indexes.
const DEEPEST: usize = 4;

/// Looks at the source and at the repository; changes nothing.
pub async fn plan(parts: &Parts, mirror: &Mirror) -> Result<Plan, SyncError> {
    let settings = Settings::read(parts, mirror)?;
    let source = Source::open(settings.access.options.clone())?;
    let matching = settings.globs.matching(source.tags().await?);
    let mut plan = Plan::default();
    if matching.is_empty() {
        return Ok(plan);
    }
    let db = parts.catalog.session(ROUTE);
    let alive = db.alive_tags(mirror.repository_id).await?;
    let here: HashMap<&str, &str> =
        alive.iter().map(|tag| (tag.name.as_str(), tag.digest.as_str())).collect();
    let mut look = Look { parts, mirror, source, settings, seen: HashSet::new() };
    for tag in &matching {
        let reference = Reference::tag(tag).ok_or_else(|| no_tag(tag))?;
        let head = look.source.head(&reference).await?;
        if here.get(tag.as_str()) == Some(&head.digest.as_str()) {
            plan.unchanged += 1;
            continue;
        }
        let (blobs, bytes) = look.missing(&head.digest, 0).await?;
        plan.bytes += bytes;
        let digest = head.digest.to_string();
        plan.copy.push(PlannedTag { tag: tag.clone(), digest, blobs, bytes });
    }
    let wanted: HashSet<&str> = matching.iter().map(String::as_str).collect();
    plan.delete = alive
        .iter()
        .filter(|tag| !wanted.contains(tag.name.as_str()))
        .map(|tag| tag.name.clone())
        .collect();
    plan.delete.sort_unstable();
    Ok(plan)
}

struct Look<'a> {
    parts: &'a Parts,
    mirror: &'a Mirror,
    source: Source,
    settings: Settings,
    /// Manifests and blobs that were counted.
    seen: HashSet<String>,
}

impl Look<'_> {
    /// How many blobs a manifest would have fetched, and their bytes.
    async fn missing(&mut self, digest: &Digest, depth: usize) -> Result<(usize, u64), SyncError> {
        if !self.seen.insert(digest.to_string()) || depth > DEEPEST {
            return Ok((0, 0));
        }
        let fetched = self.source.manifest(&Reference::Digest(digest.clone()), LARGEST).await?;
        let manifest = parse(&fetched)?;
        if !manifest.is_list() {
            return self.blobs(&manifest).await;
        }
        let (mut blobs, mut bytes) = (0, 0);
        for child in &manifest.children {
            let architectures = &self.settings.access.architectures;
            let platform = child.platform.as_ref();
            let wanted = architectures.is_empty()
                || platform.is_some_and(|on| architectures.contains(&on.architecture));
            let Some(digest) = child.manifest.content().filter(|_| wanted) else { continue };
            let (more, larger) = Box::pin(self.missing(&digest, depth + 1)).await?;
            (blobs, bytes) = (blobs + more, bytes + larger);
        }
        Ok((blobs, bytes))
    }

    async fn blobs(&mut self, manifest: &PushedManifest) -> Result<(usize, u64), SyncError> {
        let digests = manifest.local_blobs()?;
        let names: Vec<&str> = digests.iter().map(Digest::as_str).collect();
        let db = self.parts.catalog.session(ROUTE);
        let named = db.named_blobs(self.mirror.repository_id, &names).await?;
        let described = manifest.layers.iter().map(|layer| &layer.blob).chain(&manifest.config);
        let (mut blobs, mut bytes) = (0, 0);
        for blob in described {
            let local = names.contains(&blob.digest.as_str());
            if local && !named.contains_key(&blob.digest) && self.seen.insert(blob.digest.clone()) {
                blobs += 1;
                bytes += u64::try_from(blob.size).unwrap_or_default();
            }
        }
        Ok((blobs, bytes))
    }
}
