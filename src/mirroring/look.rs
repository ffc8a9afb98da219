//! Both sides of a repository that is to be filled: what its source has, and what is here. A sync and
//! its dry run look the same way; nothing here changes anything.

use std::collections::{HashMap, HashSet};

use futures_util::StreamExt as _;

use super::claim::ROUTE;
use super::settings::Access;
use super::{Parts, SyncError};
use crate::catalog::{AliveTag, Destination, Session};
use crate::oci::manifest::{Child, PushedManifest};
use crate::oci::{Digest, ManifestType, cosign_tags, is_schema1};
use crate::upstream::{FetchedManifest, Head, Reference, Source};

/// Bytes of a manifest at most, as for those that are pushed.
const LARGEST: usize = 4 << 20;

/// Bytes of a configuration at most, which is read for its architecture.
const LARGEST_CONFIG: usize = 4 << 20;

/// How deep indexes may name indexes.
const DEEPEST: usize = 4;

/// How far referrers of referrers are followed.
const REFERRERS_DEEPEST: usize = 2;

/// A repository and its source.
pub(super) struct Look<'a> {
    pub(super) parts: &'a Parts,
    /// What is filled.
    pub(super) into: &'a Destination,
    pub(super) access: &'a Access,
    pub(super) source: Source,
    /// `host[:port]/path` of the source, as it was written.
    pub(super) reference: String,
    /// Every tag of the source.
    source_tags: HashSet<String>,
    /// Those that are to be copied.
    matching: HashSet<String>,
    /// The tags that are here.
    pub(super) alive: HashMap<String, AliveTag>,
}

/// A blob that the repository lacks.
#[derive(Clone, Debug)]
pub(super) struct Missing {
    pub(super) digest: Digest,
    /// As the manifest has it.
    pub(super) size: u64,
    /// Whether it is here in another repository from which it may be linked.
    pub(super) linkable: bool,
}

impl<'a> Look<'a> {
    /// Asks nothing yet.
    pub(super) fn open(
        parts: &'a Parts,
        into: &'a Destination,
        access: &'a Access,
    ) -> Result<Self, SyncError> {
        Ok(Self {
            parts,
            into,
            access,
            source: Source::open(access.options.clone())?,
            reference: access.options.source.to_string(),
            source_tags: HashSet::new(),
            matching: HashSet::new(),
            alive: HashMap::new(),
        })
    }

