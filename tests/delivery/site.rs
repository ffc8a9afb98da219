//! A machine with a Quay in a container: its unit, configuration and storage, and who starts it. There
//! is no systemd here, so what a unit says is done by [`Site::start`], word for word.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use sha2::{Digest, Sha256};

use super::standin::{program, run};
use crate::bundle::http::Client;
use crate::support::process::AtExit;
use crate::support::{Folder, World, eventually, free_port};

/// What is asked to see who answers.
const TAG: &str = "/v2/demo/public/manifests/latest";

const ACCEPT: [(&str, &str); 1] = [("accept", crate::support::images::OCI_MANIFEST)];

pub const UNIT: &str = include_str!("quay-app.service");

pub struct Site {
    pub world: World,
    pub folder: Folder,
    pub port: u16,
    pub name: String,
    user: Option<String>,
    _at_exit: AtExit,
}

impl Site {
    /// With a Quay of this image, as mirror-registry leaves it; `user` instead of the image's.
    pub fn new(image: &str, user: Option<&str>) -> Site {
        let (mut world, folder, port) = (World::with_own_storage(), Folder::new(), free_port());
        world.reach(&format!("127.0.0.1:{port}"));
        let name = format!("quay-sidecar-test-{}-{port}", std::process::id());
        let user = user.map(str::to_owned);
        let _at_exit = AtExit::run(format!("podman rm -f -t 1 {name} >/dev/null 2>&1"));
        let site = Site { world, folder, port, name, user, _at_exit };
        fs::create_dir(site.units()).unwrap();
        site.podman();
        site.write_unit(image);
        // Of user 1001, or of any user of group 0.
        let give = "chown -R 1001:0 \"$@\" && chmod -R g=u \"$@\"";
        run(Command::new("sh")
            .args(["-c", give, "sh"])
            .args([&site.world.conf, &site.world.storage]));
        site
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn units(&self) -> PathBuf {
        self.path().join("units")
    }

    pub fn home(&self) -> PathBuf {
        self.path().join("opt")
    }

    /// What `mirror-registry install` and `upgrade` do: the unit is written anew.
    pub fn write_unit(&self, image: &str) {
        let text = UNIT
            .replace("@PODMAN@", self.path().join("podman").to_str().unwrap())
            .replace("@NAME@", &self.name)
            .replace("@CONFIG@", self.world.conf.to_str().unwrap())
            .replace("@STORAGE@", self.world.storage.to_str().unwrap())
            .replace("@PORT@", &self.port.to_string())
            .replace("@IMAGE@", image);
        fs::write(self.units().join("quay-app.service"), text).unwrap();
    }

    /// podman as this machine needs it: containers get few file handles and processes and the
    /// machine's network. One older than 4.5 has no second file of settings, so it gets ours as its
    /// only one: the same file, read by the same code.
    fn podman(&self) {
        let said = run(Command::new("podman").arg("--version"));
        let version = said.split_whitespace().last().unwrap_or_default().to_owned();
        let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
        let old = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (4, 5);
        let older = match old {
            true => {
                "[ \"$1\" != --version ] || { echo podman version 4.5.0; exit; }\n\
                 [ -z \"${CONTAINERS_CONF_OVERRIDE:-}\" ] || \
                 export CONTAINERS_CONF=$CONTAINERS_CONF_OVERRIDE\n"
            }
            false => "",
        };
        let user = self.user.as_ref().map(|user| format!("--user {user} ")).unwrap_or_default();
        let script = format!(
            "#!/bin/sh\n{older}if [ \"$1\" = run ]; then\n  shift\n  \
             exec /usr/bin/podman --runtime runc run {user}--ulimit nofile=1024:1024 \
             --ulimit nproc=1024:1024 --network=host \"$@\"\nfi\n\
             exec /usr/bin/podman --runtime runc \"$@\"\n"
        );
        let path = self.path().join("podman");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// What systemd does with the unit and its drop-ins.
    pub fn start(&self) {
        let unit = self.units().join("quay-app.service");
        let mut drop_ins: Vec<PathBuf> = fs::read_dir(self.units().join("quay-app.service.d"))
            .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
            .unwrap_or_default();
        drop_ins.sort();
        let (mut environment, mut start) = (Vec::new(), String::new());
        for file in [unit].iter().chain(&drop_ins) {
            let text = fs::read_to_string(file).unwrap().replace("\\\n", " ");
            for line in text.lines() {
                if let Some(command) = line.strip_prefix("ExecStart=") {
                    start = command.to_owned();
                } else if let Some(path) = line.strip_prefix("EnvironmentFile=-") {
                    let more = fs::read_to_string(path).unwrap_or_default();
                    let set = more.lines().filter(|line| !line.starts_with('#'));
                    environment.extend(set.map(str::to_owned));
                }
            }
        }
        let start =
            start.replace("%t", self.path().to_str().unwrap()).replace("%n", "quay-app.service");
        // It would stay, and be waited for.
        let start = start.replacen(" run ", " run -d ", 1);
        let script = format!("rm -f '{0}'/*-cid '{0}'/*-pid; {start}", self.path().display());
        let variables = environment.iter().filter_map(|line| line.split_once('='));
        run(Command::new("sh").args(["-c", &script]).envs(variables));
        self.until("python");
    }

    pub fn quay(&self, arguments: &[&str]) -> Output {
        let mut quay = Command::new(program());
        quay.args(arguments).arg("--home").arg(self.home());
        if arguments[0] == "install" {
            quay.arg("--units").arg(self.units());
        }
        quay.output().unwrap()
    }

    /// The same, and it has to succeed.
    #[track_caller]
    pub fn says(&self, arguments: &[&str]) -> String {
        let said = self.quay(arguments);
        assert!(said.status.success(), "{arguments:?}: {said:?}");
        String::from_utf8(said.stdout).unwrap()
    }

    /// In the container, as its user.
    pub fn exec(&self, arguments: &[&str]) -> String {
        let mut exec = Command::new(self.path().join("podman"));
        run(exec.args(["exec", &self.name, "/opt/quay-sidecar/bin/quay"]).args(arguments))
    }

    pub fn log(&self) -> String {
        let logs = Command::new("podman").args(["logs", &self.name]).output().unwrap();
        String::from_utf8_lossy(&[logs.stdout, logs.stderr].concat()).into_owned()
    }

    pub fn owner(&self) -> String {
        match Client::new(self.port).send("GET", TAG, &ACCEPT, None) {
            Ok(answer) if answer.status == 200 && answer.owner().is_empty() => {
                answer.by().to_owned()
            }
            Ok(answer) if answer.status == 200 => answer.owner().to_owned(),
            other => format!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn until(&self, owner: &str) {
        let explain = || format!("{owner} does not answer, {}\n{}", self.owner(), self.log());
        eventually(|| (self.owner() == owner).then_some(()), explain);
    }

    /// Pulls that go on until they are stopped; returns how many of them each owner answered, and
    /// what failed.
    pub fn load(&self) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, port) = (stop.clone(), self.port);
        let content = self.world.public.manifest.bytes.clone();
        let thread = std::thread::spawn(move || {
            let (mut owners, mut failed) = (BTreeMap::<String, usize>::new(), Vec::new());
            let mut client = Client::new(port);
            while !stopped.load(Ordering::SeqCst) {
                match client.send("GET", TAG, &ACCEPT, None) {
                    Ok(answer) if answer.status == 200 => match answer.owner() {
                        "rust" if answer.body != content => failed.push("other bytes".to_owned()),
                        owner => *owners.entry(owner.to_owned()).or_default() += 1,
                    },
                    other => failed.push(format!("{other:?}")),
                }
            }
            (owners, failed)
        });
        Load { stop, thread }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = Command::new("podman").args(["rm", "-f", "-t", "5", &self.name]).output();
    }
}

pub struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(BTreeMap<String, usize>, Vec<String>)>,
}

impl Load {
    pub fn stop(self) -> (BTreeMap<String, usize>, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// Everything below a folder: kind and permissions, user and group, a hash of the content.
pub type Snapshot = BTreeMap<PathBuf, String>;

pub fn snapshot(folder: &Path) -> Snapshot {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = match metadata.is_file() {
                true => fs::read(&path).unwrap(),
                false => Vec::new(),
            };
            if metadata.is_dir() {
                folders.push(path.clone());
            }
            let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
            let hash = Sha256::digest(&content);
            let (length, hash) = (content.len(), &hash[..8]);
            found.insert(path, format!("{mode:o} {uid}:{gid} {length} bytes {hash:02x?}"));
        }
    }
    found
}

/// What is not the same in both, in words.
pub fn differences(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let paths: BTreeSet<&PathBuf> = before.keys().chain(after.keys()).collect();
    let differ = paths.into_iter().filter(|path| before.get(*path) != after.get(*path));
    let word = |found: Option<&String>| found.map_or("nothing", String::as_str).to_owned();
    differ
        .map(|path| {
            let (before, after) = (word(before.get(path)), word(after.get(path)));
            format!("{}: {before} -> {after}", path.display())
        })
        .collect()
}

/// Whether containers can be run here at all.
pub fn may_run() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        crate::support::left_out("only root can give files to the users of a container");
    }
    root
}
