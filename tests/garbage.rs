//! The collector's statements, on whichever engine this run of the tests is: in a registry beside
//! Python nobody runs it yet.

use std::sync::Arc;
use std::time::Duration;

use quay_sidecar::catalog::{Catalog, Committed, Progress};
use quay_sidecar::config::{Config, Locks, ProcessEnvironment};
use quay_sidecar::events::BlobLocks;
use quay_sidecar::gc::{Collector, Report};
use quay_sidecar::oci::{NameRules, RepoName, Sha256};
use quay_sidecar::push::Pushes;
use quay_sidecar::telemetry::Metrics;

use crate::support::images::{Blob, Manifest, OCI_LAYER};
use crate::support::{Pusher, World};

async fn run(world: &World) -> Report {
    let config = Config::load(&world.conf, &ProcessEnvironment).unwrap().config;
    let metrics = Arc::new(Metrics::default());
    let catalog = Catalog::new(&config.database, &config.sidecar, 2, metrics.clone()).unwrap();
    let pushes = Pushes::new(&config, BlobLocks::new(&Locks::Here, &metrics), metrics.clone());
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let mut report = Report::default();
    let collector = Collector::new(catalog, pushes, &config, metrics);
    collector.run(&stopped, &mut report).await.unwrap();
    report
}

/// SQLite gives an id that is free again to the next upload.
#[tokio::test]
async fn an_upload_that_has_ended_takes_no_other_along() {
    let world = World::with_own_storage();
    let config = Config::load(&world.conf, &ProcessEnvironment).unwrap().config;
    let metrics = Arc::new(Metrics::default());
    let catalog = Catalog::new(&config.database, &config.sidecar, 2, metrics).unwrap();
    let rules = NameRules { library_namespace: "library".into(), extended: true };
    let (db, name) = (catalog.session("test"), RepoName::parse("demo/private", &rules).unwrap());
    let progress = Progress {
        byte_count: 0,
        chunk_count: 0,
        sha_state: None,
        storage_metadata: "{}".to_owned(),
        uncompressed_byte_count: None,
    };
    let begin = async |uuid| {
        db.begin_upload(&name, uuid, "default", &progress).await.unwrap().expect("a repository")
    };
    let ended = begin("2bf7c3b8-c673-4625-0000-000000000001").await;
    db.forget_upload(&ended).await.unwrap();
    let next = begin("2bf7c3b8-c673-4625-0000-000000000002").await;
    let further = Progress { byte_count: 1, ..progress.clone() };
    let (digest, hour) = (Sha256::default().digest(), Duration::from_secs(3600));
    assert!(!db.advance_upload(&ended, &further).await.unwrap());
    let committed = db.commit_upload(&ended, &digest, 0, None, hour).await.unwrap();
    assert_eq!(committed, Committed::Moved);
    db.forget_upload(&ended).await.unwrap();
    assert_eq!(db.upload_progress(&ended).await.unwrap(), None);
    assert_eq!(db.upload_progress(&next).await.unwrap(), Some(progress.clone()));
}

#[tokio::test]
async fn a_moved_tag_and_a_deleted_index() {
    let world = World::with_own_storage();
    // Not about what the registry was seeded with.
    loop {
        age(&world);
        if run(&world).await.is_empty() {
            break;
        }
    }
    let registryd = world.registryd();
    let pusher = Pusher::new(&registryd, &world);
    let child = |arch| Manifest::oci(arch, vec![layer("shared"), layer(arch)]);
    let index = Manifest::index(vec![("amd64", child("amd64")), ("arm64", child("arm64"))]);
    let kept = Manifest::oci("amd64", vec![layer("shared"), layer("kept")]);
    pusher.push("moved", &index).await;
    pusher.push("moved", &kept).await;
    let manifests = "SELECT count(*) FROM manifest";
    let before: u32 = world.database.sql(manifests).parse().unwrap();
    assert_eq!(run(&world).await.rows.get("manifest"), None);

    age(&world);
    let report = run(&world).await;
    let rows = |table: &str| report.rows.get(table).copied().unwrap_or_default();
    assert_eq!((rows("manifest"), rows("manifestchild")), (3, 2), "{report:?}");
    assert_eq!((rows("manifestsecuritystatus"), rows("imagestorage")), (3, 0), "{report:?}");
    let after: u32 = world.database.sql(manifests).parse().unwrap();
    assert_eq!(before - after, 3);
    for text in ["amd64", "kept"] {
        assert!(world.blob_path(&layer(text).digest).exists(), "{text}");
    }

    age(&world);
    let report = run(&world).await;
    let configs_and_layers = 4;
    assert_eq!(report.blobs, configs_and_layers, "{report:?}");
    for (text, there) in [("amd64", false), ("arm64", false), ("shared", true), ("kept", true)] {
        assert_eq!(world.blob_path(&layer(text).digest).exists(), there, "{text}");
    }
    assert_eq!(pusher.manifest("moved").await.unwrap().1, kept.bytes);
    assert!(run(&world).await.is_empty());
}

/// Whatever has ended, or ever will, did so long ago.
fn age(world: &World) {
    world.database.sql(
        "UPDATE tag SET lifetime_end_ms = id WHERE lifetime_end_ms IS NOT NULL;
         UPDATE uploadedblob SET expires_at = '2000-01-01 00:00:00'",
    );
}

fn layer(text: &str) -> Blob {
    Blob::layer(OCI_LAYER, &[("file", text)])
}
