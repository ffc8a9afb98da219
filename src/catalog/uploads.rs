//! Uploads that somebody is in the middle of: rows of `blobupload` (contract §4.1).
//!
//! Python updates them without looking; we only ever change a row that is still what we read.

use std::time::Duration;

use chrono::{Local, NaiveDateTime};

use super::connection::Session;
use super::error::CatalogError;
use super::pulls::repository_named;
use super::value::{Param, Row};
use crate::oci::RepoName;

/// A row of `blobupload`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// `blobupload.id`
    pub id: i32,
    /// `repository.id`
    pub repository_id: i32,
    /// `blobupload.uuid`
    pub uuid: String,
    /// `imagestoragelocation.name` of where its bytes are.
    pub location: String,
    /// How far it has come.
    pub progress: Progress,
}

/// The columns that change with each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// `blobupload.byte_count`
    pub byte_count: u64,
    /// `blobupload.chunk_count`: requests that have added to it.
    pub chunk_count: i32,
    /// `blobupload.sha_state`: the running hash, in Python's format.
    pub sha_state: Option<String>,
    /// `blobupload.storage_metadata`: JSON of the storage's driver.
    pub storage_metadata: String,
    /// `blobupload.uncompressed_byte_count`: known after one request with a compressed body.
    pub uncompressed_byte_count: Option<u64>,
}

/// `created` is local time, as Python writes it: its clean-up removes uploads by their age.
const INSERT: &str = concat!(
    "INSERT INTO blobupload (repository_id, uuid, byte_count, sha_state, location_id, \
         storage_metadata, chunk_count, created) \
     SELECT r.id, $3, 0, $4, l.id, $6, 0, $7 \
     FROM repository r JOIN \"user\" n ON n.id = r.namespace_user_id \
     JOIN imagestoragelocation l ON l.name = $5",
    repository_named!(),
    " RETURNING id, repository_id"
);

/// Found only in its own repository (CVE-2026-32589).
const SELECT: &str = concat!(
    "SELECT u.byte_count, u.chunk_count, u.sha_state, u.storage_metadata, \
         u.uncompressed_byte_count, r.id, u.id, u.uuid, l.name \
     FROM repository r JOIN \"user\" n ON n.id = r.namespace_user_id \
     LEFT JOIN blobupload u ON u.repository_id = r.id AND u.uuid = $3 \
     LEFT JOIN imagestoragelocation l ON l.id = u.location_id",
    repository_named!()
);

/// Here and below: SQLite gives an id that is free again to the next upload.
const UPDATE: &str = "\
    UPDATE blobupload SET byte_count = $4, chunk_count = $5, sha_state = $6, \
        storage_metadata = $7, uncompressed_byte_count = $8 \
    WHERE id = $1 AND byte_count = $2 AND chunk_count = $3 \
        AND sha_state IS NOT DISTINCT FROM $9 AND uuid = $10 RETURNING id";

const PROGRESS: &str = "\
    SELECT u.byte_count, u.chunk_count, u.sha_state, u.storage_metadata, \
        u.uncompressed_byte_count FROM blobupload u WHERE u.id = $1 AND u.uuid = $2";

/// `$1` local time, `$2` the last one that was looked at.
const STALE: &str = "\
    SELECT u.byte_count, u.chunk_count, u.sha_state, u.storage_metadata, \
        u.uncompressed_byte_count, u.repository_id, u.id, u.uuid, l.name \
    FROM blobupload u JOIN imagestoragelocation l ON l.id = u.location_id \
    WHERE u.created <= $1 AND u.id > $2 ORDER BY u.id LIMIT $3";

const DELETE: &str = "DELETE FROM blobupload WHERE id = $1 AND uuid = $2";

