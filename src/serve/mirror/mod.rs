//! A registry of its own, in one folder: no Python, nginx, Redis or PostgreSQL around it. The first
//! start makes what is in the folder; from then on it is a Quay like any other, which `registryd`
//! serves, with HTTPS of its own.

mod first_start;
mod folder;
mod garbage;
mod names;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustls::ServerConfig;

pub use first_start::FirstStart;
pub use folder::Folder;
pub(super) use garbage::collect;
pub use names::{Hostname, NameError, Username};

use self::folder::State;
use super::certificate::{CertificateError, https};
use crate::auth::fresh::FreshError;
use crate::catalog::FoundingError;
use crate::config::{Config, ConfigError, Engine, Environment, Events, Loaded, Locks};

/// What the command line says. Only the first start takes all of it.
#[derive(Debug)]
pub struct Wanted {
    /// The data folder.
    pub data: PathBuf,
    /// What clients call the registry.
    pub hostname: Option<Hostname>,
    /// Where it listens first: what it is called where nobody says.
    pub listen: SocketAddr,
    /// Who may do everything.
    pub administrator: Username,
    /// Whether public repositories are for everybody.
    pub anonymous_pull: bool,
}

/// A registry that can be served.
pub struct Mirror {
    /// Its configuration.
    pub loaded: Loaded,
    /// Its certificate.
    pub https: ServerConfig,
    /// Its folder, which is ours until this is dropped.
    pub folder: Folder,
}

/// A folder that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// A file or folder.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another process has it.
    #[error("another process serves this folder: it holds {0}")]
    InUse(PathBuf),
    /// There is something else in it.
    #[error("{0} is not empty, and no registry that --mode mirror has made: name a new folder")]
    NotOurs(PathBuf),
    /// Its owner could change what is in it at any time.
    #[error(
        "{path} belongs to uid {owner}, not to us (uid {us}): chown -R {us} {path}, run this as \
         uid {owner}, or name a new folder"
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// Its configuration is gone.
    #[error("{0} is missing in what was a registry: put it back from a backup")]
    NoConfiguration(PathBuf),
    /// The configuration could not name it.
    #[error(
        "{0:?} cannot be used: a data folder has no ?, @ or control character in its path, and is UTF-8"
    )]
    Path(PathBuf),
    /// Others can read or change it.
    #[error("{path} is open to every user of this machine (mode {mode:o}): chmod {remedy} {path}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// What they should be.
        remedy: &'static str,
    },
    /// Nobody says what clients call it.
    #[error("--hostname NAME[:PORT] is needed: clients cannot reach a registry as {0}")]
    NoHostname(SocketAddr),
    /// The configuration says something else.
    #[error("{option} does not agree with {key} in {path}, which counts: change it there")]
    Differs {
        /// Of the command line.
        option: &'static str,
        /// Of the configuration.
        key: &'static str,
        /// The configuration.
        path: PathBuf,
    },
    /// The database is gone.
    #[error(
        "DB_URI in {config} names {database}, which is not there: put it back, or name its new place"
    )]
    NoDatabase {
        /// The configuration.
        config: PathBuf,
        /// The database.
        database: PathBuf,
    },
    /// The configuration.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The first certificate.
    #[error("no certificate could be made: {0}")]
    SelfSigned(#[from] rcgen::Error),
    /// The first keys and passwords.
    #[error(transparent)]
    Fresh(#[from] FreshError),
    /// The first database.
    #[error(transparent)]
    Founding(#[from] FoundingError),
    /// The password could not be told.
    #[error("the administrator's password could not be printed: {0}")]
    Announce(io::Error),
}

impl MirrorError {
    fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }

    /// Whether the same command would fail again for the same reason.
    pub fn is_usage(&self) -> bool {
        !matches!(self, Self::File { .. } | Self::InUse(_) | Self::Founding(_) | Self::Announce(_))
    }
}

/// Opens the registry in a folder, and makes it where there is none yet; `announce` is told the
/// password then, before anything else can be.
pub fn open(
    wanted: &Wanted,
    environment: &dyn Environment,
    announce: impl FnOnce(&FirstStart) -> io::Result<()>,
) -> Result<Mirror, MirrorError> {
    let (folder, state) = Folder::open(&wanted.data)?;
    if state != State::Complete {
        let hostname = wanted.hostname()?;
        let first = (&hostname, &wanted.administrator, wanted.anonymous_pull);
        first_start::make(&folder, first, announce)?;
    }
    folder.check_secrets()?;
    let mut loaded = Config::load(folder.path(), environment)?;
    // Nobody else is to be told or to be waited for: no Redis, whatever this machine has.
    loaded.config.events = Events { blob_locks: Locks::Here, ..Events::default() };
    wanted.agrees_with(&loaded.config)?;
    if let Engine::Sqlite(database) = &loaded.config.database.engine
        && !database.exists()
    {
        let config = folder.file("config.yaml");
        return Err(MirrorError::NoDatabase { config, database: database.clone() });
    }
    let https = https(&folder.file("tls.crt"), &folder.file("tls.key"))?;
    Ok(Mirror { loaded, https, folder })
}

impl Wanted {
    /// As said, or what this machine calls itself.
    fn hostname(&self) -> Result<Hostname, MirrorError> {
        let needed = || MirrorError::NoHostname(self.listen);
        match &self.hostname {
            Some(hostname) => Ok(hostname.clone()),
            None if !self.listen.ip().to_canonical().is_loopback() => Err(needed()),
            None => format!("localhost:{}", self.listen.port()).parse().map_err(|_| needed()),
        }
    }

    fn agrees_with(&self, config: &Config) -> Result<(), MirrorError> {
        let differs = |option, key| {
            let path = config.dir.join("config.yaml");
            Err(MirrorError::Differs { option, key, path })
        };
        match &self.hostname {
            Some(hostname) if hostname.to_string() != config.server.hostname => {
                differs("--hostname", "SERVER_HOSTNAME")
            }
            _ if self.anonymous_pull && !config.features.anonymous_access => {
                differs("--anonymous-pull", "FEATURE_ANONYMOUS_ACCESS")
            }
            _ => Ok(()),
        }
    }
}
