//! Debian's docker-registry, which we are held beside. It checks no token and logs nothing.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::process::{AtExit, signal, wait};
use super::{Folder, eventually, free_port};
use crate::bundle::http::Client;

pub struct DockerRegistry {
    pub port: u16,
    child: Child,
    folder: Folder,
    _at_exit: AtExit,
}

impl DockerRegistry {
    /// Starts an empty one and waits until it answers.
    pub fn start() -> DockerRegistry {
        DockerRegistry::start_with("", "")
    }

    /// The same with more settings (as YAML): of the section `http`, and sections.
    pub fn start_with(http: &str, sections: &str) -> DockerRegistry {
        let folder = Folder::new();
        let port = free_port();
        let config = folder.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: 127.0.0.1:{port}, {http}}}\n{sections}\n",
            folder.path().join("data").display()
        );
        fs::write(&config, text).expect("our own folder");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry runs: install the package docker-registry");
        let _at_exit = AtExit::run(format!("kill {} 2>/dev/null", child.id()));
        eventually(
            || {
                let answer = Client::new(port).send("GET", "/v2/", &[], None).ok();
                // It may want to see credentials, or TLS.
                answer.filter(|answer| answer.status < 500)
            },
            || "docker-registry does not answer".to_owned(),
        );
        DockerRegistry { port, child, folder, _at_exit }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its blobs are.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        signal(&self.child, "TERM");
        wait(&mut self.child, "docker-registry");
    }
}
