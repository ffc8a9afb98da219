//! Rows that one worker at a time has in hand: repository mirrors, organizations that follow others,
//! and the repositories of those (contract §7.1, §7.2, §7.5).
//!
//! A worker owns a row while `sync_transaction_id` is the one it wrote and the row is SYNCING. Every
//! change of state writes a new one, Python's too, but for what an organization tells all of its
//! repositories: that changes their state alone. So every statement of ours asks for both.

use chrono::{Duration, NaiveDateTime, Utc};
use uuid::Uuid;

use super::connection::Session;
use super::error::CatalogError;
use super::value::Param;

/// `sync_status`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncStatus {
    /// Somebody asked for it to end.
    Cancel,
    /// The last sync failed.
    Fail,
    /// There was none.
    NeverRun,
    /// The last sync succeeded.
    Success,
    /// A worker is at it.
    Syncing,
    /// Somebody asked for one.
    SyncNow,
    /// The source, or what its organization asks of it, has this repository no longer.
    Skip,
    /// One that we do not know.
    Unknown(i32),
}

impl SyncStatus {
    pub(super) fn numbered(status: i32) -> Self {
        match status {
            -2 => Self::Cancel,
            -1 => Self::Fail,
            0 => Self::NeverRun,
            1 => Self::Success,
            2 => Self::Syncing,
            3 => Self::SyncNow,
            4 => Self::Skip,
            other => Self::Unknown(other),
        }
    }

    pub(super) fn number(self) -> i32 {
        match self {
            Self::Cancel => -2,
            Self::Fail => -1,
            Self::NeverRun => 0,
            Self::Success => 1,
            Self::Syncing => 2,
            Self::SyncNow => 3,
            Self::Skip => 4,
            Self::Unknown(other) => other,
        }
    }

    /// As Quay's API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "CANCEL",
            Self::Fail => "FAIL",
            Self::NeverRun => "NEVER_RUN",
            Self::Success => "SUCCESS",
            Self::Syncing => "SYNCING",
            Self::SyncNow => "SYNC_NOW",
            Self::Skip => "SKIP",
            Self::Unknown(_) => "UNKNOWN",
        }
    }
}

/// The tables whose rows are claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ClaimTable {
    Mirrors,
    Organizations,
    OrganizationRepositories,
}

/// Which row it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowKey(ClaimTable, i32);

/// A row that may be claimed, as it was read.
#[derive(Clone, Debug)]
pub struct Claimable {
    pub(super) table: ClaimTable,
    pub(super) id: i32,
    pub(super) robot_id: i32,
    pub(super) status: SyncStatus,
    pub(super) expiration: Option<NaiveDateTime>,
    pub(super) transaction_id: Option<String>,
    /// Whoever cancelled it does not want it to begin by itself; a person may begin it.
    pub(super) by_hand: bool,
}

impl Claimable {
    /// Which row it is.
    pub fn key(&self) -> RowKey {
        RowKey(self.table, self.id)
    }

    /// Whether its last sync failed, and nobody has asked for another one.
    pub fn has_failed(&self) -> bool {
        self.status == SyncStatus::Fail
    }

    /// A mirror that nobody has.
    #[cfg(test)]
    pub(crate) fn of_mirror(id: i32, status: SyncStatus) -> Self {
        let (table, robot_id) = (ClaimTable::Mirrors, 0);
        Self { table, id, robot_id, status, expiration: None, transaction_id: None, by_hand: false }
    }

    /// Whether anybody may take it: nobody who is alive has it, and nobody has asked for it to end.
    pub fn is_free(&self, now: NaiveDateTime) -> bool {
        let held = self.status == SyncStatus::Syncing && self.expiration.is_none_or(|e| e > now);
        !held && (self.by_hand || self.status != SyncStatus::Cancel)
    }

    /// The same for somebody who asks for it.
    pub fn by_hand(self) -> Self {
        Self { by_hand: true, ..self }
    }
}

/// How a row is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// Its state.
    pub status: SyncStatus,
    /// When it is due again, UTC.
    pub start: Option<NaiveDateTime>,
    /// Syncs that may fail from now on.
    pub retries: i32,
}

/// Whether a sync may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorStanding {
    /// It is still ours.
    Ours,
    /// Somebody cancelled it.
    Cancelled,
    /// Somebody else has it, or it is no mirror any more, or another robot's.
    Lost,
}

/// When something is due, and how often it may fail until then.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// When it was due, UTC.
    pub start: Option<NaiveDateTime>,
    /// Syncs that may fail before the next one waits for its interval.
    pub retries: i32,
    /// Seconds between two syncs.
    pub interval_s: i32,
}

/// Quay's `MAX_SYNC_RETRIES`.
pub(super) const RETRIES: i32 = 3;

