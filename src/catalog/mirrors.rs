//! Repositories that follow another registry: `repomirrorconfig` and its rule (contract §7.1, §7.2).
//!
//! A worker owns a mirror while `sync_transaction_id` is the one it wrote: every change of state
//! writes a new one, Python's too, and every statement of ours asks for the one that we know.

use chrono::{Duration, NaiveDateTime, Utc};
use uuid::Uuid;

use super::connection::Session;
use super::error::CatalogError;
use super::value::{Param, Row, Sql};
use crate::oci::RepoName;

/// `repomirrorconfig.sync_status`
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
    /// One that we do not know.
    Unknown(i32),
}

/// A mirror, as it was read.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// `repomirrorconfig.id`
    pub id: i32,
    /// `repository.id`
    pub repository_id: i32,
    /// `user.id` of the namespace.
    pub namespace_id: i32,
    /// What it is called here.
    pub name: RepoName,
    /// `user.id` of the robot in whose name it is filled.
    pub robot_id: i32,
    /// Its user name.
    pub robot: String,
    /// `is_enabled`
    pub enabled: bool,
    /// `host[:port]/path`, without a scheme or a tag.
    pub external_reference: String,
    /// Encrypted.
    pub username: Option<String>,
    /// Encrypted.
    pub password: Option<String>,
    /// JSON: `verify_tls`, `unsigned_images`, `proxy`.
    pub external_registry_config: String,
    /// JSON: names of architectures; none of them is all of them.
    pub architecture_filter: Option<String>,
    /// JSON: globs of tags.
    pub rule_value: String,
    /// Its state.
    pub status: SyncStatus,
    /// When the next sync is due, UTC.
    pub start: Option<NaiveDateTime>,
    /// When the claim of a worker ends, UTC.
    pub expiration: Option<NaiveDateTime>,
    /// Syncs that may fail before the next one waits for its interval.
    pub retries: i32,
    /// Seconds between two syncs.
    pub interval_s: i32,
    /// Seconds that one operation may take.
    pub timeout_s: i64,
    /// Whoever wrote it owns the mirror.
    pub transaction_id: Option<String>,
}

/// How a mirror is left.
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

/// An alive tag that users see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliveTag {
    /// Its name.
    pub name: String,
    /// `manifest.digest` of what it points to.
    pub digest: String,
    /// `mediatype.name` of that.
    pub media_type: String,
    /// When it will end, milliseconds.
    pub lifetime_end_ms: Option<i64>,
}

macro_rules! mirrors {
    ($which:literal) => {
        concat!(
            "SELECT c.id, r.id, n.id, n.username, r.name, c.internal_robot_id, b.username, \
                 c.is_enabled, c.external_reference, c.external_registry_username, \
                 c.external_registry_password, c.external_registry_config, \
                 c.architecture_filter, u.rule_value, c.sync_status, c.sync_start_date, \
                 c.sync_expiration_date, c.sync_retries_remaining, c.sync_interval, \
                 c.skopeo_timeout, c.sync_transaction_id \
             FROM repomirrorconfig c JOIN repository r ON r.id = c.repository_id \
             JOIN \"user\" n ON n.id = r.namespace_user_id \
             JOIN \"user\" b ON b.id = c.internal_robot_id \
             JOIN repomirrorrule u ON u.id = c.root_rule_id WHERE ",
            $which
        )
    };
}

/// `$1` now, `$2` how many. Quay's three kinds; the third, whose worker is gone, whenever its claim
/// has ended: Quay selects it and never claims it.
const DUE: &str = mirrors!(
    "r.state = 2 AND ((c.sync_status = 3 AND c.sync_expiration_date IS NULL) \
     OR (c.is_enabled AND c.sync_start_date <= $1 AND c.sync_retries_remaining > 0 \
         AND c.sync_status NOT IN (2, 3, -2) AND c.sync_expiration_date IS NULL) \
     OR (c.sync_status = 2 AND c.sync_expiration_date <= $1)) \
     ORDER BY CASE WHEN c.sync_status = 3 THEN 0 ELSE 1 END, c.sync_start_date, c.id LIMIT $2"
);

const NAMED: &str = mirrors!("n.username = $1 AND r.name = $2 AND r.state <> 3");

const ALL: &str = mirrors!("r.state = 2 ORDER BY n.username, r.name LIMIT $1");

