//! The boot hook as it is shipped, with the real binary, as the user of Quay's image: an arbitrary
//! number without an entry in the passwd file, and group 0.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::bundle::quay::{Quay, Variant};
use crate::support::World;

const UID: u32 = 1_000_123;

fn hook(quay: &Quay) -> String {
    let script = quay.root().join("zzz_quay_sidecar.sh");
    let ran = Command::new("setpriv")
        .args([&format!("--reuid={UID}"), "--regid=0", "--clear-groups"])
        .arg(&script)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/bin")
        .env("QUAY_SIDECAR_HOME", quay.root())
        .env("QUAY_SIDECAR_RUN", &quay.bundle.programs.run)
        .env("QUAYDIR", quay.root())
        .env("QUAYCONF", quay.conf(""))
        .output()
        .expect("setpriv runs: install the package util-linux");
    assert!(ran.status.success(), "{ran:?}");
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

#[test]
fn twice_as_a_user_without_a_name_in_a_tree_that_is_partly_read_only() {
    if !rustix::process::geteuid().is_root() {
        crate::support::left_out("only root can become somebody else");
        return;
    }
    let quay = Quay::new(Variant::default());
    let world = World::new();
    for file in ["config.yaml", "quay.pem", "quay.kid"] {
        fs::copy(world.conf.join(file), quay.conf("stack").join(file)).unwrap();
    }
    fs::create_dir(quay.root().join("bin")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_quay"), quay.root().join("bin/quay")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("init/zzz_quay_sidecar.sh");
    fs::copy(script, quay.root().join("zzz_quay_sidecar.sh")).unwrap();
    chown(quay.root(), Some(0), Some(0)).unwrap();
    let root = quay.root().display();
    let everything = format!("chmod -R g=u '{root}' && chmod 777 '{root}'");
    assert!(Command::new("sh").args(["-c", &everything]).status().unwrap().success());
    let writable = |mode| {
        let permissions = PermissionsExt::from_mode(mode);
        fs::set_permissions(quay.conf("nginx"), permissions).unwrap();
    };

    let before = quay.edited();
    writable(0o755);
    let said = hook(&quay);
    assert!(said.contains("cannot write"), "{said}");
    assert_eq!(quay.edited(), before);

    writable(0o775);
    let said = hook(&quay);
    assert!(said.contains("applied"), "{said}");
    let applied = quay.edited();
    assert_ne!(applied, before);
    let said = hook(&quay);
    assert!(said.contains("applied"), "{said}");
    assert_eq!(quay.edited(), applied);
    // A start of Quay writes its files anew.
    quay.generate(Variant::default());
    hook(&quay);
    assert_eq!(quay.edited(), applied);
}
