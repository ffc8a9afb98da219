//! The units for what runs outside a container: as systemd's own programs see them, and what a
//! service of ours tells systemd.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::standin::run;
use crate::bundle::quay::{Quay, Variant};
use crate::support::process::{AtExit, PATIENCE, signal, unique, wait};
use crate::support::{Folder, World};

const UNITS: [&str; 2] = ["quay-registryd.service", "quay-owner-switch.service"];

/// systemd-analyze calls up to 2 SAFE or OK; an ordinary service has 9.6.
const EXPOSURE: f64 = 1.7;

fn unit(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/systemd").join(name);
    fs::read_to_string(path).unwrap()
}

#[test]
fn systemd_accepts_the_units() {
    let folder = Folder::new();
    for name in UNITS {
        // It looks whether the program is there.
        let text = unit(name).replace("/opt/quay-sidecar/bin/quay", env!("CARGO_BIN_EXE_quay"));
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        let mut verify = Command::new("systemd-analyze");
        let verified = verify.args(["verify", "--man=no"]).arg(&path).output();
        let verified = verified.expect("systemd-analyze runs: install the package systemd");
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        assert!(verified.status.success() && said.is_empty(), "{name}: {said}");

        let mut security = Command::new("systemd-analyze");
        let said = run(security.args(["security", "--offline=yes", "--no-pager"]).arg(&path));
        let overall = said.lines().find(|line| line.contains("Overall exposure")).unwrap();
        let level = overall.split(": ").nth(1).and_then(|rest| rest.split(' ').next());
        let level: f64 = level.unwrap().parse().unwrap();
        assert!(level <= EXPOSURE, "{name}: {overall}");
    }
}

/// The command lines of the units are ones that the program understands.
#[test]
fn the_program_understands_the_units() {
    let config = Folder::new();
    for name in UNITS {
        let text = unit(name);
        let command = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let here = config.path().to_str().unwrap();
        let words = command
            .replace("/quay-registry/conf/stack", here)
            .replace("/run/quay-sidecar", &format!("{here}/run"));
        let words: Vec<&str> = words.split(' ').skip(1).collect();
        let ran = Command::new(env!("CARGO_BIN_EXE_quay")).args(&words).output().unwrap();
        let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
        // Nothing is there to be served; but it came so far as to look.
        assert!(said.contains("config.yaml") || said.contains("run: "), "{name}: {said}");
        assert!(!said.contains("Usage:"), "{name}: {said}");
    }
}

/// Stands in for systemd: the socket that it listens on.
struct Systemd {
    socket: UnixDatagram,
    name: String,
    _folder: Folder,
}

/// A process that systemd has started. It does not outlive a test that fails.
struct Service {
    child: Child,
    _at_exit: AtExit,
}

impl Drop for Service {
    fn drop(&mut self) {
        // It has ended already, mostly.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Systemd {
    fn new(is_abstract: bool) -> Systemd {
        let folder = Folder::new();
        let (socket, name) = match is_abstract {
            false => {
                let path = folder.path().join("notify");
                (UnixDatagram::bind(&path).unwrap(), path.display().to_string())
            }
            true => {
                let name = format!("quay-sidecar-test-{}-{}", std::process::id(), unique());
                let address = SocketAddr::from_abstract_name(&name).unwrap();
                (UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}"))
            }
        };
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Systemd { socket, name, _folder: folder }
    }

    fn start(&self, command: &mut Command) -> Service {
        let child = command
            .env("NOTIFY_SOCKET", &self.name)
            .env("WATCHDOG_USEC", "600000")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let _at_exit = AtExit::run(format!("kill -9 {} 2>/dev/null", child.id()));
        Service { child, _at_exit }
    }

    fn hears(&self) -> String {
        let mut bytes = [0; 256];
        let length = self.socket.recv(&mut bytes).expect("a word from the service");
        String::from_utf8_lossy(&bytes[..length]).trim().to_owned()
    }

    /// Until this is said; everything that was said before.
    fn hears_until(&self, word: &str) -> Vec<String> {
        let mut before = Vec::new();
        loop {
            match self.hears() {
                said if said == word => return before,
                said => before.push(said),
            }
        }
    }

    fn story(&self, mut service: Service) {
        assert_eq!(self.hears(), "READY=1");
        assert_eq!([self.hears(), self.hears(), self.hears()], ["WATCHDOG=1"; 3]);
        signal(&service.child, "TERM");
        let before = self.hears_until("STOPPING=1");
        assert!(before.iter().all(|said| said == "WATCHDOG=1"), "{before:?}");
        assert!(wait(&mut service.child, "the service").success());
    }
}

#[test]
fn registryd_says_that_it_is_ready_alive_and_leaving() {
    for is_abstract in [false, true] {
        let (world, listen) = World::reachable();
        let systemd = Systemd::new(is_abstract);
        let mut serve = Command::new(env!("CARGO_BIN_EXE_quay"));
        serve.args(["serve", "registryd", "--admin-listen", "127.0.0.1:0", "--config"]);
        let service = systemd.start(serve.arg(&world.conf).args(&listen));
        systemd.story(service);
    }
}

/// One that hangs is not said to live: systemd then ends it, and starts another.
#[test]
fn a_registryd_that_hangs_is_silent() {
    let (world, listen) = World::reachable();
    let systemd = Systemd::new(false);
    let mut serve = Command::new(env!("CARGO_BIN_EXE_quay"));
    serve.args(["serve", "registryd", "--admin-listen", "127.0.0.1:0", "--config"]);
    let mut service = systemd.start(serve.arg(&world.conf).args(&listen));
    systemd.hears_until("WATCHDOG=1");
    signal(&service.child, "STOP");
    systemd.socket.set_nonblocking(true).unwrap();
    let mut bytes = [0; 256];
    while systemd.socket.recv(&mut bytes).is_ok() {}
    systemd.socket.set_nonblocking(false).unwrap();
    // Twice the interval that the unit gives.
    systemd.socket.set_read_timeout(Some(std::time::Duration::from_millis(1200))).unwrap();
    assert!(systemd.socket.recv(&mut bytes).is_err());
    signal(&service.child, "CONT");
    systemd.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    systemd.hears_until("WATCHDOG=1");
    signal(&service.child, "TERM");
    wait(&mut service.child, "registryd");
}

#[test]
fn the_watcher_says_so_too() {
    let (quay, world) = (Quay::new(Variant::default()), World::new());
    for file in ["config.yaml", "quay.pem", "quay.kid"] {
        fs::copy(world.conf.join(file), quay.conf("stack").join(file)).unwrap();
    }
    quay.boot();
    let systemd = Systemd::new(false);
    let mut watch = Command::new(env!("CARGO_BIN_EXE_quay"));
    watch.args(["switch", "watch", "--admin-listen", "127.0.0.1:0", "--config"]);
    watch.arg(quay.conf("stack")).arg("--quay-conf").arg(quay.conf(""));
    watch.arg("--run").arg(&quay.bundle.programs.run).env("QUAYDIR", quay.root());
    let service = systemd.start(&mut watch);
    systemd.story(service);
}
