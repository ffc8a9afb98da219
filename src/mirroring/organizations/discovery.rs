//! Which repositories an organization has to follow.

use std::collections::HashSet;
use std::time::Instant;

use chrono::Utc;
use serde::Serialize;

use super::log::OrgLog;
use super::{access, columns};
use crate::catalog::{
    CatalogError, Discovered, Listing, MirrorStanding, OrgMirror, SourceRegistry, SyncStatus,
};
use crate::mirroring::claim::{Claim, Ending, ROUTE};
use crate::mirroring::globs::Globs;
use crate::mirroring::job::until_told;
use crate::mirroring::settings::unreadable;
use crate::mirroring::{Parts, SyncError};
use crate::upstream::{Counts, Credentials, Directory, DirectoryApi};

/// What became of a look for repositories.
#[derive(Debug, Default)]
pub struct Discovery {
    /// Repositories of the source.
    pub listed: usize,
    /// Those that the organization wants.
    pub wanted: usize,
    /// What that changed.
    pub changed: Discovered,
    /// Why it ended before its time.
    pub ending: Option<Ending>,
    /// Why nothing is known.
    pub failed: Option<String>,
    /// What was asked of the source.
    pub asked: Counts,
}

impl Discovery {
    /// Whether the repositories are known now.
    pub fn is_success(&self) -> bool {
        self.ending.is_none() && self.failed.is_none()
    }
}

/// What a look for repositories would change.
#[derive(Debug, Default, Serialize)]
pub struct OrganizationPlan {
    /// Repositories that are not known.
    pub new: Vec<String>,
    /// Those that were not followed, and would be again.
    pub again: Vec<String>,
    /// Those that would not be followed any more, because the source has them no longer, or
    /// `repository_filters` do not mean them.
    pub skip: Vec<String>,
    /// Those that are followed already.
    pub known: Vec<String>,
}

/// Repositories of an organization that a plan looks at.
const MOST: usize = 200_000;

/// What the source has.
struct Found {
    all: Vec<String>,
    wanted: Vec<String>,
    asked: Counts,
}

/// Looks for the repositories of an organization that was claimed, says which are to be filled, and
/// gives it back. With `sync_now` all of them are.
pub async fn discover(parts: &Parts, of: &OrgMirror, claim: Claim, sync_now: bool) -> Discovery {
    let (began, name) = (Instant::now(), &of.organization);
    tracing::info!(organization = %name, source = of.url, "looking for repositories");
    let log = OrgLog::of(parts, of);
    let mut discovery = Discovery::default();
    let status = match write(parts, of, &claim, sync_now, &log, &mut discovery).await {
        Ok(()) => {
            let Discovery {
                listed, wanted, changed: Discovered { new, skipped, scheduled }, ..
            } = discovery;
            tracing::info!(organization = %name, listed, wanted, new, skipped, scheduled, "found");
            parts.metrics.organizations().found(wanted, new);
            warn_unlogged(name, log.found(wanted, new).await);
            "success"
        }
        Err(SyncError::Ended(ending)) => {
            discovery.ending = Some(ending);
            if ending == Ending::Stopping {
                give_back(of, claim, Given::Untouched).await;
            }
            tracing::info!(organization = %name, ?ending, "ended before its time");
            return discovery;
        }
        Err(error) => {
            tracing::warn!(organization = %name, %error, "repositories not found");
            warn_unlogged(name, log.failed(&error).await);
            give_back(of, claim, Given::Failed).await;
            discovery.failed = Some(error.to_string());
            "fail"
        }
    };
    parts.metrics.organizations().discovery_ended(status, began.elapsed().as_secs_f64());
    discovery
}

/// Tells the repositories of an organization that it was cancelled. Returns how many, or `None`
/// where another worker has.
pub async fn cancel(parts: &Parts, of: &OrgMirror) -> Result<Option<usize>, CatalogError> {
    let began = Instant::now();
    let told = parts.catalog.session(ROUTE).cancel_organization(of).await?;
    if let Some(told) = told {
        tracing::info!(organization = %of.organization, told, "cancelled");
        warn_unlogged(&of.organization, OrgLog::of(parts, of).cancelled(told).await);
        parts.metrics.organizations().discovery_ended("cancel", began.elapsed().as_secs_f64());
    }
    Ok(told)
}

