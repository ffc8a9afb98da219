//! One repository of an organization: made if it is not here, and filled with all tags of its source.
//! Nothing is deleted, whatever the source has no longer, as in Quay.

use std::time::Instant;

use chrono::Utc;

use super::access;
use super::log::RepositoryLog;
use crate::audit::AuditError;
use crate::catalog::{
    CatalogError, Destination, Ensured, MirrorStanding, OrgMirror, OrgMirrorRepository, OrgRelease,
    Release, SyncStatus,
};
use crate::mirroring::claim::{Claim, Ending, ROUTE};
use crate::mirroring::job::{Job, engine, may_write};
use crate::mirroring::look::Look;
use crate::mirroring::plan::Planner;
use crate::mirroring::sync::report;
use crate::mirroring::{Outcome, Parts, Plan, Progress, SyncError};
use crate::oci::{NameRules, RepoName};

/// Why nothing was copied: what was being done, and what is wrong with it.
struct NotBegun {
    what: String,
    error: SyncError,
}

/// Syncs a repository that was claimed, and gives it back.
pub async fn sync(
    parts: &Parts,
    row: &OrgMirrorRepository,
    claim: Claim,
    progress: &Progress,
) -> Outcome {
    let began = Instant::now();
    let name = row.name();
    let mut log = RepositoryLog::of(parts, row);
    tracing::info!(mirror = %name, source = log.reference, "sync begins");
    let mut message = None;
    let outcome = match fill(parts, row, &claim, progress, &mut log).await {
        Ok(outcome) => {
            if let Some((tag, why)) = outcome.failed.first() {
                let (failed, tags) = (outcome.failed.len(), outcome.tags);
                message = Some(format!("Sync failed: {failed}/{tags} tags failed; {tag}: {why}"));
            }
            outcome
        }
        Err(NotBegun { what, error }) => {
            let ending = match error {
                SyncError::Ended(ending) => Some(ending),
                _ => claim.stop().now(),
            };
            let why = error.to_string();
            let text = format!("{what}: {why}");
            if ending.is_none() {
                warn_unlogged(&log, log.not_begun(&text, &why).await);
            }
            message = Some(text);
            let reason = Some(error.reason());
            Outcome { not_begun: Some(why), reason, ending, ..Outcome::default() }
        }
    };
    if outcome.ending == Some(Ending::Cancelled) {
        warn_unlogged(&log, log.cancelled().await);
    }
    let status = match outcome.ending {
        None if outcome.is_success() => Some("success"),
        None => Some("fail"),
        Some(Ending::Cancelled) => Some("cancel"),
        Some(Ending::Lost | Ending::Stopping) => None,
    };
    if let Some(status) = status {
        parts.metrics.organizations().sync_ended(status, began.elapsed().as_secs_f64());
    }
    if let Err(error) = give_back(parts, row, claim, &outcome, message.as_deref()).await {
        tracing::warn!(%error, mirror = %name, "not given back; its lease will end");
    }
    report(&name, &outcome, began);
    outcome
}

/// Everything up to the first error that makes the rest pointless.
async fn fill(
    parts: &Parts,
    row: &OrgMirrorRepository,
    claim: &Claim,
    progress: &Progress,
    log: &mut RepositoryLog<'_>,
) -> Result<Outcome, NotBegun> {
    let in_log = |error: AuditError| NotBegun {
        what: "Not in the action log".to_owned(),
        error: error.into(),
    };
    log.started().await.map_err(in_log)?;
    let into = match ensure(parts, row, claim, log).await {
        Ok(into) => into,
        Err(error) => {
            if !matches!(error, SyncError::Ended(_)) {
                log.not_created(&error.to_string()).await.map_err(in_log)?;
            }
            let what = format!("Failed to create local repository for '{}'", row.repository);
            return Err(NotBegun { what, error });
        }
    };
    let reference = log.reference.clone();
    let failed = |error| NotBegun { what: format!("Sync failed for '{reference}'"), error };
    let path = format!("{}/{}", row.of.external_namespace, row.repository);
    let (_, access) = access(parts, &row.of, &path).map_err(failed)?;
    let engine = engine(parts, &access).map_err(failed)?;
    may_write(parts, &into).await.map_err(failed)?;
    let mut job = Job::open(parts, &into, &access, engine, claim, progress).map_err(failed)?;
    let tags = job.list().await.map_err(|error| NotBegun {
        what: format!("Failed to list tags for '{reference}'"),
        error,
    })?;
    progress.tags(tags.len());
    let mut outcome = job.copy_all(&tags, async |_, _| Ok(())).await;
    job.asked(&mut outcome);
    match outcome.ending {
        None if outcome.failed.is_empty() => log.succeeded(&tags).await,
        None => log.failed(tags.len(), &outcome.failed).await,
        Some(_) => Ok(()),
    }
    .map_err(in_log)?;
    Ok(outcome)
}

