//! The pages in `docker/`: every command on them is run, in its order, and has to succeed.
//!
//! What is put in the place of what the pages say, because it is this machine and not the reader's:
//! `quay` is the program with our folders for its own (`--home`, `--units`); `quay-app` is a container
//! of another name; `/quay-registry` and `/opt/quay-sidecar` on a VM are folders of the test; Quay's
//! image is the stand-in; and `systemctl`, for there is no systemd here, is what it would do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::site::{Site, differences, may_run, snapshot};
use super::standin::{self, Image, Release, program, run};
use crate::bundle::backend::Backend;
use crate::bundle::http::Client;
use crate::bundle::quay::{Quay, Variant};
use crate::support::process::{AtExit, signal, wait};
use crate::support::{Folder, World, eventually};

fn page(name: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker").join(name);
    let text = fs::read_to_string(path).unwrap();
    let blocks = text.split("\n```sh\n").skip(1);
    let commands = blocks.flat_map(|rest| rest.split("\n```").next().unwrap().lines());
    let commands: Vec<String> = commands.map(str::to_owned).collect();
    assert!(commands.len() > 1, "{name} has no commands");
    commands
}

/// Runs a line in a shell that finds these programs first.
#[track_caller]
fn shell(line: &str, programs: &Path, variables: &[(&str, &Path)]) -> String {
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.args(["-ec", line]).env("PATH", path).envs(variables.iter().copied());
    run(&mut shell)
}

