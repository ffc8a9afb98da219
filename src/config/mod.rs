//! Quay's `config.yaml` as typed settings, with a report of where each of them came from.
//!
//! We read the very file that Python Quay reads, with the defaults and the override that it applies
//! (contract section 6). Keys that we do not use are Quay's business and are left alone.

mod database;
mod db_params;
mod db_uri;
mod environment;
mod garbage;
mod mirroring;
mod model_cache;
mod namespaces;
mod push;
mod quotas;
mod reader;
mod redis;
mod report;
mod s3;
mod secret;
mod settings;
mod sidecar;
mod source;
mod storage;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use database::{Database, Engine, Host, Keepalives, SslMode, Target, Tls};
pub use environment::{Environment, ProcessEnvironment};
pub use garbage::Garbage;
pub use mirroring::Mirroring;
pub use model_cache::{MemcachedAddress, ModelCache};
pub use namespaces::NewNamespaces;
pub use push::Push;
pub use quotas::Quotas;
pub use redis::{Events, Locks, Redis, RedisAddress};
pub use report::{ConfigError, Problem, Report, Setting, Severity};
pub use s3::{S3, S3Uploads, SignatureVersion};
pub use secret::Secret;
pub use settings::{Audit, Auth, Features, InstanceKeys, Logging, Restricted, Server};
pub use sidecar::{MirrorEngine, Sidecar};
pub use storage::{Location, Storage};

use reader::Reader;
use source::Source;

/// Everything we take from Quay's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder that holds `config.yaml`; `conf/stack` in Quay's image.
    pub dir: PathBuf,
    /// `TESTING`, which is true in Quay unless set: its locks and logs then behave differently.
    pub testing: bool,
    /// What the registry is called, and how it behaves as a whole.
    pub server: Server,
    /// How to reach Quay's database.
    pub database: Database,
    /// Where the blobs are.
    pub storage: Storage,
    /// The key that signs registry tokens.
    pub keys: InstanceKeys,
    /// Who may log in, and who has special rights.
    pub auth: Auth,
    /// Switches of the registry's own surface.
    pub features: Features,
    /// The action log.
    pub audit: Audit,
    /// What pushes are held to.
    pub push: Push,
    /// When garbage is collected.
    pub garbage: Garbage,
    /// Repositories that follow other registries.
    pub mirroring: Mirroring,
    /// Whom Redis tells what.
    pub events: Events,
    /// Where Python keeps what a write may make stale.
    pub model_cache: ModelCache,
    /// How we log.
    pub logging: Logging,
    /// Our own settings.
    pub sidecar: Sidecar,
}

/// A configuration that can be used, and what there is to say about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Where each of them came from, and the warnings.
    pub report: Report,
}

impl Config {
    /// Reads `dir/config.yaml` and the environment, checks every setting and reports all problems at
    /// once.
    ///
    /// # Errors
    /// When any problem is a [`Severity::Error`].
    pub fn load(dir: &Path, env: &dyn Environment) -> Result<Loaded, ConfigError> {
        let mut report = Report::default();
        let source = Source::read(dir, env, &mut report.problems)
            .map_err(|problem| ConfigError { settings: Vec::new(), problems: vec![problem] })?;
        let mut reader = Reader { source: &source, env, report };
        let r = &mut reader;
        let config = Self {
            dir: dir.into(),
            testing: settings::testing(r),
            server: settings::server(r),
            database: database::read(r),
            storage: storage::read(r),
            keys: settings::instance_keys(r, dir),
            auth: settings::auth(r),
            features: settings::features(r),
            audit: settings::audit(r),
            push: push::read(r),
            garbage: garbage::read(r),
            mirroring: mirroring::read(r),
            events: redis::events(r),
            model_cache: model_cache::model_cache(r),
            logging: settings::logging(r),
            sidecar: sidecar::read(r),
        };
        let report = reader.report;
        if report.problems.iter().any(|problem| problem.severity == Severity::Error) {
            return Err(ConfigError { settings: report.settings, problems: report.problems });
        }
        Ok(Loaded { config, report })
    }
}
