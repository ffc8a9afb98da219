//! Uploads are held to the quota of their namespace (contract §4.7). Manifests are in the
//! transaction that counts them.

use super::PushError;
use super::notices::quota_metadata;
use super::uploads::Pushes;
use crate::catalog::{CatalogError, ChannelNotice, Crossed, Entity, Session, Severity};
use crate::oci::RepoName;

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is to begin: what manifests name counts.
    Begin,
    /// It is to go on: what was uploaded to the repository counts too.
    GoOn,
}

impl Pushes {
    /// Refuses an upload to a namespace that has as many bytes as it may, and tells those who want
    /// to know. Nothing is asked where no quotas are kept.
    pub async fn hold_to_quota(
        &self,
        db: Session<'_>,
        name: &RepoName,
        entity: &Entity,
        phase: Phase,
    ) -> Result<(), PushError> {
        let quotas = &self.0.rules.quotas;
        if !quotas.enforced {
            return Ok(());
        }
        let standing = db.standing(name).await?.ok_or(PushError::NoRepository)?;
        let used = match phase {
            Phase::Begin => standing.counted,
            Phase::GoOn => standing.counted.saturating_add(standing.uploading),
        };
        let Some(crossed) = standing.crossed(used, quotas.default_bytes) else { return Ok(()) };
        // No push depends on these.
        if let Err(error) =
            self.tell_channels(db, name, entity, standing.namespace_id, crossed).await
        {
            tracing::error!(%error, namespace = name.namespace, "channels are not told of a quota");
        }
        if crossed.severity == Severity::Warning {
            return Ok(());
        }
        let metadata = quota_metadata(&name.namespace, true);
        db.tell_administrators(standing.namespace_id, crossed.severity, &metadata).await?;
        Err(PushError::OverQuota)
    }

    async fn tell_channels(
        &self,
        db: Session<'_>,
        name: &RepoName,
        entity: &Entity,
        namespace_id: i32,
        crossed: Crossed,
    ) -> Result<(), CatalogError> {
        let (notices, namespace) = (&self.0.notices, &name.namespace);
        let Some(cooldown) = self.0.rules.quotas.notifications else { return Ok(()) };
        let change = db.change(name, "", entity).await?;
        let performer = change.and_then(|change| change.performer);
        let notice = ChannelNotice {
            severity: crossed.severity,
            percent: crossed.percent,
            cooldown,
            queue: &notices.quota_queue(namespace, crossed.severity),
            event: &notices.quota_event(namespace, crossed, performer.as_ref()),
        };
        db.tell_channels(namespace_id, &notice).await
    }
}
