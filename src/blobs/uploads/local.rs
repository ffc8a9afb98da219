//! Uploads in a folder: Quay's `LocalStorage`. An upload is the file `uploads/<uuid>`, a blob that
//! file under another name.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, linkat, open};
use rustix::io::Errno;
use uuid::Uuid;

use super::flushing::Flushing;
use super::room::Room;
use super::{Appended, FileStamp, Reread, Stamp, Turn, UploadError, direct};
use crate::blobs::BlobPath;
use crate::oci::{Digest, Sha256};

/// How long a request waits for the one before it: a client that has gone away is noticed within
/// this time.
const TURN: Duration = Duration::from_secs(3);
const TURN_POLL: Duration = Duration::from_millis(20);

/// Bytes read at a time when an upload is read again.
const READ: usize = 1 << 20;

/// The folder. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LocalUploads(Arc<Path>);

/// An upload's file, locked against other requests of ours, in this process or another.
#[derive(Debug)]
pub struct LocalAppender {
    path: PathBuf,
    file: Arc<File>,
    opened: FileStamp,
    start: u64,
    end: u64,
    room: Room,
    flushing: Flushing,
    /// As our last write has left it.
    left: FileStamp,
    /// Whether anybody else has written to it since it was opened, or could have unseen.
    shared: bool,
}

/// The bytes of an upload in a file that no other process can have open.
#[derive(Debug)]
pub struct LocalCopy {
    file: File,
    /// What it is called where it needs a name of its own.
    name: PathBuf,
    is_named: bool,
}

impl LocalUploads {
    /// The uploads of the storage in `root`.
    pub fn new(root: &Path) -> Self {
        Self(root.into())
    }

    pub(super) fn root(&self) -> &Path {
        &self.0
    }

    pub(super) fn upload(&self, uuid: &str) -> Result<PathBuf, UploadError> {
        let path = BlobPath::upload(uuid);
        let path = path.ok_or_else(|| UploadError::Invalid(format!("{uuid:?} is no uuid")))?;
        Ok(path.below(&self.0))
    }

