//! Blobs that have arrived in a repository: the rows that name bytes which are durable by then
//! (contract §4.2, §4.3).

use std::time::Duration;

use chrono::Utc;
use uuid::Uuid;

use super::connection::Session;
use super::error::CatalogError;
use super::transaction::Transaction;
use super::uploads::{Upload, signed};
use super::value::Sql;
use crate::oci::Digest;

/// What became of an upload that was to be a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It is one.
    Blob,
    /// Its row is not what it was: another request has it.
    Moved,
}

/// An upload as it was read. Taking its row away is what makes a commit happen once.
const DELETE_UPLOAD: &str = "\
    DELETE FROM blobupload WHERE id = $1 AND byte_count = $2 AND chunk_count = $3 \
        AND sha_state IS NOT DISTINCT FROM $4 AND uuid = $5 RETURNING id";

/// Nothing forbids two rows of one digest; any is as good.
const STORAGE: Sql = Sql {
    // To stay there until we are done.
    postgres: "\
        SELECT id, image_size, uncompressed_size FROM imagestorage WHERE content_checksum = $1 \
        LIMIT 1 FOR KEY SHARE",
    sqlite: "\
        SELECT id, image_size, uncompressed_size FROM imagestorage WHERE content_checksum = $1 LIMIT 1",
};

/// `uploading` is what Quay writes, and nobody reads.
const INSERT_STORAGE: &str = "\
    INSERT INTO imagestorage (uuid, image_size, uncompressed_size, uploading, cas_path, \
        content_checksum) \
    VALUES ($1, $2, $3, true, true, $4) RETURNING id";

const FILL_SIZES: &str = "\
    UPDATE imagestorage SET image_size = COALESCE(image_size, $2), \
        uncompressed_size = COALESCE(uncompressed_size, $3) WHERE id = $1";

const INSERT_PLACEMENT: &str = "\
    INSERT INTO imagestorageplacement (storage_id, location_id) \
    SELECT $1, l.id FROM imagestoragelocation l WHERE l.name = $2 ON CONFLICT DO NOTHING";

/// Not in a repository that is marked for deletion, nor in one that is gone.
const INSERT_UPLOADED: &str = "\
    INSERT INTO uploadedblob (repository_id, blob_id, uploaded_at, expires_at) \
    SELECT r.id, $2, $3, $4 FROM repository r WHERE r.id = $1 AND r.state <> 3";

const WITHDRAW: &str = "\
    DELETE FROM uploadedblob WHERE repository_id = $1 \
        AND blob_id IN (SELECT id FROM imagestorage WHERE content_checksum = $2)";

impl Session<'_> {
    /// Makes a blob of an upload: `size` bytes that are in their place under `digest`. It is kept
    /// for `keep` until a manifest names it.
    pub async fn commit_upload(
        &self,
        upload: &Upload,
        digest: &Digest,
        size: u64,
        uncompressed_size: Option<u64>,
        keep: Duration,
    ) -> Result<Committed, CatalogError> {
        let progress = &upload.progress;
        self.transaction(async |transaction| {
            let taken = transaction
                .id(
                    DELETE_UPLOAD,
                    &[
                        upload.id.into(),
                        signed(progress.byte_count).into(),
                        progress.chunk_count.into(),
                        progress.sha_state.as_deref().into(),
                        upload.uuid.as_str().into(),
                    ],
                )
                .await?;
            if taken.is_none() {
                return Ok(Committed::Moved);
            }
            let storage =
                transaction.storage(digest, size, uncompressed_size, &upload.location).await?;
            transaction.link(upload.repository_id, storage, keep).await?;
            Ok(Committed::Blob)
        })
        .await
    }

    /// Takes back what [`Session::commit_upload`] has shown in a repository: its bytes are gone.
    pub async fn withdraw_blob(
        &self,
        repository_id: i32,
        digest: &Digest,
    ) -> Result<(), CatalogError> {
        self.execute(WITHDRAW, &[repository_id.into(), digest.as_str().into()]).await
    }

    /// Shows a blob that is stored already in another repository. Returns whether it is stored.
    pub async fn mount_blob(
        &self,
        repository_id: i32,
        digest: &Digest,
        keep: Duration,
    ) -> Result<bool, CatalogError> {
        self.transaction(async |transaction| {
            let rows = transaction.query(STORAGE, &[digest.as_str().into()]).await?;
            let Some(row) = rows.first() else { return Ok(false) };
            let storage = row.get(0)?;
            transaction.link(repository_id, storage, keep).await?;
            Ok(true)
        })
        .await
    }
}

impl Transaction<'_> {
    /// `imagestorage.id` of the digest, in `location`.
    async fn storage(
        &mut self,
        digest: &Digest,
        size: u64,
        uncompressed_size: Option<u64>,
        location: &str,
    ) -> Result<i32, CatalogError> {
        let (size, uncompressed_size) = (signed(size), uncompressed_size.map(signed));
        let rows = self.query(STORAGE, &[digest.as_str().into()]).await?;
        let id = match rows.first() {
            Some(row) => {
                let id: i32 = row.get(0)?;
                let known = row.get::<Option<i64>>(1)?.is_some()
                    && (row.get::<Option<i64>>(2)?.is_some() || uncompressed_size.is_none());
                if !known {
                    let params = [id.into(), Some(size).into(), uncompressed_size.into()];
                    self.query(FILL_SIZES, &params).await?;
                }
                id
            }
            None => {
                let uuid = Uuid::new_v4().to_string();
                let params = [
                    uuid.as_str().into(),
                    Some(size).into(),
                    uncompressed_size.into(),
                    digest.as_str().into(),
                ];
                let id = self.id(INSERT_STORAGE, &params).await?;
                id.ok_or_else(|| self.nothing_inserted("imagestorage"))?
            }
        };
        self.query(INSERT_PLACEMENT, &[id.into(), location.into()]).await?;
        Ok(id)
    }

    /// Shows a blob in a repository for a while.
    async fn link(
        &mut self,
        repository_id: i32,
        storage_id: i32,
        keep: Duration,
    ) -> Result<(), CatalogError> {
        let now = Utc::now().naive_utc();
        let params = [repository_id.into(), storage_id.into(), now.into(), (now + keep).into()];
        self.query(INSERT_UPLOADED, &params).await.map(drop)
    }
}
