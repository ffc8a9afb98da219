//! Organizations that follow a namespace of another registry, and the repositories that they have of
//! it: `orgmirrorconfig` and `orgmirrorrepository` (contract §7.1, §7.5).

use chrono::{NaiveDateTime, Utc};
use uuid::Uuid;

use super::claims::{ClaimTable, Claimable, RETRIES, Release, Schedule, SyncStatus};
use super::connection::Session;
use super::error::CatalogError;
use super::mirrors::Destination;
use super::new_repositories::{LOCK_NAMESPACE, NewRepository};
use super::scopes::RepositoryState;
use super::value::{Param, Row};
use crate::oci::RepoName;

/// `orgmirrorconfig.external_registry_type`: how its repositories are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceRegistry {
    /// By Harbor's API, version 2.
    Harbor,
    /// By Quay's API, version 1.
    Quay,
    /// One that we do not know.
    Unknown(i32),
}

/// An organization that follows a namespace, as it was read.
#[derive(Clone, Debug)]
pub struct OrgMirror {
    /// `orgmirrorconfig.id`
    pub id: i32,
    /// `user.id` of the organization.
    pub organization_id: i32,
    /// What it is called here.
    pub organization: String,
    /// `user.id` of the robot in whose name its repositories are made and filled.
    pub robot_id: i32,
    /// Its user name.
    pub robot: String,
    /// `is_enabled`
    pub enabled: bool,
    /// What the source is.
    pub registry: SourceRegistry,
    /// Where it is, with a scheme.
    pub url: String,
    /// The namespace there.
    pub external_namespace: String,
    /// Encrypted.
    pub username: Option<String>,
    /// Encrypted.
    pub password: Option<String>,
    /// JSON: `verify_tls`, `unsigned_images`, `proxy`.
    pub external_registry_config: String,
    /// JSON: globs of repositories; none of them is all of them.
    pub repository_filters: String,
    /// Whether everybody may pull from the repositories that are made: `visibility.name`.
    pub visibility: String,
    /// Its state.
    pub status: SyncStatus,
    /// When it is looked for repositories again, UTC.
    pub start: Option<NaiveDateTime>,
    /// When the claim of a worker ends, UTC.
    pub expiration: Option<NaiveDateTime>,
    /// Looks that may fail before the next one waits for its interval.
    pub retries: i32,
    /// Seconds between two looks, and between two syncs of a repository.
    pub interval_s: i32,
    /// Seconds that one operation may take.
    pub timeout_s: i64,
    /// Whoever wrote it owns the row.
    pub transaction_id: Option<String>,
}

/// A repository of such an organization, as it was read.
#[derive(Clone, Debug)]
pub struct OrgMirrorRepository {
    /// `orgmirrorrepository.id`
    pub id: i32,
    /// Whose it is.
    pub of: OrgMirror,
    /// What it is called, there and here, without a namespace.
    pub repository: String,
    /// `repository.id`, once there is one here.
    pub repository_id: Option<i32>,
    /// Its state.
    pub status: SyncStatus,
    /// When the next sync is due, UTC.
    pub start: Option<NaiveDateTime>,
    /// When the claim of a worker ends, UTC.
    pub expiration: Option<NaiveDateTime>,
    /// Syncs that may fail before the next one waits for its interval.
    pub retries: i32,
    /// Whoever wrote it owns the row.
    pub transaction_id: Option<String>,
}

/// What became of a repository that has to be here.
#[derive(Debug)]
pub enum Ensured {
    /// It was.
    Found(Destination),
    /// It is now.
    Created(Destination),
    /// There is none, and none can be made.
    Refused,
    /// Somebody else has its row by now, or cancelled it.
    Lost,
}

/// How a repository of an organization is left.
#[derive(Clone, Copy, Debug)]
pub struct OrgRelease<'a> {
    /// State, and when it is due again.
    pub release: Release,
    /// Why it failed.
    pub message: Option<&'a str>,
}

macro_rules! columns {
    () => {
        "SELECT c.id, n.id, n.username, b.id, b.username, c.is_enabled, c.external_registry_type, \
             c.external_registry_url, c.external_namespace, c.external_registry_username, \
             c.external_registry_password, c.external_registry_config, c.repository_filters, \
             v.name, c.sync_status, c.sync_start_date, c.sync_expiration_date, \
             c.sync_retries_remaining, c.sync_interval, c.skopeo_timeout, c.sync_transaction_id"
    };
}

