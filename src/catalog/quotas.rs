//! How many bytes the manifests of a namespace and of a repository name, as Quay counts them, and
//! what that is held to (contract §4.7).
//!
//! Each blob counts once. Only the rows of `quotanamespacesize` and `quotarepositorysize` are kept
//! up to date that are complete: the others are Quay's worker's, which sums up what is there. Rows
//! change by an amount, never to one that was computed before, so that no change is lost, whoever
//! makes the next. They are locked before it is looked for what counts already: of two of us that
//! push the same blob at once, one counts it. (Python looks first: there both may.)

use super::connection::Session;
use super::error::CatalogError;
use super::pulls::{Repository, repository_named};
use super::tag_changes::among;
use super::transaction::Transaction;
use super::value::{Param, Row, Sql};
use crate::config;
use crate::oci::RepoName;

/// The count of a namespace, or of a repository.
struct Count {
    /// `$1` whose. Nobody else changes it until we are done.
    lock: Sql,
    /// `$1` whose, `$2` a manifest: where that is the first, there is nothing to sum up.
    begin: &'static str,
    /// `$1` whose, `$2` how many bytes more.
    add: &'static str,
}

const OF_NAMESPACE: Count = Count {
    lock: Sql {
        postgres: "SELECT backfill_complete FROM quotanamespacesize \
            WHERE namespace_user_id = $1 FOR UPDATE",
        sqlite: "SELECT backfill_complete FROM quotanamespacesize WHERE namespace_user_id = $1",
    },
    begin: "\
        INSERT INTO quotanamespacesize (namespace_user_id, size_bytes, backfill_start_ms, \
            backfill_complete) \
        SELECT n.id, 0, 0, true FROM \"user\" n \
        WHERE n.id = $1 AND n.enabled AND NOT n.robot AND NOT EXISTS ( \
            SELECT 1 FROM repository r JOIN manifestblob b ON b.repository_id = r.id \
            WHERE r.namespace_user_id = n.id AND r.state <> 3 AND b.manifest_id <> $2) \
        ON CONFLICT DO NOTHING",
    add: "UPDATE quotanamespacesize SET size_bytes = size_bytes + $2 WHERE namespace_user_id = $1",
};

const OF_REPOSITORY: Count = Count {
    lock: Sql {
        postgres: "SELECT backfill_complete FROM quotarepositorysize \
            WHERE repository_id = $1 FOR UPDATE",
        sqlite: "SELECT backfill_complete FROM quotarepositorysize WHERE repository_id = $1",
    },
    begin: "\
        INSERT INTO quotarepositorysize (repository_id, size_bytes, backfill_start_ms, \
            backfill_complete) \
        SELECT r.id, 0, 0, true FROM repository r JOIN \"user\" n ON n.id = r.namespace_user_id \
        WHERE r.id = $1 AND n.enabled AND NOT n.robot AND NOT EXISTS ( \
            SELECT 1 FROM manifestblob b WHERE b.repository_id = r.id AND b.manifest_id <> $2) \
        ON CONFLICT DO NOTHING",
    add: "UPDATE quotarepositorysize SET size_bytes = size_bytes + $2 WHERE repository_id = $1",
};

/// Bytes that no other manifest names, in the namespace and in the repository: `$1` repository, `$2`
/// namespace, `$3` the manifest, `$4` its blobs. Robots and disabled accounts have no count.
const NEW_BYTES: Sql = among!(
    "SELECT CAST(COALESCE(SUM(CASE WHEN EXISTS (SELECT 1 FROM manifestblob b \
             JOIN repository r ON r.id = b.repository_id WHERE b.blob_id = s.id \
             AND r.namespace_user_id = $2 AND b.manifest_id <> $3) \
             THEN 0 ELSE s.image_size END), 0) AS bigint), \
         CAST(COALESCE(SUM(CASE WHEN EXISTS (SELECT 1 FROM manifestblob b \
             WHERE b.blob_id = s.id AND b.repository_id = $1 AND b.manifest_id <> $3) \
             THEN 0 ELSE s.image_size END), 0) AS bigint) \
     FROM imagestorage s JOIN \"user\" n ON n.id = $2 AND n.enabled AND NOT n.robot \
     WHERE s.id ",
    4
);

/// Counts that nobody keeps up to date are begun anew by Quay's worker.
const VOID_REPOSITORY: &str = "\
    UPDATE quotarepositorysize \
    SET size_bytes = 0, backfill_start_ms = NULL, backfill_complete = false \
    WHERE repository_id = $1 AND backfill_start_ms IS NOT NULL";

const VOID_NAMESPACE: &str = "\
    UPDATE quotanamespacesize \
    SET size_bytes = 0, backfill_start_ms = NULL, backfill_complete = false \
    WHERE namespace_user_id = $1 AND backfill_start_ms IS NOT NULL";