impl Schedule {
    /// How a row is left after a sync that ended with `status` (contract §7.2): after a success, or
    /// when no retry is left, it waits for the next of its moments.
    pub fn after(&self, status: SyncStatus, now: NaiveDateTime) -> Release {
        let failed = status == SyncStatus::Fail;
        let retries = if failed { (self.retries - 1).max(0) } else { self.retries };
        match status {
            SyncStatus::Cancel => Release { status, start: None, retries: 0 },
            _ if status == SyncStatus::Success || retries < 1 => {
                Release { status, start: Some(self.next(now)), retries: RETRIES }
            }
            _ => Release { status, start: self.start, retries },
        }
    }

    /// As it was found in `status`: the next worker begins at once.
    pub fn untouched(&self, status: SyncStatus) -> Release {
        let status = if status == SyncStatus::Syncing { SyncStatus::SyncNow } else { status };
        Release { status, start: self.start, retries: self.retries }
    }

    pub(super) fn next(&self, now: NaiveDateTime) -> NaiveDateTime {
        let interval = i64::from(self.interval_s.max(1));
        let since = self.start.map_or(0, |start| (now - start).num_seconds());
        now + Duration::seconds(interval - since.rem_euclid(interval))
    }
}

struct Statements {
    /// `$4` the transaction and `$5` the state that we have read, `$6` now.
    claim: &'static str,
    extend: &'static str,
    /// State, transaction, whether it may still be filled, and the robot that fills it.
    standing: &'static str,
    release: &'static str,
}

macro_rules! statements {
    ($table:literal, $standing:literal) => {
        Statements {
            claim: concat!(
                "UPDATE ",
                $table,
                " SET sync_status = 2, sync_expiration_date = $2, sync_transaction_id = $3 \
                 WHERE id = $1 AND sync_transaction_id IS NOT DISTINCT FROM $4 \
                 AND sync_status = $5 AND (sync_status <> 2 OR sync_expiration_date <= $6) \
                 RETURNING id"
            ),
            extend: concat!(
                "UPDATE ",
                $table,
                " SET sync_expiration_date = $2 \
                 WHERE id = $1 AND sync_transaction_id = $3 AND sync_status = 2 RETURNING id"
            ),
            standing: $standing,
            release: concat!(
                "UPDATE ",
                $table,
                " SET sync_transaction_id = $3, sync_status = $4, sync_start_date = $5, \
                 sync_expiration_date = NULL, sync_retries_remaining = $6 \
                 WHERE id = $1 AND sync_transaction_id = $2 AND sync_status = 2 RETURNING id"
            ),
        }
    };
}

const MIRRORS: Statements = statements!(
    "repomirrorconfig",
    "SELECT c.sync_status, c.sync_transaction_id, r.state = 2, c.internal_robot_id \
     FROM repomirrorconfig c JOIN repository r ON r.id = c.repository_id WHERE c.id = $1"
);

const ORGANIZATIONS: Statements = statements!(
    "orgmirrorconfig",
    "SELECT c.sync_status, c.sync_transaction_id, true, c.internal_robot_id \
     FROM orgmirrorconfig c WHERE c.id = $1"
);

const ORGANIZATION_REPOSITORIES: Statements = statements!(
    "orgmirrorrepository",
    "SELECT m.sync_status, m.sync_transaction_id, (r.id IS NULL OR r.state <> 3), \
         c.internal_robot_id \
     FROM orgmirrorrepository m JOIN orgmirrorconfig c ON c.id = m.org_mirror_config_id \
     LEFT JOIN repository r ON r.id = m.repository_id WHERE m.id = $1"
);

impl ClaimTable {
    fn statements(self) -> &'static Statements {
        match self {
            Self::Mirrors => &MIRRORS,
            Self::Organizations => &ORGANIZATIONS,
            Self::OrganizationRepositories => &ORGANIZATION_REPOSITORIES,
        }
    }

    pub(super) fn extend(self) -> &'static str {
        self.statements().extend
    }

    pub(super) fn release(self) -> &'static str {
        self.statements().release
    }
}

