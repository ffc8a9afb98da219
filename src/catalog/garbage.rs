//! Rows that nothing refers to any more (contract §3.4-§3.6).
//!
//! As in Quay, all that goes is found from a tag that is past its namespace's window, or from an
//! upload of a blob that has run out: neither is ever given back by itself. What such a batch sets
//! free goes in the same transaction, so that none of it is forgotten when the process ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{NaiveDateTime, Utc};

use super::connection::Session;
use super::error::CatalogError;
use super::pulls::StoredAt;
use super::tag_changes::among;
use super::transaction::Transaction;
use super::value::{Param, Sql};
use crate::config;
use crate::oci::EMPTY_LAYER;

/// Tags, and uploads of blobs, that one transaction is about.
const BATCH: i64 = 100;

/// Rows that are gone, by table.
#[derive(Debug, Default)]
pub struct Removed(pub BTreeMap<&'static str, u64>);

/// A blob whose row is gone. Its bytes may be another's by the time that they are looked at.
#[derive(Debug)]
pub struct FreedBlob {
    /// `imagestorage.content_checksum`
    pub digest: Option<String>,
    /// Where its bytes are, below the root of each storage.
    pub stored_at: StoredAt,
    /// The storages that have it.
    pub locations: Vec<String>,
    /// `imagestorage.image_size`, bytes.
    pub size: u64,
}

/// `$1` the latest end of a tag that may go at all, `$2` now.
const EXPIRED: &str = "\
    SELECT t.id FROM tag t JOIN repository r ON r.id = t.repository_id \
    JOIN \"user\" n ON n.id = r.namespace_user_id \
    WHERE t.lifetime_end_ms <= $1 \
    AND t.lifetime_end_ms <= $2 - n.removed_tag_expiration_s * 1000 \
    AND NOT (t.immutable AND $3) ORDER BY t.lifetime_end_ms LIMIT $4";

/// Of those, `$1`, the ones that are still as old as `$2`, and nobody's else.
const THESE_TAGS: Sql = Sql {
    postgres: "\
        SELECT id, manifest_id FROM tag WHERE id = ANY ($1) AND lifetime_end_ms <= $2 \
        FOR UPDATE SKIP LOCKED",
    sqlite: "\
        SELECT id, manifest_id FROM tag WHERE id IN (SELECT value FROM json_each($1)) \
        AND lifetime_end_ms <= $2",
};

/// Unless the name lives on; `$2` now.
const DELETE_TAG_STATISTICS: Sql = among!(
    "DELETE FROM tagpullstatistics WHERE id IN ( \
         SELECT s.id FROM tag t JOIN tagpullstatistics s \
         ON s.repository_id = t.repository_id AND s.tag_name = t.name \
         WHERE t.id ",
    1,
    " AND NOT EXISTS (SELECT 1 FROM tag o WHERE o.repository_id = t.repository_id \
         AND o.name = t.name AND (o.lifetime_end_ms IS NULL OR o.lifetime_end_ms > $2))) \
     RETURNING id"
);

const DELETE_NOTIFICATIONS: Sql =
    among!("DELETE FROM tagnotificationsuccess WHERE tag_id ", 1, " RETURNING id");

const DELETE_TAGS: Sql = among!("DELETE FROM tag WHERE id ", 1, " RETURNING id");

/// Against a push that is about to point a tag to them: it waits, and then finds them gone.
const LOCK_MANIFESTS: Sql = Sql {
    postgres: "SELECT id FROM manifest WHERE id = ANY ($1) ORDER BY id FOR UPDATE",
    sqlite: "SELECT id FROM manifest WHERE false",
};

/// No tag, dead ones included; no parent; and no referrer, which itself is kept for ever by a hidden
/// tag until somebody deletes it.
const UNREFERENCED: Sql = among!(
    "SELECT m.id FROM manifest m \
     WHERE NOT EXISTS (SELECT 1 FROM tag t WHERE t.manifest_id = m.id) \
     AND NOT EXISTS (SELECT 1 FROM manifestchild c WHERE c.child_manifest_id = m.id) \
     AND NOT EXISTS (SELECT 1 FROM manifest r \
         WHERE r.repository_id = m.repository_id AND r.subject = m.digest) AND m.id ",
    1
);

/// What a manifest was the parent or the referrer of.
const CHILDREN: Sql = among!("SELECT child_manifest_id FROM manifestchild WHERE manifest_id ", 1);
const SUBJECTS: Sql = among!(
    "SELECT s.id FROM manifest m JOIN manifest s \
     ON s.repository_id = m.repository_id AND s.digest = m.subject WHERE m.id ",
    1
);

const DELETE_CHILDREN: Sql =
    among!("DELETE FROM manifestchild WHERE manifest_id ", 1, " RETURNING id");

const DELETE_BLOBS: Sql =
    among!("DELETE FROM manifestblob WHERE manifest_id ", 1, " RETURNING repository_id, blob_id");

macro_rules! insert_uploaded {
    ($rows:literal, $repository:literal, $blob:literal) => {
        concat!(
            "INSERT INTO uploadedblob (repository_id, blob_id, uploaded_at, expires_at) SELECT ",
            $repository,
            ", ",
            $blob,
            ", $2, $3 FROM ",
            $rows,
            " WHERE NOT EXISTS (SELECT 1 FROM manifestblob b WHERE b.repository_id = ",
            $repository,
            " AND b.blob_id = ",
            $blob,
            ")"
        )
    };
}

/// `$1` repositories and blobs, in JSON, as if they had been uploaded there at `$2`: whoever was told
/// that such a blob is there may yet name it.
const INSERT_UPLOADED: Sql = Sql {
    postgres: insert_uploaded!(
        "json_array_elements($1::json) e",
        "(e ->> 0)::int4",
        "(e ->> 1)::int4"
    ),
    sqlite: insert_uploaded!("json_each($1) e", "(e.value ->> 0)", "(e.value ->> 1)"),
};

const DELETE_MANIFEST_LABELS: Sql =
    among!("DELETE FROM manifestlabel WHERE manifest_id ", 1, " RETURNING label_id");

const DELETE_LABELS: Sql = among!(
    "DELETE FROM label WHERE NOT EXISTS ( \
         SELECT 1 FROM manifestlabel m WHERE m.label_id = label.id) AND id ",
    1,
    " RETURNING id"
);

const DELETE_SECURITY: Sql =
    among!("DELETE FROM manifestsecuritystatus WHERE manifest_id ", 1, " RETURNING id");

const DELETE_STATISTICS: Sql = among!(
    "DELETE FROM manifestpullstatistics WHERE id IN ( \
         SELECT s.id FROM manifest m JOIN manifestpullstatistics s \
         ON s.repository_id = m.repository_id AND s.manifest_digest = m.digest WHERE m.id ",
    1,
    ") RETURNING id"
);

/// Counts that nobody keeps up to date are begun anew by Quay's worker, as after a push (§4.7).
const VOID_REPOSITORY_COUNTS: Sql = among!(
    "UPDATE quotarepositorysize \
     SET size_bytes = 0, backfill_start_ms = NULL, backfill_complete = false \
     WHERE backfill_start_ms IS NOT NULL \
     AND repository_id IN (SELECT m.repository_id FROM manifest m WHERE m.id ",
    1,
    ")"
);
const VOID_NAMESPACE_COUNTS: Sql = among!(
    "UPDATE quotanamespacesize \
     SET size_bytes = 0, backfill_start_ms = NULL, backfill_complete = false \
     WHERE backfill_start_ms IS NOT NULL AND namespace_user_id IN ( \
         SELECT r.namespace_user_id FROM manifest m JOIN repository r ON r.id = m.repository_id \
         WHERE m.id ",
    1,
    ")"
);

const DELETE_MANIFESTS: Sql = among!("DELETE FROM manifest WHERE id ", 1, " RETURNING id");

/// Uploads of blobs that ran out before `$1`.
const RUN_OUT: &str =
    "SELECT id FROM uploadedblob WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2";

const DELETE_UPLOADED: Sql =
    among!("DELETE FROM uploadedblob WHERE id ", 1, " AND expires_at <= $2 RETURNING blob_id");

/// Against a push or a mount that is about to name them.
const LOCK_STORAGES: Sql = Sql {
    postgres: "SELECT id FROM imagestorage WHERE id = ANY ($1) ORDER BY id FOR UPDATE",
    sqlite: "SELECT id FROM imagestorage WHERE false",
};

/// In no repository. The empty layer `$2` is everybody's; without a placement it is one that Quay is
/// still fetching from another registry.
const ORPHANS: Sql = among!(
    "SELECT s.id, s.content_checksum, s.cas_path, s.uuid, s.image_size, p.location_id \
     FROM imagestorage s JOIN imagestorageplacement p ON p.storage_id = s.id \
     WHERE NOT EXISTS (SELECT 1 FROM manifestblob b WHERE b.blob_id = s.id) \
     AND NOT EXISTS (SELECT 1 FROM uploadedblob u WHERE u.blob_id = s.id) \
     AND s.content_checksum IS DISTINCT FROM $2 AND s.id ",
    1
);

const DELETE_PLACEMENTS: Sql =
    among!("DELETE FROM imagestorageplacement WHERE storage_id ", 1, " RETURNING id");
const DELETE_SIGNATURES: Sql =
    among!("DELETE FROM imagestoragesignature WHERE storage_id ", 1, " RETURNING id");
const DELETE_STORAGES: Sql = among!("DELETE FROM imagestorage WHERE id ", 1, " RETURNING id");

const KNOWN_BLOBS: Sql =
    among!("SELECT DISTINCT content_checksum FROM imagestorage WHERE content_checksum ", 1);

const KNOWN_UPLOADS: Sql = among!("SELECT uuid FROM blobupload WHERE uuid ", 1);

const SET_TAG_EXPIRATION: &str = "\
    UPDATE \"user\" SET removed_tag_expiration_s = $1 WHERE removed_tag_expiration_s <> $1";

impl Session<'_> {
    /// Removes tags that nobody can bring back, and the manifests that only they kept: some of them,
    /// nothing where there are no more. Whoever could see such a tag, or a blob, `rules` say for how
    /// long it is kept after that.
    pub async fn collect_tags(&self, rules: &config::Push) -> Result<Removed, CatalogError> {
        let now_ms = Utc::now().timestamp_millis();
        let keep_ms = i64::try_from(rules.temp_tag_expiration.as_millis()).unwrap_or(i64::MAX);
        let before_ms = now_ms.saturating_sub(keep_ms);
        let stay = rules.immutable_tags && !rules.immutable_tags_can_expire;
        let params = [before_ms.into(), now_ms.into(), stay.into(), BATCH.into()];
        let expired = ids(&self.query(EXPIRED, &params).await?)?;
        if expired.is_empty() {
            return Ok(Removed::default());
        }
        self.transaction(async |transaction| {
            let mut removed = Removed::default();
            let params = [Param::Ints(&expired), before_ms.into()];
            let rows = transaction.query(THESE_TAGS, &params).await?;
            let tags = ids(&rows)?;
            let manifests: BTreeSet<i32> = rows
                .iter()
                .filter_map(|row| row.get::<Option<i32>>(1).transpose())
                .collect::<Result<_, _>>()?;
            let these = [Param::Ints(&tags), now_ms.into()];
            for (table, sql) in [
                ("tagnotificationsuccess", DELETE_NOTIFICATIONS),
                ("tagpullstatistics", DELETE_TAG_STATISTICS),
                ("tag", DELETE_TAGS),
            ] {
                // Only the statistics look at the time.
                let params = if table == "tagpullstatistics" { &these[..] } else { &these[..1] };
                removed.count(table, transaction.query(sql, params).await?.len());
            }
            transaction.collect_manifests(manifests, rules, &mut removed).await?;
            Ok(removed)
        })
        .await
    }

    /// Removes what is known of uploads of blobs that ran out as long ago as `keep`, and the rows of
    /// blobs that are then nowhere: some of them. The bytes of those that it returns may go, once no
    /// other row names them.
    pub async fn collect_blobs(
        &self,
        keep: Duration,
    ) -> Result<(Removed, Vec<FreedBlob>), CatalogError> {
        let before = Utc::now().naive_utc() - keep;
        let run_out = self.query(RUN_OUT, &[before.into(), BATCH.into()]).await?;
        let mut uploaded = Vec::new();
        for row in &run_out {
            uploaded.push(row.get::<i64>(0)?);
        }
        if uploaded.is_empty() {
            return Ok((Removed::default(), Vec::new()));
        }
        let enums = self.enums().await?;
        self.transaction(async |transaction| {
            let mut removed = Removed::default();
            let params = [Param::BigInts(&uploaded), before.into()];
            let gone = transaction.query(DELETE_UPLOADED, &params).await?;
            removed.count("uploadedblob", gone.len());
            let candidates = distinct(&gone)?;
            transaction.query(LOCK_STORAGES, &[Param::Ints(&candidates)]).await?;
            let params = [Param::Ints(&candidates), EMPTY_LAYER.into()];
            let mut blobs: BTreeMap<i32, FreedBlob> = BTreeMap::new();
            for row in &transaction.query(ORPHANS, &params).await? {
                let location = enums.name("imagestoragelocation", row.get(5)?)?.to_owned();
                let by_digest: bool = row.get(2)?;
                let freed = FreedBlob {
                    digest: row.get(1)?,
                    stored_at: match by_digest {
                        true => StoredAt::ContentAddress,
                        false => StoredAt::SharedImages(row.get(3)?),
                    },
                    locations: Vec::new(),
                    size: row
                        .get::<Option<i64>>(4)?
                        .and_then(|size| u64::try_from(size).ok())
                        .unwrap_or_default(),
                };
                blobs.entry(row.get(0)?).or_insert(freed).locations.push(location);
            }
            let orphans: Vec<_> = blobs.keys().copied().map(Some).collect();
            let these = [Param::Ints(&orphans)];
            for (table, sql) in [
                ("imagestorageplacement", DELETE_PLACEMENTS),
                ("imagestoragesignature", DELETE_SIGNATURES),
                ("imagestorage", DELETE_STORAGES),
            ] {
                removed.count(table, transaction.query(sql, &these).await?.len());
            }
            Ok((removed, blobs.into_values().collect()))
        })
        .await
    }

    /// Those of `digests` that a row names, in whatever repository or in none.
    pub async fn known_blobs(&self, digests: &[&str]) -> Result<BTreeSet<String>, CatalogError> {
        let rows = self.query(KNOWN_BLOBS, &[Param::Texts(digests)]).await?;
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Those of `uuids` that are uploads.
    pub async fn known_uploads(&self, uuids: &[&str]) -> Result<BTreeSet<String>, CatalogError> {
        let rows = self.query(KNOWN_UPLOADS, &[Param::Texts(uuids)]).await?;
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Makes it the window of every namespace, seconds.
    pub async fn set_tag_expiration(&self, window: Duration) -> Result<(), CatalogError> {
        let seconds = i64::try_from(window.as_secs()).unwrap_or(i64::MAX);
        self.execute(SET_TAG_EXPIRATION, &[seconds.into()]).await
    }
}

impl Transaction<'_> {
    /// Removes those of `candidates` that nothing refers to, then what only they referred to, and so
    /// on.
    async fn collect_manifests(
        &mut self,
        mut candidates: BTreeSet<i32>,
        rules: &config::Push,
        removed: &mut Removed,
    ) -> Result<(), CatalogError> {
        let now = Utc::now().naive_utc();
        while !candidates.is_empty() {
            let ordered: Vec<_> = std::mem::take(&mut candidates).into_iter().map(Some).collect();
            self.query(LOCK_MANIFESTS, &[Param::Ints(&ordered)]).await?;
            let unreferenced = ids(&self.query(UNREFERENCED, &[Param::Ints(&ordered)]).await?)?;
            let these = Param::Ints(&unreferenced);
            if unreferenced.is_empty() {
                return Ok(());
            }
            for sql in [CHILDREN, SUBJECTS] {
                candidates.extend(ids(&self.query(sql, &[these]).await?)?.into_iter().flatten());
            }
            self.free_blobs(these, (now, now + rules.temp_tag_expiration), removed).await?;
            let labelled = self.query(DELETE_MANIFEST_LABELS, &[these]).await?;
            removed.count("manifestlabel", labelled.len());
            let labels = distinct(&labelled)?;
            if !rules.quotas.counted && rules.quotas.void_uncounted {
                self.query(VOID_REPOSITORY_COUNTS, &[these]).await?;
                self.query(VOID_NAMESPACE_COUNTS, &[these]).await?;
            }
            for (table, sql, params) in [
                ("label", DELETE_LABELS, Param::Ints(&labels)),
                ("manifestchild", DELETE_CHILDREN, these),
                ("manifestsecuritystatus", DELETE_SECURITY, these),
                ("manifestpullstatistics", DELETE_STATISTICS, these),
                ("manifest", DELETE_MANIFESTS, these),
            ] {
                removed.count(table, self.query(sql, &[params]).await?.len());
            }
        }
        Ok(())
    }

    /// Lets manifests' blobs go; each stays in its repository until the second of these times.
    async fn free_blobs(
        &mut self,
        manifests: Param<'_>,
        (now, until): (NaiveDateTime, NaiveDateTime),
        removed: &mut Removed,
    ) -> Result<(), CatalogError> {
        let rows = self.query(DELETE_BLOBS, &[manifests]).await?;
        removed.count("manifestblob", rows.len());
        let pairs: BTreeSet<(i32, i32)> = rows
            .iter()
            .map(|row| Ok((row.get(0)?, row.get(1)?)))
            .collect::<Result<_, CatalogError>>()?;
        let pairs = serde_json::json!(pairs).to_string();
        let params = [(&pairs).into(), now.into(), until.into()];
        self.query(INSERT_UPLOADED, &params).await.map(drop)
    }
}

impl Removed {
    /// How many rows there were.
    pub fn rows(&self) -> u64 {
        self.0.values().sum()
    }

    fn count(&mut self, table: &'static str, rows: usize) {
        if rows > 0 {
            *self.0.entry(table).or_default() += rows as u64;
        }
    }
}

/// The first column.
fn ids(rows: &[super::value::Row]) -> Result<Vec<Option<i32>>, CatalogError> {
    rows.iter().map(|row| row.get(0).map(Some)).collect()
}

/// The same, each once.
fn distinct(rows: &[super::value::Row]) -> Result<Vec<Option<i32>>, CatalogError> {
    let each: BTreeSet<_> = ids(rows)?.into_iter().collect();
    Ok(each.into_iter().collect())
}
