//! The real nginx on a stand-in Quay.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use super::quay::Quay;
use crate::support::eventually;
use crate::support::process::{AtExit, signal, wait};

pub struct Nginx {
    child: Child,
    _at_exit: AtExit,
}

impl Nginx {
    pub fn start(quay: &Quay) -> Nginx {
        let child = Command::new("nginx")
            .arg("-c")
            .arg(quay.bundle.tree.nginx_conf())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx runs: install the package nginx");
        let _at_exit = AtExit::run(format!("kill {} 2>/dev/null", child.id()));
        let log = quay.root().join("error.log");
        eventually(
            || TcpStream::connect(("127.0.0.1", quay.port)).ok(),
            || format!("nginx: {}", std::fs::read_to_string(log).unwrap_or_default()),
        );
        Nginx { child, _at_exit }
    }

    /// Until no worker with the old files is left: for a moment both answer.
    pub fn reload(&self) {
        let old = self.workers();
        self.hang_up();
        eventually(
            || (!self.workers().iter().any(|worker| old.contains(worker))).then_some(()),
            || format!("old workers remain: {old:?} of {:?}", self.workers()),
        );
    }

    /// Has nginx read its files again, which it may refuse.
    pub fn hang_up(&self) {
        signal(&self.child, "HUP");
    }

    pub fn workers(&self) -> Vec<String> {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        children.unwrap().split_whitespace().map(str::to_owned).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // TERM to the master ends its workers too; KILL would leave them behind.
        signal(&self.child, "TERM");
        wait(&mut self.child, "nginx");
    }
}
