//! Those that we are measured beside.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::docker_registry::DockerRegistry;
use crate::support::registry_fixture::Fixture;
use crate::support::{Folder, Registryd};
use crate::workload::{REPO, Workload};

/// Files in the same nginx that is in front of registryd, under the same conditions: Quay's own
/// configuration closes every connection after one answer of `/v2/`.
pub fn file_server(port: u16) -> String {
    format!(
        "server {{\n listen 127.0.0.1:{port};\n keepalive_timeout 0;\n \
         location / {{ root @STORAGE@; }}\n}}\n"
    )
}

/// Debian's docker-registry with the image in it.
pub fn docker_registry(workload: &Workload) -> DockerRegistry {
    let docker = DockerRegistry::start();
    docker.push(REPO, "bench", &workload.image);
    docker
}

/// registryd on SQLite, with what Quay's Python does beside it: as registryd moves nothing of the
/// log into the database, that is done here as often as Python's workers write.
pub struct OnSqlite {
    pub registryd: Registryd,
    ended: Arc<AtomicBool>,
    python: Option<JoinHandle<()>>,
    _conf: Folder,
}

impl OnSqlite {
    pub fn start(fixture: &Fixture, file: &Path) -> OnSqlite {
        let conf = Folder::new();
        fixture.moved(&format!("sqlite:///{}", file.display()), conf.path());
        let registryd = Registryd::start(conf.path(), &[]);
        let ended = Arc::<AtomicBool>::default();
        let (told, file) = (ended.clone(), file.to_owned());
        let python = std::thread::spawn(move || {
            let python = rusqlite::Connection::open(file).expect("a database");
            while !told.load(Ordering::Relaxed) {
                let done = python.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
                done.expect("a checkpoint");
                #[expect(clippy::disallowed_methods, reason = "Python's rhythm")]
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        OnSqlite { registryd, ended, python: Some(python), _conf: conf }
    }
}

impl Drop for OnSqlite {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(python) = self.python.take() {
            let _ = python.join();
        }
    }
}

/// RSA signatures of 2048 bits that OpenSSL makes in a second on one core.
pub fn openssl_signatures() -> f64 {
    let output = Command::new("openssl").args(["speed", "-seconds", "3", "rsa2048"]).output();
    let output = output.expect("openssl runs: scripts/bench installs it");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with("rsa 2048 bits"));
    let rate = line.and_then(|line| line.split_whitespace().nth(5)?.parse().ok());
    rate.unwrap_or_else(|| panic!("openssl speed said {text}"))
}
