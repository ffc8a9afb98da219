//! One tag: looked at, and copied if it is not what it is at the source. Bytes before names: the tag
//! moves when all that it names is here, in one transaction.

use std::collections::HashSet;

use futures_util::StreamExt as _;

use super::SyncError;
use super::blobs::all_of;
use super::claim::ROUTE;
use super::job::{Job, locked};
use super::steps::step;
use crate::audit::Client;
use crate::catalog::{AliveTag, Entity};
use crate::oci::manifest::{Child, PushedManifest};
use crate::oci::{Digest, ManifestType, cosign_tags, is_schema1};
use crate::push::{FollowUp, ManifestBody, Target};
use crate::upstream::{FetchedManifest, Head, Reference};

/// Bytes of a manifest at most, as for those that are pushed.
const LARGEST: usize = 4 << 20;

/// How deep indexes may name indexes.
const DEEPEST: usize = 4;

/// How far referrers of referrers are followed.
const REFERRERS_DEEPEST: usize = 2;

/// Children of one list at once.
const CHILDREN: usize = 4;

/// Bytes of a configuration at most, which is read for its architecture.
const LARGEST_CONFIG: usize = 4 << 20;

/// What became of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    /// It was there already.
    Unchanged(Digest),
    /// It is there now.
    Moved(Digest),
    /// It is for another architecture; what the tag is here is left alone, as in Quay.
    OtherArchitecture(String),
}

impl Copied {
    /// In words.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Unchanged(digest) => format!("unchanged, {digest}"),
            Self::Moved(digest) => format!("copied, {digest}"),
            Self::OtherArchitecture(architecture) => {
                format!("skipped: its architecture is {architecture:?}")
            }
        }
    }
}

/// Who does it, as the action log names it.
pub(super) fn client() -> Client {
    let user_agent = concat!("quay-sidecar/", env!("CARGO_PKG_VERSION"), " (repomirror)");
    Client { ip: String::new(), user_agent: user_agent.to_owned() }
}

