//! Manifests that are pushed: what has to be known before, and the rows (contract §4.4).
//!
//! Quay writes them in several transactions; here they are one, tag and labels included, so that
//! no manifest is ever without what keeps it.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{Local, Utc};

use super::connection::Session;
use super::enums::Enums;
use super::error::CatalogError;
use super::performer::{Entity, Performer, per_entity};
use super::pulls::{Blob, Repository, StoredAt, repository_columns, repository_named};
use super::quotas::{Crossed, Severity};
use super::tag_changes::{TagError, Target, among};
use super::transaction::Transaction;
use super::value::{Param, Sql};
use crate::config;
use crate::oci::manifest::{Label, PushedManifest, expires_after, is_immutable_label};
use crate::oci::{Digest, EMPTY_LAYER, RepoName};

/// Who changes what.
#[derive(Debug)]
pub struct Change {
    /// The repository of the request.
    pub repository: Repository,
    /// Who asked, where the token names somebody who exists.
    pub performer: Option<Performer>,
    /// `manifest.id` of what is there already, alive or not.
    pub manifest_id: Option<i32>,
}

/// A blob that a manifest may name.
#[derive(Debug)]
pub struct NamedBlob {
    /// `imagestorage.id`
    pub id: i32,
    /// Where its bytes are.
    pub blob: Blob,
}

/// A manifest that a list may name.
#[derive(Debug)]
pub struct StoredChild {
    /// `manifest.id`
    pub id: i32,
    /// `mediatype.name`
    pub media_type: String,
    /// Its length, bytes.
    pub size: i32,
}

/// What a manifest that is not there yet brings along.
#[derive(Debug, Default)]
pub struct Contents {
    /// Rows of `imagestorage`.
    pub blobs: Named,
    /// Rows of `manifest`.
    pub children: Named,
    /// Its labels.
    pub labels: Vec<Label>,
}

/// Rows that a manifest names.
#[derive(Debug, Default)]
pub struct Named {
    /// Their numbers, each once.
    pub ids: Vec<Option<i32>>,
    /// Their digests, in any order.
    pub digests: Vec<String>,
}

/// A manifest that is to be in a repository.
#[derive(Debug)]
pub struct NewManifest<'a> {
    /// Where.
    pub repository: &'a Repository,
    /// What it is called.
    pub digest: &'a Digest,
    /// The bytes that were pushed.
    pub text: &'a str,
    /// What they say.
    pub manifest: &'a PushedManifest,
    /// What it brings along; `None` where it was found to be there.
    pub contents: Option<Contents>,
    /// The tag that is to point to it; without one it is kept for a while.
    pub tag: Option<NewTag<'a>>,
}

/// A tag that is to point to a manifest.
#[derive(Clone, Copy, Debug)]
pub struct NewTag<'a> {
    /// Its name.
    pub name: &'a str,
    /// The queue of `repo_push` notifications, and what their bodies say after the uuid.
    pub notice: (&'a str, &'a str),
    /// What administrators are told of a quota that is reached: a JSON object.
    pub quota_notice: &'a str,
}

/// A manifest that is in a repository now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// With its tag.
    Yes {
        /// Whether a policy made the tag immutable.
        by_policy: bool,
    },
    /// It was there, or what it names was, and has been collected since; or the repository has gone.
    Gone,
    /// Without a tag, for Quay's garbage collector: the namespace's quota is used up.
    OverQuota,
}

/// Quay's `TEMP_TAG_EXPIRATION_SEC`: how long children and what was there already are kept.
const BRIEFLY: Duration = Duration::from_secs(300);

/// `$3` digest. Without one, nothing has it.
fn change(entity: &Entity) -> &'static str {
    per_entity!(
        entity,
        ", m.id",
        " FROM repository r JOIN \"user\" n ON n.id = r.namespace_user_id \
         LEFT JOIN manifest m ON m.repository_id = r.id AND m.digest = $3"
    )
}