    pub(super) async fn begin(&self, uuid: &str) -> Result<Appended, UploadError> {
        let path = self.upload(uuid)?;
        let stamp = blocking(&path, |path| {
            let create = |path: &Path| OpenOptions::new().write(true).create_new(true).open(path);
            let file = match create(path) {
                // Not its root: an empty folder may be a mount that is missing.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    path.parent().map_or(Ok(()), make_folder)?;
                    create(path)
                }
                result => result,
            };
            FileStamp::of(&file?)
        });
        let (metadata, stamp) = ("{}".to_owned(), Some(stamp.await?));
        Ok(Appended { written: 0, metadata, stamp, shared: false })
    }

    pub(super) async fn append(
        &self,
        uuid: &str,
        byte_count: u64,
    ) -> Result<LocalAppender, UploadError> {
        let path = self.upload(uuid)?;
        let file = blocking(&path, |path| OpenOptions::new().read(true).write(true).open(path));
        let file = Arc::new(file.await?);
        let locks = take_turn(&path, &file).await?;
        let locked = file.clone();
        let opened = blocking(&path, move |path| {
            let opened = FileStamp::of(&locked)?;
            // Whoever had the turn before us may have made a blob of this very file.
            match FileStamp::of_path(path)?.inode == opened.inode {
                true => Ok(opened),
                false => Err(ErrorKind::NotFound.into()),
            }
        })
        .await?;
        if opened.length < byte_count {
            let found = opened.length;
            let reason = format!("{} has {found} of {byte_count} bytes", path.display());
            return Err(UploadError::Invalid(reason));
        }
        let (start, left, shared) = (byte_count, opened, !locks);
        let (room, flushing) = (Room::default(), Flushing::new(start));
        Ok(LocalAppender { path, file, opened, start, end: start, room, flushing, left, shared })
    }

    pub(super) async fn stamp(&self, uuid: &str) -> Result<Stamp, UploadError> {
        let path = self.upload(uuid)?;
        Ok(Some(blocking(&path, FileStamp::of_path).await?))
    }

    /// Into a file of its own: Python may have the upload open, and write to it after we have
    /// looked.
    pub(super) async fn reread(
        &self,
        uuid: &str,
        turn: Option<Turn>,
    ) -> Result<Reread, UploadError> {
        let path = self.upload(uuid)?;
        blocking(&path, move |path| {
            let _turn = turn;
            let (from, copy) = (File::open(path)?, LocalCopy::beside(path)?);
            let (mut hash, mut length) = (Sha256::default(), 0u64);
            let mut buffer = vec![0; READ];
            loop {
                let read = from.read_at(&mut buffer, length)?;
                let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
                    break;
                };
                hash.update(bytes);
                copy.file.write_all_at(bytes, length)?;
                length += read as u64;
            }
            Ok(Reread { digest: hash.digest(), length, copy: Some(copy) })
        })
        .await
    }

    pub(super) async fn flush(&self, uuid: &str) -> Result<(), UploadError> {
        let path = self.upload(uuid)?;
        blocking(&path, |path| File::open(path)?.sync_all()).await
    }

    pub(super) async fn flush_stored(&self, digest: &Digest) -> Result<(), UploadError> {
        let path = BlobPath::content_address(digest).below(&self.0);
        blocking(&path, |path| {
            File::open(path)?.sync_all()?;
            path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        })
        .await
    }

    pub(super) async fn stored(&self, digest: &Digest) -> Result<Option<u64>, UploadError> {
        let path = BlobPath::content_address(digest).below(&self.0);
        blocking(&path, |path| match fs::metadata(path) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    pub(super) async fn read_small(
        &self,
        path: &BlobPath,
        most: usize,
    ) -> Result<Option<Bytes>, UploadError> {
        let path = path.below(&self.0);
        let read = blocking(&path, move |path| {
            let file = match File::open(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                result => result?,
            };
            let mut bytes = Vec::new();
            file.take(most as u64 + 1).read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        });
        match read.await? {
            Some(bytes) if bytes.len() > most => {
                let reason = format!("{} has more than {most} bytes", path.display());
                Err(UploadError::Invalid(reason))
            }
            bytes => Ok(bytes.map(Bytes::from)),
        }
    }

    pub(super) async fn complete(
        &self,
        uuid: &str,
        digest: &Digest,
        copy: Option<LocalCopy>,
        turn: Option<Turn>,
    ) -> Result<(), UploadError> {
        let upload = self.upload(uuid)?;
        let place = BlobPath::content_address(digest).below(&self.0);
        let root = self.0.clone();
        blocking(&place, move |place| {
            let _turn = turn;
            let folder = place.parent().unwrap_or(place);
            make_durable_folder(&root, folder)?;
            let Some(copy) = copy else {
                fs::rename(&upload, place)?;
                return File::open(folder)?.sync_all();
            };
            copy.put(place)?;
            File::open(folder)?.sync_all()?;
            match fs::remove_file(&upload) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        })
        .await
    }

    pub(super) async fn cancel(&self, uuid: &str) -> Result<(), UploadError> {
        self.remove(self.upload(uuid)?).await
    }

    /// What is gone already is no error, unless all of the storage is.
    pub(super) async fn remove(&self, path: PathBuf) -> Result<(), UploadError> {
        let root = self.0.clone();
        blocking(&path, move |path| match fs::remove_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound && is_mounted(&root, path) => Ok(()),
            removed => removed,
        })
        .await
    }
}

/// One request at a time writes to an upload. Locks of dead processes are gone with them. Returns
/// whether there is such a lock: where the file system has none, what is committed is read again.
async fn take_turn(path: &Path, file: &Arc<File>) -> Result<bool, UploadError> {
    let deadline = tokio::time::Instant::now() + TURN;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(TURN_POLL).await;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(UploadError::Busy(path.display().to_string()));
            }
            Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOLCK) => return Ok(false),
            Err(error) => return Err(failure(path, &error.into())),
        }
    }
}

impl LocalAppender {
    pub(super) fn opened(&self) -> Stamp {
        Some(self.opened)
    }

    pub(super) fn locked(&self) -> Arc<File> {
        self.file.clone()
    }

    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), UploadError> {
        // What lies beyond the end is what a failed request has left.
        let truncate = self.end == self.start && self.opened.length > self.start;
        let (file, start, from, left) = (self.file.clone(), self.start, self.end, self.left);
        let (mut room, end) = (self.room, from + bytes.len() as u64);
        // What is small is asked for soon: a request's first bytes go to the page cache.
        let write_all_at = if from > start { direct::write_all_at } else { File::write_all_at };
        let (room, left, shared) = blocking(&self.path, move |_| {
            let mut shared = FileStamp::of(&file)? != left;
            if truncate {
                file.set_len(start)?;
            }
            room.take(&file, start, from, end - from);
            write_all_at(&file, &bytes, from).inspect_err(|_| {
                // What did not fit takes no room from others.
                let _ = file.set_len(start);
            })?;
            shared |= file.metadata()?.len() != end;
            touch(&file);
            Ok((room, FileStamp::of(&file)?, shared))
        })
        .await?;
        (self.end, self.room, self.left) = (end, room, left);
        self.shared |= shared;
        self.flushing.go_on(&self.path, end).await
    }

    pub(super) async fn finish(mut self) -> Result<Appended, UploadError> {
        self.flushing.settle().await?;
        let (file, end, room, left) = (self.file, self.end, self.room, self.left);
        let done = blocking(&self.path, move |_| {
            let shared = FileStamp::of(&file)? != left;
            if file.metadata()?.len() > end {
                file.set_len(end)?;
            }
            room.give_back(&file, end)?;
            touch(&file);
            Ok((FileStamp::of(&file)?, shared))
        });
        let (stamp, shared) = done.await?;
        let (written, metadata) = (self.end - self.start, "{}".to_owned());
        Ok(Appended { written, metadata, stamp: Some(stamp), shared: self.shared || shared })
    }
}

