//! What a pull reads: a manifest by tag, a manifest by digest, a blob. One statement each.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{Local, Utc};

use super::connection::Session;
use super::enums::Enums;
use super::error::CatalogError;
use super::performer::{Entity, Performer, per_entity};
use super::value::{Param, Row};
use crate::blobs::BlobPath;
use crate::oci::{Digest, EMPTY_LAYER, RepoName};
use crate::rounds::Rounds;

/// A repository that exists and is not marked for deletion (contract §3.3).
#[derive(Debug)]
pub struct Repository {
    /// `repository.id`
    pub id: i32,
    /// `user.id` of the namespace.
    pub namespace_id: i32,
    /// Whether its visibility is `public`.
    pub public: bool,
    /// `repositorykind.name`: `image`, or `application`, which is never served.
    pub kind: String,
    /// Whether the namespace has no `stripe_id`.
    pub free_namespace: bool,
    /// Whether the namespace is a cache of another registry (contract §3.8).
    pub proxy_cache: bool,
}

/// A stored manifest.
#[derive(Debug)]
pub struct Manifest {
    /// Its digest, as stored.
    pub digest: String,
    /// `mediatype.name`
    pub media_type: String,
    /// The bytes that were pushed.
    pub bytes: Bytes,
}

/// What was found for a manifest request.
#[derive(Debug)]
pub struct ManifestLookup {
    /// The repository of the request.
    pub repository: Repository,
    /// Who asked, where the token names somebody who exists.
    pub performer: Option<Performer>,
    /// The manifest, if it is alive.
    pub manifest: Option<Manifest>,
    /// Whether the tag existed once. Only set for tags, when there is no manifest.
    pub expired: bool,
}

/// What was found for a blob request.
#[derive(Debug)]
pub struct BlobLookup {
    /// The repository of the request.
    pub repository: Repository,
    /// The blob, if this repository has it.
    pub blob: Option<Arc<Blob>>,
}

/// A blob's row and where its bytes are.
#[derive(Debug)]
pub struct Blob {
    /// `imagestorage.image_size`, in bytes.
    pub size: Option<u64>,
    /// How its path is made.
    pub stored_at: StoredAt,
    /// `imagestoragelocation.name` of every placement.
    pub locations: Vec<String>,
}

/// How the path of a blob is made (contract §5.1).
#[derive(Debug, PartialEq, Eq)]
pub enum StoredAt {
    /// By its digest.
    ContentAddress,
    /// By `imagestorage.uuid`, in storages older than content addresses.
    SharedImages(String),
}

impl StoredAt {
    /// The path of the blob of this digest; `None` where its row has no usable one.
    pub fn path(&self, digest: &Digest) -> Option<BlobPath> {
        match self {
            Self::ContentAddress => Some(BlobPath::content_address(digest)),
            Self::SharedImages(uuid) => BlobPath::shared_images(uuid),
        }
    }
}

/// A repository's columns, the first six of every statement here.
macro_rules! repository_columns {
    () => {
        "r.id, r.namespace_user_id, r.visibility_id, r.kind_id, n.stripe_id IS NULL, \
         EXISTS (SELECT 1 FROM proxycacheconfig x WHERE x.organization_id = n.id)"
    };
}
pub(super) use repository_columns;

/// Which repository: `$1` namespace, `$2` name, marked for deletion never (contract §3.3).
macro_rules! repository_named {
    () => {
        " WHERE n.username = $1 AND r.name = $2 AND r.state <> 3"
    };
}
pub(super) use repository_named;

impl Repository {
    pub(super) fn from_row(row: &Row, enums: &Enums) -> Result<Self, CatalogError> {
        Ok(Self {
            id: row.get(0)?,
            namespace_id: row.get(1)?,
            public: enums.name("visibility", row.get(2)?)? == "public",
            kind: enums.name("repositorykind", row.get(3)?)?.to_owned(),
            free_namespace: row.get(4)?,
            proxy_cache: row.get(5)?,
        })
    }
}

/// `$3` tag, `$4` now in milliseconds (contract §3.4).
fn by_tag(entity: &Entity) -> &'static str {
    per_entity!(
        entity,
        ", m.digest, m.media_type_id, m.manifest_bytes, \
         m.id IS NULL AND EXISTS (SELECT 1 FROM tag t WHERE t.repository_id = r.id \
             AND t.name = $3 AND t.lifetime_end_ms <= $4)",
        " FROM repository r JOIN \"user\" n ON n.id = r.namespace_user_id \
         LEFT JOIN manifest m ON m.id = (SELECT t.manifest_id FROM tag t \
             WHERE t.repository_id = r.id AND t.name = $3 AND NOT t.hidden \
             AND (t.lifetime_end_ms IS NULL OR t.lifetime_end_ms > $4) LIMIT 1)"
    )
}

