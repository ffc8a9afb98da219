//! What was done to the recorded Quay between the exchanges, and is done here before they are asked.

use serde_json::{Value, json};

use super::installation::Installation;
use super::recording::Exchange;

/// Makes the installation what the exchange met.
pub fn prepare(installation: &Installation, exchange: &Exchange) {
    let (path, _) = exchange.request.target();
    if exchange.settings().is_some_and(|settings| settings.contains("IMMUTABLE_TAGS")) {
        installation.database.sql("UPDATE tag SET immutable = true WHERE name = 'moving'");
    }
    let stored = exchange.request.method == "PUT" && exchange.response.status == 201;
    let Some((name, _)) = path.split_once("/manifests/").filter(|_| stored) else { return };
    let name = name.strip_prefix("/v2/").expect("a path of the registry");
    let body = exchange.request.body.as_ref().and_then(|body| body.bytes()).unwrap_or_default();
    upload_all(installation, name, &String::from_utf8_lossy(&body), &json!({}));
}

/// Everything that a manifest names; its config has these labels.
pub fn upload_all(installation: &Installation, name: &str, manifest: &str, labels: &Value) {
    let Ok(manifest) = serde_json::from_str::<Value>(manifest) else { return };
    let layers = manifest["layers"].as_array().into_iter().flatten();
    for blob in layers.chain([&manifest["config"]]) {
        upload(installation, name, blob, labels);
    }
}

/// A blob whose bytes nobody has recorded. A stand-in has its length, and what Quay reads of a config.
fn upload(installation: &Installation, name: &str, descriptor: &Value, labels: &Value) {
    let (Some(digest), Some(size)) = (descriptor["digest"].as_str(), descriptor["size"].as_u64())
    else {
        return;
    };
    let database = &installation.database;
    let (namespace, repository) = name.split_once('/').expect("a namespace");
    let of_digest = format!("content_checksum = '{digest}'");
    let known = database.sql(&format!("SELECT count(*) FROM imagestorage WHERE {of_digest}"));
    if known == "0" {
        let config = json!({"architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": []}, "config": {"Labels": labels}});
        let mut bytes = config.to_string().into_bytes();
        bytes.resize(usize::try_from(size).expect("a small blob"), b' ');
        let file = installation.blob(digest);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("our own folder");
        std::fs::write(file, bytes).expect("our own folder");
        database.sql(&format!(
            "INSERT INTO imagestorage (uuid, image_size, uploading, cas_path, content_checksum)
                 VALUES ('{}', {size}, true, true, '{digest}');
             INSERT INTO imagestorageplacement (storage_id, location_id)
                 SELECT s.id, l.id FROM imagestorage s, imagestoragelocation l
                 WHERE s.{of_digest} AND l.name = 'default'",
            uuid::Uuid::new_v4()
        ));
    }
    database.sql(&format!(
        "INSERT INTO uploadedblob (repository_id, blob_id, uploaded_at, expires_at)
         SELECT r.id, s.id, '2026-01-01', '2099-01-01' FROM repository r
         JOIN \"user\" n ON n.id = r.namespace_user_id, imagestorage s
         WHERE n.username = '{namespace}' AND r.name = '{repository}' AND s.{of_digest}"
    ));
}
