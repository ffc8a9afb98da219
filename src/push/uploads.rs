//! Upload sessions: begun, added to, cancelled. What is committed, and how, is in `commit`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::PushError;
use super::alone::Alone;
use super::body::Body;
use super::notices::Notices;
use super::steps::step;
use crate::blobs::{
    Appender, BlobPath, ResumableSha256, Stamp, Storage, Turn, Uncompressed, UploadError, Uploads,
};
use crate::catalog::{Progress, Session, Upload};
use crate::config::{self, ModelCache};
use crate::events::BlobLocks;
use crate::oci::RepoName;
use crate::telemetry::Metrics;

/// Takes pushes. Cheap to clone.
#[derive(Clone)]
pub struct Pushes(pub(super) Arc<Inner>);

pub(super) struct Inner {
    /// Where new blobs go: the name of the first preferred location.
    first: String,
    /// The locations that can be written to, by name.
    pub(super) locations: BTreeMap<String, Uploads>,
    /// Every location, to read from.
    pub(super) blobs: Storage,
    pub(super) rules: config::Push,
    pub(super) notices: Notices,
    pub(super) proxy_cache: bool,
    pub(super) sparse_index: bool,
    /// Whether Python keeps answers where this program cannot clear them.
    pub(super) model_cache_unreached: bool,
    /// `MAXIMUM_LAYER_SIZE`, in bytes.
    pub(super) largest: u64,
    /// How long a blob is kept before a manifest names it.
    pub(super) keep: Duration,
    pub(super) alone: Alone,
    pub(super) locks: BlobLocks,
    pub(super) metrics: Arc<Metrics>,
}

/// An upload that a request has in hand.
#[derive(Clone)]
pub struct Open {
    /// Its row, as it was read.
    pub(super) row: Upload,
    /// How far it has come since.
    pub(super) progress: Progress,
    pub(super) uploads: Uploads,
    pub(super) hash: ResumableSha256,
    /// By whom, as far as it is known.
    pub(super) carried: Carried,
    /// Kept until the request is over: what it has stored is written over by no other of ours.
    pub(super) turn: Option<Turn>,
}

/// Who has had a hand in an upload.
#[derive(Clone, Copy, Debug)]
pub(super) enum Carried {
    /// This process alone, which leaves it like this.
    Alone(Stamp),
    /// Others too, or nobody knows.
    WithOthers,
}

/// `Content-Range: first-last`, as the distribution protocol has it: both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// Where the body begins.
    pub start: u64,
    /// How long it says it is.
    pub length: u64,
}

impl Pushes {
    /// The storages that can be written to, by location.
    pub fn locations(&self) -> &BTreeMap<String, Uploads> {
        &self.0.locations
    }

    /// The locks around blobs.
    pub fn locks(&self) -> &BlobLocks {
        &self.0.locks
    }

    /// Into the storage that `storage` prefers.
    pub fn new(config: &config::Config, locks: BlobLocks, metrics: Arc<Metrics>) -> Self {
        let config::Config { storage, push, features, model_cache, .. } = config;
        let mut locations = BTreeMap::new();
        for (name, location) in &storage.locations {
            match Uploads::of(location) {
                Ok(uploads) => locations.extend(uploads.map(|uploads| (name.clone(), uploads))),
                Err(error) => tracing::error!(%error, location = name, "no uploads are taken here"),
            }
        }
        Self(Arc::new(Inner {
            locks,
            metrics,
            first: storage.preference.first().cloned().unwrap_or_default(),
            locations,
            blobs: Storage::new(storage),
            rules: push.clone(),
            notices: Notices::new(&push.notification_queue, &config.server),
            proxy_cache: features.proxy_cache,
            sparse_index: features.sparse_index,
            model_cache_unreached: *model_cache == ModelCache::Unreached,
            largest: push.maximum_layer_size,
            keep: push.temp_tag_expiration,
            alone: Alone::default(),
        }))
    }

    /// Begins an upload where new blobs go: in the first preferred location (contract §5.3).
    pub async fn begin(&self, db: Session<'_>, name: &RepoName) -> Result<Open, PushError> {
        let location = self.0.first.as_str();
        let uploads = self.uploads(location)?;
        let (uuid, hash) = (Uuid::new_v4().to_string(), ResumableSha256::default());
        let begun = uploads.begin(&uuid).await?;
        step("post: room made");
        let progress = Progress {
            byte_count: 0,
            chunk_count: 0,
            sha_state: Some(hash.to_column()),
            storage_metadata: begun.metadata,
            uncompressed_byte_count: None,
        };
        let row = match db.begin_upload(name, &uuid, location, &progress).await {
            Ok(Some(row)) => row,
            other => {
                // Nothing names it.
                let _ = uploads.cancel(&uuid, &progress.storage_metadata).await;
                return Err(other.err().map_or(PushError::NoRepository, PushError::from));
            }
        };
        step("post: row written");
        self.0.alone.leave(&uuid, &progress, begun.stamp);
        Ok(Open { row, progress, uploads, hash, carried: Carried::WithOthers, turn: None })
    }

