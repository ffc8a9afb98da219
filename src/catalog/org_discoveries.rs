//! What an organization learns of the namespace that it follows: which repositories are there, which
//! are no longer, and which are to be filled now (contract §7.5). Each of it in one transaction with
//! the organization's own row, so that it is all of it or none, and nobody else's meanwhile.

use chrono::Utc;
use uuid::Uuid;

use super::claims::{ClaimTable, SyncStatus};
use super::connection::Session;
use super::error::CatalogError;
use super::org_mirrors::OrgMirror;
use super::transaction::Transaction;
use super::value::{Param, Sql};

/// What the source has.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'a> {
    /// All of its repositories.
    pub all: &'a [String],
    /// Those that the organization wants.
    pub wanted: &'a [String],
    /// All of them are filled now, not only those that have to.
    pub sync_now: bool,
}

/// What it changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Discovered {
    /// Repositories that were not known.
    pub new: usize,
    /// Those that are not followed any more.
    pub skipped: usize,
    /// Those that are filled now.
    pub scheduled: usize,
}

/// `$2` now, `$3` their transaction, `$4` names.
const INSERT: Sql = Sql {
    postgres: "\
        INSERT INTO orgmirrorrepository (org_mirror_config_id, repository_name, discovery_date, \
            sync_status, sync_retries_remaining, sync_transaction_id, creation_date) \
        SELECT $1, name, $2, 0, 3, $3, $2 FROM unnest($4::text[]) AS names (name) \
        ON CONFLICT DO NOTHING RETURNING id",
    // Without the condition, `ON` would belong to a join.
    sqlite: "\
        INSERT INTO orgmirrorrepository (org_mirror_config_id, repository_name, discovery_date, \
            sync_status, sync_retries_remaining, sync_transaction_id, creation_date) \
        SELECT $1, value, $2, 0, 3, $3, $2 FROM json_each($4) WHERE true \
        ON CONFLICT DO NOTHING RETURNING id",
};

/// `$2` their transaction, `$3` what is wanted, `$4` what is there. What a worker is at is left to it
/// until the next time.
const SKIP: Sql = Sql {
    postgres: "\
        UPDATE orgmirrorrepository SET sync_status = 4, sync_transaction_id = $2, \
            sync_start_date = NULL, sync_expiration_date = NULL, sync_retries_remaining = 0, \
            status_message = CASE WHEN repository_name = ANY ($4) \
                THEN 'Repository excluded by filters' \
                ELSE 'Repository no longer in source registry' END \
        WHERE org_mirror_config_id = $1 AND sync_status NOT IN (2, 4) \
        AND NOT repository_name = ANY ($3) RETURNING id",
    sqlite: "\
        UPDATE orgmirrorrepository SET sync_status = 4, sync_transaction_id = $2, \
            sync_start_date = NULL, sync_expiration_date = NULL, sync_retries_remaining = 0, \
            status_message = CASE WHEN repository_name IN (SELECT value FROM json_each($4)) \
                THEN 'Repository excluded by filters' \
                ELSE 'Repository no longer in source registry' END \
        WHERE org_mirror_config_id = $1 AND sync_status NOT IN (2, 4) \
        AND repository_name NOT IN (SELECT value FROM json_each($3)) RETURNING id",
};

/// The same parameters, as far as there are.
const RETURN: Sql = Sql {
    postgres: "\
        UPDATE orgmirrorrepository SET sync_status = 0, sync_transaction_id = $2, \
            sync_start_date = NULL, sync_expiration_date = NULL, sync_retries_remaining = 3, \
            status_message = NULL \
        WHERE org_mirror_config_id = $1 AND sync_status = 4 AND repository_name = ANY ($3)",
    sqlite: "\
        UPDATE orgmirrorrepository SET sync_status = 0, sync_transaction_id = $2, \
            sync_start_date = NULL, sync_expiration_date = NULL, sync_retries_remaining = 3, \
            status_message = NULL \
        WHERE org_mirror_config_id = $1 AND sync_status = 4 \
        AND repository_name IN (SELECT value FROM json_each($3))",
};

/// `$2` now. Quay leaves the expiration of a claim that was cancelled, and never selects the row
/// again.
const SYNC_ALL: &str = "\
    UPDATE orgmirrorrepository SET sync_status = 3, sync_start_date = $2, \
        sync_expiration_date = NULL, sync_retries_remaining = 3, status_message = NULL \
    WHERE org_mirror_config_id = $1 AND sync_status NOT IN (2, 4) \
    AND (sync_status <> 3 OR sync_expiration_date IS NOT NULL) RETURNING id";

