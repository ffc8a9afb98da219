//! One sync of one mirror: what its rule means, fetched; what it means no longer, deleted; and
//! everybody told. Tags are moved one by one, each whole; a sync that fails leaves those that it has
//! moved, and says which it could not move and why.

use std::time::Instant;

use chrono::Utc;

use super::claim::{Claim, Ending};
use super::job::{Job, engine, locked, may_write};
use super::log::Log;
use super::look::Look;
use super::settings::Settings;
use super::steps::step;
use super::{Parts, Progress, SyncError};
use crate::catalog::{Change, Entity, Mirror, SyncStatus};
use crate::oci::RepoName;
use crate::upstream::Counts;

/// What became of a sync.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Tags that were to be copied.
    pub tags: usize,
    /// Tags that were moved.
    pub moved: usize,
    /// Tags that were as they are at the source.
    pub unchanged: usize,
    /// Tags that could not be copied or deleted, and why.
    pub failed: Vec<(String, String)>,
    /// Tags that were deleted, because the source or the rule has them no longer.
    pub deleted: usize,
    /// Why it ended before its time.
    pub ending: Option<Ending>,
    /// Why nothing was begun at all.
    pub not_begun: Option<String>,
    /// What was asked of the source.
    pub asked: Counts,
    /// Bytes of blobs that were here already and were linked.
    pub linked_bytes: u64,
    pub(super) reason: Option<&'static str>,
}

impl Outcome {
    /// Whether every tag is here.
    pub fn is_success(&self) -> bool {
        self.failed.is_empty() && self.ending.is_none() && self.not_begun.is_none()
    }
}

/// Syncs a mirror that was claimed, and gives it back.
pub async fn sync(parts: &Parts, mirror: &Mirror, claim: Claim, progress: &Progress) -> Outcome {
    let began = Instant::now();
    let (name, metrics) = (&mirror.name, &parts.metrics);
    tracing::info!(mirror = %name, source = mirror.external_reference, "sync begins");
    metrics.began(name);
    let log = Log { audit: &parts.audit, catalog: &parts.catalog, config: &parts.config, mirror };
    let outcome = match fill(parts, &claim, &log, progress).await {
        Ok(outcome) => outcome,
        Err(error) => {
            let ending = match error {
                SyncError::Ended(ending) => Some(ending),
                _ => claim.stop().now(),
            };
            let logged = match ending {
                None => log.not_begun(&error).await,
                Some(Ending::Cancelled) => log.cancelled(&[]).await,
                Some(Ending::Lost | Ending::Stopping) => Ok(()),
            };
            if let Err(unlogged) = logged {
                tracing::error!(%unlogged, mirror = %name, "a failed sync is not in the action log");
            }
            let (not_begun, reason) = (Some(error.to_string()), Some(error.reason()));
            Outcome { not_begun, reason, ending, ..Outcome::default() }
        }
    };
    let status = match outcome.is_success() {
        true => SyncStatus::Success,
        false => SyncStatus::Fail,
    };
    let failure = match outcome.ending {
        None if outcome.is_success() => None,
        Some(Ending::Lost) => Some("preempted"),
        _ => Some(outcome.reason.unwrap_or("unknown_error")),
    };
    metrics.pending(name, 0);
    // A stop is no failure: the next worker goes on.
    if outcome.ending != Some(Ending::Stopping) {
        metrics.ended(name, began.elapsed().as_secs_f64(), failure);
    }
    let release = match outcome.ending {
        None => Some(mirror.schedule().after(status, Utc::now().naive_utc())),
        // Lost to other settings, it is still ours to give back.
        Some(Ending::Stopping | Ending::Lost) => Some(mirror.schedule().untouched(mirror.status)),
        // Whoever cancelled it has written what it is now.
        Some(Ending::Cancelled) => None,
    };
    if let Some(release) = release
        && let Err(error) = claim.release(&release).await
    {
        tracing::warn!(%error, mirror = %name, "not given back; its lease will end");
    }
    step("mirror: released");
    report(&mirror.name, &outcome, began);
    outcome
}

/// One line for the log of this process, and one for each tag that failed.
pub(super) fn report(name: &RepoName, outcome: &Outcome, began: Instant) {
    let Outcome { tags, moved, unchanged, deleted, .. } = *outcome;
    let (failed, ending, seconds) =
        (outcome.failed.len(), outcome.ending, began.elapsed().as_secs_f64());
    for (tag, why) in &outcome.failed {
        tracing::warn!(mirror = %name, tag, why, "tag not mirrored");
    }
    match (&outcome.not_begun, outcome.is_success()) {
        (Some(why), _) => tracing::warn!(mirror = %name, why, ?ending, "sync failed"),
        (None, true) => tracing::info!(
            mirror = %name, tags, moved, unchanged, deleted, seconds, "sync succeeded"
        ),
        (None, false) => tracing::warn!(
            mirror = %name, tags, moved, unchanged, failed, ?ending, seconds, "sync failed"
        ),
    }
}

