//! What `quay bundle doctor` says of a mirror-registry: a Quay on SQLite, asked as Quay's own user.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use super::quay::{Quay, Variant};
use crate::support::{Database, World};

const UID: u32 = 1_000_123;

/// The lines that begin with one of these.
fn doctor(quay: &Quay, names: &[&str]) -> Vec<String> {
    let root = rustix::process::geteuid().is_root();
    let program = quay.root().join("quay");
    let mut command = match root {
        // Root may do everything, so nothing would be wrong.
        true => {
            let mut command = Command::new("setpriv");
            command.args([&format!("--reuid={UID}"), "--regid=0", "--clear-groups"]).arg(program);
            command
        }
        false => Command::new(program),
    };
    let asked = command
        .args(["bundle", "doctor", "--config"])
        .arg(quay.conf("stack"))
        .arg("--quay-conf")
        .arg(quay.conf(""))
        .env("QUAYDIR", quay.root())
        .env("QUAY_SIDECAR_RUN", &quay.bundle.programs.run)
        .output()
        .expect("setpriv runs: install the package util-linux");
    let said = String::from_utf8(asked.stdout).unwrap();
    let named =
        |line: &&str| names.iter().any(|name| line.get(8..).unwrap_or("").starts_with(name));
    said.lines().filter(named).map(str::to_owned).collect()
}

#[track_caller]
fn assert_says(said: &[String], wanted: &[&str]) {
    assert_eq!(said.len(), wanted.len(), "{said:#?}");
    for (line, words) in said.iter().zip(wanted) {
        for word in words.split(" … ") {
            assert!(line.contains(word), "{word:?} is not in {line}");
        }
    }
}

#[test]
fn a_mirror_registry_is_looked_at() {
    let (quay, world) = (Quay::new(Variant::default()), World::on_sqlite());
    let Database::Sqlite { file, .. } = &world.database else { unreachable!() };
    for name in ["config.yaml", "quay.pem", "quay.kid"] {
        fs::copy(world.conf.join(name), quay.conf("stack").join(name)).unwrap();
    }
    fs::copy(env!("CARGO_BIN_EXE_quay"), quay.root().join("quay")).unwrap();
    let folder = file.parent().unwrap();
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    let give = |path: &Path| {
        if rustix::process::geteuid().is_root() {
            chown(path, Some(UID), Some(0)).unwrap();
        }
    };
    for path in [folder, file, &quay.conf("stack"), &quay.conf("stack/config.yaml")] {
        give(path);
    }

    let all = ["database", "switches", "mirroring"];
    assert_says(
        &doctor(&quay, &all),
        &[
            "ok … mirroring: Quay does not start its repomirrorworker",
            "ok … database: … quay.db, with a write-ahead log",
            "ok … database, writable: by uid",
            "ok … database, file system: local",
            "ok … switches: none yet; `quay switch set` makes … migration-switches.yaml",
        ],
    );
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1, "something was left beside the database");

    world.database.sql("PRAGMA journal_mode = DELETE");
    let beside = file.with_extension("db-shm");
    fs::write(&beside, "").unwrap();
    mode(&beside, 0o444);
    give(&beside);
    assert_says(
        &doctor(&quay, &["database"]),
        &[
            "ok … without a write-ahead log",
            "PROBLEM … may not write … quay.db-shm: … mount it writable",
            "ok … local",
        ],
    );
    fs::remove_file(&beside).unwrap();
    mode(folder, 0o555);
    assert_says(&doctor(&quay, &["database, writable"]), &["PROBLEM … Permission denied"]);
    mode(folder, 0o755);
    mode(file, 0o444);
    assert_says(&doctor(&quay, &["database, writable"]), &["PROBLEM … quay.db: "]);
    mode(file, 0o644);

    let mut config = fs::read_to_string(quay.conf("stack/config.yaml")).unwrap();
    config.push_str("MIGRATION_SWITCHES:\n  version: 1\n");
    fs::write(quay.conf("stack/config.yaml"), config).unwrap();
    assert_says(
        &doctor(&quay, &["switches"]),
        &["PROBLEM … mirror-registry's install writes anew: any `quay switch set` moves it to"],
    );
    fs::write(quay.conf("stack/migration-switches.yaml"), "version: 1\n").unwrap();
    assert_says(&doctor(&quay, &["switches"]), &["ok … survives install and upgrade"]);

    // It comes back as something else, or not at all.
    fs::write(file, "not a database").unwrap();
    assert_says(&doctor(&quay, &["database: "]), &["PROBLEM … no SQLite database"]);
    fs::remove_file(file).unwrap();
    assert_says(
        &doctor(&quay, &["database"]),
        &[
            "PROBLEM … is it mounted",
            "PROBLEM … quay.db: No such file",
            "PROBLEM … quay.db: No such",
        ],
    );
}
