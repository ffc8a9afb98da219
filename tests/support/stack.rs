//! A stand-in Quay that runs: PostgreSQL, a seeded registry, nginx and supervisord with the bundle in
//! it, and a stand-in for Python.

use std::any::Any;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use quay_sidecar::bundle::Supervisor;

use super::process::{AtExit, PATIENCE, signal, wait};
use super::registry_fixture::Fixture;
use super::{Cluster, Folder, eventually};
use crate::bundle::backend::Backend;
use crate::bundle::http::Client;
use crate::bundle::quay::{Quay, Variant};

/// The switch that is flipped.
pub const PULL: &str = "ROUTE_OWNER_CAP_V2_PULL";

/// What is asked to see who answers.
pub const TAG: &str = "/v2/demo/public/manifests/latest";

/// What registryd and the watcher log.
const LOG: &str = "sidecar.log";

pub const ACCEPT: [(&str, &str); 1] = [("accept", super::images::OCI_MANIFEST)];

/// Fields are dropped in this order, after supervisord has ended.
pub struct Stack {
    binary: PathBuf,
    pub supervisor: Supervisor,
    supervisord: Child,
    _at_exit: AtExit,
    _python: Box<dyn Any>,
    pub quay: Quay,
    pub fixture: Fixture,
    _seeded: Folder,
    pub cluster: Cluster,
}

/// Starts what stands in for Python, at the socket where nginx looks for it.
pub type Python = fn(&Quay, &Fixture) -> Box<dyn Any>;

/// One that says who it is.
fn backend(quay: &Quay, _: &Fixture) -> Box<dyn Any> {
    Box::new(Backend::start("python", &quay.python_socket()))
}

impl Stack {
    /// With python as the owner of everything. `more` adds to the database and the storage, `server`
    /// to nginx's configuration: what belongs into `http`, with `@STORAGE@` for the storage.
    pub fn boot(binary: PathBuf, server: &str, more: impl FnOnce(&Fixture)) -> Stack {
        Stack::boot_beside(backend, binary, server, more)
    }

    /// The same with another stand-in for Python.
    pub fn boot_beside(
        python: Python,
        binary: PathBuf,
        server: &str,
        more: impl FnOnce(&Fixture),
    ) -> Stack {
        let cluster = Cluster::start();
        let seeded = Folder::new();
        let (storage, conf) = (seeded.path().join("storage"), seeded.path().join("conf"));
        fs::create_dir(&storage).unwrap();
        fs::create_dir(&conf).unwrap();
        let mut fixture = None;
        cluster.template("drill", |database| {
            let seeded = Fixture::seed(database.uri(), &storage, &conf, "registry.example");
            more(&seeded);
            fixture = Some(seeded);
        });
        let fixture = fixture.expect("seeded").moved(&cluster.uri("drill"), &conf);
        Stack::around_beside(python, binary, server, fixture, seeded, cluster)
    }

    /// The same around a registry that is there: `seeded` has its storage and configuration. Clients
    /// reach it under its SERVER_HOSTNAME, which is set here.
    pub fn around(
        binary: PathBuf,
        server: &str,
        fixture: Fixture,
        seeded: Folder,
        cluster: Cluster,
    ) -> Stack {
        Stack::around_beside(backend, binary, server, fixture, seeded, cluster)
    }

    fn around_beside(
        python: Python,
        binary: PathBuf,
        server: &str,
        mut fixture: Fixture,
        seeded: Folder,
        cluster: Cluster,
    ) -> Stack {
        let quay = Quay::new(Variant { same_user: true, ..Variant::default() });
        fixture.reach(&format!("127.0.0.1:{}", quay.port));
        let (storage, conf) = (&fixture.storage, &fixture.conf);
        for file in ["config.yaml", "quay.pem", "quay.kid"] {
            fs::copy(conf.join(file), quay.conf("stack").join(file)).unwrap();
        }
        let main = quay.read("nginx/nginx.conf");
        let server = server.replace("@STORAGE@", storage.to_str().expect("our own folder"));
        let main = format!("{}{server}}}\n", main.trim_end().trim_end_matches('}'));
        fs::write(quay.conf("nginx/nginx.conf"), main).unwrap();
        let edit = |from: &str, to: &str| {
            let text = quay.read("supervisord.conf").replace(from, to);
            fs::write(quay.conf("supervisord.conf"), text).unwrap();
        };
        let nginx = format!("nginx -c {}", quay.conf("nginx/nginx.conf").display());
        edit("/bin/sleep 1002", &nginx);
        let python = python(&quay, &fixture);
        let applied = run(Command::new(&binary).args(["bundle", "apply", "--hook"]), &quay);
        assert!(said(&applied).starts_with("applied\n"), "{applied:?}");
        // A drill may run beside an installation.
        edit(",nginx", ",nginx --admin-listen 127.0.0.1:0");
        // In Quay's image a listener of supervisord prints what the programs log.
        edit("stderr_logfile=NONE", &format!("stderr_logfile={}", quay.root().join(LOG).display()));

        let log = fs::File::create(quay.root().join("supervisord.log")).unwrap();
        let mut start = Command::new("supervisord");
        start.arg("-c").arg(quay.conf("supervisord.conf")).current_dir(quay.root());
        start.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        environment(&mut start, &quay);
        let supervisord = start.spawn().expect("supervisord runs: install the package supervisor");
        let stack = Stack {
            binary,
            supervisor: Supervisor::at(quay.bundle.tree.supervisor_socket(), PATIENCE),
            _at_exit: AtExit::run(format!("kill {} 2>/dev/null", supervisord.id())),
            supervisord,
            _python: python,
            quay,
            fixture,
            _seeded: seeded,
            cluster,
        };
        stack.until("python");
        stack
    }

