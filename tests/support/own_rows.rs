//! An image in a registry of its own (`quay serve --mode mirror`), as a push would leave it. For
//! tests, and for scripts/quickstart until pushes are served.

use std::path::Path;

use chrono::{TimeDelta, Utc};
use rusqlite::{Connection, Transaction, params};
use uuid::Uuid;

use super::images::{Blob, Manifest};

/// Puts an image that is no index into the registry in `data`, served or not: bytes, then rows.
/// The namespace of `repository` is there already, the repository is not.
pub fn put_image(data: &Path, repository: &str, visibility: &str, tag: &str, image: &Manifest) {
    for blob in &image.blobs {
        let path = super::rows::cas_path(&data.join("storage"), &blob.digest);
        std::fs::create_dir_all(path.parent().expect("it is in a folder")).expect("our own folder");
        std::fs::write(&path, &blob.bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    let file = data.join("quay.db");
    let mut database =
        Connection::open(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    database.busy_timeout(std::time::Duration::from_secs(10)).expect("a timeout");
    let rows = database.transaction().expect("a transaction");
    let (namespace, name) = repository.split_once('/').expect("namespace/name");
    let repository = insert(
        &rows,
        "INSERT INTO repository (namespace_user_id, name, visibility_id, badge_token) \
         SELECT u.id, ?2, v.id, ?3 FROM \"user\" u, visibility v \
         WHERE u.username = ?1 AND v.name = ?4",
        params![namespace, name, Uuid::new_v4().to_string(), visibility],
    );
    insert(
        &rows,
        "INSERT INTO repositorypermission (user_id, repository_id, role_id) \
         SELECT u.id, ?2, r.id FROM \"user\" u, role r WHERE u.username = ?1 AND r.name = 'admin'",
        params![namespace, repository],
    );
    let size: usize = image.layers().iter().map(|layer| layer.bytes.len()).sum();
    let manifest = insert(
        &rows,
        "INSERT INTO manifest (repository_id, digest, media_type_id, manifest_bytes, \
             config_media_type, layers_compressed_size, subject_backfilled, artifact_type_backfilled) \
         SELECT ?1, ?2, m.id, ?4, ?5, ?6, true, true FROM mediatype m WHERE m.name = ?3",
        params![
            repository,
            image.digest,
            image.media_type,
            std::str::from_utf8(&image.bytes).expect("JSON"),
            image.config_media_type,
            size as i64,
        ],
    );
    for blob in &image.blobs {
        let blob = put_blob(&rows, blob);
        insert(
            &rows,
            "INSERT INTO manifestblob (repository_id, manifest_id, blob_id) VALUES (?1, ?2, ?3)",
            params![repository, manifest, blob],
        );
    }
    insert(
        &rows,
        "INSERT INTO tag (name, repository_id, manifest_id, lifetime_start_ms, tag_kind_id) \
         SELECT ?1, ?2, ?3, ?4, k.id FROM tagkind k WHERE k.name = 'tag'",
        params![tag, repository, manifest, (Utc::now() - TimeDelta::seconds(1)).timestamp_millis()],
    );
    rows.commit().expect("the file");
}

fn put_blob(rows: &Transaction<'_>, blob: &Blob) -> i64 {
    let uncompressed = blob.uncompressed.as_ref().map(|(_, length)| *length as i64);
    let id = insert(
        rows,
        "INSERT INTO imagestorage \
             (uuid, image_size, uncompressed_size, uploading, cas_path, content_checksum) \
         VALUES (?1, ?2, ?3, true, true, ?4)",
        params![Uuid::new_v4().to_string(), blob.bytes.len() as i64, uncompressed, blob.digest],
    );
    insert(
        rows,
        "INSERT INTO imagestorageplacement (storage_id, location_id) \
         SELECT ?1, l.id FROM imagestoragelocation l WHERE l.name = 'default'",
        [id],
    );
    id
}

/// The new row's id.
fn insert(rows: &Transaction<'_>, sql: &str, values: impl rusqlite::Params) -> i64 {
    let inserted = rows.execute(sql, values).unwrap_or_else(|e| panic!("{sql}: {e}"));
    assert_eq!(inserted, 1, "{sql}");
    rows.last_insert_rowid()
}
