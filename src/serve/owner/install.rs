//! Where Quay is and where we are in it: what `quay bundle` and the watcher work with.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::plan::{declared, naming, routing};
use super::service::{self, ServiceError};
use crate::bundle::{Bundle, Programs, Routing, Tree};
use crate::config::{Config, Engine, Environment};
use crate::switches::{Effective, Poller, Reading, Stage};

/// Longer than nginx ever takes to read its files.
const NGINX_LIMIT: Duration = Duration::from_secs(20);

/// Within the ten seconds that podman gives a container (contract §12.1).
const STOP_WAIT_S: u32 = 9;

/// Folders, with Quay's own defaults (contract §3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The folder with `config.yaml`: `QUAYCONF/stack`.
    pub config: PathBuf,
    /// `QUAYDIR`
    pub quay_dir: PathBuf,
    /// `QUAYCONF`
    pub quay_conf: PathBuf,
    /// Ours: socket, flags, status.
    pub run: PathBuf,
}

impl Paths {
    /// From the command line, else the environment, else as in Quay's image.
    pub fn new(
        config: Option<PathBuf>,
        quay_conf: Option<PathBuf>,
        run: Option<PathBuf>,
        env: &dyn Environment,
    ) -> Self {
        let folder =
            |name: &str| env.var(name).filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let quay_dir = folder("QUAYDIR").unwrap_or_else(|| "/quay-registry".into());
        let quay_conf =
            quay_conf.or_else(|| folder("QUAYCONF")).unwrap_or_else(|| quay_dir.join("conf"));
        let config = config.unwrap_or_else(|| quay_conf.join("stack"));
        let run = run.or_else(|| folder("QUAY_SIDECAR_RUN"));
        Self { config, quay_dir, quay_conf, run: run.unwrap_or_else(|| "/tmp/quay-sidecar".into()) }
    }
}

/// A Quay, and what goes into it.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Where everything is.
    pub paths: Paths,
    /// Quay's configuration, unless it cannot be used.
    pub config: Option<Config>,
    /// The switches of the environment.
    pub stage: Stage,
    /// registryd as a service elsewhere, if it is one.
    pub service: Result<Option<SocketAddr>, ServiceError>,
}

impl Installation {
    /// Looks at configuration and environment; never fails, for Quay must start without us.
    /// `service` is registryd's address where it is a service of its own, else
    /// `QUAY_SIDECAR_SERVICE` of the environment.
    pub fn new(paths: Paths, service: Option<String>, env: &dyn Environment) -> Self {
        let loaded = Config::load(&paths.config, env);
        if let Err(error) = &loaded {
            tracing::error!(%error, "configuration cannot be used: everything stays with Python");
        }
        let config = loaded.ok().map(|loaded| loaded.config);
        let stage = Stage::read(std::env::vars());
        let service = service.or_else(|| env.var("QUAY_SIDECAR_SERVICE"));
        let service = service.filter(|service| !service.is_empty());
        let service = service.map(|service| service::resolve(&service)).transpose();
        Self { paths, config, stage, service }
    }

    /// The switches that hold by what is in the files now.
    pub fn switches(&self) -> Effective {
        let poller = Poller::once(self.stage.clone(), &Reading::of(&self.paths.config));
        poller.effective()
    }

    /// Everything that goes into this Quay.
    pub fn bundle(&self, routing: Routing) -> Bundle {
        let Paths { config, quay_dir, quay_conf, run } = &self.paths;
        let database = self.config.as_ref().and_then(|config| match &config.database.engine {
            Engine::Sqlite(path) => Some(path.clone()),
            Engine::Postgres => None,
        });
        let roots = self.config.iter().flat_map(|config| config.storage.local_roots());
        Bundle {
            tree: Tree::new(quay_dir, quay_conf),
            routing,
            blob_roots: roots.map(|(index, root)| (index, root.to_owned())).collect(),
            database,
            programs: Programs {
                binary: std::env::current_exe().unwrap_or_else(|_| "quay".into()),
                config: config.clone(),
                quay_conf: quay_conf.clone(),
                run: run.clone(),
                registryd: false,
                owner_switch: self.config.is_some(),
                service: self.service.as_ref().ok().copied().flatten(),
                python: None,
                stop_wait: STOP_WAIT_S,
                overrides: std::env::var("QUAY_OVERRIDE_SERVICES").ok(),
            },
            nginx: program("nginx"),
            nginx_limit: NGINX_LIMIT,
        }
    }

    /// The map for the switches that hold now.
    pub fn routing(&self) -> Routing {
        let naming = self.config.as_ref().map(naming).unwrap_or_default();
        routing(&self.switches(), &declared(), &naming)
    }
}

/// A program of the path, or where distributions put it when the path is short.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = folders.map(|folder: PathBuf| folder.join(name)).find(|path| is_file(path));
    found.unwrap_or_else(|| name.into())
}

fn is_file(path: &Path) -> bool {
    path.is_file()
}
