//! Files that no row names: what is left where a process was killed between bytes and rows.

use std::time::{Duration, Instant, SystemTime};

use super::run::{Run, rest};
use super::steps::step;
use crate::blobs::{BlobPath, OldFile, UploadError, UploadFile, Uploads};
use crate::catalog::CatalogError;
use crate::oci::Digest;

/// Names that are asked for at a time.
const NAMES: usize = 100;

impl Run<'_> {
    /// In our own folder alone.
    pub(super) async fn leftovers(&mut self) -> Result<(), CatalogError> {
        let pushes = self.collector.pushes.clone();
        for (location, storage) in pushes.locations() {
            if !storage.is_below(&self.collector.folder) {
                continue;
            }
            // What has just been put there is about to get its row.
            let before = ago(self.collector.rules.temp_tag_expiration);
            for first in 0..=u8::MAX {
                if self.is_stopped() {
                    return Ok(());
                }
                let files = storage.old_blobs(first, before).await;
                for files in self.listed(files, location).chunks(NAMES) {
                    let began = Instant::now();
                    self.leftover_blobs(location, files).await?;
                    rest(began).await;
                }
            }
            let files = storage.old_uploads(ago(self.collector.uploads_after)).await;
            for files in self.listed(files, location).chunks(NAMES) {
                self.leftover_uploads(storage, files).await?;
            }
        }
        Ok(())
    }

    async fn leftover_blobs(
        &mut self,
        location: &str,
        files: &[OldFile<Digest>],
    ) -> Result<(), CatalogError> {
        let names: Vec<&str> = files.iter().map(|file| file.what.as_str()).collect();
        let known = self.db.known_blobs(&names).await?;
        for file in files.iter().filter(|file| !known.contains(file.what.as_str())) {
            let bytes = (BlobPath::content_address(&file.what), file.length);
            if self.remove_unnamed(&file.what, &bytes, &[location.to_owned()]).await? {
                self.report.leftovers += 1;
                step("gc: a leftover gone");
            }
        }
        Ok(())
    }

    async fn leftover_uploads(
        &mut self,
        storage: &Uploads,
        files: &[OldFile<UploadFile>],
    ) -> Result<(), CatalogError> {
        let uuid = |file: &OldFile<UploadFile>| match &file.what {
            UploadFile::Upload(uuid) | UploadFile::Copy(uuid, _) => uuid.clone(),
        };
        let uuids: Vec<String> = files.iter().map(uuid).collect();
        let uuids: Vec<&str> = uuids.iter().map(String::as_str).collect();
        let known = self.db.known_uploads(&uuids).await?;
        for file in files {
            // A copy is of a request that ended long ago, whatever has become of its upload.
            if matches!(&file.what, UploadFile::Upload(uuid) if known.contains(uuid)) {
                continue;
            }
            let removed = storage.remove_upload_file(&file.what).await;
            if self.succeeded(removed, "a file of an upload") {
                self.free(file.length);
                self.report.leftovers += 1;
                step("gc: a leftover gone");
            }
        }
        Ok(())
    }

    fn listed<T>(&mut self, files: Result<Vec<T>, UploadError>, location: &str) -> Vec<T> {
        files.unwrap_or_else(|error| {
            self.succeeded(Err(error), location);
            Vec::new()
        })
    }
}

fn ago(age: Duration) -> SystemTime {
    SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)
}