impl Session<'_> {
    /// Begins an upload of no bytes so far. `None` without a repository.
    pub async fn begin_upload(
        &self,
        name: &RepoName,
        uuid: &str,
        location: &str,
        progress: &Progress,
    ) -> Result<Option<Upload>, CatalogError> {
        let created: NaiveDateTime = Local::now().naive_local();
        let params = [
            name.namespace.as_str().into(),
            name.repository.as_str().into(),
            uuid.into(),
            progress.sha_state.as_deref().into(),
            location.into(),
            progress.storage_metadata.as_str().into(),
            created.into(),
        ];
        let rows = self.write(INSERT, &params).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Upload {
            id: row.get(0)?,
            repository_id: row.get(1)?,
            uuid: uuid.to_owned(),
            location: location.to_owned(),
            progress: progress.clone(),
        }))
    }

    /// The upload of this uuid, if it belongs to the repository; `None` without a repository.
    pub async fn upload(
        &self,
        name: &RepoName,
        uuid: &str,
    ) -> Result<Option<Option<Upload>>, CatalogError> {
        let params = [name.namespace.as_str().into(), name.repository.as_str().into(), uuid.into()];
        let rows = self.query(SELECT, &params).await?;
        rows.first().map(Upload::from_row).transpose()
    }

    /// How far an upload has come by now; `None` when it has ended.
    pub async fn upload_progress(&self, upload: &Upload) -> Result<Option<Progress>, CatalogError> {
        let rows = self.query(PROGRESS, &upload.named()).await?;
        rows.first().map(Progress::from_row).transpose()
    }

    /// Notes how far an upload has come, if it is still where it was. Returns whether it was.
    pub async fn advance_upload(
        &self,
        upload: &Upload,
        next: &Progress,
    ) -> Result<bool, CatalogError> {
        let now = &upload.progress;
        let params = [
            upload.id.into(),
            signed(now.byte_count).into(),
            now.chunk_count.into(),
            signed(next.byte_count).into(),
            next.chunk_count.into(),
            next.sha_state.as_deref().into(),
            next.storage_metadata.as_str().into(),
            next.uncompressed_byte_count.map(signed).into(),
            now.sha_state.as_deref().into(),
            upload.uuid.as_str().into(),
        ];
        Ok(!self.write(UPDATE, &params).await?.is_empty())
    }

    /// Up to `limit` uploads that began as long ago as `age`, after the one whose id is `after`.
    pub async fn stale_uploads(
        &self,
        age: Duration,
        after: i32,
        limit: u32,
    ) -> Result<Vec<Upload>, CatalogError> {
        let before = Local::now().naive_local() - age;
        let params = [before.into(), after.into(), i64::from(limit).into()];
        let rows = self.query(STALE, &params).await?;
        rows.iter().filter_map(|row| Upload::from_row(row).transpose()).collect()
    }

    /// Forgets an upload, wherever it is by now.
    pub async fn forget_upload(&self, upload: &Upload) -> Result<(), CatalogError> {
        self.execute(DELETE, &upload.named()).await
    }
}

impl Upload {
    fn named(&self) -> [Param<'_>; 2] {
        [self.id.into(), self.uuid.as_str().into()]
    }

    fn from_row(row: &Row) -> Result<Option<Self>, CatalogError> {
        let Some(id) = row.get(6)? else { return Ok(None) };
        Ok(Some(Self {
            id,
            repository_id: row.get(5)?,
            uuid: row.get(7)?,
            location: row.get(8)?,
            progress: Progress::from_row(row)?,
        }))
    }
}

impl Progress {
    /// Its columns are the first five.
    fn from_row(row: &Row) -> Result<Self, CatalogError> {
        let unsigned = |count: i64| u64::try_from(count).unwrap_or_default();
        Ok(Self {
            byte_count: unsigned(row.get(0)?),
            chunk_count: row.get(1)?,
            sha_state: row.get(2)?,
            storage_metadata: row.get::<Option<String>>(3)?.unwrap_or_default(),
            uncompressed_byte_count: row.get::<Option<i64>>(4)?.map(unsigned),
        })
    }
}

/// As the database has it.
pub(super) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