/// What is counted, and a row for each limit of the quota.
macro_rules! standing {
    ($uploading:literal, $rest:expr) => {
        concat!(
            "SELECT n.id, COALESCE(c.size_bytes, 0), ",
            $uploading,
            ", q.limit_bytes, l.percent_of_limit, t.name \
             FROM repository r JOIN \"user\" n ON n.id = r.namespace_user_id \
             LEFT JOIN quotanamespacesize c ON c.namespace_user_id = n.id \
             LEFT JOIN userorganizationquota q ON q.namespace_id = n.id \
             LEFT JOIN quotalimits l ON l.quota_id = q.id \
             LEFT JOIN quotatype t ON t.id = l.quota_type_id",
            $rest,
            " ORDER BY l.id"
        )
    };
}

const STANDING: &str = standing!("CAST(0 AS bigint)", " WHERE r.id = $1");

/// With what all uploads to the repository have come to.
const STANDING_WITH_UPLOADS: &str = standing!(
    "(SELECT CAST(COALESCE(SUM(u.byte_count), 0) AS bigint) FROM blobupload u \
      WHERE u.repository_id = r.id)",
    repository_named!()
);

/// What a limit of a quota does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Somebody is told.
    Warning,
    /// And the push is refused.
    Reject,
}

/// How a namespace stands to its quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// `user.id` of the namespace.
    pub namespace_id: i32,
    /// Bytes that are counted, 0 where nothing is.
    pub counted: i64,
    /// Bytes of the uploads to the repository that nobody has finished.
    pub uploading: i64,
    /// `userorganizationquota.limit_bytes`, if the namespace has a quota of its own.
    quota: Option<i64>,
    /// Percent of the quota, and what happens from there on.
    limits: Vec<(i32, Severity)>,
}

/// A limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossed {
    /// What it does.
    pub severity: Severity,
    /// Percent of the quota.
    pub percent: i32,
    /// Bytes that are there.
    pub used: i64,
    /// Bytes that may be.
    pub quota: i64,
}

impl Standing {
    /// The highest limit that `used` bytes reach. A namespace without a quota may have
    /// `default_bytes`, or any number where that is 0.
    pub fn crossed(&self, used: i64, default_bytes: i64) -> Option<Crossed> {
        let Some(quota) = self.quota else {
            let crossed =
                Crossed { severity: Severity::Reject, percent: 100, used, quota: default_bytes };
            return (default_bytes > 0 && used >= default_bytes).then_some(crossed);
        };
        let mut highest = 0;
        let mut crossed = None;
        for &(percent, severity) in &self.limits {
            let from = share(quota, percent);
            if used >= from && from > highest {
                highest = from;
                crossed = Some(Crossed { severity, percent, used, quota });
            }
        }
        crossed
    }

    fn from_rows(rows: &[Row]) -> Result<Option<Self>, CatalogError> {
        let Some(first) = rows.first() else { return Ok(None) };
        let mut limits = Vec::new();
        for row in rows {
            let Some(percent) = row.get(4)? else { continue };
            let severity = match row.get::<Option<&str>>(5)? {
                Some("Warning") => Severity::Warning,
                Some("Reject") => Severity::Reject,
                _ => continue,
            };
            limits.push((percent, severity));
        }
        Ok(Some(Self {
            namespace_id: first.get(0)?,
            counted: first.get(1)?,
            uploading: first.get(2)?,
            quota: first.get(3)?,
            limits,
        }))
    }
}

/// Whole bytes of a percentage, by way of a fraction, as Python computes it.
fn share(quota: i64, percent: i32) -> i64 {
    (quota as f64 * f64::from(percent) / 100.0) as i64
}

impl Session<'_> {
    /// How the namespace of a repository stands; `None` without the repository.
    pub async fn standing(&self, name: &RepoName) -> Result<Option<Standing>, CatalogError> {
        let params = [name.namespace.as_str().into(), name.repository.as_str().into()];
        Standing::from_rows(&self.query(STANDING_WITH_UPLOADS, &params).await?)
    }
}

