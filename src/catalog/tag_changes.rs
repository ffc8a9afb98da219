//! Tags are moved, and deleted (contract §4.5, §4.6). All of a repository's changes come one after
//! the other, Python's too: they take the same lock.

use std::time::Duration;

use chrono::Utc;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::connection::Session;
use super::error::CatalogError;
use super::pulls::Repository;
use super::transaction::Transaction;
use super::value::{Param, Sql};
use crate::config;
use crate::oci::{Digest, ImmutabilityPolicy, cosign_tags, is_cosign_tag};

/// A tag that is not what it was to be.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    /// It may not be moved or deleted.
    #[error("tag '{0}' is immutable")]
    Immutable(String),
    /// What it was to point to names what has just been collected.
    #[error("collected meanwhile")]
    Vanished,
    /// Only Python can tell.
    #[error("not built: {0}")]
    Declined(&'static str),
    /// The database.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Tags that were deleted.
#[derive(Debug)]
pub struct Deleted {
    /// `manifest.digest` of what they pointed to.
    pub digest: String,
    /// Their names; none where only hidden tags kept the manifest.
    pub tags: Vec<String>,
}

/// Where a tag is to point.
pub(super) struct Target<'a> {
    pub(super) repository: &'a Repository,
    pub(super) manifest_id: i32,
    pub(super) tag: &'a str,
    /// How long, by the label `quay.expires-after`.
    pub(super) lives: Option<Duration>,
    /// By the label `quay.immutable`.
    pub(super) immutable: bool,
    /// Whether it goes back to where it was.
    pub(super) reversion: bool,
}

/// How often a moment is looked for at which no other tag has ended. They are 1 ms apart.
const MOMENTS: u32 = 20;

/// Two tags of one name must not end at the same moment (a unique index).
const ENDED: &str =
    "SELECT EXISTS (SELECT 1 FROM tag WHERE repository_id = $1 AND lifetime_end_ms = $2)";

/// `$3` now.
const CURRENT: &str = "\
    SELECT t.id, t.immutable, t.manifest_id, m.digest FROM tag t \
    LEFT JOIN manifest m ON m.id = t.manifest_id \
    WHERE t.repository_id = $1 AND t.name = $2 AND NOT t.hidden \
    AND (t.lifetime_end_ms IS NULL OR t.lifetime_end_ms > $3) LIMIT 1";

/// Every tag that keeps a manifest; `$3` now.
const OF_MANIFEST: &str = "\
    SELECT t.id, t.name, t.hidden, t.immutable, m.id FROM manifest m \
    JOIN tag t ON t.manifest_id = m.id \
    WHERE m.repository_id = $1 AND m.digest = $2 \
    AND (t.lifetime_end_ms IS NULL OR t.lifetime_end_ms > $3) ORDER BY t.id";

const OF_DIGEST: &str = "SELECT id FROM manifest WHERE repository_id = $1 AND digest = $2";

macro_rules! among {
    ($before:literal, $number:literal $(, $after:literal)?) => {
        Sql {
            postgres: concat!($before, "= ANY ($", $number, ")" $(, $after)?),
            sqlite: concat!($before, "IN (SELECT value FROM json_each($", $number, "))" $(, $after)?),
        }
    };
}
pub(super) use among;

const END: Sql = among!("UPDATE tag SET lifetime_end_ms = $1 WHERE id ", 2);

const FORGET_NOTIFICATIONS: Sql = among!("DELETE FROM tagnotificationsuccess WHERE tag_id ", 1);

const FORGET_STATISTICS: Sql =
    among!("DELETE FROM tagpullstatistics WHERE repository_id = $1 AND tag_name ", 2);

/// cosign's tags of manifest `$3`, which go with its last tag of another kind; `$2` now.
const END_COSIGN: &str = "\
    UPDATE tag SET lifetime_end_ms = $2 WHERE id IN ( \
        SELECT max(c.id) FROM tag c WHERE c.repository_id = $1 AND c.name IN ($4, $5, $6) \
        AND NOT c.immutable AND (c.lifetime_end_ms IS NULL OR c.lifetime_end_ms > $2) \
        AND NOT EXISTS (SELECT 1 FROM tag o WHERE o.repository_id = $1 AND o.manifest_id = $3 \
            AND NOT o.hidden AND (o.lifetime_end_ms IS NULL OR o.lifetime_end_ms > $2) \
            AND NOT (length(o.name) IN (75, 76) AND substr(o.name, 1, 7) = 'sha256-' \
                AND ltrim(substr(o.name, 8, 64), '0123456789abcdef') = '' \
                AND substr(o.name, 72) IN ('.sig', '.att', '.sbom'))) \
        GROUP BY c.name)";

