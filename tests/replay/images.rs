//! A real client pulls every image of the recorded registry, token dance included.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::installation::{Installation, run};
use crate::support::images::digest_of;

/// Tags that clients see, and the digest that Quay stored for each.
const IMAGES: &str = "
    SELECT u.username || '/' || r.name, t.name, m.digest, y.name
    FROM tag t
    JOIN manifest m ON m.id = t.manifest_id
    JOIN mediatype y ON y.id = m.media_type_id
    JOIN repository r ON r.id = t.repository_id
    JOIN \"user\" u ON u.id = r.namespace_user_id
    WHERE NOT t.hidden AND (t.lifetime_end_ms IS NULL OR t.lifetime_end_ms > @NOW@)
    ORDER BY 1, 2";

#[test]
fn skopeo_copies_every_image() {
    let Some(installation) = Installation::restore() else { return };
    let found = Command::new("skopeo").arg("--version").output();
    assert!(
        found.is_ok_and(|output| output.status.success()),
        "install skopeo: apt install skopeo"
    );
    let registryd = installation.reachable_registryd();
    let address = registryd.base().strip_prefix("http://").expect("an address");

    let now = chrono::Utc::now().timestamp_millis().to_string();
    let images = installation.rows(&IMAGES.replace("@NOW@", &now));
    let mut copies = 0;
    for image in &images {
        let [repository, tag, digest, media_type] = &image[..] else { panic!("{image:?}") };
        for (login, format) in
            logins(repository).iter().flat_map(|login| formats(login, media_type))
        {
            copies += 1;
            let to = installation.scratch(&format!("copies/{copies}"));
            let destination = format!("{format}:{}", to.display());
            let source = format!("docker://{address}/{repository}:{tag}");
            copy(&installation, login, &source, &destination);
            let what = format!("{source} as {login:?} into {destination}");
            match format {
                "dir" => check_dir(&to, digest, &what),
                _ => check_oci(&to, digest, &what),
            }
        }
    }
    println!("copied {} images in {copies} copies", images.len());
    assert!(images.len() >= 25, "only {} images in the database", images.len());
    assert_eq!(registryd.metric("quay_declined_total"), 0.0);
}

/// And pushes every one of them again, to a repository where it is new, and has it back.
#[test]
fn skopeo_pushes_every_image() {
    let Some(installation) = Installation::restore() else { return };
    let registryd = installation.reachable_registryd();
    let address = registryd.base().strip_prefix("http://").expect("an address");
    let now = chrono::Utc::now().timestamp_millis().to_string();
    let images = installation.rows(&IMAGES.replace("@NOW@", &now));
    let login = format!("admin:{}", installation.secret("admin"));
    for (number, image) in images.iter().enumerate() {
        let [repository, tag, digest, _] = &image[..] else { panic!("{image:?}") };
        let from = format!("docker://{address}/{repository}:{tag}");
        let there = format!("docker://{address}/acme/pushed:{number}");
        let options = ["--preserve-digests", "--dest-tls-verify=false", "--dest-creds", &login];
        run(skopeo(&installation, "admin").args(options).args([&from, &there]));
        let back = installation.scratch(&format!("pushed/{number}"));
        copy(&installation, "admin", &there, &format!("dir:{}", back.display()));
        check_dir(&back, digest, &format!("{from} as {there}"));
    }
    println!("pushed {} images", images.len());
    assert_eq!(registryd.metric("quay_declined_total"), 0.0);
}

/// Who may pull from a repository: a user, a robot, or without a name anybody.
fn logins(repository: &str) -> &'static [&'static str] {
    match repository {
        "acme/app" => &["reader", "acme+ci", "acme+ro"],
        "acme/public" => &[""],
        "acme/multi" | "acme/refs" | "acme/scratch" => &["admin", "acme+ci"],
        _ => &["admin"],
    }
}

/// As it is, and once in OCI layout where nothing has to be converted for that.
fn formats<'l>(login: &&'l str, media_type: &str) -> Vec<(&'l str, &'static str)> {
    let mut formats = vec![(*login, "dir")];
    if media_type.contains(".oci.") && *login != "acme+ro" {
        formats.push((*login, "oci"));
    }
    formats
}

fn copy(installation: &Installation, login: &str, source: &str, destination: &str) {
    run(skopeo(installation, login).args([source, destination]));
}

fn skopeo(installation: &Installation, login: &str) -> Command {
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--all", "--quiet", "--src-tls-verify=false"]);
    match login {
        "" => skopeo.arg("--src-no-creds"),
        _ => skopeo.args(["--src-creds", &format!("{login}:{}", installation.secret(login))]),
    };
    // Its cache goes where our folder goes, whoever runs this.
    skopeo
        .env("_CONTAINERS_ROOTLESS_UID", "1")
        .env("XDG_DATA_HOME", installation.scratch("skopeo"));
    skopeo
}

/// The manifest is the recorded one, and everything that it names is there, whole.
fn check_dir(folder: &Path, digest: &str, what: &str) {
    let mut present = BTreeSet::new();
    let mut wanted = BTreeSet::from([digest.to_owned()]);
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let bytes = fs::read(&path).expect("a file");
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        if name == "version" {
            continue;
        }
        let actual = digest_of(&bytes);
        if name.ends_with("manifest.json") {
            wanted.extend(named_in(&bytes));
        }
        let hex = name.trim_end_matches(".manifest.json");
        assert!(hex == "manifest.json" || actual == format!("sha256:{hex}"), "{what}: {name}");
        present.insert(actual);
    }
    assert_eq!(present, wanted, "{what}");
}

/// The layout's index names the recorded manifest.
fn check_oci(folder: &Path, digest: &str, what: &str) {
    let index = fs::read(folder.join("index.json")).expect("an index");
    assert_eq!(named_in(&index), [digest], "{what}");
    let hex = digest.strip_prefix("sha256:").expect("a SHA-256");
    let manifest = fs::read(folder.join("blobs/sha256").join(hex)).expect("a manifest");
    assert_eq!(digest_of(&manifest), digest, "{what}");
}

/// The digests of everything that a manifest or an index is made of.
fn named_in(manifest: &[u8]) -> Vec<String> {
    let manifest: Value = serde_json::from_slice(manifest).expect("JSON");
    let lists = ["layers", "manifests"].map(|key| manifest[key].as_array().cloned());
    let parts = lists.into_iter().flatten().flatten().chain([manifest["config"].clone()]);
    parts.filter_map(|part| part["digest"].as_str().map(str::to_owned)).collect()
}