macro_rules! from {
    () => {
        " FROM orgmirrorconfig c JOIN \"user\" n ON n.id = c.organization_id \
         JOIN \"user\" b ON b.id = c.internal_robot_id JOIN visibility v ON v.id = c.visibility_id"
    };
}

macro_rules! organizations {
    ($which:literal) => {
        concat!(columns!(), from!(), " WHERE ", $which)
    };
}

macro_rules! repositories {
    ($which:literal) => {
        concat!(
            columns!(),
            ", m.id, m.repository_name, r.id, m.sync_status, m.sync_start_date, \
             m.sync_expiration_date, m.sync_retries_remaining, m.sync_transaction_id",
            from!(),
            " JOIN orgmirrorrepository m ON m.org_mirror_config_id = c.id \
             LEFT JOIN repository r ON r.id = m.repository_id AND r.state <> 3 WHERE ",
            $which
        )
    };
}

/// `$1` now, `$2` how many. Those that somebody has cancelled or asked for, those that are due, and
/// those whose worker is gone.
const DUE: &str = organizations!(
    "c.is_enabled AND ((c.sync_status = 3 AND c.sync_expiration_date IS NULL) \
     OR (c.sync_status = -2 AND c.sync_expiration_date IS NOT NULL) \
     OR (c.sync_start_date <= $1 AND c.sync_retries_remaining > 0 AND c.sync_status <> 2 \
         AND c.sync_expiration_date IS NULL) \
     OR (c.sync_status = 2 AND c.sync_expiration_date <= $1)) \
     ORDER BY CASE c.sync_status WHEN -2 THEN 0 WHEN 3 THEN 1 ELSE 2 END, c.sync_start_date, c.id \
     LIMIT $2"
);

const NAMED: &str = organizations!("n.username = $1");

const ALL: &str = organizations!("true ORDER BY n.username LIMIT $1");

/// `$1` now, `$2` how many, `$3` of one organization, if any.
const DUE_REPOSITORIES: &str = repositories!(
    "(c.id = $3 OR (c.is_enabled AND $3 IS NULL)) \
     AND ((m.sync_status = 3 AND m.sync_expiration_date IS NULL) \
     OR (m.sync_start_date <= $1 AND m.sync_retries_remaining > 0 \
         AND m.sync_status NOT IN (2, 3, 4, -2) AND m.sync_expiration_date IS NULL) \
     OR (m.sync_status = 2 AND m.sync_expiration_date <= $1)) \
     ORDER BY CASE WHEN m.sync_status = 3 THEN 0 ELSE 1 END, m.sync_start_date, m.id LIMIT $2"
);

const REPOSITORIES: &str = repositories!("c.id = $1 ORDER BY m.repository_name LIMIT $2");

const COUNTS: &str = "\
    SELECT sync_status, count(*) FROM orgmirrorrepository WHERE org_mirror_config_id = $1 \
    GROUP BY sync_status ORDER BY sync_status";

/// Locks a row that is ours.
const HOLD: &str = "\
    UPDATE orgmirrorrepository SET sync_status = 2 \
    WHERE id = $1 AND sync_transaction_id = $2 AND sync_status = 2 RETURNING id";

const BY_NAME: &str = "\
    SELECT id FROM repository WHERE namespace_user_id = $1 AND name = $2 AND state <> 3";

const LINK: &str = "UPDATE orgmirrorrepository SET repository_id = $2 WHERE id = $1";

/// `$9` the state in which it is ours: one that was cancelled meanwhile is given back as cancelled.
const RELEASE: &str = "\
    UPDATE orgmirrorrepository SET sync_transaction_id = $3, sync_status = $4, \
        sync_start_date = $5, sync_expiration_date = NULL, sync_retries_remaining = $6, \
        last_sync_date = $7, status_message = $8 \
    WHERE id = $1 AND sync_transaction_id = $2 AND sync_status = $9 RETURNING id";

