//! Decisions, retired scripts, and exceptions from D-003, as an operator asks for them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::World;

fn quay(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quay")).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn decisions_are_printed_whole() {
    let printed = quay(&["decisions"]);
    let text = said(&printed);
    assert!(printed.status.success());
    for number in 1..=8 {
        assert!(text.contains(&format!("D-00{number}  ")), "{text}");
    }
    assert_eq!(text.matches("\n  rollback ").count(), 8);
    assert!(text.contains("decided on 2026-"), "{text}");
}

#[test]
fn scripts_are_printed_with_the_one_that_boot_needs() {
    let text = said(&quay(&["tooling"]));
    assert_eq!(text.matches("\n  instead: ").count(), 16, "{text}");
    let (_, after) = text.split_once("util/generatepresharedkey.py").unwrap();
    let keep = after.lines().nth(3).unwrap();
    assert!(keep.contains("KEEP THE FILE") && keep.contains("boot.py"), "{keep}");
}

/// Decision D-004: nothing that we ship calls a retired script.
#[test]
fn nothing_that_we_ship_calls_one_of_them() {
    let scripts = quay_sidecar::governance::tooling();
    let mut seen = 0;
    for folder in ["src", "init", "templates", "scripts", "docker"] {
        let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let Ok(text) = fs::read_to_string(&path) else { continue };
                // The register itself names one.
                if path.ends_with("src/governance/tooling.rs") {
                    continue;
                }
                seen += 1;
                for script in scripts {
                    let module = script.path.trim_end_matches(".py").replace('/', ".");
                    let called = text.contains(&script.path) || text.contains(&module);
                    assert!(!called, "{} names {}", path.display(), script.path);
                }
            }
        }
    }
    assert!(seen > 100, "{seen}");
}

const RECORD: &str = r#"
id = "EX-007"
reason = "the column is renamed in two steps"
changes = ["tag.hidden"]
capabilities = ["V2_PULL"]
compatibility = "Python knows the new name; the capability stays with it"
rollback = "rename it back"
expires = 2999-01-31
[approvers]
registry = "Ada"
database = "Grace"
operations = "Edsger"
"#;

#[test]
fn a_recorded_drift_is_told_as_such_until_it_expires() {
    let world = World::new();
    let config = world.conf.to_str().unwrap();
    let (check, list) =
        (["db", "check", "--config", config], ["db", "exceptions", "--config", config]);
    assert!(said(&quay(&list)).starts_with("no exception is on record in "));
    world.database.sql("ALTER TABLE tag RENAME COLUMN hidden TO concealed");
    let unrecorded = quay(&check);
    assert_eq!(unrecorded.status.code(), Some(1));
    assert!(said(&unrecorded).contains("  tag.hidden: the column is missing\n"), "{unrecorded:?}");

    let folder = world.conf.join("schema-exceptions");
    fs::create_dir(&folder).unwrap();
    let write = |text: String| fs::write(folder.join("tag.toml"), text).unwrap();
    write(RECORD.to_owned());
    let held = quay(&list);
    assert!(held.status.success(), "{held:?}");
    assert!(said(&held).contains("EX-007: holds until 2999-01-31"), "{held:?}");
    let some = said(&quay(&check));
    let excepted = "tag.hidden: the column is missing; excepted until 2999-01-31 by EX-007";
    assert_eq!(some.matches(excepted).count(), 1, "{some}");
    // It is for pulls alone, and the other capabilities' difference is still one.
    assert_eq!(quay(&check).status.code(), Some(1), "{some}");
    let every = "[\"V2_PULL\", \"V2_PUSH\", \"repomirrorworker\"]";
    write(RECORD.replace("[\"V2_PULL\"]", every));
    let all = quay(&check);
    assert!(all.status.success(), "{all:?}");
    assert!(said(&all).contains("V2_PULL: stays with Python"), "it is not served for all that");

    write(RECORD.replace("2999-01-31", "2026-01-31"));
    let expired = quay(&list);
    assert_eq!(expired.status.code(), Some(1));
    assert!(said(&expired).contains("expired: it held until 2026-01-31"), "{expired:?}");
    let check = quay(&check);
    assert_eq!(check.status.code(), Some(1));
    let why = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(why.contains("tag.toml: refused: expired"), "{why}");
}

/// The record that the README shows is one that holds.
#[test]
fn the_documented_record_is_accepted() {
    let world = World::new();
    let readme = fs::read_to_string("README.md").unwrap();
    let (_, rest) = readme.split_once("```toml\n").expect("the record");
    let (record, _) = rest.split_once("```").unwrap();
    let folder = world.conf.join("schema-exceptions");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("one.toml"), record.replace("2027-", "2999-")).unwrap();
    let held = quay(&["db", "exceptions", "--config", world.conf.to_str().unwrap()]);
    assert!(held.status.success(), "{held:?}");
}
