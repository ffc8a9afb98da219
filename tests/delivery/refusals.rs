//! What cannot be served is refused before anything is written, with the reason and what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::site::{UNIT, differences, snapshot};
use crate::bundle::quay::{Quay, Variant};
use crate::support::{Folder, World};

/// What `quay install` says to these options: it has to refuse, and to change nothing.
#[track_caller]
fn refused(folder: &Path, options: &[&str]) -> String {
    let before = snapshot(folder);
    let mut command = Command::new(env!("CARGO_BIN_EXE_quay"));
    command.args(["install", "--yes", "--json", "--home"]).arg(folder.join("opt")).args(options);
    let said = command.output().unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(!said.status.success(), "{text}");
    assert_eq!(differences(&before, &snapshot(folder)), [] as [String; 0], "{text}");
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["outcome"], "refused", "{text}");
    let refusals = last["refusals"].as_array().unwrap();
    let words = |refusal: &serde_json::Value| {
        let word = |key: &str| refusal[key].as_str().filter(|word| !word.is_empty()).unwrap();
        format!("{} -> {}\n", word("reason"), word("remedy"))
    };
    refusals.iter().map(words).collect()
}

fn tree() -> (Quay, World) {
    let (quay, world) = (Quay::new(Variant::default()), World::new());
    for file in ["config.yaml", "quay.pem", "quay.kid"] {
        fs::copy(world.conf.join(file), quay.conf("stack").join(file)).unwrap();
    }
    (quay, world)
}

#[track_caller]
fn tree_refused(quay: &Quay) -> String {
    refused(quay.root(), &["--tree", quay.root().to_str().unwrap()])
}

#[test]
fn a_tree_that_cannot_be_served() {
    let (quay, _world) = tree();
    let config = quay.conf("stack/config.yaml");
    let good = fs::read_to_string(&config).unwrap();
    let with = |more: &str| {
        let kept = good.lines().filter(|line| !line.starts_with("DB_URI"));
        let kept: String = kept.map(|line| format!("{line}\n")).collect();
        fs::write(&config, kept + more).unwrap();
        tree_refused(&quay)
    };
    let said = with("DB_URI: mysql+pymysql://u:s3cr3t@h/d\n");
    assert!(said.contains("mysql is not served") && !said.contains("s3cr3t"), "{said}");
    fs::remove_file(&config).unwrap();
    let said = tree_refused(&quay);
    assert!(said.contains("config.yaml: No such file"), "{said}");
    fs::write(&config, &good).unwrap();
    fs::set_permissions(&config, PermissionsExt::from_mode(0o600)).unwrap();
    let said = tree_refused(&quay);
    assert!(said.contains("only its owner may read it") && said.contains("chmod g+r"), "{said}");
    fs::set_permissions(&config, PermissionsExt::from_mode(0o640)).unwrap();

    let edit = |name: &str, edit: &dyn Fn(&str) -> String| {
        let text = quay.read(name);
        fs::write(quay.conf(name), edit(&text)).unwrap();
        let said = tree_refused(&quay);
        fs::write(quay.conf(name), text).unwrap();
        said
    };
    let said = edit("nginx/server-base.conf", &|text| text.replacen("registry_app_server", "x", 1));
    assert!(said.contains("6 proxy_pass directives"), "{said}");
    let said = edit("supervisord.conf", &|text| text.replace("program:nginx", "program:other"));
    assert!(said.contains("no program nginx"), "{said}");
    for version in ["v3.9.2", "v4.0.0"] {
        fs::write(quay.root().join("CHANGELOG.md"), version).unwrap();
        let said = tree_refused(&quay);
        assert!(said.contains("is not known to us: 3.10 is the oldest, 3.18 the newest"), "{said}");
    }
    fs::remove_dir_all(quay.conf("init")).unwrap();
    assert!(tree_refused(&quay).contains("this is no tree of Quay's"));
    fs::write(quay.root().join("quay"), "").unwrap();
    assert!(tree_refused(&quay).contains("a program in Go"));
}

#[test]
fn newer_than_known_is_told_and_not_refused() {
    let (quay, _world) = tree();
    fs::write(quay.root().join("CHANGELOG.md"), "v3.19.1").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_quay"));
    command.args(["install", "--home"]).arg(quay.root().join("opt"));
    let said = command.arg("--tree").arg(quay.root()).output().unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(said.status.success(), "{text}");
    assert!(text.contains("notice: Quay v3.19.1, newer than those that were tested"), "{text}");
    assert!(text.contains("nothing was changed; --yes does it"), "{text}");
    assert!(!quay.root().join("opt").exists());
}