/// `$4` the transaction that we have read.
const CLAIM: &str = "\
    UPDATE repomirrorconfig SET sync_status = 2, sync_expiration_date = $2, \
        sync_transaction_id = $3 \
    WHERE id = $1 AND sync_transaction_id IS NOT DISTINCT FROM $4 RETURNING id";

const EXTEND: &str = "\
    UPDATE repomirrorconfig SET sync_expiration_date = $2 \
    WHERE id = $1 AND sync_transaction_id = $3 AND sync_status = 2 RETURNING id";

const STANDING: &str = "\
    SELECT c.sync_status, c.sync_transaction_id, r.state, c.internal_robot_id \
    FROM repomirrorconfig c JOIN repository r ON r.id = c.repository_id WHERE c.id = $1";

const RELEASE: &str = "\
    UPDATE repomirrorconfig SET sync_transaction_id = $3, sync_status = $4, \
        sync_start_date = $5, sync_expiration_date = NULL, sync_retries_remaining = $6 \
    WHERE id = $1 AND sync_transaction_id = $2 RETURNING id";

/// `$2` now in milliseconds.
const ALIVE: &str = "\
    SELECT t.name, m.digest, m.media_type_id, t.lifetime_end_ms FROM tag t \
    JOIN manifest m ON m.id = t.manifest_id \
    WHERE t.repository_id = $1 AND NOT t.hidden \
    AND (t.lifetime_end_ms IS NULL OR t.lifetime_end_ms > $2) ORDER BY t.id";

const BYTES: &str = "SELECT manifest_bytes FROM manifest WHERE repository_id = $1 AND digest = $2";

macro_rules! readable {
    ($among:literal) => {
        concat!(
            "SELECT DISTINCT s.content_checksum FROM imagestorage s \
             JOIN manifestblob mb ON mb.blob_id = s.id \
             JOIN repository r ON r.id = mb.repository_id AND r.state <> 3 \
             JOIN repomirrorconfig c ON c.repository_id = r.id \
             WHERE r.namespace_user_id = $1 AND c.internal_robot_id = $2 \
             AND substr(c.external_reference, 1, length($3)) = $3 AND s.content_checksum ",
            $among
        )
    };
}

/// `$1` `user.id` of the namespace, `$2` of the robot, `$3` the source's host and a slash, `$4`
/// digests.
const READABLE: Sql = Sql {
    postgres: readable!("= ANY ($4)"),
    sqlite: readable!("IN (SELECT value FROM json_each($4))"),
};

const EVENT: &str = "\
    SELECT n.uuid FROM repositorynotification n \
    JOIN externalnotificationevent e ON e.id = n.event_id \
    WHERE n.repository_id = $1 AND e.name = $2 ORDER BY n.id";

impl SyncStatus {
    fn numbered(status: i32) -> Self {
        match status {
            -2 => Self::Cancel,
            -1 => Self::Fail,
            0 => Self::NeverRun,
            1 => Self::Success,
            2 => Self::Syncing,
            3 => Self::SyncNow,
            other => Self::Unknown(other),
        }
    }

    fn number(self) -> i32 {
        match self {
            Self::Cancel => -2,
            Self::Fail => -1,
            Self::NeverRun => 0,
            Self::Success => 1,
            Self::Syncing => 2,
            Self::SyncNow => 3,
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
            Self::Unknown(_) => "UNKNOWN",
        }
    }
}