/// `$3` digest. Alive through a tag of its own, hidden or not, or through one of its parent
/// (contract §3.5).
fn by_digest(entity: &Entity) -> &'static str {
    per_entity!(
        entity,
        ", m.digest, m.media_type_id, m.manifest_bytes, false",
        " FROM repository r JOIN \"user\" n ON n.id = r.namespace_user_id \
         LEFT JOIN manifest m ON m.repository_id = r.id AND m.digest = $3 AND ( \
             EXISTS (SELECT 1 FROM tag t WHERE t.manifest_id = m.id \
                 AND (t.lifetime_end_ms IS NULL OR t.lifetime_end_ms > $4)) \
             OR EXISTS (SELECT 1 FROM manifestchild c JOIN tag t ON t.manifest_id = c.manifest_id \
                 WHERE c.child_manifest_id = m.id \
                 AND (t.lifetime_end_ms IS NULL OR t.lifetime_end_ms > $4)))"
    )
}

/// `$3` digest (contract §3.6): what was uploaded here, else what a manifest here refers to. `$4` now:
/// whoever is told that a blob is there goes on to name it, so one that is about to be collected is
/// not shown.
const BLOB: &str = concat!(
    "SELECT ",
    repository_columns!(),
    ", s.id, s.image_size, s.cas_path, s.uuid, p.location_id \
     FROM repository r JOIN \"user\" n ON n.id = r.namespace_user_id \
     LEFT JOIN imagestorage s ON s.id = COALESCE( \
         (SELECT b.id FROM imagestorage b JOIN uploadedblob u ON u.blob_id = b.id \
             WHERE u.repository_id = r.id AND b.content_checksum = $3 AND u.expires_at > $4 \
             LIMIT 1), \
         (SELECT b.id FROM imagestorage b JOIN manifestblob u ON u.blob_id = b.id \
             WHERE u.repository_id = r.id AND b.content_checksum = $3 LIMIT 1)) \
     LEFT JOIN imagestorageplacement p ON p.storage_id = s.id",
    repository_named!()
);

/// The empty layer is everybody's.
const EMPTY_LAYER_BLOB: &str = concat!(
    "SELECT ",
    repository_columns!(),
    ", s.id, s.image_size, s.cas_path, s.uuid, p.location_id \
     FROM repository r JOIN \"user\" n ON n.id = r.namespace_user_id \
     LEFT JOIN imagestorage s ON s.id = (SELECT b.id FROM imagestorage b \
         WHERE b.content_checksum = $3 LIMIT 1) \
     LEFT JOIN imagestorageplacement p ON p.storage_id = s.id",
    repository_named!()
);

const REPOSITORY: &str = concat!(
    "SELECT ",
    repository_columns!(),
    " FROM repository r JOIN \"user\" n ON n.id = r.namespace_user_id",
    repository_named!()
);

/// What is asked of a pull, by many at once when a cluster starts.
#[derive(Default)]
pub(super) struct Reads {
    manifests: Arc<Rounds<(RepoName, Wanted, Entity), Answer<ManifestLookup>>>,
    blobs: Arc<Rounds<(RepoName, Digest), Answer<BlobLookup>>>,
}

type Answer<T> = Result<Found<T>, CatalogError>;

/// What everybody in a round gets; `None` without a repository.
pub type Found<T> = Option<Arc<T>>;

/// Which manifest.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Wanted {
    Tag(String),
    Digest(String),
}