/// Looks at the source, and at what is known here; changes nothing.
pub async fn plan(parts: &Parts, of: &OrgMirror) -> Result<OrganizationPlan, SyncError> {
    let Found { all, wanted, .. } = look(parts, of).await?;
    let rows = parts.catalog.session(ROUTE).org_repositories(of.id, MOST).await?;
    let known: HashSet<&str> = rows.iter().map(|row| row.repository.as_str()).collect();
    let meant: HashSet<&str> = wanted.iter().map(String::as_str).collect();
    let new = wanted.iter().filter(|name| !known.contains(name.as_str())).cloned().collect();
    let mut plan = OrganizationPlan { new, ..OrganizationPlan::default() };
    for row in &rows {
        match (meant.contains(row.repository.as_str()), row.status) {
            (true, SyncStatus::Skip) => plan.again.push(row.repository.clone()),
            (true, _) => plan.known.push(row.repository.clone()),
            (false, SyncStatus::Skip | SyncStatus::Syncing) => {}
            // An empty answer costs nobody a repository.
            (false, _) if all.is_empty() => plan.known.push(row.repository.clone()),
            (false, _) => plan.skip.push(row.repository.clone()),
        }
    }
    Ok(plan)
}

async fn write(
    parts: &Parts,
    of: &OrgMirror,
    claim: &Claim,
    sync_now: bool,
    log: &OrgLog<'_>,
    discovery: &mut Discovery,
) -> Result<(), SyncError> {
    log.started().await?;
    let Found { all, wanted, asked } = until_told(&claim.stop(), look(parts, of)).await?;
    (discovery.listed, discovery.wanted, discovery.asked) = (all.len(), wanted.len(), asked);
    if claim.standing().await? != MirrorStanding::Ours {
        return Err(SyncError::Ended(claim.stop().ending().await));
    }
    let db = parts.catalog.session(ROUTE);
    let listing = Listing { all: &all, wanted: &wanted, sync_now };
    let changed = db.discovered(of, claim.transaction(), &listing).await?;
    let Some(changed) = changed else {
        return Err(SyncError::Ended(claim.stop().ending().await));
    };
    discovery.changed = changed;
    Ok(())
}

/// Asks the source.
async fn look(parts: &Parts, of: &OrgMirror) -> Result<Found, SyncError> {
    let api = match of.registry {
        SourceRegistry::Harbor => DirectoryApi::Harbor,
        SourceRegistry::Quay => DirectoryApi::Quay,
        SourceRegistry::Unknown(number) => {
            let reason =
                format!("external_registry_type {number}: neither Harbor (1) nor Quay (2)");
            return Err(SyncError::Settings(reason));
        }
    };
    let filters: Option<Vec<String>> = serde_json::from_str(&of.repository_filters)
        .map_err(|error| unreadable("repository_filters", &error))?;
    let (registry, access) = access(parts, of, &of.external_namespace)?;
    let mut options = access.options;
    if api == DirectoryApi::Quay {
        // A token, whoever it is of.
        let secrets = columns(of).secrets(&parts.field_key)?;
        let (username, password) = (secrets.username, secrets.password);
        options.credentials = (!password.is_empty()).then_some(Credentials { username, password });
    }
    let directory = Directory::open(api, registry, &of.external_namespace, options)?;
    let limit = parts.config.mirroring.longest_discovery;
    let listed = tokio::time::timeout(limit, directory.repositories()).await;
    let all = listed.map_err(|_| {
        SyncError::Refused(format!(
            "not listed within {} s (ORG_MIRROR_MAX_DISCOVERY_DURATION)",
            limit.as_secs()
        ))
    })??;
    let wanted = match filters.filter(|filters| !filters.is_empty()) {
        Some(filters) => Globs::from(filters).matching(all.clone()),
        None => all.clone(),
    };
    parts.metrics.asked(&directory.counts(), 0);
    Ok(Found { all, wanted, asked: directory.counts() })
}

/// How an organization is given back without any repositories.
enum Given {
    Failed,
    Untouched,
}

async fn give_back(of: &OrgMirror, claim: Claim, given: Given) {
    let schedule = of.schedule();
    let release = match given {
        Given::Failed => schedule.after(SyncStatus::Fail, Utc::now().naive_utc()),
        Given::Untouched => schedule.untouched(match of.status {
            SyncStatus::Syncing => SyncStatus::NeverRun,
            status => status,
        }),
    };
    if let Err(error) = claim.release(&release).await {
        let name = &of.organization;
        tracing::warn!(%error, organization = %name, "not given back; its lease will end");
    }
}

fn warn_unlogged(organization: &str, logged: Result<(), crate::audit::AuditError>) {
    if let Err(error) = logged {
        tracing::error!(%error, organization, "what was found is not in the action log");
    }
}
