//! Organizations that follow another registry, for the worker and for whoever asks for one.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Mirrors;
use super::tries::Tries;
use crate::catalog::{OrgMirror, OrgMirrorRepository, SyncStatus};
use crate::mirroring::{self, Claim, Discovery, Outcome, Parts, Progress, SyncError};
use crate::oci::RepoName;
use crate::serve::registryd::stop_signal;

/// Organizations that are looked at in one statement.
const MOST: usize = 1000;

/// Sources that are listed at once, beside whatever is copied.
const AT_ONCE: usize = 2;

/// What became of an organization.
pub struct OrganizationOutcome {
    /// Of the look for its repositories.
    pub discovery: Discovery,
    /// Of each that was filled, by name.
    pub repositories: Vec<(RepoName, Outcome)>,
}

impl OrganizationOutcome {
    /// Whether every tag of every repository is here.
    pub fn is_success(&self) -> bool {
        let filled = |(_, outcome): &(RepoName, Outcome)| outcome.is_success();
        self.discovery.is_success() && self.repositories.iter().all(filled)
    }
}

/// Sees to the organizations that are due, a few at once. Returns how many wait.
pub(super) async fn look(
    parts: &Arc<Parts>,
    discoveries: &mut JoinSet<()>,
    tries: &mut Tries,
    stopping: &watch::Receiver<bool>,
) -> usize {
    let due = parts.catalog.session("repomirror").due_organizations(MOST).await;
    let due = due.unwrap_or_else(|error| {
        tracing::warn!(%error, "organizations that are due are not known");
        Vec::new()
    });
    let mut waiting = 0;
    for of in due {
        if of.status == SyncStatus::Cancel {
            // Nothing waits for less.
            if let Err(error) = mirroring::cancel(parts, &of).await {
                tracing::warn!(%error, organization = of.organization, "not cancelled");
            }
        } else if !tries.may_begin(&of.claimable()) {
            tracing::debug!(organization = of.organization, "failed a moment ago");
        } else if discoveries.len() >= AT_ONCE || *stopping.borrow() {
            waiting += 1;
        } else {
            tries.begins(&of.claimable());
            begin(parts, of, discoveries, stopping.clone()).await;
        }
    }
    waiting
}

async fn begin(
    parts: &Arc<Parts>,
    of: OrgMirror,
    discoveries: &mut JoinSet<()>,
    stopping: watch::Receiver<bool>,
) {
    let lease = parts.config.sidecar.mirror_lease;
    match Claim::take(&parts.catalog, of.claimable(), lease, stopping).await {
        Ok(Some(claim)) => {
            let parts = parts.clone();
            discoveries.spawn_local(async move {
                let sync_now = of.status == SyncStatus::SyncNow;
                mirroring::discover(&parts, &of, claim, sync_now).await;
            });
        }
        Ok(None) => tracing::debug!(organization = of.organization, "another worker has it"),
        Err(error) => tracing::warn!(%error, organization = of.organization, "not claimed"),
    }
}

impl Mirrors {
    /// How this organization follows another registry; `None` where it does not.
    pub async fn organization(&self, name: &str) -> Result<Option<OrgMirror>, SyncError> {
        Ok(self.parts.catalog.session("repomirror").org_mirror(name).await?)
    }

    /// What a look for an organization's repositories would change.
    pub async fn plan_organization(
        &self,
        of: &OrgMirror,
    ) -> Result<mirroring::OrganizationPlan, SyncError> {
        mirroring::plan_organization(&self.parts, of).await
    }

    /// What a sync of one of its repositories would do.
    pub async fn plan_repository(
        &self,
        of: &OrgMirror,
        repository: &str,
    ) -> Result<mirroring::Plan, SyncError> {
        let (namespace, repository) = (of.organization.clone(), repository.to_owned());
        let name = RepoName { namespace, repository };
        let progress = Progress::new(&name);
        mirroring::plan_repository(&self.parts, of, &name.repository, &progress).await
    }

    /// Looks for an organization's repositories now, and fills all of them. `filled` hears of each.
    /// `None` where somebody is at the organization, or it was stopped.
    pub async fn sync_organization(
        &self,
        of: &OrgMirror,
        filled: impl Fn(&RepoName, &Outcome),
    ) -> Result<Option<OrganizationOutcome>, SyncError> {
        let (tell, stopping) = watch::channel(false);
        let stopped = async {
            let _ = stop_signal().await;
            let _ = tell.send(true);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            outcome = self.whole_organization(of, &filled, &stopping) => outcome,
            () = stopped => Ok(None),
        }
    }

    async fn whole_organization(
        &self,
        of: &OrgMirror,
        filled: &impl Fn(&RepoName, &Outcome),
        stopping: &watch::Receiver<bool>,
    ) -> Result<Option<OrganizationOutcome>, SyncError> {
        let (parts, lease) = (&self.parts, self.parts.config.sidecar.mirror_lease);
        let claimed = Claim::take(&parts.catalog, of.claimable(), lease, stopping.clone()).await?;
        let Some(claim) = claimed else { return Ok(None) };
        let discovery = mirroring::discover(parts, of, claim, true).await;
        let mut outcome = OrganizationOutcome { discovery, repositories: Vec::new() };
        let mut begun = HashSet::new();
        while outcome.discovery.is_success() {
            let db = parts.catalog.session("repomirror");
            let mut due = db.due_org_repositories(Some(of.id), MOST).await?;
            // One that failed is due again, but not today.
            due.retain(|repository| begun.insert(repository.id));
            if due.is_empty() {
                break;
            }
            let syncs = due.iter().map(|repository| self.one_of(repository, stopping));
            let at_once = parts.config.sidecar.mirrors_at_once;
            let mut syncs = futures_util::stream::iter(syncs).buffer_unordered(at_once);
            // Whatever fails, what goes on is brought to its end.
            let mut failed = None;
            while let Some(done) = syncs.next().await {
                match done {
                    Ok(Some((name, done))) => {
                        filled(&name, &done);
                        outcome.repositories.push((name, done));
                    }
                    Ok(None) => {}
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
            if *stopping.borrow() {
                return Ok(None);
            }
        }
        outcome.repositories.sort_by(|(a, _), (b, _)| a.repository.cmp(&b.repository));
        Ok(Some(outcome))
    }

    /// Syncs one repository, unless a worker is quicker.
    async fn one_of(
        &self,
        repository: &OrgMirrorRepository,
        stopping: &watch::Receiver<bool>,
    ) -> Result<Option<(RepoName, Outcome)>, SyncError> {
        if *stopping.borrow() {
            return Ok(None);
        }
        let (parts, row, name) = (&self.parts, repository.claimable(), repository.name());
        let lease = parts.config.sidecar.mirror_lease;
        let claimed = Claim::take(&parts.catalog, row, lease, stopping.clone()).await?;
        let Some(claim) = claimed else { return Ok(None) };
        let progress = Progress::new(&name);
        let outcome = mirroring::sync_repository(parts, repository, claim, &progress).await;
        Ok(Some((name, outcome)))
    }
}