    pub(super) fn db(&self) -> Session<'_> {
        self.parts.catalog.session(ROUTE)
    }

    /// `host[:port]` of the source.
    pub(super) fn host(&self) -> &str {
        self.reference.split('/').next().unwrap_or_default()
    }

    /// All tags of the source. Looks at those that are here, too.
    pub(super) async fn list(&mut self) -> Result<Vec<String>, SyncError> {
        let tags = self.source.tags().await?;
        self.source_tags = tags.iter().cloned().collect();
        let alive = self.db().alive_tags(self.into.repository_id).await?;
        self.alive = alive.into_iter().map(|tag| (tag.name.clone(), tag)).collect();
        Ok(tags)
    }

    /// Those of the source's tags that are to be copied.
    pub(super) fn matches(&mut self, tags: &[String]) {
        self.matching = tags.iter().cloned().collect();
    }

    /// Tags that are here and are not to be: the rest of it and what came along with it apart.
    pub(super) fn obsolete(&self, companions: &HashSet<String>) -> Vec<String> {
        let wanted = |tag: &&String| self.matching.contains(*tag) || companions.contains(*tag);
        let mut obsolete: Vec<String> =
            self.alive.keys().filter(|tag| !wanted(tag)).cloned().collect();
        obsolete.sort_unstable();
        obsolete
    }

    pub(super) async fn head(&self, tag: &str) -> Result<Head, SyncError> {
        let reference = Reference::tag(tag).ok_or_else(|| no_tag(tag))?;
        Ok(self.source.head(&reference).await?)
    }

    pub(super) async fn manifest(&self, digest: &Digest) -> Result<FetchedManifest, SyncError> {
        let largest = match self.access.architectures.is_empty() {
            true => LARGEST,
            false => LARGEST.min(self.parts.config.mirroring.largest_list),
        };
        Ok(self.source.manifest(&Reference::Digest(digest.clone()), largest).await?)
    }

    /// Whether a tag is here and points to this.
    pub(super) fn has(&self, tag: &str, digest: &Digest) -> bool {
        self.alive.get(tag).is_some_and(|local| local.digest == digest.as_str())
    }

    /// Whether a tag is here as it is at the source, with all that it should have: a list may have
    /// been filtered by other architectures before, and a tag that expires is pushed anew, which is
    /// how it lives on.
    pub(super) async fn is_here(&self, tag: &str, digest: &Digest) -> Result<bool, SyncError> {
        let local = self.alive.get(tag).filter(|local| local.digest == digest.as_str());
        let Some(local) = local.filter(|local| local.lifetime_end_ms.is_none()) else {
            return Ok(false);
        };
        if !ManifestType::parse(&local.media_type).is_some_and(ManifestType::is_list) {
            return Ok(true);
        }
        let text = self.db().manifest_bytes(self.into.repository_id, &local.digest).await?;
        let Some(text) = text else { return Ok(false) };
        let list = PushedManifest::parse(&local.media_type, text.as_bytes())?;
        let linked = self.db().linked_children(self.into.repository_id, &local.digest).await?;
        Ok(self.wanted(&list)?.into_iter().all(|child| linked.contains(child)))
    }

    /// Manifests that a list has for us and the repository does not have, each once. The list, which
    /// has this digest, is `depth` lists below a tag.
    pub(super) async fn missing_children(
        &self,
        digest: &Digest,
        list: &PushedManifest,
        depth: usize,
    ) -> Result<Vec<Digest>, SyncError> {
        if depth == DEEPEST {
            return Err(SyncError::Refused(format!(
                "{digest}: indexes within indexes, more than {DEEPEST} deep"
            )));
        }
        let digest = |digest: &str| {
            let reason = || SyncError::Refused(format!("{digest}: only SHA-256 is known here"));
            Digest::parse(digest).ok_or_else(reason)
        };
        self.lacks(&self.wanted(list)?).await?.into_iter().map(digest).collect()
    }

    /// The children of a list that are wanted here: all of them, or those of the architectures.
    pub(super) fn wanted<'m>(&self, list: &'m PushedManifest) -> Result<Vec<&'m str>, SyncError> {
        let digest = |child: &'m Child| child.manifest.digest.as_str();
        if self.access.architectures.is_empty() {
            return Ok(list.children.iter().map(digest).collect());
        }
        let most = self.parts.config.mirroring.most_entries;
        let architecture = |child: &&Child| {
            let platform = child.platform.as_ref();
            platform
                .is_some_and(|platform| self.access.architectures.contains(&platform.architecture))
        };
        let wanted: Vec<&str> =
            list.children.iter().take(most).filter(architecture).map(digest).collect();
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

    /// Those of the manifests that the repository does not have, each once.
    async fn lacks<'d>(&self, digests: &[&'d str]) -> Result<Vec<&'d str>, SyncError> {
        let mut seen = HashSet::new();
        let digests: Vec<&str> =
            digests.iter().copied().filter(|digest| seen.insert(*digest)).collect();
        let stored = self.db().stored_children(self.into.repository_id, &digests).await?;
        Ok(digests.into_iter().filter(|digest| !stored.contains_key(*digest)).collect())
    }

    /// Blobs of a manifest that the repository does not have.
    pub(super) async fn missing(
        &self,
        manifest: &PushedManifest,
    ) -> Result<Vec<Missing>, SyncError> {
        let mut digests = manifest.local_blobs()?;
        let names: Vec<&str> = digests.iter().map(Digest::as_str).collect();
        let named = self.db().named_blobs(self.into.repository_id, &names).await?;
        digests.retain(|digest| !named.contains_key(digest.as_str()));
        if digests.is_empty() {
            return Ok(Vec::new());
        }
        let described = manifest.layers.iter().map(|layer| &layer.blob).chain(&manifest.config);
        let sizes: HashMap<&str, u64> = described
            .map(|blob| (blob.digest.as_str(), u64::try_from(blob.size).unwrap_or_default()))
            .collect();
        // Those that the same source has given us for another mirror of this namespace and robot:
        // what somebody else keeps private is never shown to a source that only knows its digest.
        let names: Vec<&str> = digests.iter().map(Digest::as_str).collect();
        let beside = self.db().fetched_beside(self.into, self.host(), &names).await?;
        let missing = |digest: Digest| Missing {
            size: sizes.get(digest.as_str()).copied().unwrap_or_default(),
            linkable: beside.iter().any(|other| other == digest.as_str()),
            digest,
        };
        Ok(digests.into_iter().map(missing).collect())
    }

    /// What an image runs on, where that is nothing that is wanted here. An image whose
    /// configuration does not say is.
    pub(super) async fn other_architecture(
        &self,
        manifest: &PushedManifest,
    ) -> Result<Option<String>, SyncError> {
        let config = manifest.config.as_ref().filter(|_| manifest.is_image_config());
        let Some(config) = config.filter(|_| !self.access.architectures.is_empty()) else {
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
        let architecture = config["architecture"].as_str().map(str::to_owned);
        Ok(architecture.filter(|architecture| !self.access.architectures.contains(architecture)))
    }

    /// Whether what refers to a manifest is wanted, if that is so far from a tag.
    pub(super) fn wants_companions(&self, depth: usize) -> bool {
        self.parts.config.sidecar.mirror_referrers && depth < REFERRERS_DEEPEST
    }

    /// Tags of the source under which cosign keeps what it has to say of a manifest.
    pub(super) fn companion_tags(&self, digest: &Digest) -> Vec<String> {
        let there = |tag: &String| self.source_tags.contains(tag) && !self.matching.contains(tag);
        cosign_tags(digest).into_iter().filter(there).collect()
    }

    /// What the source lists as referring to a manifest, and whether the repository has it, each
    /// once.
    pub(super) async fn referrers(
        &self,
        digest: &Digest,
    ) -> Result<Vec<(Digest, bool)>, SyncError> {
        let referrers = self.source.referrers(digest).await?;
        let digests: Vec<&str> = referrers.iter().map(|one| one.digest.as_str()).collect();
        let lacks: HashSet<&str> = self.lacks(&digests).await?.into_iter().collect();
        let mut seen = HashSet::new();
        let each = digests.into_iter().filter(|digest| seen.insert(*digest));
        Ok(each
            .filter_map(|digest| Some((Digest::parse(digest)?, !lacks.contains(digest))))
            .collect())
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

pub(super) fn not_copied(fetched: &FetchedManifest) -> SyncError {
    let media_type = &fetched.media_type;
    SyncError::Refused(match is_schema1(media_type) {
        true => format!(
            "{media_type}: Docker's schema 1 is not copied natively; with repo_mirror_engine: \
             skopeo it is"
        ),
        false => format!("{media_type:?}: a manifest of a type that is not copied"),
    })
}