    /// Takes up an upload, whoever began it.
    pub async fn open(
        &self,
        db: Session<'_>,
        name: &RepoName,
        uuid: &str,
    ) -> Result<Open, PushError> {
        // What is no uuid finds nothing, and is nothing to ask a database for: it may be any bytes.
        let uuid = BlobPath::upload(uuid).map_or("", |_| uuid);
        let found = db.upload(name, uuid).await?.ok_or(PushError::NoRepository)?;
        let row = found.ok_or(PushError::NoUpload)?;
        let uploads = self.uploads(&row.location)?;
        let state = row.progress.sha_state.as_deref().unwrap_or_default();
        let hash = ResumableSha256::from_column(state);
        let hash = hash.ok().filter(|hash| hash.hashed() == row.progress.byte_count);
        let hash = hash.ok_or(PushError::Declined("upload_state"))?;
        let (progress, carried) = (row.progress.clone(), Carried::WithOthers);
        Ok(Open { progress, row, uploads, hash, carried, turn: None })
    }

    fn uploads(&self, location: &str) -> Result<Uploads, PushError> {
        let known = self.0.locations.get(location).cloned();
        known.ok_or(PushError::Declined("storage_driver"))
    }

    /// Adds the bytes of a request to the upload, and notes that. An upload that another request has
    /// added to meanwhile stays as that has left it.
    pub async fn add<S, E>(
        &self,
        db: Session<'_>,
        open: &mut Open,
        range: Option<ContentRange>,
        mut body: Body<S>,
    ) -> Result<(), PushError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Display,
    {
        self.take_in(db, open, range, &mut body).await?;
        step("patch: bytes stored");
        if open.progress == open.row.progress {
            return Ok(());
        }
        if !db.advance_upload(&open.row, &open.progress).await? {
            return Err(overtaken(db, open).await);
        }
        step("patch: row written");
        open.row.progress = open.progress.clone();
        match open.carried {
            Carried::Alone(stamp) => self.0.alone.leave(&open.row.uuid, &open.progress, stamp),
            _ => self.0.alone.forget(&open.row.uuid),
        }
        Ok(())
    }

    /// Stores and hashes the bytes of a request. The row is not touched.
    pub(super) async fn take_in<S, E>(
        &self,
        db: Session<'_>,
        open: &mut Open,
        range: Option<ContentRange>,
        body: &mut Body<S>,
    ) -> Result<(), PushError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Display,
    {
        let Progress { byte_count, chunk_count, .. } = open.progress;
        let room = self.0.largest.saturating_sub(byte_count);
        let too_large = || PushError::TooLarge { limit: self.0.largest };
        let new = open.choose(range, body)?;
        let appender = self.turn(db, open).await?;
        match new {
            Some(0) => return Ok(()),
            Some(new) if new > room => return Err(too_large()),
            _ => {}
        }
        let uncompressed = (chunk_count == 0).then(Uncompressed::default);
        let sink = Sink { appender, hash: open.hash.clone(), uncompressed };
        let mut stage = Stage::Ready(Box::new(sink));
        let mut taken = 0;
        let sink = loop {
            // The next bytes arrive while the last are hashed and stored.
            let batch = body.batch(byte_count + taken).await;
            // Also where the body broke off: nothing is written any more once that is told.
            let sink = stage.ready().await?;
            let batch = batch?;
            if taken > 0 {
                step("body: some bytes stored");
            }
            if batch.is_empty() {
                break sink;
            }
            taken += batch.len() as u64;
            if taken > room {
                return Err(too_large());
            }
            stage = Stage::Busy(tokio::spawn(sink.take(batch)));
        };
        let appended = sink.appender.finish().await?;
        self.0.metrics.pushed_bytes.inc_by(appended.written);
        open.hash = sink.hash;
        open.carried = match open.carried {
            Carried::Alone(_) if !appended.shared => Carried::Alone(appended.stamp),
            _ => Carried::WithOthers,
        };
        open.progress = Progress {
            byte_count: byte_count + appended.written,
            chunk_count: chunk_count + 1,
            sha_state: Some(open.hash.to_column()),
            storage_metadata: appended.metadata,
            // Known of the first request's body; what is added to that makes it unknown.
            uncompressed_byte_count: match sink.uncompressed {
                Some(counted) => counted.finish(),
                None if appended.written > 0 => None,
                None => open.progress.uncompressed_byte_count,
            },
        };
        Ok(())
    }

    /// Opens the upload for this request alone, which is where it was read to be.
    async fn turn(&self, db: Session<'_>, open: &mut Open) -> Result<Appender, PushError> {
        let (row, metadata) = (&open.row, &open.progress.storage_metadata);
        let appended = open.uploads.append(&row.uuid, metadata, row.progress.byte_count).await;
        if let Ok(appender) = &appended {
            open.turn = Some(appender.turn());
            let stamp = appender.stamp();
            if self.0.alone.is_as_left(&row.uuid, &row.progress, stamp) {
                open.carried = Carried::Alone(stamp);
                return Ok(appended?);
            }
        }
        // One of the others may have had its turn while we waited for ours, and ended the upload.
        match db.upload_progress(row).await? {
            Some(progress) if progress == row.progress => Ok(appended?),
            _ => Err(overtaken(db, open).await),
        }
    }