/// Sets the time of the last change to the nanosecond, unlike what a later write may set within the
/// same tick of the kernel's clock. Only the file's owner may, and other files were others' anyway.
fn touch(file: &File) {
    let _ = file.set_modified(SystemTime::now());
}

impl FileStamp {
    fn of(file: &File) -> io::Result<Self> {
        Ok(Self::read(&file.metadata()?))
    }

    fn of_path(path: &Path) -> io::Result<Self> {
        Ok(Self::read(&fs::metadata(path)?))
    }

    fn read(found: &Metadata) -> Self {
        let changed_ns = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
        Self { inode: found.ino(), length: found.len(), changed_ns }
    }
}

/// Where the file system has no files without a name.
pub(super) fn copy_of(upload: &Path, copy: Uuid) -> PathBuf {
    upload.with_extension(format!("{}.reread", copy.simple()))
}

impl LocalCopy {
    /// Without a name, so that nothing is left of it after a crash, where the file system can.
    fn beside(upload: &Path) -> io::Result<Self> {
        // One to each request: several processes may read one upload again.
        let name = copy_of(upload, Uuid::new_v4());
        let folder = upload.parent().unwrap_or(upload);
        let mode = Mode::from_raw_mode(0o644);
        match open(folder, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
            Ok(file) => Ok(Self { file: file.into(), name, is_named: false }),
            Err(_) => Self::named(name),
        }
    }

    fn named(name: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(&name)?;
        Ok(Self { file, name, is_named: true })
    }

    /// Under the name of the blob, durable. What is there stays until ours is.
    fn put(mut self, place: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        if !self.is_named {
            match self.link(place) {
                Err(Errno::EXIST) => self.link(&self.name)?,
                linked => return Ok(linked?),
            }
            self.is_named = true;
        }
        fs::rename(&self.name, place)
    }

    fn link(&self, path: &Path) -> Result<(), Errno> {
        let nameless = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        linkat(CWD, nameless, CWD, path, AtFlags::SYMLINK_FOLLOW)
    }
}

impl Drop for LocalCopy {
    fn drop(&mut self) {
        // It has its other name by now, or is not wanted.
        if self.is_named {
            let _ = fs::remove_file(&self.name);
        }
    }
}

/// Makes the folder, and each above it that has to be made, so that it outlives a power failure.
fn make_durable_folder(root: &Path, folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().filter(|above| above.starts_with(root));
    if let Some(above) = above {
        make_durable_folder(root, above)?;
    }
    make_folder(folder)?;
    above.map_or(Ok(()), |above| File::open(above)?.sync_all())
}