/// `$1` `repository.id`, `$2` digests, `$3` the empty layer, which is everybody's.
const BLOBS: Sql = among!(
    "SELECT s.content_checksum, s.id, s.image_size, s.cas_path, s.uuid, p.location_id \
     FROM imagestorage s LEFT JOIN imagestorageplacement p ON p.storage_id = s.id \
     WHERE s.content_checksum ",
    2,
    " AND (s.content_checksum = $3 \
         OR EXISTS (SELECT 1 FROM uploadedblob u WHERE u.blob_id = s.id AND u.repository_id = $1) \
         OR EXISTS (SELECT 1 FROM manifestblob u WHERE u.blob_id = s.id AND u.repository_id = $1)) \
     ORDER BY s.id"
);

/// Dead or alive. The bytes of children are not read: they were when they were pushed.
const CHILDREN: Sql = among!(
    "SELECT digest, id, media_type_id, octet_length(manifest_bytes) FROM manifest \
     WHERE repository_id = $1 AND digest ",
    2
);

/// Not in a repository that is marked for deletion, nor in one that is gone.
const INSERT: &str = "\
    INSERT INTO manifest (repository_id, digest, media_type_id, manifest_bytes, \
        config_media_type, layers_compressed_size, subject, subject_backfilled, artifact_type, \
        artifact_type_backfilled) \
    SELECT r.id, $2, $3, $4, $5, $6, $7, true, $8, true FROM repository r \
    WHERE r.id = $1 AND r.state <> 3 ON CONFLICT DO NOTHING RETURNING id";

/// To stay there until we are done.
const EXISTING: Sql = Sql {
    postgres: "SELECT id FROM manifest WHERE repository_id = $1 AND digest = $2 FOR KEY SHARE",
    sqlite: "SELECT id FROM manifest WHERE repository_id = $1 AND digest = $2",
};

/// Only what is still there, and stays: as many rows as there is of it: `$3` numbers, `$4` digests. Numbers alone
/// would not do: SQLite gives the one of a row that was deleted to the next that comes.
macro_rules! connect {
    ($into:literal, $from:literal, $digest:literal) => {
        Sql {
            postgres: concat!(
                "INSERT INTO ",
                $into,
                " SELECT $1, $2, x.id FROM ",
                $from,
                " x WHERE x.id = ANY ($3) AND x.",
                $digest,
                " = ANY ($4) FOR KEY SHARE RETURNING id"
            ),
            sqlite: concat!(
                "INSERT INTO ",
                $into,
                " SELECT $1, $2, x.id FROM ",
                $from,
                " x WHERE x.id IN (SELECT value FROM json_each($3)) AND x.",
                $digest,
                " IN (SELECT value FROM json_each($4)) RETURNING id"
            ),
        }
    };
}

const INSERT_BLOBS: Sql = connect!(
    "manifestblob (repository_id, manifest_id, blob_id)",
    "imagestorage",
    "content_checksum"
);

const INSERT_CHILDREN: Sql =
    connect!("manifestchild (repository_id, manifest_id, child_manifest_id)", "manifest", "digest");

/// All that makes Quay's scanner look at a manifest.
const INSERT_UNSCANNED: &str = "\
    INSERT INTO manifestsecuritystatus (repository_id, manifest_id, index_status, error_json, \
        last_indexed, indexer_hash, indexer_version, metadata_json) \
    VALUES ($1, $2, 0, '{}', $3, '', 4, '{}') ON CONFLICT DO NOTHING";

