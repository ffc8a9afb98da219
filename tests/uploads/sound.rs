//! What has to hold after any fault.

use std::path::{Path, PathBuf};

use quay_sidecar::blobs::ResumableSha256;
use reqwest::StatusCode;

use super::Pusher;
use crate::support::World;
use crate::support::images::digest_of;

/// That nothing is committed but what its digest says, that nothing is left behind which Quay does
/// not find, and that `blob`, which the fault was about, can be pushed.
pub async fn assert_sound(world: &World, pusher: &Pusher<'_>, blob: &[u8]) {
    assert_stored_as_committed(world);
    assert_leftovers_are_found(world);
    assert_eq!(pusher.in_halves(blob).await, StatusCode::CREATED, "the same push once more");
    assert!(pusher.pull(&digest_of(blob)).await.unwrap() == blob, "not the bytes that were pushed");
    assert_stored_as_committed(world);
    assert_leftovers_are_found(world);
}

/// Every blob of the catalog is in its place with that digest and length. Files that no row names
/// yet are what their names say, too.
pub fn assert_stored_as_committed(world: &World) {
    for file in files(&world.storage.join("sha256")) {
        let bytes = std::fs::read(&file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        assert_eq!(digest_of(&bytes), format!("sha256:{name}"), "{}", file.display());
    }
    let broken = &world.broken.manifest.layers()[1].digest;
    let rows = world.database.sql(&format!(
        "SELECT s.content_checksum, s.image_size FROM imagestorage s
         JOIN imagestorageplacement p ON p.storage_id = s.id
         WHERE s.cas_path AND s.content_checksum <> '{broken}'"
    ));
    for row in rows.lines() {
        let (digest, size) = row.split_once('|').unwrap();
        let found = std::fs::metadata(world.blob_path(digest)).map(|found| found.len());
        assert_eq!(found.ok().map(|found| found.to_string()).as_deref(), Some(size), "{digest}");
    }
}

/// Quay's clean-up goes by rows: whatever lies about without one must be empty.
pub fn assert_leftovers_are_found(world: &World) {
    let rows = world.database.sql("SELECT uuid FROM blobupload");
    for file in files(&world.storage.join("uploads")) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let known = rows.lines().any(|uuid| uuid == name);
        let length = std::fs::metadata(&file).unwrap().len();
        assert!(known || length == 0, "{name}: {length} bytes that nobody will remove");
    }
}

/// Every upload in the middle can be taken up by either runtime: its bytes are there, and hashed.
pub fn assert_resumable(world: &World) {
    for row in world.database.sql("SELECT uuid, byte_count, sha_state FROM blobupload").lines() {
        let [uuid, byte_count, state] = row.split('|').collect::<Vec<_>>()[..] else {
            panic!("{row}")
        };
        let bytes = std::fs::read(world.storage.join("uploads").join(uuid)).unwrap();
        let known =
            bytes.get(..byte_count.parse().unwrap()).expect("fewer bytes than the row says");
        let state = ResumableSha256::from_column(state).unwrap();
        assert_eq!(state.hashed(), known.len() as u64);
        assert_eq!(state.digest().as_str(), digest_of(known), "{uuid}");
    }
}

/// All files below a folder, which may be missing.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap());
    let below = |entry: std::fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true => files(&entry.path()),
        false => vec![entry.path()],
    };
    entries.flat_map(below).collect()
}