impl Session<'_> {
    /// Up to `most` organizations that are due: those that somebody cancelled or asked for first.
    pub async fn due_organizations(&self, most: usize) -> Result<Vec<OrgMirror>, CatalogError> {
        let params = [Utc::now().naive_utc().into(), limit(most)];
        let rows = self.query(DUE, &params).await?;
        rows.iter().map(OrgMirror::from_row).collect()
    }

    /// How this organization follows another registry, if it does.
    pub async fn org_mirror(&self, organization: &str) -> Result<Option<OrgMirror>, CatalogError> {
        let rows = self.query(NAMED, &[organization.into()]).await?;
        rows.first().map(OrgMirror::from_row).transpose()
    }

    /// Up to `most` organizations, by name.
    pub async fn org_mirrors(&self, most: usize) -> Result<Vec<OrgMirror>, CatalogError> {
        let rows = self.query(ALL, &[limit(most)]).await?;
        rows.iter().map(OrgMirror::from_row).collect()
    }

    /// Up to `most` repositories that are due, of all organizations or of the one of this
    /// `orgmirrorconfig.id`: those that somebody asked for first.
    pub async fn due_org_repositories(
        &self,
        of: Option<i32>,
        most: usize,
    ) -> Result<Vec<OrgMirrorRepository>, CatalogError> {
        let params = [Utc::now().naive_utc().into(), limit(most), of.into()];
        let rows = self.query(DUE_REPOSITORIES, &params).await?;
        rows.iter().map(OrgMirrorRepository::from_row).collect()
    }

    /// Up to `most` repositories that an organization knows of, by name.
    pub async fn org_repositories(
        &self,
        of: i32,
        most: usize,
    ) -> Result<Vec<OrgMirrorRepository>, CatalogError> {
        let rows = self.query(REPOSITORIES, &[of.into(), limit(most)]).await?;
        rows.iter().map(OrgMirrorRepository::from_row).collect()
    }

    /// How many repositories of an organization are in which state.
    pub async fn org_repository_counts(
        &self,
        of: i32,
    ) -> Result<Vec<(SyncStatus, i64)>, CatalogError> {
        let rows = self.query(COUNTS, &[of.into()]).await?;
        rows.iter().map(|row| Ok((SyncStatus::numbered(row.get(0)?), row.get(1)?))).collect()
    }

    /// The repository of this name in an organization; one whose id is 0 where there is none yet.
    pub async fn org_destination(
        &self,
        of: &OrgMirror,
        repository: &str,
    ) -> Result<Destination, CatalogError> {
        let rows = self.query(BY_NAME, &[of.organization_id.into(), repository.into()]).await?;
        let id = rows.first().map(|row| row.get(0)).transpose()?;
        Ok(of.destination(repository, id.unwrap_or_default()))
    }

    /// Has the repository of a row that is ours: the one it is linked to, the one of its name, or a
    /// new one, made as a push makes it, that its organization's robot alone may push to.
    pub async fn ensure_org_repository(
        &self,
        row: &OrgMirrorRepository,
        transaction_id: &str,
    ) -> Result<Ensured, CatalogError> {
        if let Some(id) = row.repository_id {
            return Ok(Ensured::Found(row.of.destination(&row.repository, id)));
        }
        let name = row.name();
        let new = NewRepository {
            name: &name,
            creator: row.of.robot_id,
            public: row.of.visibility == "public",
            org_mirror: false,
            state: RepositoryState::OrgMirror,
        };
        self.transaction(async |transaction| {
            let hold = [row.id.into(), transaction_id.into()];
            if transaction.query(HOLD, &hold).await?.is_empty() {
                return Ok(Ensured::Lost);
            }
            transaction.query(LOCK_NAMESPACE, &[name.namespace.as_str().into()]).await?;
            let known = [row.of.organization_id.into(), row.repository.as_str().into()];
            let known = transaction.id(BY_NAME, &known).await?;
            let made = match known {
                Some(_) => None,
                None => transaction.repository(&new).await?,
            };
            let Some(id) = known.or(made) else { return Ok(Ensured::Refused) };
            transaction.query(LINK, &[row.id.into(), id.into()]).await?;
            let destination = row.of.destination(&row.repository, id);
            Ok(match known {
                Some(_) => Ensured::Found(destination),
                None => Ensured::Created(destination),
            })
        })
        .await
    }

    /// Gives a repository back after a sync. Returns whether it was still ours.
    pub async fn release_org_repository(
        &self,
        id: i32,
        transaction_id: &str,
        release: &OrgRelease<'_>,
    ) -> Result<bool, CatalogError> {
        let next = Uuid::new_v4().to_string();
        let [a, b, c, d, e, f] = release.release.params(id, transaction_id, &next);
        let ours = match release.release.status {
            SyncStatus::Cancel => SyncStatus::Cancel,
            _ => SyncStatus::Syncing,
        };
        let now = Utc::now().naive_utc().into();
        let params = [a, b, c, d, e, f, now, release.message.into(), ours.number().into()];
        Ok(!self.write(RELEASE, &params).await?.is_empty())
    }
}

