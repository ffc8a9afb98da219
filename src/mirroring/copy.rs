//! One tag: looked at, and copied if it is not what it is at the source. Bytes before names: the tag
//! moves when all that it names is here, in one transaction.

use super::SyncError;
use super::blobs::all_of;
use super::job::{Job, locked};
use super::look::{not_copied, parse};
use super::steps::step;
use crate::audit::Client;
use crate::catalog::Entity;
use crate::oci::manifest::PushedManifest;
use crate::oci::{Digest, ManifestType};
use crate::push::{FollowUp, ManifestBody, Target};
use crate::upstream::{FetchedManifest, Head};

/// Children of one list at once.
const CHILDREN: usize = 4;

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
        if self.look.is_here(tag, &head.digest).await? {
            self.companions(&head.digest, 0).await?;
            return Ok(Copied::Unchanged(head.digest));
        }
        // By digest: the tag may move meanwhile.
        let fetched = self.manifest(&head.digest).await?;
        let manifest = parse(&fetched)?;
        let other = self.until_told(self.look.other_architecture(&manifest)).await?;
        if let Some(architecture) = other {
            return Ok(Copied::OtherArchitecture(architecture));
        }
        self.contents(&fetched, &manifest, 0).await?;
        let name = &self.look.into.name;
        self.store(Target::Tag(tag), &fetched).await?;
        if manifest.is_list() {
            let (id, wanted) = (self.look.into.repository_id, self.look.wanted(&manifest)?);
            self.look.db().link_children(id, fetched.digest.as_str(), &wanted).await?;
        }
        step("mirror: tag moved");
        tracing::debug!(mirror = %name, tag, digest = %fetched.digest, "tag copied");
        self.companions(&fetched.digest, 0).await?;
        Ok(Copied::Moved(fetched.digest))
    }

    async fn head(&self, tag: &str) -> Result<Head, SyncError> {
        self.until_told(self.look.head(tag)).await
    }

    async fn manifest(&self, digest: &Digest) -> Result<FetchedManifest, SyncError> {
        let fetched = self.until_told(self.look.manifest(digest)).await?;
        step("mirror: manifest fetched");
        Ok(fetched)
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
        let missing = self.look.missing_children(&fetched.digest, manifest, depth).await?;
        all_of(missing.iter().map(|digest| self.by_digest(digest, depth + 1)), CHILDREN).await
    }

    /// Copies a manifest that has no tag.
    async fn by_digest(&self, digest: &Digest, depth: usize) -> Result<(), SyncError> {
        let fetched = self.manifest(digest).await?;
        let manifest = parse(&fetched)?;
        Box::pin(self.contents(&fetched, &manifest, depth)).await?;
        self.store(Target::Digest(digest.as_str()), &fetched).await
    }

    /// Stores a manifest whose contents are here, as a push by the mirror's robot, if the mirror is
    /// still ours and the robot may still push.
    async fn store(&self, target: Target<'_>, fetched: &FetchedManifest) -> Result<(), SyncError> {
        let Some(media_type) = ManifestType::parse(&fetched.media_type) else {
            return Err(not_copied(fetched));
        };
        let body = ManifestBody { media_type, bytes: fetched.bytes.clone() };
        let (parts, name) = (self.look.parts, &self.look.into.name);
        let robot = Entity::Robot(self.look.into.robot.clone());
        self.may_write().await?;
        let pushed = parts.pushes.put_manifest(self.look.db(), name, target, &body, &robot).await?;
        if let Target::Tag(tag) = target {
            locked(&self.moved).push(tag.to_owned());
        }
        let follow_up = FollowUp { stale: &parts.stale, audit: &parts.audit, client: &self.client };
        Ok(follow_up.pushed(name, target, media_type, &pushed).await?)
    }

    /// Signatures, attestations and whatever else refers to a manifest, if they are wanted: by
    /// cosign's tags, and by what the source lists.
    async fn companions(&self, digest: &Digest, depth: usize) -> Result<(), SyncError> {
        // Once, however many tags point to it.
        if !self.look.wants_companions(depth) || !locked(&self.accompanied).insert(digest.clone()) {
            return Ok(());
        }
        for tag in &self.look.companion_tags(digest) {
            locked(&self.companions).insert(tag.clone());
            let head = self.head(tag).await?;
            if !self.look.has(tag, &head.digest) {
                let fetched = self.manifest(&head.digest).await?;
                self.contents(&fetched, &parse(&fetched)?, 0).await?;
                self.store(Target::Tag(tag), &fetched).await?;
            }
        }
        for (referrer, is_here) in self.until_told(self.look.referrers(digest)).await? {
            if !is_here {
                self.by_digest(&referrer, 0).await?;
            }
            Box::pin(self.companions(&referrer, depth + 1)).await?;
        }
        Ok(())
    }
}