impl Session<'_> {
    /// The repository and the performer of a change, and whether the manifest of `digest` is there
    /// already; `None` without a repository.
    pub async fn change(
        &self,
        name: &RepoName,
        digest: &str,
        entity: &Entity,
    ) -> Result<Option<Change>, CatalogError> {
        let mut params: Vec<Param<'_>> = vec![
            name.namespace.as_str().into(),
            name.repository.as_str().into(),
            digest.into(),
            // The statements about performers have it for something else.
            0_i64.into(),
        ];
        params.extend(entity.reference().map(Param::from));
        if let Entity::AppToken(_) = entity {
            params.push(Local::now().naive_local().into());
        }
        let rows = self.query(change(entity), &params).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Change {
            repository: Repository::from_row(row, self.enums().await?)?,
            performer: Performer::from_row(entity, row, 7)?,
            manifest_id: row.get(6)?,
        }))
    }

    /// Those of `digests` that a repository has as blobs.
    pub async fn named_blobs(
        &self,
        repository_id: i32,
        digests: &[&str],
    ) -> Result<HashMap<String, NamedBlob>, CatalogError> {
        let params = [repository_id.into(), Param::Texts(digests), EMPTY_LAYER.into()];
        let enums = self.enums().await?;
        let mut blobs: HashMap<String, NamedBlob> = HashMap::new();
        for row in &self.query(BLOBS, &params).await? {
            let (digest, id): (&str, i32) = (row.get(0)?, row.get(1)?);
            if !blobs.contains_key(digest) {
                let by_digest: bool = row.get(3)?;
                let blob = Blob {
                    size: row.get::<Option<i64>>(2)?.and_then(|size| u64::try_from(size).ok()),
                    stored_at: match by_digest {
                        true => StoredAt::ContentAddress,
                        false => StoredAt::SharedImages(row.get(4)?),
                    },
                    locations: Vec::new(),
                };
                blobs.insert(digest.to_owned(), NamedBlob { id, blob });
            }
            let location = row.get::<Option<i32>>(5)?;
            // A second row of the same digest is as good; one is enough.
            if let Some((named, location)) = blobs.get_mut(digest).zip(location)
                && named.id == id
            {
                let name = enums.name("imagestoragelocation", location)?.to_owned();
                named.blob.locations.push(name);
            }
        }
        Ok(blobs)
    }

    /// Those of `digests` that a repository has as manifests.
    pub async fn stored_children(
        &self,
        repository_id: i32,
        digests: &[&str],
    ) -> Result<HashMap<String, StoredChild>, CatalogError> {
        let params = [repository_id.into(), Param::Texts(digests)];
        let enums = self.enums().await?;
        let rows = self.query(CHILDREN, &params).await?;
        let children = rows.iter().map(|row| {
            let media_type = enums.name("mediatype", row.get(2)?)?.to_owned();
            Ok((row.get(0)?, StoredChild { id: row.get(1)?, media_type, size: row.get(3)? }))
        });
        children.collect()
    }

    /// Stores a manifest and points its tag to it, or keeps it for a while without: all of it or
    /// nothing.
    pub async fn store_manifest(
        &self,
        new: &NewManifest<'_>,
        rules: &config::Push,
    ) -> Result<Stored, TagError> {
        let enums = self.enums().await?;
        let stored =
            self.transaction(async |transaction| transaction.store(new, rules, enums).await).await;
        match stored {
            Err(TagError::Vanished) => Ok(Stored::Gone),
            stored => stored,
        }
    }
}

impl NewManifest<'_> {
    /// How long it is kept without a tag: a referrer for as long as nobody deletes it.
    fn lives_untagged(&self, rules: &config::Push) -> Option<Duration> {
        self.manifest.subject.is_none().then_some(rules.temp_tag_expiration)
    }
}