impl Session<'_> {
    /// Up to `most` mirrors that are due: those that somebody asked for first.
    pub async fn due_mirrors(&self, most: usize) -> Result<Vec<Mirror>, CatalogError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = self.query(DUE, &[Utc::now().naive_utc().into(), most.into()]).await?;
        rows.iter().map(Mirror::from_row).collect()
    }

    /// The mirror of this name.
    pub async fn mirror(&self, name: &RepoName) -> Result<Option<Mirror>, CatalogError> {
        let params = [name.namespace.as_str().into(), name.repository.as_str().into()];
        let rows = self.query(NAMED, &params).await?;
        rows.first().map(Mirror::from_row).transpose()
    }

    /// Up to `most` mirrors, by name.
    pub async fn mirrors(&self, most: usize) -> Result<Vec<Mirror>, CatalogError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = self.query(ALL, &[most.into()]).await?;
        rows.iter().map(Mirror::from_row).collect()
    }

    /// Takes a mirror for as long as `lease`. Returns the new transaction; `None` where somebody
    /// else was quicker.
    pub async fn claim_mirror(
        &self,
        mirror: &Mirror,
        lease: std::time::Duration,
    ) -> Result<Option<String>, CatalogError> {
        let transaction = Uuid::new_v4().to_string();
        let params = [
            mirror.id.into(),
            (Utc::now().naive_utc() + lease).into(),
            (&transaction).into(),
            mirror.transaction_id.as_deref().into(),
        ];
        let claimed = self.write(CLAIM, &params).await?;
        Ok(claimed.first().map(|_| transaction))
    }

    /// Keeps a mirror for as long as `lease` from now. Returns whether it is still ours.
    pub async fn extend_mirror(
        &self,
        id: i32,
        transaction: &str,
        lease: std::time::Duration,
    ) -> Result<bool, CatalogError> {
        let until = Utc::now().naive_utc() + lease;
        let rows = self.write(EXTEND, &[id.into(), until.into(), transaction.into()]).await?;
        Ok(!rows.is_empty())
    }

    /// Whether a sync may go on.
    pub async fn mirror_standing(
        &self,
        mirror: &Mirror,
        transaction: &str,
    ) -> Result<MirrorStanding, CatalogError> {
        let rows = self.query(STANDING, &[mirror.id.into()]).await?;
        let Some(row) = rows.first() else { return Ok(MirrorStanding::Lost) };
        let status = SyncStatus::numbered(row.get(0)?);
        let (owner, state): (Option<&str>, i32) = (row.get(1)?, row.get(2)?);
        let robot: i32 = row.get(3)?;
        Ok(match status {
            SyncStatus::Cancel => MirrorStanding::Cancelled,
            _ if owner == Some(transaction) && state == 2 && robot == mirror.robot_id => {
                MirrorStanding::Ours
            }
            _ => MirrorStanding::Lost,
        })
    }

    /// Gives a mirror back. Returns whether it was still ours.
    pub async fn release_mirror(
        &self,
        id: i32,
        transaction: &str,
        release: &Release,
    ) -> Result<bool, CatalogError> {
        let next = Uuid::new_v4().to_string();
        let params = [
            id.into(),
            transaction.into(),
            (&next).into(),
            release.status.number().into(),
            Param::Time(release.start),
            release.retries.into(),
        ];
        Ok(!self.write(RELEASE, &params).await?.is_empty())
    }

    /// The alive tags of a repository that users see.
    pub async fn alive_tags(&self, repository_id: i32) -> Result<Vec<AliveTag>, CatalogError> {
        let now_ms = Utc::now().timestamp_millis();
        let rows = self.query(ALIVE, &[repository_id.into(), now_ms.into()]).await?;
        let enums = self.enums().await?;
        let tags = rows.iter().map(|row| {
            Ok(AliveTag {
                name: row.get(0)?,
                digest: row.get(1)?,
                media_type: enums.name("mediatype", row.get(2)?)?.to_owned(),
                lifetime_end_ms: row.get(3)?,
            })
        });
        tags.collect()
    }

    /// The bytes of a stored manifest, dead or alive.
    pub async fn manifest_bytes(
        &self,
        repository_id: i32,
        digest: &str,
    ) -> Result<Option<String>, CatalogError> {
        let rows = self.query(BYTES, &[repository_id.into(), digest.into()]).await?;
        rows.first().map(|row| row.get(0)).transpose()
    }

    /// Those of `digests` that the robot of a mirror has fetched from `host` for another mirror of
    /// the same namespace: the source has given us their bytes before.
    pub async fn fetched_beside(
        &self,
        mirror: &Mirror,
        host: &str,
        digests: &[&str],
    ) -> Result<Vec<String>, CatalogError> {
        let host = format!("{host}/");
        let params = [
            mirror.namespace_id.into(),
            mirror.robot_id.into(),
            (&host).into(),
            Param::Texts(digests),
        ];
        let rows = self.query(READABLE, &params).await?;
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Tells everybody who wants to know what became of a sync. `event` is the body of such an item,
    /// after the notification's uuid.
    pub async fn notify_mirror(
        &self,
        repository_id: i32,
        kind: &str,
        queue: &str,
        event: &str,
    ) -> Result<(), CatalogError> {
        let rows = self.query(EVENT, &[repository_id.into(), kind.into()]).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut items = Vec::new();
        for row in &rows {
            let uuid: &str = row.get(0)?;
            items.push((queue.to_owned(), format!("{{\"notification_uuid\": \"{uuid}\", {event}")));
        }
        self.transaction(async |transaction| transaction.enqueue(&items).await).await
    }
}