struct Units {
    folder: Folder,
    world: World,
}

impl Units {
    fn new() -> Units {
        let units = Units { folder: Folder::new(), world: World::new() };
        units.podman("4.9.4-rhel");
        units
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Of another release, with no container.
    fn podman(&self, version: &str) {
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = --version ] && {{ echo podman version {version}; exit 0; }}\n\
             echo no such container >&2\nexit 125\n"
        );
        fs::write(self.path("podman"), script).unwrap();
        fs::set_permissions(self.path("podman"), PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn text(&self) -> String {
        UNIT.replace("@PODMAN@", self.path("podman").to_str().unwrap())
            .replace("@CONFIG@", self.world.conf.to_str().unwrap())
            .replace("@NAME@", "quay-app")
            .replace("@STORAGE@", "/s")
    }

    #[track_caller]
    fn refused(&self, text: &str) -> String {
        fs::write(self.path("quay-app.service"), text).unwrap();
        refused(self.folder.path(), &["--units", self.folder.path().to_str().unwrap()])
    }
}

#[test]
fn a_unit_that_cannot_be_served() {
    let units = Units::new();
    let folder = units.folder.path();
    let said = refused(folder, &["--units", folder.to_str().unwrap()]);
    assert!(said.contains("quay-app.service is not there") && said.contains("--unit"), "{said}");

    let said = units.refused("[Service]\nExecStart=/usr/bin/sleep 1\n");
    assert!(said.contains("is no `podman run`"), "{said}");
    let stack = format!("{}:/quay-registry/conf/stack:Z", units.world.conf.display());
    let other = units.text().replace(&stack, "/data:/data:Z");
    let said = units.refused(&other);
    assert!(said.contains("nothing is mounted at /quay-registry/conf/stack"), "{said}");
    let said = units.refused(&other.replace("@IMAGE@ registry", "quay.io/quay/quay-mirror serve"));
    assert!(said.contains("a program in Go"), "{said}");
    let ours = "Environment=CONTAINERS_CONF_OVERRIDE=/etc/x.conf\nExecStart=";
    let said = units.refused(&units.text().replace("ExecStart=", ours));
    assert!(said.contains("sets CONTAINERS_CONF_OVERRIDE"), "{said}");

    units.podman("4.3.1");
    let said = units.refused(&units.text());
    assert!(said.contains("podman 4.3 has no second file of settings, 4.5 has"), "{said}");
    assert!(
        said.contains("derived image") && said.contains("/bin:/opt/quay-sidecar/bin"),
        "{said}"
    );

    let quadlet = format!("[Container]\nImage=quay\nVolume={stack}\n");
    fs::write(units.path("quay.container"), quadlet).unwrap();
    let options = ["--unit", "quay.container", "--units", folder.to_str().unwrap()];
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    units.podman("4.9.4");
    let mut command = Command::new(env!("CARGO_BIN_EXE_quay"));
    command.arg("install").arg("--home").arg(folder.join("opt")).args(options).env("PATH", &path);
    let said = command.output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("podman 4.9 has no drop-ins for quadlets, 5.0 has"), "{said}");
    units.podman("5.4.0");
    let said = command.output().unwrap();
    assert!(said.status.success(), "{said:?}");
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(text.contains("systemd-quay does not run, so its files were not looked at"), "{text}");
    assert!(text.contains("quay.container.d/50-quay-sidecar.conf"), "{text}");
}

/// A drop-in with the whole command keeps an image for ever.
#[test]
fn a_restated_command_is_told() {
    let units = Units::new();
    fs::write(units.path("quay-app.service"), units.text()).unwrap();
    let drop_in = units.path("quay-app.service.d/10-theirs.conf");
    fs::create_dir(drop_in.parent().unwrap()).unwrap();
    let command = units.text();
    let command = command.split("ExecStart=").nth(1).unwrap().split("\nExecStop").next().unwrap();
    fs::write(&drop_in, format!("[Service]\nExecStart=\nExecStart={command}\n")).unwrap();
    let mut install = Command::new(env!("CARGO_BIN_EXE_quay"));
    install.arg("install").arg("--home").arg(units.path("opt")).arg("--units");
    let said = install.arg(units.folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success(), "{said:?}");
    assert!(text.contains("10-theirs.conf has the whole command"), "{text}");
}
