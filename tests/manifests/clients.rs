//! The clients that people use, with all that they ask before and after.

use std::process::Command;

use super::World;
use crate::support::images::Manifest;
use crate::support::{Folder, free_port};

/// Runs skopeo, which has to succeed.
fn skopeo(args: &[String]) {
    let output = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "-q", "--src-tls-verify=false"])
        .args(args)
        .output()
        .expect("skopeo runs: install the package skopeo");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Every kind of image of the fixture, from one repository to another that the push makes, and back.
#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_every_image() {
    let mut world = World::with_own_storage();
    let address = format!("127.0.0.1:{}", free_port());
    world.reach(&address);
    let _registryd = world.registryd_with(&["--listen", &address]);
    let login = format!("{}:{}", world.ada.username, world.ada.password);
    let folder = Folder::new();
    let images: [&Manifest; 3] =
        [&world.public.manifest, &world.docker.manifest, &world.index.manifest];
    for (tag, manifest) in ["latest", "docker", "multi"].into_iter().zip(images) {
        let copy = format!("docker://{address}/demo/by-skopeo:{tag}");
        skopeo(&[
            "--all".into(),
            "--preserve-digests".into(),
            "--dest-tls-verify=false".into(),
            format!("--dest-creds={login}"),
            "--src-no-creds".into(),
            format!("docker://{address}/demo/public:{tag}"),
            copy.clone(),
        ]);
        let back = folder.path().join(tag);
        let source = format!("--src-creds={login}");
        skopeo(&["--all".into(), source, copy, format!("dir:{}", back.display())]);
        assert_eq!(std::fs::read(back.join("manifest.json")).unwrap(), manifest.bytes, "{tag}");
        for blob in manifest.blobs.iter().chain(manifest.children.iter().flat_map(|c| &c.blobs)) {
            let file = back.join(blob.digest.trim_start_matches("sha256:"));
            assert_eq!(std::fs::read(file).unwrap(), blob.bytes, "{tag}: {}", blob.digest);
        }
    }
    assert_eq!(
        world.database.sql(
            "SELECT v.name, p.user_id, o.name FROM repository r
             JOIN visibility v ON v.id = r.visibility_id
             JOIN repositorypermission p ON p.repository_id = r.id JOIN role o ON o.id = p.role_id
             WHERE r.name = 'by-skopeo'"
        ),
        format!("private|{}|admin", world.ada.id)
    );
}