/// Has the repository here.
async fn ensure(
    parts: &Parts,
    row: &OrgMirrorRepository,
    claim: &Claim,
    log: &mut RepositoryLog<'_>,
) -> Result<Destination, SyncError> {
    valid(parts, &row.name())?;
    if parts.config.server.registry_state_readonly {
        let reason = "REGISTRY_STATE: the registry is read-only";
        return Err(SyncError::Forbidden(reason.to_owned()));
    }
    let db = parts.catalog.session(ROUTE);
    match db.ensure_org_repository(row, claim.transaction()).await? {
        Ensured::Found(into) => {
            log.repository_id = Some(into.repository_id);
            Ok(into)
        }
        Ensured::Created(into) => {
            log.repository_id = Some(into.repository_id);
            tracing::info!(mirror = %into.name, visibility = row.of.visibility, "repository made");
            log.created(into.repository_id).await?;
            Ok(into)
        }
        Ensured::Refused => Err(SyncError::Refused(
            "the organization is disabled, or has a repository of this name that is being deleted"
                .to_owned(),
        )),
        Ensured::Lost => Err(SyncError::Ended(claim.stop().ending().await)),
    }
}

fn valid(parts: &Parts, name: &RepoName) -> Result<(), SyncError> {
    let rules = NameRules {
        library_namespace: parts.config.server.library_namespace.clone(),
        extended: parts.config.features.extended_repository_names,
    };
    match name.is_valid(&rules) {
        true => Ok(()),
        false => Err(SyncError::Refused("no repository can have this name here".to_owned())),
    }
}

/// What a sync of a repository would do, whether it is here or not. Changes nothing.
pub async fn plan(
    parts: &Parts,
    of: &OrgMirror,
    repository: &str,
    progress: &Progress,
) -> Result<Plan, SyncError> {
    let into = parts.catalog.session(ROUTE).org_destination(of, repository).await?;
    valid(parts, &into.name)?;
    let (_, access) = access(parts, of, &format!("{}/{repository}", of.external_namespace))?;
    engine(parts, &access)?;
    if into.repository_id != 0 {
        may_write(parts, &into).await?;
    }
    let mut planner = Planner::new(Look::open(parts, &into, &access)?, progress);
    let tags = planner.look.list().await?;
    planner.tags(&tags).await;
    Ok(planner.plan)
}

/// Gives a repository back as the sync has left it, unless somebody else has it by now.
async fn give_back(
    parts: &Parts,
    row: &OrgMirrorRepository,
    claim: Claim,
    outcome: &Outcome,
    message: Option<&str>,
) -> Result<(), CatalogError> {
    let schedule = row.schedule();
    let cancelled = Release { status: SyncStatus::Cancel, start: None, retries: 0 };
    let status = match outcome.is_success() {
        true => SyncStatus::Success,
        false => SyncStatus::Fail,
    };
    let release = match outcome.ending {
        None => schedule.after(status, Utc::now().naive_utc()),
        Some(Ending::Cancelled) => cancelled,
        Some(Ending::Stopping) => {
            return claim.release(&schedule.untouched(row.status)).await.map(drop);
        }
        Some(Ending::Lost) => return Ok(()),
    };
    let db = parts.catalog.session(ROUTE);
    let message = message.filter(|_| release.status == SyncStatus::Fail);
    let ours = claim.transaction();
    if db.release_org_repository(row.id, ours, &OrgRelease { release, message }).await? {
        return Ok(());
    }
    // Cancelled at the last moment.
    if claim.standing().await? == MirrorStanding::Cancelled {
        let release = OrgRelease { release: cancelled, message: None };
        db.release_org_repository(row.id, ours, &release).await?;
    }
    Ok(())
}

fn warn_unlogged(log: &RepositoryLog<'_>, logged: Result<(), AuditError>) {
    if let Err(error) = logged {
        let source = &log.reference;
        tracing::error!(%error, source, "what became of a sync is not in the action log");
    }
}