fn limit(most: usize) -> Param<'static> {
    i64::try_from(most).unwrap_or(i64::MAX).into()
}

impl SourceRegistry {
    fn numbered(number: i32) -> Self {
        match number {
            1 => Self::Harbor,
            2 => Self::Quay,
            other => Self::Unknown(other),
        }
    }
}

impl OrgMirror {
    fn from_row(row: &Row) -> Result<Self, CatalogError> {
        Ok(Self {
            id: row.get(0)?,
            organization_id: row.get(1)?,
            organization: row.get(2)?,
            robot_id: row.get(3)?,
            robot: row.get(4)?,
            enabled: row.get(5)?,
            registry: SourceRegistry::numbered(row.get(6)?),
            url: row.get(7)?,
            external_namespace: row.get(8)?,
            username: row.get(9)?,
            password: row.get(10)?,
            external_registry_config: row.get(11)?,
            repository_filters: row.get(12)?,
            visibility: row.get(13)?,
            status: SyncStatus::numbered(row.get(14)?),
            start: row.get(15)?,
            expiration: row.get(16)?,
            retries: row.get(17)?,
            interval_s: row.get(18)?,
            timeout_s: row.get(19)?,
            transaction_id: row.get(20)?,
        })
    }

    /// What a worker has to know to take it.
    pub fn claimable(&self) -> Claimable {
        Claimable {
            table: ClaimTable::Organizations,
            id: self.id,
            robot_id: self.robot_id,
            status: self.status,
            expiration: self.expiration,
            transaction_id: self.transaction_id.clone(),
            by_hand: false,
        }
    }

    /// When it is due. A dead worker's has all its tries again, as in Quay.
    pub fn schedule(&self) -> Schedule {
        let retries = if self.status == SyncStatus::Syncing { RETRIES } else { self.retries };
        Schedule { start: self.start, retries, interval_s: self.interval_s }
    }

    fn destination(&self, repository: &str, repository_id: i32) -> Destination {
        Destination {
            repository_id,
            namespace_id: self.organization_id,
            name: RepoName {
                namespace: self.organization.clone(),
                repository: repository.to_owned(),
            },
            robot_id: self.robot_id,
            robot: self.robot.clone(),
            of_organization: true,
        }
    }
}

impl OrgMirrorRepository {
    fn from_row(row: &Row) -> Result<Self, CatalogError> {
        Ok(Self {
            of: OrgMirror::from_row(row)?,
            id: row.get(21)?,
            repository: row.get(22)?,
            repository_id: row.get(23)?,
            status: SyncStatus::numbered(row.get(24)?),
            start: row.get(25)?,
            expiration: row.get(26)?,
            retries: row.get(27)?,
            transaction_id: row.get(28)?,
        })
    }

    /// What it is called here.
    pub fn name(&self) -> RepoName {
        RepoName { namespace: self.of.organization.clone(), repository: self.repository.clone() }
    }

    /// What a worker has to know to take it.
    pub fn claimable(&self) -> Claimable {
        Claimable {
            table: ClaimTable::OrganizationRepositories,
            id: self.id,
            robot_id: self.of.robot_id,
            status: self.status,
            expiration: self.expiration,
            transaction_id: self.transaction_id.clone(),
            by_hand: false,
        }
    }

    /// When it is due. A dead worker's has all its tries again, as in Quay.
    pub fn schedule(&self) -> Schedule {
        let retries = if self.status == SyncStatus::Syncing { RETRIES } else { self.retries };
        Schedule { start: self.start, retries, interval_s: self.of.interval_s }
    }
}