    /// Gives an upload up: its bytes go, then its row.
    pub async fn cancel(&self, db: Session<'_>, open: &Open) -> Result<(), PushError> {
        self.0.alone.forget(&open.row.uuid);
        open.uploads.cancel(&open.row.uuid, &open.progress.storage_metadata).await?;
        step("cancel: bytes gone");
        Ok(db.forget_upload(&open.row).await?)
    }
}

/// Another request has changed the upload since this one has read it.
pub(super) async fn overtaken(db: Session<'_>, open: &Open) -> PushError {
    match db.upload_progress(&open.row).await {
        Ok(Some(Progress { byte_count, .. })) => PushError::OutOfOrder { byte_count },
        Ok(None) => PushError::NoUpload,
        Err(error) => error.into(),
    }
}

impl Open {
    /// `blobupload.uuid`
    pub fn uuid(&self) -> &str {
        &self.row.uuid
    }

    /// How many bytes it has.
    pub fn byte_count(&self) -> u64 {
        self.progress.byte_count
    }

    /// Leaves out of a body what the upload has already. Returns how many bytes are new, where the
    /// client has said that.
    fn choose<S, E>(
        &self,
        range: Option<ContentRange>,
        body: &mut Body<S>,
    ) -> Result<Option<u64>, PushError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Display,
    {
        let Some(range) = range else { return Ok(None) };
        let known = range.overlap(self.progress.byte_count)?;
        let new = range.length.saturating_sub(known);
        body.part(known, new);
        Ok(Some(new))
    }
}

impl ContentRange {
    /// Reads `first-last`. An empty range ends before it begins, as Quay allows.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let (first, last) = text.split_once('-')?;
        if !digits(first) || !digits(last) {
            return None;
        }
        let (start, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        let length = last.checked_add(1)?.checked_sub(start)?;
        Some(Self { start, length })
    }

    /// How many of its bytes an upload of `byte_count` bytes has already. One that begins anew is not
    /// taken for a repetition: the OCI spec wants chunks in order.
    fn overlap(self, byte_count: u64) -> Result<u64, PushError> {
        match byte_count.checked_sub(self.start) {
            Some(known) if self.start > 0 || known == 0 => Ok(known),
            _ => Err(PushError::OutOfOrder { byte_count }),
        }
    }
}

/// Where bytes go: into the storage, and into the hash.
struct Sink {
    appender: Appender,
    hash: ResumableSha256,
    uncompressed: Option<Uncompressed>,
}

enum Stage {
    Ready(Box<Sink>),
    Busy(JoinHandle<Result<Sink, UploadError>>),
}

impl Stage {
    async fn ready(self) -> Result<Sink, UploadError> {
        match self {
            Self::Ready(sink) => Ok(*sink),
            Self::Busy(working) => working.await.map_err(UploadError::from)?,
        }
    }
}

impl Sink {
    /// Hashes and stores, and counts beside that: inflating takes longer than both together.
    async fn take(self, batch: Bytes) -> Result<Self, UploadError> {
        let Self { mut appender, hash, uncompressed } = self;
        let counted = count(uncompressed, batch.clone());
        let (hash, uncompressed) = tokio::try_join!(appender.write(batch, hash), counted)?;
        Ok(Self { appender, hash, uncompressed })
    }
}

async fn count(
    uncompressed: Option<Uncompressed>,
    batch: Bytes,
) -> Result<Option<Uncompressed>, UploadError> {
    let Some(mut counting) = uncompressed else { return Ok(None) };
    if counting.is_over() {
        return Ok(Some(counting));
    }
    let counted = tokio::task::spawn_blocking(move || {
        counting.update(&batch);
        counting
    });
    Ok(counted.await.map(Some)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_written_without_a_unit() {
        let range = |start, length| Some(ContentRange { start, length });
        for (text, expected) in [
            ("0-99", range(0, 100)),
            ("100-100", range(100, 1)),
            ("5-4", range(5, 0)),
            ("5-3", None),
            ("bytes 0-9/*", None),
            ("bytes=0-9", None),
            ("-5", None),
            ("5-", None),
            ("+1-2", None),
            ("", None),
            ("0-18446744073709551615", None),
            ("99999999999999999999-1", None),
        ] {
            assert_eq!(ContentRange::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn chunks_come_in_order() {
        for (start, byte_count, known) in [
            (0, 0, Some(0)),
            (5, 5, Some(0)),
            (3, 5, Some(2)),
            (6, 5, None),
            (1, 0, None),
            // Once more from the beginning: Quay would hash it twice.
            (0, 5, None),
        ] {
            let range = ContentRange { start, length: 1 };
            assert_eq!(range.overlap(byte_count).ok(), known, "{start} of {byte_count}");
        }
    }
}
