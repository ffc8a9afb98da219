//! Uploads in a bucket, laid out as Quay does: either of the two continues what the other began.

use std::io;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};

use super::assembly::assemble;
use super::chunks::{Chunk, Chunks};
use super::client::{Client, Patience};
use super::error::S3Error;
use super::operations::Kind;
use super::reader::{Reader, whole};
use super::writer::Writer;
use crate::blobs::{Appended, BlobPath, UploadError};
use crate::config::S3;
use crate::oci::Digest;

/// Chunks that are deleted at a time.
const DELETES: usize = 8;

/// Uploads in a bucket, as Quay's driver for the S3 family keeps them: the body of each request is
/// an object of its own, `uploads/<uuid>`, and `blobupload.storage_metadata` names them in order
/// (contract §5.4). Cheap to clone.
#[derive(Clone)]
pub struct BucketUploads {
    client: Client,
}

/// The object of one request's body, being written. Dropped before [`finish`](Self::finish) it
/// leaves nothing, as far as the storage can still be reached.
pub struct BucketAppender {
    chunks: Chunks,
    chunk: Chunk,
    writer: Writer,
}

impl BucketUploads {
    /// With connections of its own: one is enough for a process.
    ///
    /// # Errors
    /// [`UploadError::Refused`] where the system's certificates cannot be read.
    pub fn new(storage: &S3) -> Result<Self, UploadError> {
        Self::with_patience(storage, Patience::default())
    }

    /// The same, for a storage that is allowed less time, or more.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_patience(storage: &S3, patience: Patience) -> Result<Self, UploadError> {
        let client = Client::new(storage, patience)
            .map_err(|error| UploadError::Refused(format!("no HTTP client: {error}")))?;
        Ok(Self { client })
    }

    /// Makes room for an upload, which takes none here. Returns `blobupload.storage_metadata`.
    ///
    /// # Errors
    /// None; other storages have some.
    pub async fn begin(&self, _uuid: &str) -> Result<Appended, UploadError> {
        Ok(appended(0, &Chunks::default()))
    }

    /// Opens the upload for one request body; nothing is stored before the first byte.
    ///
    /// # Errors
    /// [`UploadError::Invalid`] where the metadata is not that of `byte_count` bytes in a bucket.
    pub async fn append(
        &self,
        _uuid: &str,
        metadata: &str,
        byte_count: u64,
    ) -> Result<BucketAppender, UploadError> {
        let chunks = Chunks::parse(metadata)?;
        let length = chunks.length();
        if length != byte_count {
            let text = format!("storage_metadata has {length} bytes, the row {byte_count}");
            return Err(UploadError::Invalid(text));
        }
        let chunk = Chunk::new(0);
        let writer = Writer::new(&self.client, self.client.key(&chunk.path()), Kind::Chunk);
        Ok(BucketAppender { chunks, chunk, writer })
    }

    /// Every byte of the upload, in order, from storage, whatever offsets the metadata names. An
    /// item's error holds an [`UploadError`].
    ///
    /// # Errors
    /// [`UploadError::Invalid`] where the metadata is not a bucket's.
    pub async fn read(
        &self,
        _uuid: &str,
        metadata: &str,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>, UploadError> {
        let chunks = Chunks::parse(metadata)?;
        let reader = Reader::new(&self.client, self.objects(&chunks));
        Ok(reader.stream().map_err(|error| UploadError::from(error).into()))
    }

    /// Length of the blob under its final path, if it is there.
    ///
    /// # Errors
    /// When the storage does not say.
    pub async fn stored(&self, digest: &Digest) -> Result<Option<u64>, UploadError> {
        Ok(self.client.length(&self.final_key(digest)).await?)
    }

    /// Puts the blob under its final path, where it appears whole or not at all; durable on return,
    /// and a call that is repeated succeeds.
    ///
    /// The upload itself stays, so that whatever fails after this can be tried again: remove it with
    /// [`cancel`](Self::cancel) once no row names it any more. Quay leaves a single chunk too; what
    /// is never removed here, its `clean_partial_uploads` removes after two days.
    ///
    /// # Errors
    /// [`UploadError::Invalid`] where bytes are gone; the others as the storage answers.
    pub async fn complete(
        &self,
        _uuid: &str,
        metadata: &str,
        digest: &Digest,
    ) -> Result<(), UploadError> {
        let chunks = Chunks::parse(metadata)?;
        Ok(assemble(&self.client, &chunks, &self.final_key(digest)).await?)
    }

    /// Removes what there is of it. What is gone already is no error.
    ///
    /// # Errors
    /// The first, after everything was tried.
    pub async fn cancel(&self, _uuid: &str, metadata: &str) -> Result<(), UploadError> {
        let chunks = Chunks::parse(metadata)?;
        let deletes = self.objects(&chunks).into_iter().map(|(key, _)| {
            let client = self.client.clone();
            async move { client.delete(&key).await }
        });
        let outcomes: Vec<Result<(), S3Error>> =
            stream::iter(deletes).buffer_unordered(DELETES).collect().await;
        Ok(outcomes.into_iter().collect::<Result<(), S3Error>>()?)
    }

    /// Deletes what is at `path`, if something is there.
    ///
    /// # Errors
    /// As the storage answers.
    pub async fn remove(&self, path: &BlobPath) -> Result<(), UploadError> {
        Ok(self.client.delete(&self.client.key(path.as_str())).await?)
    }

    /// The bytes at `path`, if something is there.
    ///
    /// # Errors
    /// [`UploadError::Invalid`] where there are more than `most`.
    pub async fn get(&self, path: &BlobPath, most: usize) -> Result<Option<Bytes>, UploadError> {
        Ok(whole(&self.client, &self.client.key(path.as_str()), most).await?)
    }

    fn final_key(&self, digest: &Digest) -> String {
        self.client.key(BlobPath::content_address(digest).as_str())
    }

    fn objects(&self, chunks: &Chunks) -> Vec<(String, u64)> {
        let object = |chunk: &Chunk| (self.client.key(&chunk.path()), chunk.length);
        chunks.as_slice().iter().map(object).collect()
    }
}

impl BucketAppender {
    /// Returns when the bytes were taken: at most two parts (`minimum_chunk_size_mb`) are held, one
    /// that fills and one on its way to the storage. To be used no more after an error, or after a
    /// call that was given up.
    ///
    /// # Errors
    /// As the storage answers; nothing of this request is stored then.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), UploadError> {
        Ok(self.writer.write(bytes).await?)
    }

    /// Stores what was written, also if that is less than the client meant to send.
    ///
    /// # Errors
    /// As the storage answers; the upload is then as it was before.
    pub async fn finish(mut self) -> Result<Appended, UploadError> {
        let written = self.writer.written();
        if written > 0 {
            self.chunk.length = written;
            self.chunks.push(self.chunk)?;
            self.writer.finish().await?;
        }
        Ok(appended(written, &self.chunks))
    }
}

/// Nobody changes a chunk that is there.
fn appended(written: u64, chunks: &Chunks) -> Appended {
    Appended { written, metadata: chunks.to_metadata(), stamp: None, shared: false }
}