/// Those that were never filled, and those that were cancelled.
const SYNC_NEW: &str = "\
    UPDATE orgmirrorrepository SET sync_status = 3, sync_start_date = $2, \
        sync_expiration_date = NULL, sync_retries_remaining = 3 \
    WHERE org_mirror_config_id = $1 AND sync_status IN (0, -2) AND sync_start_date IS NULL \
    RETURNING id";

/// Also of those that a worker is at, which is how it learns of it.
const CANCEL: &str = "\
    UPDATE orgmirrorrepository SET sync_status = -2, sync_start_date = NULL, \
        sync_expiration_date = NULL, sync_retries_remaining = 0, status_message = NULL \
    WHERE org_mirror_config_id = $1 AND sync_status NOT IN (-2, 4) RETURNING id";

/// The organization's own row; `$2` the transaction that we have read.
const CANCELLED: &str = "\
    UPDATE orgmirrorconfig SET sync_transaction_id = $3, sync_status = $4, sync_start_date = $5, \
        sync_expiration_date = NULL, sync_retries_remaining = $6 \
    WHERE id = $1 AND sync_transaction_id IS NOT DISTINCT FROM $2 AND sync_status = -2 \
    RETURNING id";

impl Session<'_> {
    /// Writes what was found for an organization that is ours, and gives it back. `None` where it is
    /// not ours any more: nothing is written then.
    pub async fn discovered(
        &self,
        organization: &OrgMirror,
        transaction_id: &str,
        found: &Listing<'_>,
    ) -> Result<Option<Discovered>, CatalogError> {
        let release = organization.schedule().after(SyncStatus::Success, Utc::now().naive_utc());
        self.transaction(async |transaction| {
            let next = Uuid::new_v4().to_string();
            let params = release.params(organization.id, transaction_id, &next);
            let released = ClaimTable::Organizations.release();
            if transaction.query(released, &params).await?.is_empty() {
                return Ok(None);
            }
            transaction.listed(organization.id, found).await.map(Some)
        })
        .await
    }

    /// Tells every repository of an organization that was cancelled, and makes the organization due
    /// at its next moment. Returns how many were told, `None` where somebody else has done it.
    pub async fn cancel_organization(
        &self,
        organization: &OrgMirror,
    ) -> Result<Option<usize>, CatalogError> {
        // Not cancelled, so that it is looked for repositories as before.
        let release = organization.schedule().after(SyncStatus::Success, Utc::now().naive_utc());
        self.transaction(async |transaction| {
            let next = Uuid::new_v4().to_string();
            let read = organization.transaction_id.as_deref();
            let [id, _, rest @ ..] = release.params(organization.id, "", &next);
            let [next, status, start, retries] = rest;
            let params = [id, read.into(), next, status, start, retries];
            if transaction.query(CANCELLED, &params).await?.is_empty() {
                return Ok(None);
            }
            let told = transaction.query(CANCEL, &[id]).await?;
            Ok(Some(told.len()))
        })
        .await
    }
}

impl Transaction<'_> {
    async fn listed(&mut self, of: i32, found: &Listing<'_>) -> Result<Discovered, CatalogError> {
        let all: Vec<&str> = found.all.iter().map(String::as_str).collect();
        let wanted: Vec<&str> = found.wanted.iter().map(String::as_str).collect();
        let (id, now) = (Uuid::new_v4().to_string(), Utc::now().naive_utc());
        let params = [of.into(), now.into(), (&id).into(), Param::Texts(&wanted)];
        let new = self.query(INSERT, &params).await?.len();
        let mut skipped = 0;
        // A source that shows nothing at all may have lost its memory.
        if !all.is_empty() {
            let params = [of.into(), (&id).into(), Param::Texts(&wanted), Param::Texts(&all)];
            skipped = self.query(SKIP, &params).await?.len();
            self.query(RETURN, &params[..3]).await?;
        }
        let schedule = if found.sync_now { SYNC_ALL } else { SYNC_NEW };
        let scheduled = self.query(schedule, &[of.into(), now.into()]).await?.len();
        Ok(Discovered { new, skipped, scheduled })
    }
}