impl Session<'_> {
    /// Takes a row for as long as `lease`. Returns the new transaction; `None` where somebody else
    /// was quicker.
    pub async fn claim(
        &self,
        row: &Claimable,
        lease: std::time::Duration,
    ) -> Result<Option<String>, CatalogError> {
        let (transaction, now) = (Uuid::new_v4().to_string(), Utc::now().naive_utc());
        let params = [
            row.id.into(),
            (now + lease).into(),
            (&transaction).into(),
            row.transaction_id.as_deref().into(),
            row.status.number().into(),
            now.into(),
        ];
        let claimed = self.write(row.table.statements().claim, &params).await?;
        Ok(claimed.first().map(|_| transaction))
    }

    /// Keeps a row for as long as `lease` from now. Returns whether it is still ours.
    pub async fn extend_claim(
        &self,
        row: &Claimable,
        transaction: &str,
        lease: std::time::Duration,
    ) -> Result<bool, CatalogError> {
        let until = Utc::now().naive_utc() + lease;
        let params = [row.id.into(), until.into(), transaction.into()];
        Ok(!self.write(row.table.extend(), &params).await?.is_empty())
    }

    /// Whether a sync may go on.
    pub async fn claim_standing(
        &self,
        row: &Claimable,
        transaction: &str,
    ) -> Result<MirrorStanding, CatalogError> {
        let rows = self.query(row.table.statements().standing, &[row.id.into()]).await?;
        let Some(found) = rows.first() else { return Ok(MirrorStanding::Lost) };
        let status = SyncStatus::numbered(found.get(0)?);
        let (owner, fillable): (Option<&str>, bool) = (found.get(1)?, found.get(2)?);
        let robot: i32 = found.get(3)?;
        let ours = owner == Some(transaction) && fillable && robot == row.robot_id;
        Ok(match status {
            SyncStatus::Cancel => MirrorStanding::Cancelled,
            SyncStatus::Syncing if ours => MirrorStanding::Ours,
            _ => MirrorStanding::Lost,
        })
    }

    /// Gives a row back. Returns whether it was still ours.
    pub async fn release_claim(
        &self,
        row: &Claimable,
        transaction: &str,
        release: &Release,
    ) -> Result<bool, CatalogError> {
        let next = Uuid::new_v4().to_string();
        let params = release.params(row.id, transaction, &next);
        Ok(!self.write(row.table.release(), &params).await?.is_empty())
    }
}

impl Release {
    /// `$1` to `$6` of a statement that gives a row back.
    pub(super) fn params<'p>(
        &self,
        id: i32,
        transaction: &'p str,
        next: &'p str,
    ) -> [Param<'p>; 6] {
        [
            id.into(),
            transaction.into(),
            next.into(),
            self.status.number().into(),
            Param::Time(self.start),
            self.retries.into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<NaiveDateTime> {
        text.parse().ok()
    }

    #[test]
    fn the_next_sync() {
        let now = at("2026-11-26T10:20:00").unwrap();
        let schedule =
            |start: &str, retries| Schedule { start: at(start), retries, interval_s: 3600 };
        for (status, retries, start, left) in [
            // At the moments that the first start and the interval make.
            (SyncStatus::Success, 3, "2026-11-26T11:00:00", 3),
            (SyncStatus::Success, 1, "2026-11-26T11:00:00", 3),
            // At once, while there are retries.
            (SyncStatus::Fail, 3, "2026-11-26T08:00:00", 2),
            (SyncStatus::Fail, 1, "2026-11-26T11:00:00", 3),
            (SyncStatus::Fail, 0, "2026-11-26T11:00:00", 3),
        ] {
            let release = schedule("2026-11-26T08:00:00", retries).after(status, now);
            assert_eq!(release, Release { status, start: at(start), retries: left });
        }
        let cancelled = schedule("2026-11-26T08:00:00", 2).after(SyncStatus::Cancel, now);
        assert_eq!((cancelled.start, cancelled.retries), (None, 0));
        // Quay fails where there is no start.
        let first = schedule("", 3).after(SyncStatus::Success, now);
        assert_eq!(first.start, at("2026-11-26T11:20:00"));
        // A start in the future, as after "sync now".
        let early = schedule("2026-11-26T10:50:00", 3).after(SyncStatus::Success, now);
        assert_eq!(early.start, at("2026-11-26T10:50:00"));
    }

    #[test]
    fn what_may_be_taken() {
        let now = at("2026-11-26T10:20:00").unwrap();
        let row = |status, expiration| Claimable {
            table: ClaimTable::Mirrors,
            id: 1,
            robot_id: 2,
            status,
            expiration: at(expiration),
            transaction_id: None,
            by_hand: false,
        };
        let (past, future) = ("2026-11-26T10:00:00", "2026-11-26T11:00:00");
        assert!(row(SyncStatus::Success, "").is_free(now));
        assert!(row(SyncStatus::SyncNow, future).is_free(now));
        assert!(row(SyncStatus::Syncing, past).is_free(now));
        assert!(!row(SyncStatus::Syncing, future).is_free(now));
        assert!(!row(SyncStatus::Syncing, "").is_free(now));
        assert!(!row(SyncStatus::Cancel, past).is_free(now));
        assert!(row(SyncStatus::Cancel, "").by_hand().is_free(now));
        assert!(!row(SyncStatus::Syncing, future).by_hand().is_free(now));
    }

    #[test]
    fn numbers_of_states() {
        for number in -3..6 {
            assert_eq!(SyncStatus::numbered(number).number(), number);
        }
    }
}
