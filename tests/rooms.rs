//! The rooms of `src/` use only those below them.

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// From top to bottom, as in the design.
const ROOMS: [&str; 15] = [
    "serve",
    "registry",
    "push",
    "delivery",
    "bundle",
    "switches",
    "auth",
    "events",
    "audit",
    "catalog",
    "blobs",
    "config",
    "telemetry",
    "oci",
    "rounds",
];

#[test]
fn a_room_uses_only_rooms_below_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for (level, room) in ROOMS.iter().enumerate() {
        for file in rust_files(&source.join(room)) {
            seen += 1;
            for used in rooms_used(&fs::read_to_string(&file).unwrap()) {
                let below = ROOMS[level..].contains(&used.as_str());
                assert!(below, "{} uses the room {used}, which is above {room}", file.display());
            }
        }
    }
    assert!(seen > 40, "only {seen} files were looked at");
}

#[test]
fn every_room_is_in_the_list() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(source).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known =
            ["lib.rs", "main.rs", "cli"].contains(&name.as_str()) || ROOMS.contains(&&*name);
        assert!(known, "src/{name} is no room of the list");
    }
}

/// SQL, and the types of its client, stay in the catalog.
#[test]
fn only_the_catalog_talks_to_the_database() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for room in ROOMS.iter().filter(|room| **room != "catalog") {
        for file in rust_files(&source.join(room)) {
            let code = fs::read_to_string(&file).unwrap();
            for word in
                ["tokio_postgres::", "deadpool_postgres::", "rusqlite::", "SELECT ", "INSERT INTO "]
            {
                assert!(!code.contains(word), "{} contains {word:?}", file.display());
            }
        }
    }
}

#[test]
fn the_check_sees_what_it_should() {
    let code =
        "use crate::registry::App;\nuse crate::{audit::Audit, oci};\nlet x = crate::serve::run;";
    assert_eq!(rooms_used(code), ["registry", "serve", "audit", "oci"]);
}

fn rooms_used(code: &str) -> Vec<String> {
    let single = Regex::new(r"crate::([a-z_]+)").unwrap();
    let group = Regex::new(r"crate::\{([^;]*)\}").unwrap();
    let member = Regex::new(r"(?:^|[,{]\s*)([a-z_]+)").unwrap();
    let grouped = group.captures_iter(code).flat_map(|found| {
        let members = found[1].to_owned();
        member.captures_iter(&members).map(|found| found[1].to_owned()).collect::<Vec<_>>()
    });
    let names = single.captures_iter(code).map(|found| found[1].to_owned()).chain(grouped);
    names.filter(|name| ROOMS.contains(&name.as_str())).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    // A room of the design that is not built yet has no folder.
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