    /// What supervisord logged, then what registryd and the watcher did.
    pub fn log(&self) -> String {
        let read = |name| fs::read_to_string(self.quay.root().join(name)).unwrap_or_default();
        read("supervisord.log") + &read(LOG)
    }

    /// How many requests whose line in nginx's log contains `text` the stand-in for Python answered.
    pub fn answered_by_python(&self, text: &str) -> usize {
        let log = fs::read_to_string(self.quay.root().join("access.log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(text) && line.ends_with(" python")).count()
    }

    /// Who answers a pull now.
    pub fn owner(&self) -> String {
        match Client::new(self.quay.port).send("GET", TAG, &ACCEPT, None) {
            Ok(answer) if answer.status == 200 => answer.owner().to_owned(),
            other => format!("{other:?}"),
        }
    }

    pub fn until(&self, owner: &str) {
        eventually(
            || (self.owner() == owner).then_some(()),
            || format!("{owner} does not answer:\n{}", self.log()),
        );
    }

    /// Gives pulls to an owner and waits until it answers. Returns the seconds from the switch's file
    /// to its effect, as `quay switch set` measured them.
    pub fn switch(&self, owner: &str) -> f64 {
        let seconds = self.set(&format!("{PULL}={owner}"));
        self.until(owner);
        seconds
    }

    /// Sets any switches, with a space between them.
    pub fn set(&self, switches: &str) -> f64 {
        let mut set = Command::new(&self.binary);
        let set = set.args(["switch", "set"]).args(switches.split(' '));
        let set = run(set, &self.quay);
        let took = said(&set)
            .lines()
            .find_map(|line| line.strip_prefix("applied after ")?.strip_suffix(" s")?.parse().ok());
        took.unwrap_or_else(|| panic!("not applied: {set:?}"))
    }

    /// The process that supervisord runs as this program now.
    pub fn pid(&self, program: &str) -> Option<String> {
        let words = if program == "registryd" { "serve\0registryd" } else { "switch\0watch" };
        let parent = self.supervisord.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        let is = |pid: &&str| {
            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.contains(words))
        };
        children.split_whitespace().find(is).map(str::to_owned)
    }

    /// Sends a signal to programs, and waits until others run in their place and rust answers.
    pub fn disturb(&self, programs: &[&str], name: &str) {
        let old: Vec<String> = programs
            .iter()
            .map(|program| self.pid(program).unwrap_or_else(|| panic!("no {program}")))
            .collect();
        for program in programs {
            self.supervisor.signal(program, name).unwrap();
        }
        for (program, old) in programs.iter().zip(&old) {
            let replaced = || {
                self.pid(program).is_some_and(|pid| pid != *old)
                    && self.supervisor.state(program).is_ok_and(|state| state == "RUNNING")
            };
            eventually(
                || replaced().then_some(()),
                || format!("{program}: no other process in the place of {old}"),
            );
        }
        self.until("rust");
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // A stopped registryd would not hear that it is to end.
        let _ = self.supervisor.signal("registryd", "CONT");
        signal(&self.supervisord, "TERM");
        wait(&mut self.supervisord, "supervisord");
    }
}

fn environment(command: &mut Command, quay: &Quay) {
    command
        .env("QUAYRUN", quay.conf(""))
        .env("QUAYCONF", quay.conf(""))
        .env("QUAYDIR", quay.root())
        .env("PYTHONPATH", "/nowhere")
        .env("QUAY_SIDECAR_RUN", &quay.bundle.programs.run);
}

fn run(command: &mut Command, quay: &Quay) -> Output {
    environment(command, quay);
    command.output().expect("--quay is a program")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
