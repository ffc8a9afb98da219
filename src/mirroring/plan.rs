//! What a sync would do, without doing it.

use std::collections::{BTreeMap, HashSet};

use futures_util::future::join_all;
use serde::Serialize;

use super::job::{engine, may_write};
use super::look::{Look, parse};
use super::settings::Settings;
use super::{Parts, Progress, SyncError};
use crate::catalog::Mirror;
use crate::oci::Digest;
use crate::oci::manifest::PushedManifest;
use crate::upstream::Head;

/// Tags that the source is asked for at once.
const TAGS: usize = 8;

/// What would be copied and deleted.
#[derive(Debug, Default, Serialize)]
pub struct Plan {
    /// Tags that are as they are at the source, and those of images for other architectures.
    pub unchanged: usize,
    /// Tags that would be moved, with those that come along.
    pub copy: Vec<PlannedTag>,
    /// Tags that would be deleted: none where one cannot be copied.
    pub delete: Vec<String>,
    /// Tags that cannot be copied, and why.
    pub failed: BTreeMap<String, String>,
    /// Manifests without a tag that would come along, because they refer to one that has.
    pub referrers: usize,
    /// Bytes of blobs that would be fetched, each once.
    pub bytes: u64,
    /// Bytes of blobs that would be linked from another repository instead.
    pub linked_bytes: u64,
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

/// Looks at the source and at the repository; changes nothing.
pub async fn plan(parts: &Parts, mirror: &Mirror, progress: &Progress) -> Result<Plan, SyncError> {
    let Settings { access, globs } = Settings::read(parts, mirror)?;
    let into = mirror.destination();
    engine(parts, &access)?;
    may_write(parts, &into).await?;
    let mut planner = Planner::new(Look::open(parts, &into, &access)?, progress);
    let tags = globs.matching(planner.look.list().await?);
    // A rule that means nothing deletes nothing, either.
    if !tags.is_empty() {
        planner.tags(&tags).await;
        if planner.plan.failed.is_empty() {
            planner.plan.delete = planner.look.obsolete(&planner.companions);
        }
    }
    Ok(planner.plan)
}

/// Walks as a sync does, and counts.
pub(super) struct Planner<'a> {
    pub(super) look: Look<'a>,
    progress: &'a Progress,
    /// Manifests and blobs that were counted.
    counted: HashSet<Digest>,
    /// Manifests whose companions were looked for, and the tags among those companions.
    accompanied: HashSet<Digest>,
    companions: HashSet<String>,
    pub(super) plan: Plan,
}

/// What one tag would have fetched.
#[derive(Default)]
struct Cost {
    blobs: usize,
    bytes: u64,
}

impl<'a> Planner<'a> {
    pub(super) fn new(look: Look<'a>, progress: &'a Progress) -> Self {
        Self {
            look,
            progress,
            counted: HashSet::new(),
            accompanied: HashSet::new(),
            companions: HashSet::new(),
            plan: Plan::default(),
        }
    }

    /// All tags that are to be copied.
    pub(super) async fn tags(&mut self, tags: &[String]) {
        self.look.matches(tags);
        self.progress.tags(tags.len());
        for some in tags.chunks(TAGS) {
            let heads = join_all(some.iter().map(|tag| self.look.head(tag))).await;
            for (tag, head) in some.iter().zip(heads) {
                self.progress.doing(tag);
                let planned = match head {
                    Ok(head) => self.tag(tag, &head).await,
                    Err(error) => Err(error),
                };
                let copied = planned.as_ref().is_ok_and(|copied| *copied);
                self.progress.tag_done(copied, planned.is_err());
                if let Err(error) = planned {
                    self.plan.failed.insert(tag.clone(), error.to_string());
                }
            }
        }
    }

    /// Returns whether it would be moved.
    async fn tag(&mut self, tag: &str, head: &Head) -> Result<bool, SyncError> {
        if self.look.is_here(tag, &head.digest).await? {
            self.plan.unchanged += 1;
            self.companions(&head.digest, 0).await?;
            return Ok(false);
        }
        let fetched = self.look.manifest(&head.digest).await?;
        let manifest = parse(&fetched)?;
        if self.look.other_architecture(&manifest).await?.is_some() {
            self.plan.unchanged += 1;
            return Ok(false);
        }
        let cost = self.contents(&head.digest, &manifest, 0).await?;
        self.moves(tag, &head.digest, &cost);
        self.companions(&head.digest, 0).await?;
        Ok(true)
    }

    fn moves(&mut self, tag: &str, digest: &Digest, cost: &Cost) {
        let (tag, digest) = (tag.to_owned(), digest.to_string());
        self.plan.copy.push(PlannedTag { tag, digest, blobs: cost.blobs, bytes: cost.bytes });
    }

    async fn contents(
        &mut self,
        digest: &Digest,
        manifest: &PushedManifest,
        depth: usize,
    ) -> Result<Cost, SyncError> {
        let mut cost = Cost::default();
        if manifest.is_list() {
            for child in self.look.missing_children(digest, manifest, depth).await? {
                let Cost { blobs, bytes } = Box::pin(self.by_digest(&child, depth + 1)).await?;
                cost = Cost { blobs: cost.blobs + blobs, bytes: cost.bytes + bytes };
            }
            return Ok(cost);
        }
        for blob in self.look.missing(manifest).await? {
            if !self.counted.insert(blob.digest) {
                continue;
            }
            if blob.linkable {
                self.plan.linked_bytes += blob.size;
                continue;
            }
            cost = Cost { blobs: cost.blobs + 1, bytes: cost.bytes + blob.size };
            self.plan.bytes += blob.size;
        }
        Ok(cost)
    }

    async fn by_digest(&mut self, digest: &Digest, depth: usize) -> Result<Cost, SyncError> {
        if self.counted.contains(digest) {
            return Ok(Cost::default());
        }
        let manifest = parse(&self.look.manifest(digest).await?)?;
        let cost = self.contents(digest, &manifest, depth).await?;
        self.counted.insert(digest.clone());
        Ok(cost)
    }

    /// As a sync takes them along.
    async fn companions(&mut self, digest: &Digest, depth: usize) -> Result<(), SyncError> {
        if !self.look.wants_companions(depth) || !self.accompanied.insert(digest.clone()) {
            return Ok(());
        }
        for tag in self.look.companion_tags(digest) {
            let head = self.look.head(&tag).await?;
            if !self.look.has(&tag, &head.digest) {
                let cost = self.by_digest(&head.digest, 0).await?;
                self.moves(&tag, &head.digest, &cost);
            }
            self.companions.insert(tag);
        }
        for (referrer, is_here) in self.look.referrers(digest).await? {
            if !is_here && !self.counted.contains(&referrer) {
                self.by_digest(&referrer, 0).await?;
                self.plan.referrers += 1;
            }
            Box::pin(self.companions(&referrer, depth + 1)).await?;
        }
        Ok(())
    }
}