impl Mirror {
    fn from_row(row: &Row) -> Result<Self, CatalogError> {
        Ok(Self {
            id: row.get(0)?,
            repository_id: row.get(1)?,
            namespace_id: row.get(2)?,
            name: RepoName { namespace: row.get(3)?, repository: row.get(4)? },
            robot_id: row.get(5)?,
            robot: row.get(6)?,
            enabled: row.get(7)?,
            external_reference: row.get(8)?,
            username: row.get(9)?,
            password: row.get(10)?,
            external_registry_config: row.get(11)?,
            architecture_filter: row.get(12)?,
            rule_value: row.get(13)?,
            status: SyncStatus::numbered(row.get(14)?),
            start: row.get(15)?,
            expiration: row.get(16)?,
            retries: row.get(17)?,
            interval_s: row.get(18)?,
            timeout_s: row.get(19)?,
            transaction_id: row.get(20)?,
        })
    }

    /// How the mirror is left after a sync that ended with `status` (contract §7.2): after a
    /// success, or when no retry is left, it waits for the next of its moments.
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

    /// As it was found: the next worker begins at once.
    pub fn untouched(&self) -> Release {
        let status = match self.status {
            SyncStatus::Syncing => SyncStatus::SyncNow,
            status => status,
        };
        Release { status, start: self.start, retries: self.retries }
    }

    fn next(&self, now: NaiveDateTime) -> NaiveDateTime {
        let interval = i64::from(self.interval_s.max(1));
        let since = self.start.map_or(0, |start| (now - start).num_seconds());
        now + Duration::seconds(interval - since.rem_euclid(interval))
    }
}

/// Quay's `MAX_SYNC_RETRIES`.
const RETRIES: i32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(start: &str, retries: i32) -> Mirror {
        Mirror {
            id: 1,
            repository_id: 2,
            namespace_id: 3,
            name: RepoName { namespace: "acme".into(), repository: "mirror".into() },
            robot_id: 4,
            robot: "acme+mirror".into(),
            enabled: true,
            external_reference: "registry.example/a/b".into(),
            username: None,
            password: None,
            external_registry_config: "{}".into(),
            architecture_filter: None,
            rule_value: "[\"*\"]".into(),
            status: SyncStatus::NeverRun,
            start: start.parse().ok(),
            expiration: None,
            retries,
            interval_s: 3600,
            timeout_s: 300,
            transaction_id: None,
        }
    }

    #[test]
    fn the_next_sync() {
        let now: NaiveDateTime = "2026-11-26T10:20:00".parse().unwrap();
        let at = |text: &str| text.parse::<NaiveDateTime>().ok();
        for (status, retries, start, left) in [
            // At the moments that the first start and the interval make.
            (SyncStatus::Success, 3, "2026-11-26T11:00:00", 3),
            (SyncStatus::Success, 1, "2026-11-26T11:00:00", 3),
            // At once, while there are retries.
            (SyncStatus::Fail, 3, "2026-11-26T08:00:00", 2),
            (SyncStatus::Fail, 1, "2026-11-26T11:00:00", 3),
            (SyncStatus::Fail, 0, "2026-11-26T11:00:00", 3),
        ] {
            let release = mirror("2026-11-26T08:00:00", retries).after(status, now);
            assert_eq!(release, Release { status, start: at(start), retries: left });
        }
        let cancelled = mirror("2026-11-26T08:00:00", 2).after(SyncStatus::Cancel, now);
        assert_eq!((cancelled.start, cancelled.retries), (None, 0));
        // Quay fails where there is no start.
        let first = mirror("", 3).after(SyncStatus::Success, now);
        assert_eq!(first.start, at("2026-11-26T11:20:00"));
        // A start in the future, as after "sync now".
        let early = mirror("2026-11-26T10:50:00", 3).after(SyncStatus::Success, now);
        assert_eq!(early.start, at("2026-11-26T10:50:00"));
    }
}
