//! The boot hook: whatever our binary does, Quay starts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::Folder;

fn hook(home: &Path, disabled: &str) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("init/zzz_quay_sidecar.sh");
    let ran = Command::new(script)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("QUAY_SIDECAR_HOME", home)
        .env("QUAY_SIDECAR_DISABLED", disabled)
        .output();
    ran.expect("it is a program")
}

fn binary(home: &Path, script: &str) {
    let path = home.join("bin/quay");
    fs::create_dir_all(home.join("bin")).unwrap();
    fs::write(&path, format!("#!/bin/sh\necho \"$@\" >> {}/log\n{script}\n", home.display()))
        .unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn it_always_exits_0() {
    let apply = "bundle apply --hook\n";
    let both = "bundle apply --hook\nbundle revert\n";
    for (script, calls, says) in [
        ("echo applied", apply, "applied"),
        ("exit 3", both, "that failed too"),
        ("kill -SEGV $$", both, "ended badly"),
        ("[ \"$2\" = revert ]", both, "ended badly"),
    ] {
        let home = Folder::new();
        binary(home.path(), script);
        let ran = hook(home.path(), "false");
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && said.contains(says), "{script}: {ran:?}");
        assert_eq!(fs::read_to_string(home.path().join("log")).unwrap(), calls, "{script}");
    }
}

#[test]
fn without_a_binary_or_told_not_to_it_does_nothing() {
    let home = Folder::new();
    let ran = hook(home.path(), "false");
    assert!(ran.status.success() && String::from_utf8_lossy(&ran.stdout).contains("missing"));
    binary(home.path(), "");
    assert!(hook(home.path(), "true").status.success());
    assert!(!home.path().join("log").exists());
}

/// Quay runs its scripts in the order of their names; ours comes after the last of them.
#[test]
fn its_name_is_the_last() {
    let mut names = ["zzz_quay_sidecar.sh", "zz_boot.sh", "supervisord_conf_create.sh"];
    names.sort_unstable();
    assert_eq!(names.last(), Some(&"zzz_quay_sidecar.sh"));
}
