//! Manifests, pushed and deleted: checked against what they name, then stored in one transaction.

use std::collections::HashSet;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::notices::quota_metadata;
use super::steps::step;
use super::uploads::Pushes;
use crate::blobs::UploadError;
use crate::catalog::{
    CatalogError, Change, Contents, Deleted, Entity, Named, NewManifest, NewTag, Session, Stored,
    TagError,
};
use crate::oci::manifest::{ManifestError, PushedManifest};
use crate::oci::{Digest, ManifestType, RepoName, is_schema1};

/// Bytes of a configuration at most, which is read whole for its labels.
const LARGEST_CONFIG: usize = 4 << 20;

/// How often a push begins anew when what it found is collected before it could keep it.
const ATTEMPTS: u32 = 3;

/// What a manifest is pushed as, or deleted by.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A tag's name.
    Tag(&'a str),
    /// Its digest, as the client has it.
    Digest(&'a str),
}

/// A manifest as it comes.
#[derive(Debug)]
pub struct Body {
    /// By its `Content-Type`.
    pub media_type: ManifestType,
    /// What is to be stored, exactly.
    pub bytes: Bytes,
}

/// A manifest that is stored.
#[derive(Debug)]
pub struct Pushed {
    /// Where, and by whom.
    pub change: Change,
    /// Its digest.
    pub digest: Digest,
    /// The digest of what it refers to.
    pub subject: Option<String>,
    /// Its `artifactType`.
    pub artifact_type: Option<String>,
    /// Whether a policy made its tag immutable.
    pub by_policy: bool,
}

/// A manifest that was not stored, or not deleted.
#[derive(Debug, thiserror::Error)]
pub enum ManifestPushError {
    /// No such repository.
    #[error("repository not found")]
    NoRepository,
    /// No such manifest or tag.
    #[error("manifest unknown")]
    Unknown,
    /// The body is no manifest.
    #[error("{}", .0.parse_failure())]
    Unparsable(ManifestError),
    /// It is not the one that the client named.
    #[error("manifest digest mismatch")]
    Digest,
    /// It names what is not there, or is not what it says.
    #[error("{0}")]
    Refused(String),
    /// The tag may not be moved or deleted.
    #[error("tag '{0}' is immutable")]
    Immutable(String),
    /// The namespace has as many bytes as it may.
    #[error("the quota of the namespace is used up")]
    OverQuota,
    /// The storage.
    #[error(transparent)]
    Bytes(#[from] UploadError),
    /// The database.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Python's to do; nothing has been written.
    #[error("not built: {0}")]
    Declined(&'static str),
}

impl From<TagError> for ManifestPushError {
    fn from(error: TagError) -> Self {
        match error {
            TagError::Immutable(tag) => Self::Immutable(tag),
            TagError::Declined(reason) => Self::Declined(reason),
            TagError::Catalog(error) => error.into(),
            TagError::Vanished => Self::Catalog(CatalogError::Unavailable(error.to_string())),
        }
    }
}

impl From<ManifestError> for ManifestPushError {
    fn from(error: ManifestError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl Pushes {
    /// Stores a manifest, and points the tag to it if it is pushed by one.
    pub async fn put_manifest(
        &self,
        db: Session<'_>,
        name: &RepoName,
        target: Target<'_>,
        body: &Body,
        entity: &Entity,
    ) -> Result<Pushed, ManifestPushError> {
        let media_type = body.media_type.as_str();
        let manifest = PushedManifest::parse(media_type, &body.bytes);
        let manifest = manifest.map_err(ManifestPushError::Unparsable)?;
        let text = std::str::from_utf8(&body.bytes).map_err(|_| ManifestPushError::Digest)?;
        let digest = Digest::of_sha256(&Sha256::digest(&body.bytes).into());
        if let Target::Digest(claimed) = target
            && claimed != digest.as_str()
        {
            return Err(ManifestPushError::Digest);
        }
        // Python would go on listing the subject's referrers without it.
        if self.0.model_cache_unreached && manifest.subject.is_some() {
            return Err(ManifestPushError::Declined("model_cache"));
        }
        for _ in 0..ATTEMPTS {
            let change = db.change(name, digest.as_str(), entity).await?;
            let change = change.ok_or(ManifestPushError::NoRepository)?;
            if self.0.proxy_cache && change.repository.proxy_cache {
                return Err(ManifestPushError::Declined("proxy_cache"));
            }
            let contents = match change.manifest_id {
                Some(_) => None,
                None => Some(self.contents(db, change.repository.id, &manifest).await?),
            };
            let event = self.0.notices.event(name, target, change.performer.as_ref());
            let queue = self.0.notices.queue(name);
            let quota_notice = quota_metadata(&name.namespace, false);
            let tag = match target {
                Target::Tag(name) => {
                    Some(NewTag { name, notice: (&queue, &event), quota_notice: &quota_notice })
                }
                Target::Digest(_) => None,
            };
            let (repository, manifest, digest) = (&change.repository, &manifest, &digest);
            let new = NewManifest { repository, digest, text, manifest, contents, tag };
            step("manifest: checked");
            let stored = db.store_manifest(&new, &self.0.rules).await?;
            step("manifest: stored");
            match stored {
                Stored::Yes { by_policy } => {
                    return Ok(Pushed {
                        digest: digest.clone(),
                        subject: manifest.subject.as_ref().map(|subject| subject.digest.clone()),
                        artifact_type: manifest.artifact_type.clone(),
                        by_policy,
                        change,
                    });
                }
                Stored::OverQuota => return Err(ManifestPushError::OverQuota),
                Stored::Gone => {}
            }
        }
        Err(CatalogError::Unavailable(format!("{digest} is collected as fast as it is pushed")))?
    }

    /// Deletes a tag, or everything that keeps a manifest.
    pub async fn delete_manifest(
        &self,
        db: Session<'_>,
        name: &RepoName,
        target: Target<'_>,
        entity: &Entity,
    ) -> Result<(Change, Deleted), ManifestPushError> {
        let change = db.change(name, "", entity).await?;
        let change = change.ok_or(ManifestPushError::NoRepository)?;
        if self.0.proxy_cache && change.repository.proxy_cache {
            return Err(ManifestPushError::Declined("proxy_cache"));
        }
        let (id, rules) = (change.repository.id, &self.0.rules);
        let deleted = match target {
            Target::Tag(tag) => db.delete_tag(id, tag, rules).await?,
            Target::Digest(digest) => db.delete_manifest(id, digest, rules).await?,
        };
        step("delete: done");
        Ok((change, deleted.ok_or(ManifestPushError::Unknown)?))
    }

    /// Everything that a new manifest names, in the order in which Quay misses it.
    async fn contents(
        &self,
        db: Session<'_>,
        repository_id: i32,
        manifest: &PushedManifest,
    ) -> Result<Contents, ManifestPushError> {
        if manifest.is_list() {
            let children = self.children(db, repository_id, manifest).await?;
            return Ok(Contents { children, ..Contents::default() });
        }
        let digests = manifest.local_blobs()?;
        let names: Vec<&str> = digests.iter().map(Digest::as_str).collect();
        let mut named = db.named_blobs(repository_id, &names).await?;
        if let Some(missing) = digests.iter().find(|digest| !named.contains_key(digest.as_str())) {
            return Err(ManifestError::UnknownBlob(missing.to_string()).into());
        }
        let blobs = named.values().map(|blob| Some(blob.id)).collect::<HashSet<_>>();
        let mut blobs: Vec<Option<i32>> = blobs.into_iter().collect();
        blobs.sort_unstable();
        let labels = match manifest.config.as_ref().filter(|_| manifest.needs_config()) {
            Some(config) => {
                let blob = named.remove(&config.digest).zip(config.content());
                let (named, digest) = blob.ok_or(ManifestError::NoConfig)?;
                let path = named.blob.stored_at.path(&digest).ok_or(ManifestError::NoConfig)?;
                let location = self.0.blobs.preferred(&named.blob.locations).unwrap_or_default();
                let storage = self.0.locations.get(location);
                let storage = storage.ok_or(ManifestPushError::Declined("storage_driver"))?;
                match storage.read_small(&path, LARGEST_CONFIG).await {
                    Ok(Some(bytes)) => manifest.labels(Some(&bytes))?,
                    Ok(None) | Err(UploadError::Invalid(_)) => {
                        return Err(ManifestError::NoConfig.into());
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            None => manifest.labels(None)?,
        };
        let digests = digests.iter().map(Digest::to_string).collect();
        Ok(Contents { blobs: Named { ids: blobs, digests }, labels, ..Contents::default() })
    }

    /// The children of a list. They are there already, and what the list says of them is true.
    async fn children(
        &self,
        db: Session<'_>,
        repository_id: i32,
        list: &PushedManifest,
    ) -> Result<Named, ManifestPushError> {
        let children = || list.children.iter().map(|child| &child.manifest);
        if children().any(|child| is_schema1(&child.media_type)) {
            return Err(ManifestPushError::Declined("schema1_child"));
        }
        let mut seen = HashSet::new();
        let digests: Vec<&str> =
            children().map(|child| child.digest.as_str()).filter(|d| seen.insert(*d)).collect();
        let stored = db.stored_children(repository_id, &digests).await?;
        let (mut named, mut listed) = (Named::default(), HashSet::new());
        for child in children() {
            let Some(found) = stored.get(&child.digest) else {
                if self.0.sparse_index {
                    continue;
                }
                let reason = "Could not find child manifest with digest";
                return Err(ManifestPushError::Refused(format!("{reason} `{}`", child.digest)));
            };
            if i64::from(found.size) != child.size {
                let found = usize::try_from(found.size).unwrap_or_default();
                Err(ManifestError::ChildSize { found, declared: child.size })?;
            }
            if found.media_type != child.media_type {
                let (found, declared) = (found.media_type.clone(), child.media_type.clone());
                Err(ManifestError::ChildType { found, declared })?;
            }
            if listed.insert(found.id) {
                named.ids.push(Some(found.id));
                named.digests.push(child.digest.clone());
            }
        }
        Ok(named)
    }
}
