//! Architectures, signatures, and engines.

use std::process::Command;

use serde_json::json;

use super::Mirrored;
use crate::support::images::{Blob, Manifest, OCI_LAYER};

fn image(architecture: &str) -> Manifest {
    Manifest::oci(architecture, vec![Blob::layer(OCI_LAYER, &[("hello", architecture)])])
}

fn list() -> Manifest {
    Manifest::index(vec![("amd64", image("amd64")), ("arm64", image("arm64"))])
}

/// A list keeps its bytes and its digest, and lacks what is not wanted.
#[test]
fn lists_are_filtered_by_architecture() {
    let mut mirrored = Mirrored::new(&["*"]);
    mirrored.sql("UPDATE repomirrorconfig SET architecture_filter = '[\"arm64\"]'");
    let list = list();
    mirrored.source.push("list", &list);
    mirrored.source.push("other", &image("amd64"));

    let report = mirrored.sync();
    let why = report["failed"]["list"].as_str().unwrap_or_else(|| panic!("{report}"));
    assert!(why.contains("FEATURE_SPARSE_INDEX"), "{why}");

    mirrored.world.configure("FEATURE_SPARSE_INDEX", json!(true));
    let report = mirrored.sync();
    assert_eq!(report["failed"], json!({}), "{report}");
    // The image of another architecture is passed over, and counts as done.
    assert_eq!(mirrored.tags(), [("list".to_owned(), list.digest.clone())]);
    let stored = |mirrored: &Mirrored, manifest: &Manifest| {
        let sql = format!("SELECT count(*) FROM manifest WHERE digest = '{}'", manifest.digest);
        let sql = format!("{sql} AND repository_id = {}", mirrored.repository_id);
        mirrored.sql(&sql).trim() == "1"
    };
    assert!(stored(&mirrored, &list.children[1]) && !stored(&mirrored, &list.children[0]));

    // Without the filter the rest follows, although the tag has not moved.
    mirrored.sql("UPDATE repomirrorconfig SET architecture_filter = NULL");
    let report = mirrored.sync();
    assert_eq!(report["failed"], json!({}), "{report}");
    assert!(stored(&mirrored, &list.children[0]));
    let report = mirrored.sync();
    assert_eq!(report["unchanged"], 2, "{report}");
}

/// cosign's tags come along and stay, although the rule does not mean them.
#[test]
fn companions_come_along_when_they_are_wanted() {
    let mut mirrored = Mirrored::new(&["v1"]);
    let (signed, signature) = (image("amd64"), image("signature"));
    mirrored.source.push("v1", &signed);
    let tag = format!("{}.sig", signed.digest.replace(':', "-"));
    mirrored.source.push(&tag, &signature);
    let names =
        |mirrored: &Mirrored| mirrored.tags().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    mirrored.sync();
    assert_eq!(names(&mirrored), ["v1"]);
    mirrored.world.configure("QUAY_SIDECAR", json!({"repo_mirror_referrers": true}));
    for _ in 0..2 {
        let report = mirrored.sync();
        assert_eq!(report["failed"], json!({}), "{report}");
        assert_eq!(names(&mirrored), [tag.as_str(), "v1"]);
    }
}

/// The same source, copied by us and by skopeo: the same tags, manifests and blobs.
#[test]
fn skopeo_leaves_the_same() {
    let rows = |by_skopeo: bool| {
        let mut mirrored = Mirrored::new(&["*"]);
        let world = &mut mirrored.world;
        let mut registryd = None;
        if by_skopeo {
            let address = format!("127.0.0.1:{}", crate::support::free_port());
            world.reach(&address);
            world.configure("QUAY_SIDECAR", json!({"repo_mirror_engine": "skopeo"}));
            world.configure("REPO_MIRROR_TLS_VERIFY", json!(false));
            registryd = Some(world.registryd_with(&["--listen", &address]));
        }
        mirrored.source.push("list", &list());
        mirrored.source.push("image", &image("amd64"));
        let report = mirrored.sync();
        assert_eq!(report["failed"], json!({}), "{report}");
        drop(registryd);
        let manifests = mirrored.sql(&format!(
            "SELECT digest, media_type_id, layers_compressed_size, config_media_type \
             FROM manifest WHERE repository_id = {} ORDER BY digest",
            mirrored.repository_id
        ));
        let blobs = mirrored.sql(&format!(
            "SELECT s.content_checksum, s.image_size FROM manifestblob b \
             JOIN imagestorage s ON s.id = b.blob_id WHERE b.repository_id = {} \
             ORDER BY s.content_checksum",
            mirrored.repository_id
        ));
        (mirrored.tags(), manifests, blobs)
    };
    assert!(Command::new("/usr/bin/skopeo").arg("--version").output().is_ok());
    assert_eq!(rows(false), rows(true));
}
