//! Objects of any size, in bounded memory: small ones in one request, others in parts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};

use super::answer::Part;
use super::client::Client;
use super::error::{Fault, S3Error};
use super::operations::Kind;
use super::request::Payload;
use crate::oci::Sha256;

/// As many parts as an object may have.
pub(super) const MOST_PARTS: usize = 10_000;

/// A part that was stored, and of which upload.
type Sent = Result<(Arc<Multipart>, Part), S3Error>;

/// An object that is being written. It does not exist before it is finished; a writer that is
/// dropped before leaves nothing.
pub(super) struct Writer {
    client: Client,
    key: String,
    kind: Kind,
    part: Filling,
    /// The part before, on its way.
    sending: Option<JoinHandle<Sent>>,
    upload: Option<Arc<Multipart>>,
    parts: Vec<Part>,
    written: u64,
    /// A write failed, or was given up, and took an unknown number of bytes.
    broken: bool,
}

/// A part that is being filled, and its hash.
#[derive(Default)]
struct Filling {
    bytes: BytesMut,
    hash: Sha256,
}

impl Filling {
    /// On a thread that serves nobody meanwhile.
    async fn take(mut self, piece: Bytes) -> Result<Self, JoinError> {
        tokio::task::spawn_blocking(move || {
            self.hash.update(&piece);
            self.bytes.extend_from_slice(&piece);
            self
        })
        .await
    }

    fn payload(self) -> Payload {
        Payload::hashed(self.bytes.freeze(), self.hash)
    }
}

impl Writer {
    pub fn new(client: &Client, key: String, kind: Kind) -> Self {
        Self {
            client: client.clone(),
            key,
            kind,
            part: Filling::default(),
            sending: None,
            upload: None,
            parts: Vec::new(),
            written: 0,
            broken: false,
        }
    }

    /// Takes the bytes; waits while one part is full and the one before is on its way.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), S3Error> {
        self.usable()?;
        self.broken = true;
        let size = self.client.storage().uploads.minimum_chunk_size as usize;
        while !bytes.is_empty() {
            if self.part.bytes.len() == size {
                self.send_part().await?;
            }
            let piece = bytes.split_to(bytes.len().min(size - self.part.bytes.len()));
            self.written += piece.len() as u64;
            let taken = std::mem::take(&mut self.part).take(piece).await;
            self.part = taken.map_err(|error| self.panicked(&error))?;
        }
        self.broken = false;
        Ok(())
    }

    /// Bytes taken so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Makes the object of what was written.
    pub async fn finish(mut self) -> Result<(), S3Error> {
        self.usable()?;
        if self.upload.is_none() && self.sending.is_none() {
            return self.client.put(&self.key, self.kind, self.part.payload()).await;
        }
        self.send_part().await?;
        self.settle().await?;
        match &self.upload {
            Some(upload) => upload.end(&self.parts, self.written).await,
            None => Ok(()),
        }
    }

    /// Sends the part that was filled, once the one before has arrived.
    async fn send_part(&mut self) -> Result<(), S3Error> {
        self.settle().await?;
        let (client, upload) = (self.client.clone(), self.upload.clone());
        let (key, kind) = (self.key.clone(), self.kind);
        let number = self.parts.len() + 1;
        if number > MOST_PARTS {
            let why = format!("more than {MOST_PARTS} parts: raise minimum_chunk_size_mb");
            return Err(self.failed(Fault::Settings, why));
        }
        let body = std::mem::take(&mut self.part).payload();
        // A task of its own, which also goes on when this writer is dropped: an upload whose id is
        // not known yet could not be aborted.
        self.sending = Some(tokio::spawn(async move {
            let upload = match upload {
                Some(upload) => upload,
                None => Arc::new(Multipart::begin(client, key, kind).await?),
            };
            let part = upload.client.put_part(&upload.key, &upload.id, number, body).await?;
            Ok((upload, part))
        }));
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), S3Error> {
        let Some(sending) = &mut self.sending else { return Ok(()) };
        let outcome = sending.await;
        self.sending = None;
        let (upload, part) = outcome.map_err(|error| self.panicked(&error))??;
        self.upload = Some(upload);
        self.parts.push(part);
        Ok(())
    }

    fn panicked(&self, error: &JoinError) -> S3Error {
        self.failed(Fault::Storage, error.to_string())
    }

    fn usable(&self) -> Result<(), S3Error> {
        match self.broken {
            true => {
                Err(self.failed(Fault::Storage, "an earlier write did not end well".to_owned()))
            }
            false => Ok(()),
        }
    }

    fn failed(&self, fault: Fault, reason: String) -> S3Error {
        S3Error { operation: "write", key: self.key.clone(), fault, reason }
    }
}

/// A multipart upload; one that is dropped before its end is aborted in the background.
pub(super) struct Multipart {
    pub client: Client,
    pub key: String,
    pub id: String,
    ended: AtomicBool,
}

impl Multipart {
    pub async fn begin(client: Client, key: String, kind: Kind) -> Result<Self, S3Error> {
        let id = client.begin(&key, kind).await?;
        Ok(Self { client, key, id, ended: AtomicBool::new(false) })
    }

    /// Makes the object, of that many bytes.
    pub async fn end(&self, parts: &[Part], length: u64) -> Result<(), S3Error> {
        match self.client.end(&self.key, &self.id, parts).await {
            // It may have succeeded before, without us hearing of it.
            Err(error) if error.fault == Fault::NoUpload => {
                if self.client.length(&self.key).await? != Some(length) {
                    return Err(error);
                }
            }
            outcome => outcome?,
        }
        self.ended.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Multipart {
    fn drop(&mut self) {
        if *self.ended.get_mut() {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let (client, key, id) = (self.client.clone(), self.key.clone(), self.id.clone());
        runtime.spawn(async move {
            if let Err(error) = client.abort(&key, &id).await {
                tracing::warn!(%error, upload = id, "a multipart upload is left behind");
            }
        });
    }
}