fn script(path: PathBuf, text: &str) {
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn podman() {
    if !may_run() {
        return;
    }
    let site = Site::new(standin::image(Release::Known), None);
    let before = snapshot(&site.units());
    let programs = Folder::new();
    let (program, home) = (program().display(), site.home());
    let (home, units) = (home.display(), site.units());
    script(
        programs.path().join("quay"),
        &format!(
            "[ \"$1\" != install ] || set -- \"$@\" --units {}\nexec {program} \"$@\" --home {home}",
            units.display()
        ),
    );
    fs::copy(site.path().join("podman"), programs.path().join("podman")).unwrap();
    let mut said = String::new();
    for line in page("podman.md") {
        match line.strip_prefix("systemctl restart ") {
            Some("quay-app.service") => site.start(),
            Some(other) => panic!("{other}"),
            None => {
                let here =
                    line.replace("podman exec quay-app", &format!("podman exec {}", site.name));
                said += &shell(&here, programs.path(), &[]);
                if let Some(owner) = line.split("V2_PULL=").nth(1) {
                    site.until(owner);
                }
            }
        }
    }
    assert!(said.contains("owner    V2_PULL rust"), "{said}");
    assert_eq!(differences(&before, &snapshot(&site.units())), [] as [String; 0]);
    assert!(!site.home().exists());
}

/// A Quay on this machine, as systemd would have it run.
struct Vm {
    quay: Quay,
    _world: World,
    _python: Backend,
    running: Option<(Child, AtExit)>,
}

impl Vm {
    fn new() -> Vm {
        let mut world = World::new();
        let quay = Quay::new(Variant { same_user: true, ..Variant::default() });
        world.reach(&format!("127.0.0.1:{}", quay.port));
        for file in ["config.yaml", "quay.pem", "quay.kid"] {
            fs::copy(world.conf.join(file), quay.conf("stack").join(file)).unwrap();
        }
        let _python = Backend::start("python", &quay.python_socket());
        Vm { quay, _world: world, _python, running: None }
    }

    fn variables(&self) -> [(&'static str, PathBuf); 5] {
        let conf = self.quay.conf("");
        [
            ("QUAYDIR", self.quay.root().to_owned()),
            ("QUAYCONF", conf.clone()),
            ("QUAYRUN", conf),
            ("PYTHONPATH", "/nowhere".into()),
            ("QUAY_SIDECAR_RUN", self.quay.bundle.programs.run.clone()),
        ]
    }

    fn stop(&mut self) {
        if let Some((mut supervisord, _)) = self.running.take() {
            signal(&supervisord, "TERM");
            wait(&mut supervisord, "supervisord");
        }
    }

    /// Quay generates its files, runs the scripts of `conf/init`, and becomes supervisord.
    fn restart(&mut self) {
        self.stop();
        self.quay.generate(Variant { same_user: true, ..Variant::default() });
        let edit = |from: &str, to: &str| {
            let text = self.quay.read("supervisord.conf").replace(from, to);
            fs::write(self.quay.conf("supervisord.conf"), text).unwrap();
        };
        let nginx = format!("nginx -c {}", self.quay.conf("nginx/nginx.conf").display());
        edit("/bin/sleep 1002", &nginx);
        let hook = self.quay.conf("init/zzz_quay_sidecar.sh");
        if hook.exists() {
            run(Command::new(hook).envs(self.variables()));
            // The machine may have others of us.
            edit(",nginx", ",nginx --admin-listen 127.0.0.1:0");
            edit("switch watch", "switch watch --admin-listen 127.0.0.1:0");
        }
        let mut start = Command::new("supervisord");
        start.arg("-c").arg(self.quay.conf("supervisord.conf")).current_dir(self.quay.root());
        start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let supervisord = start.envs(self.variables()).spawn().unwrap();
        let at_exit = AtExit::run(format!("kill {} 2>/dev/null", supervisord.id()));
        self.running = Some((supervisord, at_exit));
        self.until("python");
    }

    fn until(&self, owner: &str) {
        let ask = || match Client::new(self.quay.port).send("GET", "/v2/a/b/tags/list", &[], None) {
            Ok(answer) if answer.owner().is_empty() => answer.by().to_owned(),
            Ok(answer) => answer.owner().to_owned(),
            Err(error) => error.to_string(),
        };
        eventually(|| (ask() == owner).then_some(()), || format!("{owner} is not {}", ask()));
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn vm() {
    let mut vm = Vm::new();
    let (programs, machine) = (Folder::new(), Folder::new());
    let home = machine.path().join("opt");
    let at_home = format!("exec {} \"$@\" --home {}", program().display(), home.display());
    script(programs.path().join("quay"), &at_home);
    let root = vm.quay.root().to_owned();
    let tree = |vm: &Vm| {
        let mut found = snapshot(&vm.quay.conf("init"));
        found.extend(snapshot(&vm.quay.conf("nginx")));
        found
    };
    let before = tree(&vm);
    let mut said = String::new();
    for line in page("vm.md") {
        if line == "systemctl restart quay.service" {
            vm.restart();
            continue;
        }
        let here = line
            .replace("/quay-registry", root.to_str().unwrap())
            .replace("/opt/quay-sidecar", home.to_str().unwrap());
        let variables = vm.variables();
        let variables: Vec<(&str, &Path)> =
            variables.iter().map(|(name, value)| (*name, value.as_path())).collect();
        said += &shell(&here, programs.path(), &variables);
        if let Some(owner) = line.split("V2_PULL=").nth(1) {
            vm.until(owner);
        }
        if line == "quay uninstall --yes" {
            assert_eq!(differences(&before, &tree(&vm)), [] as [String; 0]);
        }
    }
    assert!(said.contains("owner    V2_PULL rust"), "{said}");
    assert!(!home.exists());
}

#[test]
fn image() {
    if !may_run() {
        return;
    }
    let (programs, context) = (Folder::new(), Folder::new());
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["docker", "init"] {
        fs::create_dir(context.path().join(folder)).unwrap();
    }
    for file in ["docker/Containerfile", "init/zzz_quay_sidecar.sh"] {
        fs::copy(source.join(file), context.path().join(file)).unwrap();
    }
    fs::copy(program(), context.path().join("quay")).unwrap();
    let site = Site::new(standin::image(Release::Known), None);
    fs::copy(site.path().join("podman"), programs.path().join("podman")).unwrap();
    let built = Image::named("page");
    let name = built.name();
    let mut said = String::new();
    for line in page("image.md") {
        let here = line
            .replace("quay.io/projectquay/quay:v3.18.0", standin::image(Release::Known))
            .replace("-t quay-sidecar", &format!("-t {name}"))
            .replace("quay quay-sidecar version", &format!("quay {name} version"));
        let here = format!("cd {} && {here}", context.path().display());
        said += &shell(&here, programs.path(), &[]);
    }
    let version = format!("quay-sidecar {}", env!("CARGO_PKG_VERSION"));
    assert!(said.lines().any(|line| line == version), "{said}");
}
