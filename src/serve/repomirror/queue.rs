//! What is due, of both kinds, in the order in which it is begun.

use chrono::NaiveDateTime;

use crate::catalog::{CatalogError, Claimable, Mirror, OrgMirrorRepository, SyncStatus};
use crate::mirroring::{self, Claim, Outcome, Parts, Progress};
use crate::oci::RepoName;

/// Repositories of each kind that are looked at in one statement.
const MOST: usize = 1000;

/// A repository that is due.
pub(super) enum Due {
    /// One that follows another by itself.
    Mirror(Box<Mirror>),
    /// One of an organization that does.
    OfOrganization(Box<OrgMirrorRepository>),
}

impl Due {
    pub(super) fn name(&self) -> RepoName {
        match self {
            Self::Mirror(mirror) => mirror.name.clone(),
            Self::OfOrganization(repository) => repository.name(),
        }
    }

    pub(super) fn claimable(&self) -> Claimable {
        match self {
            Self::Mirror(mirror) => mirror.claimable(),
            Self::OfOrganization(repository) => repository.claimable(),
        }
    }

    pub(super) async fn sync(&self, parts: &Parts, claim: Claim, progress: &Progress) -> Outcome {
        match self {
            Self::Mirror(mirror) => mirroring::sync(parts, mirror, claim, progress).await,
            Self::OfOrganization(repository) => {
                mirroring::sync_repository(parts, repository, claim, progress).await
            }
        }
    }

    /// Those that somebody asked for first, then those that wait for longest.
    fn order(&self) -> (bool, Option<NaiveDateTime>) {
        let (status, start) = match self {
            Self::Mirror(mirror) => (mirror.status, mirror.start),
            Self::OfOrganization(repository) => (repository.status, repository.start),
        };
        (status != SyncStatus::SyncNow, start)
    }
}

/// How much waits.
#[derive(Clone, Copy, Default)]
pub(super) struct Waiting {
    pub(super) mirrors: usize,
    pub(super) of_organizations: usize,
}

impl Waiting {
    pub(super) fn of(due: &[Due]) -> Self {
        let mirrors = due.iter().filter(|due| matches!(due, Due::Mirror(_))).count();
        Self { mirrors, of_organizations: due.len() - mirrors }
    }
}

/// All that is due. `organizations` is `FEATURE_ORG_MIRROR`: without it there may be no such tables.
pub(super) async fn due(parts: &Parts, organizations: bool) -> Result<Vec<Due>, CatalogError> {
    let db = parts.catalog.session("repomirror");
    let mirrors = db.due_mirrors(MOST).await?;
    let mut due: Vec<Due> =
        mirrors.into_iter().map(|mirror| Due::Mirror(Box::new(mirror))).collect();
    if organizations {
        // A Quay whose tables of organizations are others still has its mirrors filled.
        let repositories = db.due_org_repositories(None, MOST).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "repositories of organizations that are due are not known");
            Vec::new()
        });
        due.extend(repositories.into_iter().map(|one| Due::OfOrganization(Box::new(one))));
        due.sort_by_key(Due::order);
    }
    Ok(due)
}