/// Children of a manifest that only a push keeps; `$3` now.
const END_CHILDREN: &str = "\
    UPDATE tag SET lifetime_end_ms = $3 WHERE repository_id = $1 AND hidden \
        AND substr(name, 1, 6) = '$temp-' AND lifetime_end_ms > $3 AND manifest_id IN ( \
            SELECT c.child_manifest_id FROM manifestchild c WHERE c.manifest_id = $2)";

const POLICIES: &str = "\
    SELECT policy FROM repositoryimmutabilitypolicy WHERE repository_id = $1 \
    UNION ALL SELECT policy FROM namespaceimmutabilitypolicy WHERE namespace_id = $2";

const INSERT: &str = "\
    INSERT INTO tag (name, repository_id, manifest_id, lifetime_start_ms, lifetime_end_ms, hidden, \
        reversion, immutable, tag_kind_id) \
    SELECT $1, $2, $3, $4, $5, false, $7, $6, k.id FROM tagkind k WHERE k.name = 'tag' \
    RETURNING id";

macro_rules! insert_temporary {
    ($rows:literal, $name:literal, $manifest:literal) => {
        concat!(
            "INSERT INTO tag (name, repository_id, manifest_id, lifetime_start_ms, \
                 lifetime_end_ms, hidden, reversion, immutable, tag_kind_id) \
             SELECT ",
            $name,
            ", $1, m.id, $3, $4, true, false, false, k.id FROM ",
            $rows,
            " JOIN manifest m ON m.id = ",
            $manifest,
            " JOIN tagkind k ON k.name = 'tag' \
             WHERE NOT EXISTS (SELECT 1 FROM tag t WHERE t.manifest_id = m.id \
                 AND (t.lifetime_end_ms IS NULL OR t.lifetime_end_ms >= $4))"
        )
    };
}

/// `$2` names and manifests, in JSON. No tag for a manifest that another keeps for as long.
const INSERT_TEMPORARY: Sql = Sql {
    postgres: insert_temporary!("json_array_elements($2::json) e", "e ->> 0", "(e ->> 1)::int4"),
    sqlite: insert_temporary!("json_each($2) e", "e.value ->> 0", "e.value ->> 1"),
};

impl Session<'_> {
    /// Deletes a tag; `None` if there is none.
    pub async fn delete_tag(
        &self,
        repository_id: i32,
        tag: &str,
        rules: &config::Push,
    ) -> Result<Option<Deleted>, TagError> {
        self.transaction(async |transaction| {
            let now_ms = transaction.turn(repository_id).await?;
            let params = [repository_id.into(), tag.into(), now_ms.into()];
            let rows = transaction.query(CURRENT, &params).await?;
            let Some(row) = rows.first() else { return Ok(None) };
            let (id, immutable) = (row.get(0)?, row.get(1)?);
            let manifest: Option<i32> = row.get(2)?;
            let digest = row.get::<Option<String>>(3)?.unwrap_or_default();
            if rules.immutable_tags && immutable {
                return Err(TagError::Immutable(tag.to_owned()));
            }
            transaction.end(repository_id, &[(id, tag)], now_ms, rules).await?;
            if let Some(manifest) = manifest {
                let bare = !is_cosign_tag(tag);
                transaction.bury(repository_id, (manifest, &digest), bare, now_ms, rules).await?;
            }
            Ok(Some(Deleted { digest, tags: vec![tag.to_owned()] }))
        })
        .await
    }

    /// Deletes every tag of a manifest, the hidden ones too; `None` if it has none.
    pub async fn delete_manifest(
        &self,
        repository_id: i32,
        digest: &str,
        rules: &config::Push,
    ) -> Result<Option<Deleted>, TagError> {
        self.transaction(async |transaction| {
            let now_ms = transaction.turn(repository_id).await?;
            let params = [repository_id.into(), digest.into(), now_ms.into()];
            let rows = transaction.query(OF_MANIFEST, &params).await?;
            let Some(first) = rows.first() else { return Ok(None) };
            let manifest: i32 = first.get(4)?;
            let (mut ending, mut tags) = (Vec::new(), Vec::new());
            for row in &rows {
                let (id, name): (i32, &str) = (row.get(0)?, row.get(1)?);
                let (hidden, immutable): (bool, bool) = (row.get(2)?, row.get(3)?);
                if rules.immutable_tags && immutable && !hidden {
                    return Err(TagError::Immutable(name.to_owned()));
                }
                ending.push((id, name));
                tags.extend((!hidden).then(|| name.to_owned()));
            }
            transaction.end(repository_id, &ending, now_ms, rules).await?;
            let bare = tags.iter().any(|tag| !is_cosign_tag(tag));
            transaction.bury(repository_id, (manifest, digest), bare, now_ms, rules).await?;
            Ok(Some(Deleted { digest: digest.to_owned(), tags }))
        })
        .await
    }

    /// Points a tag back to the manifest of `digest`; takes it away without one. Returns the digest
    /// of what it pointed to.
    pub async fn revert_tag(
        &self,
        repository: &Repository,
        tag: &str,
        digest: Option<&str>,
        rules: &config::Push,
    ) -> Result<Option<String>, TagError> {
        let Some(digest) = digest else {
            let deleted = self.delete_tag(repository.id, tag, rules).await?;
            return Ok(deleted.map(|deleted| deleted.digest));
        };
        self.transaction(async |transaction| {
            let now_ms = transaction.turn(repository.id).await?;
            let params = [repository.id.into(), tag.into(), now_ms.into()];
            let rows = transaction.query(CURRENT, &params).await?;
            let current = rows.first().map(|row| row.get::<Option<String>>(3)).transpose()?;
            let found = transaction.id(OF_DIGEST, &[repository.id.into(), digest.into()]).await?;
            let Some(manifest_id) = found else { return Ok(None) };
            let (lives, immutable, reversion) = (None, false, true);
            let target = Target { repository, manifest_id, tag, lives, immutable, reversion };
            transaction.retarget(&target, now_ms, rules).await?;
            Ok(current.flatten())
        })
        .await
    }
}

