//! What `scripts/release` looks at in a binary before it is shipped.

use std::process::Command;

use regex::bytes::Regex;

/// The newest glibc that a binary names, read in another way than the script's.
fn newest_glibc(binary: &[u8]) -> u32 {
    let version = Regex::new(r"GLIBC_2\.(\d+)").unwrap();
    let minor = |found: regex::bytes::Captures<'_>| {
        String::from_utf8_lossy(&found[1]).parse::<u32>().unwrap()
    };
    version.captures_iter(binary).map(minor).max().expect("a dynamic binary")
}

#[test]
fn a_binary_for_newer_systems_is_refused() {
    let quay = env!("CARGO_BIN_EXE_quay");
    let newest = newest_glibc(&std::fs::read(quay).unwrap());
    let checked = Command::new("scripts/release").args(["--check", quay]).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.success(), newest <= 28, "GLIBC_2.{newest}: {checked:?}");
    if newest > 28 {
        assert!(said.contains(&format!("needs GLIBC_2.{newest}, newer than 2.28")), "{said}");
    }
    let none = Command::new("scripts/release").args(["--check", "README.md"]).output().unwrap();
    assert!(!none.status.success(), "a text is no binary: {none:?}");
    let unknown = Command::new("scripts/release").arg("--fast").output().unwrap();
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(!unknown.status.success() && said.contains("unknown option --fast"), "{said}");
}
