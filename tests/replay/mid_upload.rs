//! Uploads that a real Quay was in the middle of: we end them, and its module ends ours.

use std::fs;

use quay_sidecar::blobs::ResumableSha256;
use reqwest::StatusCode;
use serde_json::Value;

use super::installation::Installation;
use super::recording::{folder, read};
use crate::support::http;
use crate::support::images::digest_of;
use crate::uploads::states::ended_by_python;

fn described(path: &std::path::Path) -> Value {
    serde_json::from_str(&read(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[tokio::test]
async fn what_a_real_quay_has_begun_is_ended() {
    let Some(installation) = Installation::restore() else { return };
    let registryd = installation.registryd(&[], None);
    let token = push_token(&installation, registryd.base()).await;
    let mut ended = 0;
    for entry in fs::read_dir(installation.data.join("mid-upload")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let upload = described(&path);
        assert_eq!(upload["append"], "byte i is (i*13) % 256");
        let bytes = fs::read(path.with_extension("bin")).unwrap();
        let at = installation.scratch("storage/uploads");
        let row = &upload["row"];
        let uuid = row["uuid"].as_str().unwrap();
        fs::write(at.join(uuid), bytes).unwrap();
        insert(&installation, row);
        let length = upload["append_length"].as_u64().unwrap();
        let rest: Vec<u8> = (0..length).map(|i| (i * 13 % 256) as u8).collect();
        let digest = upload["final_digest"].as_str().unwrap();

        let repository = format!("/v2/acme/{}", row["repository_name"].as_str().unwrap());
        let url = |path: &str| registryd.url(&format!("{repository}/blobs/{path}"));
        let half = rest.len() / 2;
        let patch = http().patch(url(&format!("uploads/{uuid}"))).bearer_auth(&token);
        let answer = patch.body(rest[..half].to_vec()).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::ACCEPTED, "{}", path.display());
        let put = http().put(url(&format!("uploads/{uuid}?digest={digest}"))).bearer_auth(&token);
        let answer = put.body(rest[half..].to_vec()).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED, "{}", path.display());
        let pull = http().get(url(digest)).bearer_auth(&token).send().await.unwrap();
        assert_eq!(digest_of(&pull.bytes().await.unwrap()), digest);
        assert!(!at.join(uuid).exists());
        ended += 1;
    }
    assert_eq!(ended, 3);
}

async fn push_token(installation: &Installation, base: &str) -> String {
    let scope = "service=localhost:18080&scope=repository:acme/scratch:pull,push";
    let asked = http()
        .get(format!("{base}/v2/auth?{scope}"))
        .basic_auth("admin", Some(installation.secret("admin")));
    let answer: Value = asked.send().await.unwrap().json().await.unwrap();
    answer["token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

fn insert(installation: &Installation, row: &Value) {
    let [repository, uuid, byte_count, state, chunks, metadata] =
        ["repository_id", "uuid", "byte_count", "sha_state", "chunk_count", "storage_metadata"]
            .map(|column| match &row[column] {
                Value::String(text) => format!("'{text}'"),
                other => other.to_string(),
            });
    installation.database.sql(&format!(
        "INSERT INTO blobupload (repository_id, uuid, byte_count, sha_state, location_id,
             storage_metadata, chunk_count, created)
         SELECT {repository}, {uuid}, {byte_count}, {state}, id, {metadata}, {chunks}, now()
         FROM imagestoragelocation WHERE name = {}",
        format_args!("'{}'", row["location_name"].as_str().unwrap())
    ));
}

/// The very states that the real module has written, and those that we write for the same bytes.
#[test]
fn every_recorded_state_goes_both_ways() {
    let Some(data) = folder() else { return };
    let vectors = described(&data.join("sha_state_vectors.json"));
    let (mut states, mut expected) = (Vec::new(), Vec::new());
    for vector in vectors.as_array().unwrap() {
        let n = vector["n"].as_u64().unwrap();
        assert_eq!(vector["message"], "byte i is (i*31+n)&0xff");
        let bytes: Vec<u8> = (0..n).map(|i| (i * 31 + n) as u8).collect();
        let theirs = vector["sha_state_column"].as_str().unwrap();
        let hash = ResumableSha256::from_column(theirs).unwrap();
        assert_eq!(hash.hashed(), n);
        let so_far = format!("sha256:{}", vector["sha256_so_far"].as_str().unwrap());
        assert_eq!(hash.digest().as_str(), so_far, "{n} bytes");
        let mut own = ResumableSha256::default();
        own.update(&bytes);
        for ours in [hash.to_column(), own.to_column()] {
            states.push((ours, b"the rest".to_vec()));
            expected.push((so_far.clone(), digest_of(&[&bytes[..], b"the rest"].concat())));
        }
    }
    assert!(!states.is_empty(), "a file of vectors, but none in it");
    assert_eq!(ended_by_python(&states), expected);
}
