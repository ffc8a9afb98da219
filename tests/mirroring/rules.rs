//! Architectures, signatures, and engines.

use std::io::Write as _;
use std::process::{Command, Stdio};

use quay_sidecar::mirroring::Globs;
use serde_json::{Value, json};

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
    // For as long as the list is there.
    let kept = mirrored.sql(&format!(
        "SELECT count(*) FROM manifestchild l JOIN manifest p ON p.id = l.manifest_id \
         WHERE p.digest = '{}' AND p.repository_id = {}",
        list.digest, mirrored.repository_id
    ));
    assert_eq!(kept.trim(), "2");
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

/// What `fnmatch` makes of patterns and names that are given as JSON, for each pattern the names that
/// it means.
const FNMATCH: &str = "
import fnmatch, json, sys
patterns, names = json.load(sys.stdin)
json.dump([[n for n in names if fnmatch.fnmatch(n, p)] for p in patterns], sys.stdout)
";

/// Text of these characters, other text each time.
fn made_of(characters: &[u8], state: &mut u32) -> String {
    let mut next = |most: usize| {
        *state ^= *state << 13;
        *state ^= *state >> 17;
        *state ^= *state << 5;
        *state as usize % most
    };
    let length = next(7);
    (0..length).map(|_| char::from(characters[next(characters.len())])).collect()
}

/// Every operator, in every place, on names that tags have and on odd ones: as Python itself says.
#[test]
fn globs_mean_what_pythons_fnmatch_says() {
    let mut patterns: Vec<String> = [
        "*",
        "**",
        "?",
        "v?",
        "v*",
        "*.*",
        "v1.?",
        "v[0-9]*",
        "v[!0-9]*",
        "[!v]*",
        "[]x]",
        "[!]x]*",
        "[a-]",
        "[-a]",
        "[z-a]",
        "[!z-a]",
        "[a-c-e]",
        "[--0]",
        "[a-z0-9_.-]*",
        "[",
        "[]",
        "[!]",
        "[!",
        "[abc",
        "]",
        "!v1",
        "[^a]",
        "[a^]",
        "[[]",
        "[*]",
        "[?]",
        "{a,b}",
        "a|b",
        "(a)",
        "a+",
        "^a$",
        "v1.0",
        "V1",
        "_*",
        "*-",
        "*_",
        "%",
        "_",
        "\\*",
        "sha256-*.sig",
        "",
        "größ?",
        "*\u{df}*",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut names: Vec<String> = [
        "v1",
        "v1.0",
        "v1x0",
        "V1",
        "v10",
        "v",
        "latest",
        "_x",
        "_",
        "a",
        "b",
        "c",
        "-",
        "a-b",
        "a_b",
        "1.0-rc.1",
        "x",
        "]",
        "[",
        "[abc",
        "{a,b}",
        "a|b",
        "aa",
        "^",
        "!",
        "*",
        "?",
        "größe",
        "\u{df}",
        "sha256-00.sig",
        "",
        "%",
        "\\x",
        "a\nb",
        "0",
        ".",
        "e",
        "m",
        "z",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut state = 0x9e37_79b9;
    patterns.extend((0..4000).map(|_| made_of(b"*?[]!-^ab0._", &mut state)));
    names.extend((0..300).map(|_| made_of(b"ab0._-]![^", &mut state)));
    names.sort();
    names.dedup();

    let mut python = Command::new("python3")
        .args(["-c", FNMATCH])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let asked = json!([patterns, names]).to_string();
    python.stdin.take().expect("piped").write_all(asked.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    let said: Vec<Vec<String>> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said.len(), patterns.len());
    let mut differences = Vec::new();
    for (pattern, said) in patterns.iter().zip(said) {
        let rule = Value::from(vec![pattern.as_str()]).to_string();
        let ours = Globs::parse(&rule).unwrap().matching(names.clone());
        if ours != said {
            differences.push(format!("{pattern:?}: {ours:?}, Python {said:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
