//! What follows a push or a deletion: Python forgets, the log remembers.

use futures_util::future::try_join_all;

use super::{Pushed, Target};
use crate::audit::{Audit, AuditError, Changed, Client, TagChange};
use crate::catalog::{Change, Deleted};
use crate::events::StaleCaches;
use crate::oci::{ManifestType, RepoName};

/// Where it is told.
#[derive(Clone, Copy)]
pub struct FollowUp<'a> {
    /// What Python has cached.
    pub stale: &'a StaleCaches,
    /// The action log.
    pub audit: &'a Audit,
    /// Who asked.
    pub client: &'a Client,
}

impl FollowUp<'_> {
    /// After a manifest was stored.
    pub async fn pushed(
        &self,
        name: &RepoName,
        target: Target<'_>,
        media_type: ManifestType,
        pushed: &Pushed,
    ) -> Result<(), AuditError> {
        let repository = &pushed.change.repository;
        if let Some(subject) = &pushed.subject {
            let artifact_type = pushed.artifact_type.as_deref();
            self.stale.subject_pushed(repository.id, subject, artifact_type).await;
        }
        let Target::Tag(tag) = target else { return Ok(()) };
        self.stale.repository_modified(&name.namespace, &name.repository).await;
        let performer = pushed.change.performer.as_ref();
        let changed = |change| Changed { name, repository, performer, change };
        if pushed.by_policy {
            // Nobody did that.
            let change = TagChange::MadeImmutable { tag };
            let made = Changed { performer: None, ..changed(change) };
            self.audit.changed(&made, self.client).await?;
        }
        let media_type = media_type.as_str();
        self.audit.changed(&changed(TagChange::Pushed { tag, media_type }), self.client).await
    }

    /// After tags were deleted. Returns how many rows the log has of it.
    pub async fn deleted(
        &self,
        name: &RepoName,
        target: Target<'_>,
        change: &Change,
        deleted: &Deleted,
    ) -> Result<usize, AuditError> {
        let (repository, performer) = (&change.repository, change.performer.as_ref());
        self.stale.manifest_gone(repository.id, &deleted.digest).await;
        let by = match target {
            Target::Tag(by) | Target::Digest(by) => by,
        };
        // What had no name is logged under its digest.
        let mut tags: Vec<&str> = deleted.tags.iter().map(String::as_str).collect();
        if tags.is_empty() {
            tags.push(by);
        }
        let rows: Vec<Changed<'_>> = tags
            .iter()
            .map(|tag| {
                let change = TagChange::Deleted { tag, by };
                Changed { name, repository, performer, change }
            })
            .collect();
        try_join_all(rows.iter().map(|row| self.audit.changed(row, self.client))).await?;
        Ok(rows.len())
    }
}