impl Transaction<'_> {
    async fn store(
        &mut self,
        new: &NewManifest<'_>,
        rules: &config::Push,
        enums: &Enums,
    ) -> Result<Stored, TagError> {
        let repository = new.repository;
        let now_ms = match new.tag {
            Some(_) => self.turn(repository.id).await?,
            None => Utc::now().timestamp_millis(),
        };
        let inserted = match &new.contents {
            Some(contents) => self.insert(new, contents, now_ms, rules, enums).await?,
            None => None,
        };
        let manifest_id = match inserted {
            Some(id) => id,
            None => {
                let params = [repository.id.into(), new.digest.as_str().into()];
                let Some(id) = self.id(EXISTING, &params).await? else { return Ok(Stored::Gone) };
                let lives = new.tag.map_or_else(|| new.lives_untagged(rules), |_| Some(BRIEFLY));
                self.keep(repository.id, &[id], lives, now_ms).await?;
                id
            }
        };
        let mut by_policy = false;
        if let Some(tag) = new.tag {
            if rules.quotas.enforced && self.is_over_quota(repository, &tag, rules).await? {
                if inserted.is_some() {
                    self.give_up(repository.id, manifest_id, now_ms).await?;
                }
                return Ok(Stored::OverQuota);
            }
            let obeyed = self.obeyed(manifest_id, new.manifest.is_list()).await?;
            let target = Target {
                repository,
                manifest_id,
                tag: tag.name,
                lives: obeyed.expires_after.as_deref().and_then(expires_after),
                immutable: obeyed.immutable.as_deref().is_some_and(is_immutable_label),
                reversion: false,
            };
            by_policy = self.retarget(&target, now_ms, rules).await?;
        }
        if let Some(queue) = &rules.replication_queue {
            self.replicate(manifest_id, repository.namespace_id, queue).await?;
        }
        if let Some(NewTag { notice: (queue, event), .. }) = new.tag {
            self.notify(repository.id, queue, event).await?;
        }
        Ok(Stored::Yes { by_policy })
    }

    /// Whether no tag may be moved any more, now that the manifest is counted.
    async fn is_over_quota(
        &mut self,
        repository: &Repository,
        tag: &NewTag<'_>,
        rules: &config::Push,
    ) -> Result<bool, CatalogError> {
        let standing = self.standing(repository.id).await?;
        let crossed = standing.and_then(|s| s.crossed(s.counted, rules.quotas.default_bytes));
        let Some(Crossed { severity, .. }) = crossed else { return Ok(false) };
        self.tell_administrators(repository.namespace_id, severity, tag.quota_notice).await?;
        Ok(severity == Severity::Reject)
    }

    /// Every row of a manifest; `None` where somebody else has just made it.
    async fn insert(
        &mut self,
        new: &NewManifest<'_>,
        contents: &Contents,
        now_ms: i64,
        rules: &config::Push,
        enums: &Enums,
    ) -> Result<Option<i32>, TagError> {
        let (repository, manifest) = (new.repository, new.manifest);
        let params = [
            repository.id.into(),
            new.digest.as_str().into(),
            enums.id("mediatype", manifest.media_type.as_str())?.into(),
            new.text.into(),
            manifest.config_media_type().into(),
            manifest.layers_compressed_size().into(),
            manifest.subject.as_ref().map(|subject| subject.digest.as_str()).into(),
            manifest.artifact_type.as_deref().into(),
        ];
        // What keeps the children comes first: they must not go before their parent is there.
        let children: Vec<i32> = contents.children.ids.iter().flatten().copied().collect();
        if !children.is_empty() {
            self.keep(repository.id, &children, Some(BRIEFLY), now_ms).await?;
        }
        let Some(id) = self.id(INSERT, &params).await? else { return Ok(None) };
        let of = [repository.id.into(), id.into()];
        if !contents.blobs.ids.is_empty() {
            self.connect(INSERT_BLOBS, of, &contents.blobs).await?;
        }
        self.count(repository, id, &contents.blobs.ids, &rules.quotas).await?;
        if !children.is_empty() {
            self.connect(INSERT_CHILDREN, of, &contents.children).await?;
        }
        let now = Utc::now().naive_utc();
        self.query(INSERT_UNSCANNED, &[of[0], of[1], now.into()]).await?;
        if new.tag.is_none() {
            self.keep(repository.id, &[id], new.lives_untagged(rules), now_ms).await?;
        }
        self.label(repository.id, id, &contents.labels, enums).await?;
        Ok(Some(id))
    }

    /// Connects a new manifest with what it names: all of it, or the garbage collector was quicker.
    async fn connect(
        &mut self,
        sql: Sql,
        of: [Param<'_>; 2],
        named: &Named,
    ) -> Result<(), TagError> {
        let digests: Vec<&str> = named.digests.iter().map(String::as_str).collect();
        let params = [of[0], of[1], Param::Ints(&named.ids), Param::Texts(&digests)];
        let connected = self.query(sql, &params).await?;
        if connected.len() == named.ids.len() { Ok(()) } else { Err(TagError::Vanished) }
    }
}