impl Job<'_> {
    /// Has `tag` point to what it points to at the source.
    pub(super) async fn tag(&self, tag: &str) -> Result<Copied, SyncError> {
        self.progress.doing(tag);
        let head = self.head(tag).await?;
        if let Some(local) = self.alive.get(tag)
            && local.digest == head.digest.as_str()
            && self.is_whole(local).await?
        {
            self.companions(&head.digest, 0).await?;
            return Ok(Copied::Unchanged(head.digest));
        }
        // By digest: the tag may move meanwhile.
        let fetched = self.manifest(&head.digest).await?;
        let manifest = parse(&fetched)?;
        if !self.access.architectures.is_empty()
            && !manifest.is_list()
            && let Some(architecture) = self.architecture(&manifest).await?
            && !self.access.architectures.contains(&architecture)
        {
            return Ok(Copied::OtherArchitecture(architecture));
        }
        self.contents(&fetched, &manifest, 0).await?;
        let name = &self.into.name;
        self.store(Target::Tag(tag), &fetched).await?;
        step("mirror: tag moved");
        tracing::debug!(mirror = %name, tag, digest = %fetched.digest, "tag copied");
        self.companions(&fetched.digest, 0).await?;
        Ok(Copied::Moved(fetched.digest))
    }

    /// Whether an unchanged tag has all that it should have: a list may have been filtered by other
    /// architectures before, and a tag that expires is pushed anew, which is how it lives on.
    async fn is_whole(&self, local: &AliveTag) -> Result<bool, SyncError> {
        if local.lifetime_end_ms.is_some() {
            return Ok(false);
        }
        let list = ManifestType::parse(&local.media_type).is_some_and(ManifestType::is_list);
        if !list {
            return Ok(true);
        }
        let db = self.catalog.session(ROUTE);
        let repository_id = self.into.repository_id;
        let Some(text) = db.manifest_bytes(repository_id, &local.digest).await? else {
            return Ok(false);
        };
        let list = PushedManifest::parse(&local.media_type, text.as_bytes())?;
        let wanted = self.wanted(&list)?;
        let digests: Vec<&str> =
            wanted.iter().map(|child| child.manifest.digest.as_str()).collect();
        let digests: Vec<&str> = each_once(digests);
        Ok(db.stored_children(repository_id, &digests).await?.len() == digests.len())
    }

    async fn manifest(&self, digest: &Digest) -> Result<FetchedManifest, SyncError> {
        let largest = match self.access.architectures.is_empty() {
            true => LARGEST,
            false => LARGEST.min(self.parts.config.mirroring.largest_list),
        };
        let reference = Reference::Digest(digest.clone());
        let fetching = async { Ok(self.source.manifest(&reference, largest).await?) };
        let fetched = self.until_told(fetching).await?;
        step("mirror: manifest fetched");
        Ok(fetched)
    }

    async fn head(&self, tag: &str) -> Result<Head, SyncError> {
        let reference = Reference::tag(tag).ok_or_else(|| no_tag(tag))?;
        self.until_told(async { Ok(self.source.head(&reference).await?) }).await
    }

    /// Has all that a manifest names in the repository.
    async fn contents(
        &self,
        fetched: &FetchedManifest,
        manifest: &PushedManifest,
        depth: usize,
    ) -> Result<(), SyncError> {
        if !manifest.is_list() {
            return self.blobs(manifest).await;
        }
        if depth == DEEPEST {
            let digest = &fetched.digest;
            return Err(SyncError::Refused(format!(
                "{digest}: indexes within indexes, more than {DEEPEST} deep"
            )));
        }
        let wanted = self.wanted(manifest)?;
        let digests = each_once(wanted.iter().map(|child| child.manifest.digest.as_str()));
        let db = self.catalog.session(ROUTE);
        let stored = db.stored_children(self.into.repository_id, &digests).await?;
        let missing: Vec<Digest> = digests
            .iter()
            .filter(|digest| !stored.contains_key(**digest))
            .map(|digest| {
                let reason = || SyncError::Refused(format!("{digest}: only SHA-256 is known here"));
                Digest::parse(digest).ok_or_else(reason)
            })
            .collect::<Result<_, _>>()?;
        all_of(missing.iter().map(|digest| self.by_digest(digest, depth + 1)), CHILDREN).await
    }

    /// Copies a manifest that has no tag.
    async fn by_digest(&self, digest: &Digest, depth: usize) -> Result<(), SyncError> {
        let fetched = self.manifest(digest).await?;
        let manifest = parse(&fetched)?;
        Box::pin(self.contents(&fetched, &manifest, depth)).await?;
        self.store(Target::Digest(digest.as_str()), &fetched).await
    }

    /// The children of a list that are wanted here: all of them, or those of the architectures.
    fn wanted<'m>(&self, list: &'m PushedManifest) -> Result<Vec<&'m Child>, SyncError> {
        if self.access.architectures.is_empty() {
            return Ok(list.children.iter().collect());
        }
        let most = self.parts.config.mirroring.most_entries;
        let architecture = |child: &&Child| {
            let platform = child.platform.as_ref();
            platform
                .is_some_and(|platform| self.access.architectures.contains(&platform.architecture))
        };
        let wanted: Vec<&Child> = list.children.iter().take(most).filter(architecture).collect();
        if wanted.is_empty() {
            let asked = self.access.architectures.join(", ");
            return Err(SyncError::Refused(format!(
                "No matching architectures. Requested: {asked}; the list has none of them"
            )));
        }
        if wanted.len() < list.children.len() && !self.parts.config.features.sparse_index {
            return Err(SyncError::Refused(
                "an architecture filter leaves a list without some of its images, which needs \
                 FEATURE_SPARSE_INDEX: true"
                    .to_owned(),
            ));
        }
        Ok(wanted)
    }

    /// What an image runs on, by its configuration; `None` where that does not say.
    async fn architecture(&self, manifest: &PushedManifest) -> Result<Option<String>, SyncError> {
        let Some(config) = manifest.config.as_ref().filter(|_| manifest.is_image_config()) else {
            return Ok(None);
        };
        let unknown = || SyncError::Refused(format!("{}: no such configuration", config.digest));
        let digest = config.content().ok_or_else(unknown)?;
        let size = u64::try_from(config.size).unwrap_or_default();
        if size > LARGEST_CONFIG as u64 {
            return Err(SyncError::Refused(format!("{digest}: a configuration of {size} bytes")));
        }
        let mut stream = Box::pin(self.source.blob(&digest, Some(size), 0).await?.verified());
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece?);
        }
        let config: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|error| SyncError::Refused(format!("{digest}: {error}")))?;
        Ok(config["architecture"].as_str().map(str::to_owned))
    }

    /// Stores a manifest whose contents are here, as a push by the mirror's robot, if the mirror is
    /// still ours and the robot may still push.
    async fn store(&self, target: Target<'_>, fetched: &FetchedManifest) -> Result<(), SyncError> {
        let Some(media_type) = ManifestType::parse(&fetched.media_type) else {
            return Err(not_copied(fetched));
        };
        let body = ManifestBody { media_type, bytes: fetched.bytes.clone() };
        let (name, db) = (&self.into.name, self.catalog.session(ROUTE));
        let robot = Entity::Robot(self.into.robot.clone());
        self.may_write().await?;
        let pushed = self.parts.pushes.put_manifest(db, name, target, &body, &robot).await?;
        if let Target::Tag(tag) = target {
            locked(&self.moved).push(tag.to_owned());
        }
        let follow_up =
            FollowUp { stale: &self.parts.stale, audit: &self.parts.audit, client: &self.client };
        Ok(follow_up.pushed(name, target, media_type, &pushed).await?)
    }

    /// Signatures, attestations and whatever else refers to a manifest, if they are wanted: by
    /// cosign's tags, and by what the source lists.
    async fn companions(&self, digest: &Digest, depth: usize) -> Result<(), SyncError> {
        let wanted = self.parts.config.sidecar.mirror_referrers && depth < REFERRERS_DEEPEST;
        // Once, however many tags point to it.
        if !wanted || !locked(&self.accompanied).insert(digest.clone()) {
            return Ok(());
        }
        let tags = cosign_tags(digest);
        let there =
            |tag: &&String| self.source_tags.contains(*tag) && !self.matching.contains(*tag);
        for tag in tags.iter().filter(there) {
            locked(&self.companions).insert(tag.clone());
            let head = self.head(tag).await?;
            let here = self.alive.get(tag).is_some_and(|tag| tag.digest == head.digest.as_str());
            if !here {
                let fetched = self.manifest(&head.digest).await?;
                self.contents(&fetched, &parse(&fetched)?, 0).await?;
                self.store(Target::Tag(tag), &fetched).await?;
            }
        }
        let referrers = self.until_told(async { Ok(self.source.referrers(digest).await?) }).await?;
        let digests = each_once(referrers.iter().map(|referrer| referrer.digest.as_str()));
        let db = self.catalog.session(ROUTE);
        let stored = db.stored_children(self.into.repository_id, &digests).await?;
        for referrer in digests {
            let Some(digest) = Digest::parse(referrer) else { continue };
            if !stored.contains_key(referrer) {
                self.by_digest(&digest, 0).await?;
            }
            Box::pin(self.companions(&digest, depth + 1)).await?;
        }
        Ok(())
    }
}

/// A name that no tag can have, of this registry or by the protocol.
pub(super) fn no_tag(tag: &str) -> SyncError {
    SyncError::Refused(format!("{tag:?}: no tag can have this name"))
}

pub(super) fn parse(fetched: &FetchedManifest) -> Result<PushedManifest, SyncError> {
    if ManifestType::parse(&fetched.media_type).is_none() {
        return Err(not_copied(fetched));
    }
    Ok(PushedManifest::parse(&fetched.media_type, &fetched.bytes)?)
}

fn not_copied(fetched: &FetchedManifest) -> SyncError {
    let media_type = &fetched.media_type;
    SyncError::Refused(match is_schema1(media_type) {
        true => format!(
            "{media_type}: Docker's schema 1 is not copied natively; with repo_mirror_engine: \
             skopeo it is"
        ),
        false => format!("{media_type:?}: a manifest of a type that is not copied"),
    })
}

fn each_once<'a>(digests: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = HashSet::new();
    digests.into_iter().filter(|digest| seen.insert(*digest)).collect()
}