/// Everything up to the first error that makes the rest pointless.
async fn fill(
    parts: &Parts,
    claim: &Claim,
    log: &Log<'_>,
    progress: &Progress,
) -> Result<Outcome, SyncError> {
    let Settings { access, globs } = Settings::read(parts, log.mirror)?;
    let (engine, into) = (engine(parts, &access)?, log.mirror.destination());
    may_write(parts, &into).await?;
    log.started().await?;
    let mut job = Job::open(parts, &into, &access, engine, claim, progress)?;
    let matching = globs.matching(job.list().await?);
    progress.tags(matching.len());
    parts.metrics.pending(&into.name, matching.len());
    if matching.is_empty() {
        log.succeeded(&matching).await?;
        return Ok(Outcome::default());
    }
    let copied = job.copy_all(&matching, async |tag, copied| log.copied(tag, copied).await).await;
    let concluded = job.conclude(&matching, copied, log).await;
    let mut asked = Outcome::default();
    job.asked(&mut asked);
    let Outcome { asked, linked_bytes, .. } = asked;
    Ok(Outcome { asked, linked_bytes, ..concluded? })
}

impl Job<'_> {
    /// What follows when the tags are copied: those that are obsolete go, and everybody is told.
    async fn conclude(
        &self,
        tags: &[String],
        mut outcome: Outcome,
        log: &Log<'_>,
    ) -> Result<Outcome, SyncError> {
        let all_copied = outcome.failed.is_empty();
        if all_copied && outcome.ending.is_none() {
            self.delete_obsolete(&mut outcome).await;
        }
        match outcome.ending {
            Some(Ending::Cancelled) => log.cancelled(tags).await?,
            Some(Ending::Lost | Ending::Stopping) => {}
            None if outcome.failed.is_empty() => log.succeeded(tags).await?,
            None => {
                let undo = self.look.parts.config.mirroring.rollback && !all_copied;
                log.failed(tags, &outcome.failed, undo).await?;
                if undo {
                    self.undo().await?;
                    outcome.moved = 0;
                }
            }
        }
        step("mirror: all logged");
        Ok(outcome)
    }

    /// Deletes what the rule means no longer. Only after everything else went well: a source that
    /// fails must not cost anybody a tag.
    async fn delete_obsolete(&self, outcome: &mut Outcome) {
        let companions = std::mem::take(&mut *locked(&self.companions));
        let obsolete = self.look.obsolete(&companions);
        for tag in obsolete {
            match self.delete(&tag).await {
                Ok(deleted) => outcome.deleted += usize::from(deleted),
                Err(SyncError::Ended(ending)) => {
                    outcome.ending = Some(ending);
                    return;
                }
                Err(error) => {
                    outcome.reason.get_or_insert(error.reason());
                    outcome.failed.push((tag, format!("not deleted: {error}")));
                }
            }
        }
    }

    /// Deletes a tag, if it is there and the mirror is still ours.
    async fn delete(&self, tag: &str) -> Result<bool, SyncError> {
        self.may_write().await?;
        let Look { parts, into, .. } = &self.look;
        let (id, db) = (into.repository_id, self.look.db());
        let Some(deleted) = db.delete_tag(id, tag, &parts.config.push).await? else {
            return Ok(false);
        };
        step("mirror: tag deleted");
        parts.stale.manifest_gone(id, &deleted.digest).await;
        Ok(true)
    }

    /// Points the tags that this sync has moved to where they pointed, as `REPO_MIRROR_ROLLBACK`
    /// wants it when one of the others fails.
    async fn undo(&self) -> Result<(), SyncError> {
        let Look { parts, into, alive, .. } = &self.look;
        let db = self.look.db();
        let change = db.change(&into.name, "", &Entity::Anonymous).await?;
        let Some(Change { repository, .. }) = change else { return Ok(()) };
        let moved = std::mem::take(&mut *locked(&self.moved));
        for tag in &moved {
            let before = alive.get(tag).map(|tag| tag.digest.as_str());
            let rules = &parts.config.push;
            let now = db.revert_tag(&repository, tag, before, rules).await?;
            if let Some(digest) = now {
                parts.stale.manifest_gone(into.repository_id, &digest).await;
            }
        }
        Ok(())
    }
}
