//! Blobs in a folder: Quay's `LocalStorage`.

use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use futures_util::stream;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};

use crate::oci::Span;
use crate::rounds::Rounds;

/// Bytes read at a time for one client.
const CHUNK: RangeInclusive<usize> = 16 * 1024..=64 * 1024;

/// Bytes read at a time for all clients together: many of them get smaller chunks, so that a
/// thousand slow ones cost little memory.
const ALL_CHUNKS: usize = 4 * 1024 * 1024;

/// Clients of this process, also those that ask for nothing now: their connections keep the room
/// that the largest chunk took.
static CONNECTED: AtomicUsize = AtomicUsize::new(0);

/// A blob that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The catalog knows it, the folder does not.
    #[error("{0} is missing")]
    Missing(PathBuf),
    /// Its length is not the catalog's.
    #[error("{path} has {found} bytes instead of {expected}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The length it was stored with.
        expected: u64,
    },
    /// The folder cannot be read now.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// An open blob.
#[derive(Debug)]
pub struct LocalBlob {
    file: File,
    /// Its length in bytes.
    pub length: u64,
}

/// Looks at the files of blobs that nginx is about to send: they must be there, whole.
#[derive(Clone, Default)]
pub struct Looks(Arc<Rounds<(PathBuf, Option<u64>), Looked>>);

/// Whether the file is there, whole.
pub type Looked = Result<(), Arc<LocalError>>;

/// How long a look may wait for the one before it.
const LOOK: Duration = Duration::from_secs(2);

impl Looks {
    /// Those who look at the same file at the same time look at it together.
    pub async fn look(&self, path: PathBuf, expected: Option<u64>) -> Looked {
        let known = length_at_hand(&path);
        if known.is_some_and(|known| expected.is_none_or(|expected| expected == known)) {
            return Ok(());
        }
        let file = path.clone();
        let look = async move {
            let opened = LocalBlob::open(file, expected).await;
            opened.map(drop).map_err(Arc::new)
        };
        self.0.ask((path, expected), LOOK, look).await
    }
}

impl LocalBlob {
    /// Opens the file and holds its length against the catalog's, where that is known.
    pub async fn open(path: PathBuf, expected: Option<u64>) -> Result<Self, LocalError> {
        let opened = path.clone();
        let file = blocking(move || {
            let file = File::open(opened)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        });
        match file.await {
            Ok((_, found)) if expected.is_some_and(|expected| expected != found) => {
                Err(LocalError::Damaged { path, found, expected: expected.unwrap_or_default() })
            }
            Ok((file, length)) => Ok(Self { file, length }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(LocalError::Missing(path)),
            Err(source) => Err(LocalError::Io { path, source }),
        }
    }

    /// The bytes of `span`, one chunk in memory at a time. A file that shrinks meanwhile ends in
    /// an error, never in a short answer that looks complete.
    pub fn read(self, span: Span) -> impl Stream<Item = io::Result<Bytes>> {
        let end = span.offset + span.length;
        let start = (Arc::new(self.file), span.offset, BytesMut::new());
        stream::try_unfold(start, move |(file, offset, mut buffer)| async move {
            if offset == end {
                return Ok(None);
            }
            let reader = file.clone();
            let wanted = (end - offset).min(chunk() as u64) as usize;
            // Room is made on this thread, in the chunk before if that is sent: buffers that many
            // threads allocate are memory that none of them gives back.
            buffer.reserve(wanted);
            let filled = blocking(move || {
                buffer.resize(wanted, 0);
                reader.read_exact_at(&mut buffer, offset)?;
                Ok(buffer)
            });
            let mut buffer = filled.await?;
            let chunk = buffer.split().freeze();
            let next = offset + chunk.len() as u64;
            Ok(Some((chunk, (file, next, buffer))))
        })
    }
}

/// Counts a client for as long as it is connected.
#[derive(Debug)]
pub struct Connected;

impl Connected {
    /// One more.
    pub fn begin() -> Self {
        CONNECTED.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        CONNECTED.fetch_sub(1, Ordering::Relaxed);
    }
}

fn chunk() -> usize {
    let share = ALL_CHUNKS / CONNECTED.load(Ordering::Relaxed).max(1);
    share.clamp(*CHUNK.start(), *CHUNK.end())
}

/// The length of a file whose place the system has in memory: asking waits for no disk and no network
/// (openat2(2), Linux 5.12). `None` says nothing about the file.
fn length_at_hand(path: &Path) -> Option<u64> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let place = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED).ok()?;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = statx(&place, "", flags, StatxFlags::TYPE | StatxFlags::SIZE).ok()?;
    (FileType::from_raw_mode(found.stx_mode.into()) == FileType::RegularFile)
        .then_some(found.stx_size)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt;

    async fn read(length: usize, span: Span) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        let content: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let blob = LocalBlob::open(path, Some(length as u64)).await.unwrap();
        let chunks: Vec<Bytes> = blob.read(span).try_collect().await.unwrap();
        assert!(chunks.iter().all(|chunk| chunk.len() <= *CHUNK.end()));
        let range = span.offset as usize..(span.offset + span.length) as usize;
        assert_eq!(chunks.concat(), content[range]);
        chunks.concat()
    }

    #[tokio::test]
    async fn whole_blobs_and_parts() {
        read(1, Span { offset: 0, length: 1 }).await;
        read(200_000, Span { offset: 0, length: 200_000 }).await;
        read(200_000, Span { offset: 65_535, length: 65_537 }).await;
        read(65_536, Span { offset: 65_535, length: 1 }).await;
    }

    #[tokio::test]
    async fn looks_see_what_is_there_now() {
        let folder = tempfile::tempdir().unwrap();
        let (looks, path) = (Looks::default(), folder.path().join("blob"));
        let look = |expected| looks.look(path.clone(), expected);
        assert!(matches!(*look(None).await.unwrap_err(), LocalError::Missing(_)));
        std::fs::write(&path, [0; 100]).unwrap();
        look(None).await.unwrap();
        look(Some(100)).await.unwrap();
        assert!(matches!(*look(Some(99)).await.unwrap_err(), LocalError::Damaged { .. }));
        std::fs::write(&path, [0; 99]).unwrap();
        look(Some(99)).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(*look(Some(99)).await.unwrap_err(), LocalError::Missing(_)));
    }

    #[tokio::test]
    async fn missing_damaged_and_shrinking_blobs_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        let missing = LocalBlob::open(path.clone(), None).await.unwrap_err();
        assert!(matches!(missing, LocalError::Missing(_)), "{missing}");

        std::fs::write(&path, [0; 100]).unwrap();
        let damaged = LocalBlob::open(path.clone(), Some(101)).await.unwrap_err();
        assert!(damaged.to_string().ends_with("has 100 bytes instead of 101"), "{damaged}");

        let blob = LocalBlob::open(path.clone(), Some(100)).await.unwrap();
        std::fs::write(&path, [0; 10]).unwrap();
        let read: Result<Vec<Bytes>, _> =
            blob.read(Span { offset: 0, length: 100 }).try_collect().await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