impl Session<'_> {
    /// The manifest that `tag` points to, or `None` without a repository.
    pub async fn manifest_by_tag(
        &self,
        name: &RepoName,
        tag: &str,
        entity: &Entity,
    ) -> Result<Found<ManifestLookup>, CatalogError> {
        self.manifest(name, Wanted::Tag(tag.to_owned()), entity).await
    }

    /// The manifest of this digest if it is alive, or `None` without a repository.
    pub async fn manifest_by_digest(
        &self,
        name: &RepoName,
        digest: &str,
        entity: &Entity,
    ) -> Result<Found<ManifestLookup>, CatalogError> {
        self.manifest(name, Wanted::Digest(digest.to_owned()), entity).await
    }

    async fn manifest(
        &self,
        name: &RepoName,
        wanted: Wanted,
        entity: &Entity,
    ) -> Result<Found<ManifestLookup>, CatalogError> {
        let question = (name.clone(), wanted, entity.clone());
        let (catalog, route, asked) = (self.catalog.clone(), self.route, question.clone());
        let read = async move {
            let (name, wanted, entity) = &asked;
            let found = catalog.session(route).read_manifest(name, wanted, entity).await?;
            Ok(found.map(Arc::new))
        };
        self.catalog.reads.manifests.ask(question, self.catalog.wait(), read).await
    }

    async fn read_manifest(
        &self,
        name: &RepoName,
        wanted: &Wanted,
        entity: &Entity,
    ) -> Result<Option<ManifestLookup>, CatalogError> {
        let (sql, reference) = match wanted {
            Wanted::Tag(tag) => (by_tag(entity), tag),
            Wanted::Digest(digest) => (by_digest(entity), digest),
        };
        let now_ms = Utc::now().timestamp_millis();
        let mut params: Vec<Param<'_>> = vec![
            name.namespace.as_str().into(),
            name.repository.as_str().into(),
            reference.into(),
            now_ms.into(),
        ];
        params.extend(entity.reference().map(Param::from));
        if let Entity::AppToken(_) = entity {
            params.push(Local::now().naive_local().into());
        }
        let rows = self.query(sql, &params).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let enums = self.enums().await?;
        let digest: Option<String> = row.get(6)?;
        let manifest = match digest {
            None => None,
            Some(digest) => Some(Manifest {
                digest,
                media_type: enums.name("mediatype", row.get(7)?)?.to_owned(),
                bytes: Bytes::copy_from_slice(row.get::<&str>(8)?.as_bytes()),
            }),
        };
        Ok(Some(ManifestLookup {
            repository: Repository::from_row(row, enums)?,
            performer: Performer::from_row(entity, row, 10)?,
            manifest,
            expired: row.get(9)?,
        }))
    }

    /// The repository alone, as a lookup that finds no blob.
    pub async fn repository(&self, name: &RepoName) -> Result<Found<BlobLookup>, CatalogError> {
        let params = [name.namespace.as_str().into(), name.repository.as_str().into()];
        let rows = self.query(REPOSITORY, &params).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let repository = Repository::from_row(row, self.enums().await?)?;
        Ok(Some(Arc::new(BlobLookup { repository, blob: None })))
    }

    /// The blob of this digest as `name` sees it, or `None` without a repository.
    pub async fn blob(
        &self,
        name: &RepoName,
        digest: &Digest,
    ) -> Result<Found<BlobLookup>, CatalogError> {
        let question = (name.clone(), digest.clone());
        let (catalog, route, asked) = (self.catalog.clone(), self.route, question.clone());
        let read = async move {
            let (name, digest) = &asked;
            Ok(catalog.session(route).read_blob(name, digest).await?.map(Arc::new))
        };
        self.catalog.reads.blobs.ask(question, self.catalog.wait(), read).await
    }

    async fn read_blob(
        &self,
        name: &RepoName,
        digest: &Digest,
    ) -> Result<Option<BlobLookup>, CatalogError> {
        let sql = if digest.as_str() == EMPTY_LAYER { EMPTY_LAYER_BLOB } else { BLOB };
        let digest = digest.as_str();
        let params = [
            name.namespace.as_str().into(),
            name.repository.as_str().into(),
            digest.into(),
            Utc::now().naive_utc().into(),
        ];
        // Everybody's has no end.
        let params = if digest == EMPTY_LAYER { &params[..3] } else { &params[..] };
        let rows = self.query(sql, params).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let enums = self.enums().await?;
        let repository = Repository::from_row(row, enums)?;
        if row.get::<Option<i32>>(6)?.is_none() {
            return Ok(Some(BlobLookup { repository, blob: None }));
        }
        let by_digest: bool = row.get(8)?;
        let mut blob = Blob {
            size: row.get::<Option<i64>>(7)?.and_then(|size| u64::try_from(size).ok()),
            stored_at: match by_digest {
                true => StoredAt::ContentAddress,
                false => StoredAt::SharedImages(row.get(9)?),
            },
            locations: Vec::new(),
        };
        for row in &rows {
            if let Some(location) = row.get::<Option<i32>>(10)? {
                blob.locations.push(enums.name("imagestoragelocation", location)?.to_owned());
            }
        }
        Ok(Some(BlobLookup { repository, blob: Some(Arc::new(blob)) }))
    }
}