impl Transaction<'_> {
    /// The same within a push, with what it has counted. Uploads are left out.
    pub(super) async fn standing(
        &mut self,
        repository_id: i32,
    ) -> Result<Option<Standing>, CatalogError> {
        Standing::from_rows(&self.query(STANDING, &[repository_id.into()]).await?)
    }

    /// Counts what a new manifest has brought along: its `imagestorage.id`s, which are its rows in
    /// `manifestblob` already.
    pub(super) async fn count(
        &mut self,
        repository: &Repository,
        manifest_id: i32,
        blobs: &[Option<i32>],
        quotas: &config::Quotas,
    ) -> Result<(), CatalogError> {
        if !quotas.counted {
            if quotas.void_uncounted {
                self.query(VOID_REPOSITORY, &[repository.id.into()]).await?;
                self.query(VOID_NAMESPACE, &[repository.namespace_id.into()]).await?;
            }
            return Ok(());
        }
        if blobs.is_empty() {
            return Ok(());
        }
        if !quotas.suppress_failures {
            return self.count_new(repository, manifest_id, blobs).await;
        }
        self.query("SAVEPOINT uncounted", &[]).await?;
        match self.count_new(repository, manifest_id, blobs).await {
            Ok(()) => self.query("RELEASE SAVEPOINT uncounted", &[]).await.map(drop),
            Err(error @ CatalogError::Refused { .. }) => {
                tracing::error!(%error, manifest_id, "not counted, as FEATURE_QUOTA_SUPPRESS_FAILURES has it");
                self.query("ROLLBACK TO SAVEPOINT uncounted", &[]).await.map(drop)
            }
            // What passes is no failure of counting: the push fails, or is tried again.
            Err(error) => Err(error),
        }
    }

    async fn count_new(
        &mut self,
        repository: &Repository,
        manifest_id: i32,
        blobs: &[Option<i32>],
    ) -> Result<(), CatalogError> {
        let (id, namespace) = (repository.id, repository.namespace_id);
        let of_namespace = self.holds(&OF_NAMESPACE, namespace, manifest_id).await?;
        let of_repository = self.holds(&OF_REPOSITORY, id, manifest_id).await?;
        if !of_namespace && !of_repository {
            return Ok(());
        }
        let params = [id.into(), namespace.into(), manifest_id.into(), Param::Ints(blobs)];
        let rows = self.query(NEW_BYTES, &params).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let (to_namespace, to_repository): (i64, i64) = (row.get(0)?, row.get(1)?);
        if of_namespace && to_namespace > 0 {
            self.query(OF_NAMESPACE.add, &[namespace.into(), to_namespace.into()]).await?;
        }
        if of_repository && to_repository > 0 {
            self.query(OF_REPOSITORY.add, &[id.into(), to_repository.into()]).await?;
        }
        Ok(())
    }

    /// Whether a count is there to be kept up to date. Then it is ours until the end.
    async fn holds(
        &mut self,
        count: &Count,
        whose: i32,
        manifest_id: i32,
    ) -> Result<bool, CatalogError> {
        let rows = self.query(count.lock, &[whose.into()]).await?;
        if let Some(row) = rows.first() {
            return row.get(0);
        }
        self.query(count.begin, &[whose.into(), manifest_id.into()]).await?;
        // Ours, or that of whoever was first meanwhile, or still none.
        let rows = self.query(count.lock, &[whose.into()]).await?;
        rows.first().map_or(Ok(false), |row| row.get(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(quota: Option<i64>, limits: &[(i32, Severity)]) -> Standing {
        let limits = limits.to_vec();
        Standing { namespace_id: 1, counted: 0, uploading: 0, quota, limits }
    }

    #[test]
    fn the_highest_limit_decides() {
        use Severity::{Reject, Warning};
        let own = standing(Some(1000), &[(100, Reject), (80, Warning), (90, Warning)]);
        for (used, expected) in [
            (0, None),
            (799, None),
            (800, Some((Warning, 80))),
            (950, Some((Warning, 90))),
            (1000, Some((Reject, 100))),
            (i64::MAX, Some((Reject, 100))),
        ] {
            let crossed = own.crossed(used, 1);
            assert_eq!(crossed.map(|c| (c.severity, c.percent)), expected, "{used}");
        }
        // A limit of no bytes is none, and of two that are equal the older one counts.
        let odd = standing(Some(3), &[(10, Reject), (67, Warning), (68, Reject)]);
        assert_eq!(odd.crossed(0, 0), None);
        assert_eq!(odd.crossed(2, 0).map(|c| (c.severity, c.percent)), Some((Warning, 67)));
        assert_eq!(standing(Some(1), &[]).crossed(5, 1), None, "a quota without limits");
    }

    #[test]
    fn the_systems_default_is_for_those_without_a_quota() {
        let none = standing(None, &[]);
        assert_eq!(none.crossed(9, 0), None);
        assert_eq!(none.crossed(9, 10), None);
        let crossed = Crossed { severity: Severity::Reject, percent: 100, used: 10, quota: 10 };
        assert_eq!(none.crossed(10, 10), Some(crossed));
    }

    /// `int(limit * percent / 100)`
    #[test]
    fn shares_are_whole_bytes() {
        for (quota, percent, expected) in [
            (1000, 33, 330),
            (999, 33, 329),
            (1, 99, 0),
            (1 << 40, 75, 824_633_720_832),
            (10_995_116_277_761, 1, 109_951_162_777),
        ] {
            assert_eq!(share(quota, percent), expected);
        }
    }
}