impl Transaction<'_> {
    /// Waits for the repository's tags to be ours alone, and for a moment at which none has ended.
    /// Milliseconds.
    pub(super) async fn turn(&mut self, repository_id: i32) -> Result<i64, CatalogError> {
        self.lock(lock_number(repository_id)).await?;
        for _ in 0..MOMENTS {
            let now_ms = Utc::now().timestamp_millis();
            let rows = self.query(ENDED, &[repository_id.into(), now_ms.into()]).await?;
            let ended: bool = rows.first().map(|row| row.get(0)).transpose()?.unwrap_or_default();
            if !ended {
                return Ok(now_ms);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Err(CatalogError::Unavailable("tags end at every moment".to_owned()))
    }

    /// Points a tag to a manifest. Returns whether a policy made it immutable.
    pub(super) async fn retarget(
        &mut self,
        target: &Target<'_>,
        now_ms: i64,
        rules: &config::Push,
    ) -> Result<bool, TagError> {
        let Target { repository, manifest_id, tag, .. } = *target;
        let params = [repository.id.into(), tag.into(), now_ms.into()];
        let rows = self.query(CURRENT, &params).await?;
        if let Some(row) = rows.first() {
            let (id, immutable): (i32, bool) = (row.get(0)?, row.get(1)?);
            if rules.immutable_tags && immutable {
                return Err(TagError::Immutable(tag.to_owned()));
            }
            self.query(FORGET_NOTIFICATIONS, &[Param::Ints(&[Some(id)])]).await?;
            self.query(END, &[now_ms.into(), Param::Ints(&[Some(id)])]).await?;
            let old: Option<i32> = row.get(2)?;
            if let Some(old) = old.filter(|old| *old != manifest_id && !is_cosign_tag(tag)) {
                let digest: Option<&str> = row.get(3)?;
                self.end_cosign(repository.id, (old, digest.unwrap_or_default()), now_ms).await?;
            }
        }
        let by_policy = rules.immutable_tags && self.policies_cover(repository, tag).await?;
        let immutable = by_policy || (rules.immutable_tags && target.immutable);
        let mortal = !immutable || rules.immutable_tags_can_expire;
        let lives_ms = target.lives.filter(|_| mortal).map(|lives| lives.as_millis());
        let end_ms =
            lives_ms.map(|ms| now_ms.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)));
        let params = [
            tag.into(),
            repository.id.into(),
            manifest_id.into(),
            now_ms.into(),
            end_ms.into(),
            immutable.into(),
            target.reversion.into(),
        ];
        let inserted = self.id(INSERT, &params).await?;
        inserted.ok_or_else(|| self.nothing_inserted("tag"))?;
        Ok(by_policy)
    }

    /// Keeps manifests for a while that no tag keeps for as long; for ever without `lives`.
    pub(super) async fn keep(
        &mut self,
        repository_id: i32,
        manifests: &[i32],
        lives: Option<Duration>,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let named: Vec<(String, i32)> =
            manifests.iter().map(|id| (format!("$temp-{}", Uuid::new_v4()), *id)).collect();
        let named = serde_json::json!(named).to_string();
        let lives_ms = lives.map(|lives| i64::try_from(lives.as_millis()).unwrap_or(i64::MAX));
        let end_ms = lives_ms.map(|ms| now_ms.saturating_add(ms));
        let params = [repository_id.into(), (&named).into(), now_ms.into(), end_ms.into()];
        self.query(INSERT_TEMPORARY, &params).await.map(drop)
    }

    /// Leaves a manifest that nothing keeps to Quay's garbage collector, which looks for tags that
    /// have ended long ago.
    pub(super) async fn give_up(
        &mut self,
        repository_id: i32,
        manifest_id: i32,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let named = serde_json::json!([(format!("$temp-{}", Uuid::new_v4()), manifest_id)]);
        let named = named.to_string();
        let params = [repository_id.into(), (&named).into(), now_ms.into(), 0_i64.into()];
        self.query(INSERT_TEMPORARY, &params).await.map(drop)
    }

    async fn policies_cover(
        &mut self,
        repository: &Repository,
        tag: &str,
    ) -> Result<bool, TagError> {
        let params = [repository.id.into(), repository.namespace_id.into()];
        for row in self.query(POLICIES, &params).await? {
            let policy = ImmutabilityPolicy::parse(row.get(0)?);
            let covers = policy.and_then(|policy| policy.covers(tag));
            if covers.ok_or(TagError::Declined("immutability_policy"))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Ends tags, and forgets what is kept of them.
    async fn end(
        &mut self,
        repository_id: i32,
        tags: &[(i32, &str)],
        now_ms: i64,
        rules: &config::Push,
    ) -> Result<(), CatalogError> {
        if rules.pull_stats {
            let names: Vec<&str> = tags.iter().map(|(_, name)| *name).collect();
            let params = [repository_id.into(), Param::Texts(&names)];
            self.query(FORGET_STATISTICS, &params).await?;
        }
        let ids: Vec<Option<i32>> = tags.iter().map(|(id, _)| Some(*id)).collect();
        self.query(FORGET_NOTIFICATIONS, &[Param::Ints(&ids)]).await?;
        self.query(END, &[now_ms.into(), Param::Ints(&ids)]).await.map(drop)
    }

    /// What goes with the tags of a manifest: cosign's, if `bare` says that another kind went, and
    /// those that keep its children.
    async fn bury(
        &mut self,
        repository_id: i32,
        manifest: (i32, &str),
        bare: bool,
        now_ms: i64,
        rules: &config::Push,
    ) -> Result<(), CatalogError> {
        if bare {
            self.end_cosign(repository_id, manifest, now_ms).await?;
        }
        if rules.reset_child_expiration {
            let params = [repository_id.into(), manifest.0.into(), now_ms.into()];
            self.query(END_CHILDREN, &params).await?;
        }
        Ok(())
    }

    async fn end_cosign(
        &mut self,
        repository_id: i32,
        (manifest_id, digest): (i32, &str),
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let Some(digest) = Digest::parse(digest) else { return Ok(()) };
        let [first, second, third] = &cosign_tags(&digest);
        let params = [
            repository_id.into(),
            now_ms.into(),
            manifest_id.into(),
            first.into(),
            second.into(),
            third.into(),
        ];
        self.query(END_COSIGN, &params).await.map(drop)
    }
}

/// Quay's number for the lock around a repository's tags (contract §4.5 step 1).
fn lock_number(repository_id: i32) -> i64 {
    let hash = Sha256::digest(format!("retarget_tag:{repository_id}"));
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    i64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a real Quay was seen to lock.
    #[test]
    fn locks_are_quays() {
        for (repository_id, number) in
            [(1, 6389721433979953103), (42, -7022194054569095283), (6, -5295330875591910528)]
        {
            assert_eq!(lock_number(repository_id), number);
        }
    }
}
