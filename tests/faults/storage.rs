//! Blobs that the database knows and the folder has lost.

use super::stop::{Download, big_blob};
use super::*;
use crate::support::World;

#[tokio::test]
async fn a_missing_blob_is_unknown_and_reported() {
    let world = World::new();
    let registryd = world.registryd();
    let digest = &world.broken.manifest.layers()[1].digest;
    let answer = Client::of(&registryd).get(&blob(&world.broken, digest)).await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "BLOB_UNKNOWN"));
    logs_say(&registryd, &["ERROR", digest]);
}

#[tokio::test]
async fn a_damaged_blob_is_an_error_and_never_a_short_answer() {
    let (world, _cluster) = World::apart();
    let registryd = world.registryd();
    let (client, layer) = (Client::of(&registryd), &world.public.manifest.layers()[0]);
    let file = world.blob_path(&layer.digest);
    let shorter = &layer.bytes[..layer.bytes.len() / 2];
    let longer = [layer.bytes.as_ref(), b"!"].concat();
    for damaged in [shorter, &longer, b""] {
        std::fs::write(&file, damaged).unwrap();
        let answer = client.get(&blob(&world.public, &layer.digest)).await;
        assert_eq!((answer.status, answer.code().as_str()), (500, "UNKNOWN"));
        let said = std::str::from_utf8(&answer.body).unwrap();
        assert!(!said.contains(world.storage.to_str().unwrap()), "{said}");
    }
    logs_say(&registryd, &["ERROR", &layer.digest[7..], "instead of"]);
    std::fs::write(&file, &layer.bytes).unwrap();
    let answer = client.get(&blob(&world.public, &layer.digest)).await;
    assert_eq!(answer.body, layer.bytes);
}

#[test]
fn a_blob_that_shrinks_while_it_is_sent_breaks_off() {
    let mut world = World::new();
    let (_storage, layer) = big_blob(&mut world);
    let registryd = world.registryd();
    let download = Download::begin(&registryd, &blob(&world.public, &layer.digest));
    let file = world.blob_path(&layer.digest);
    std::fs::File::options().write(true).open(file).unwrap().set_len(1 << 20).unwrap();
    let came = download.finish();
    assert!(came.len() < layer.bytes.len() && layer.bytes.starts_with(&came));
    assert_eq!(registryd.admin_get("/healthz").unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_is_away_is_no_storage_without_blobs() {
    let (world, _cluster) = World::apart();
    let registryd = world.registryd();
    let (client, image) = (Client::of(&registryd), &world.public);
    let away = world.storage.with_extension("away");
    std::fs::rename(&world.storage, &away).unwrap();
    let (status, readiness) = registryd.admin_get("/readyz").unwrap();
    assert_eq!(status, 503, "{readiness}");
    for said in ["storage default", world.storage.to_str().unwrap()] {
        assert!(readiness.contains(said), "{readiness}");
    }
    client.get(&config(image)).await.assert_unavailable("a blob of a storage that is away");
    assert_eq!(client.get(&by_tag(image)).await.status, 200);

    std::fs::rename(&away, &world.storage).unwrap();
    registryd.wait_until_ready();
    client.recovers(&config(image)).await;
}