/// Another request may have made it since we looked.
fn make_folder(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T, UploadError> {
    let path = path.to_owned();
    let done =
        tokio::task::spawn_blocking(move || work(&path).map_err(|error| failure(&path, &error)));
    done.await?
}

/// Whether the folder is there in which drivers keep all files of its kind: `sha256`, `uploads`.
fn is_mounted(root: &Path, path: &Path) -> bool {
    let kind = path.strip_prefix(root).ok().and_then(|path| path.components().next());
    kind.is_some_and(|kind| root.join(kind).is_dir())
}

/// Whether its folder is there: without it nothing is known of the file.
fn is_in_a_folder(path: &Path) -> bool {
    path.parent().is_some_and(Path::is_dir)
}

fn failure(path: &Path, error: &io::Error) -> UploadError {
    let reason = format!("{}: {error}", path.display());
    match error.kind() {
        ErrorKind::NotFound if is_in_a_folder(path) => UploadError::Invalid(reason),
        ErrorKind::NotFound => UploadError::Unavailable(format!(
            "{reason}, nor is its folder: is the storage mounted?"
        )),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            UploadError::Full(reason)
        }
        _ => UploadError::Unavailable(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memmap2::MmapMut;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn the_first_uploads_of_a_storage_make_its_folder_together() {
        for round in 0..50u32 {
            let storage = tempfile::tempdir().unwrap();
            let begun = (0..8u32).map(|number| {
                let uploads = LocalUploads::new(storage.path());
                let uuid = format!("2bf7c3b8-c673-4625-{round:04}-{number:012}");
                tokio::spawn(async move { uploads.begin(&uuid).await })
            });
            for upload in begun.collect::<Vec<_>>() {
                upload.await.unwrap().unwrap();
            }
        }
    }

    /// Python has the file open, and writes while a request of ours goes on.
    #[tokio::test]
    async fn writes_of_others_are_seen() {
        let storage = tempfile::tempdir().unwrap();
        let uploads = LocalUploads::new(storage.path());
        let piece = || Bytes::from_static(b"ours");
        let writes: [(bool, &[u8], u64); 4] =
            [(false, b"", 0), (true, b"them", 0), (true, b"theirs", 2), (true, b"theirs", 6)];
        for (number, (shared, bytes, at)) in writes.into_iter().enumerate() {
            for last in [false, true] {
                let uuid = format!("2bf7c3b8-c673-4625-000{number}-00000000000{}", i32::from(last));
                uploads.begin(&uuid).await.unwrap();
                let python = OpenOptions::new().write(true).open(uploads.upload(&uuid).unwrap());
                let python = python.unwrap();
                let mut appender = uploads.append(&uuid, 0).await.unwrap();
                appender.write(piece()).await.unwrap();
                let meddle = || python.write_all_at(bytes, at).unwrap();
                (!last).then(meddle);
                appender.write(piece()).await.unwrap();
                last.then(meddle);
                let appended = appender.finish().await.unwrap();
                assert_eq!((appended.written, appended.shared), (8, shared), "{number} {last}");
            }
        }
    }

    #[tokio::test]
    async fn an_upload_ends_with_no_more_room_than_it_needs() {
        let storage = tempfile::tempdir().unwrap();
        let (uploads, uuid) = (LocalUploads::new(storage.path()), Uuid::new_v4().to_string());
        uploads.begin(&uuid).await.unwrap();
        let mut appender = uploads.append(&uuid, 0).await.unwrap();
        for _ in 0..5 {
            // As batches are: what comes second goes past the page cache where it can.
            let mut batch = MmapMut::map_anon(1 << 20).unwrap();
            batch.fill(1);
            appender.write(Bytes::from_owner(batch)).await.unwrap();
        }
        let file = appender.locked();
        let on_disk = || file.metadata().unwrap().blocks() * 512;
        let taken = on_disk();
        assert_eq!(appender.finish().await.unwrap().written, 5 << 20);
        assert!((5 << 20..6 << 20).contains(&on_disk()), "{} of {taken}", on_disk());
    }

    #[test]
    fn copies_with_names_are_apart() {
        let storage = tempfile::tempdir().unwrap();
        let (upload, place) = (storage.path().join("upload"), storage.path().join("blob"));
        let name = || copy_of(&upload, Uuid::new_v4());
        let [given_up, copy] = [(); 2].map(|()| LocalCopy::named(name()).unwrap());
        given_up.file.write_all_at(b"other bytes", 0).unwrap();
        copy.file.write_all_at(b"bytes", 0).unwrap();
        drop(given_up);
        copy.put(&place).unwrap();
        assert_eq!(fs::read(&place).unwrap(), b"bytes");
        assert_eq!(fs::read_dir(storage.path()).unwrap().count(), 1);
    }

    /// Every repository that has the blob reads it there.
    #[test]
    fn what_is_in_the_place_of_a_copy_stays_until_the_copy_is_there() {
        let storage = tempfile::tempdir().unwrap();
        let (upload, place) = (storage.path().join("upload"), storage.path().join("blob"));
        fs::write(&place, "shorter").unwrap();
        let (going_on, seen) = (AtomicBool::new(true), AtomicU32::new(0));
        std::thread::scope(|scope| {
            let look = || {
                while going_on.load(Ordering::Relaxed) {
                    assert!(place.exists(), "it was away");
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            };
            let looking = scope.spawn(look);
            for number in 0_u32.. {
                let copy = LocalCopy::beside(&upload).unwrap();
                copy.file.write_all_at(&number.to_le_bytes(), 0).unwrap();
                copy.put(&place).unwrap();
                assert_eq!(fs::read(&place).unwrap(), number.to_le_bytes());
                if looking.is_finished() || seen.load(Ordering::Relaxed) > 5000 {
                    break;
                }
            }
            going_on.store(false, Ordering::Relaxed);
        });
        assert_eq!(fs::read_dir(storage.path()).unwrap().count(), 1);
    }
}
