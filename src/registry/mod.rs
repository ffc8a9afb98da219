//! The `/v2` surface: one file per group of endpoints, one table of routes.
//!
//! A handler parses, authorises, makes one call into the rooms below and responds. No SQL here.

mod access;
mod base;
mod blobs;
mod catalog;
mod cohort;
mod decline;
mod error;
mod json;
mod manifests;
mod manifests_push;
mod observe;
mod paths;
mod python;
mod query;
mod referrers;
mod routes;
mod storage_proxy;
mod tags;
mod token;
mod unread;
mod uploads;

use std::sync::Arc;

use arc_swap::ArcSwap;

pub use cohort::CohortFile;
pub use routes::{Route, configure};
pub use {observe::InFlight, observe::observe, paths::normalise};
pub use {python::Python, python::instead};

use crate::audit::Audit;
use crate::auth::{Authorizer, InstanceKey, Logins, PageTokens, ScopeParser, Verifier};
use crate::blobs::{Looks, Storage};
use crate::bundle::Blobs;
use crate::catalog::Catalog;
use crate::config::Config;
use crate::events::{Events, StaleCaches};
use crate::oci::NameRules;
use crate::push::Pushes;
use crate::telemetry::Metrics;

/// What every handler works with. One a serving thread, with that thread's connections.
#[derive(Clone)]
pub struct App {
    /// The database, through this thread's pool.
    pub catalog: Catalog,
    /// Whether this listener is nginx's: only there are internal redirects sent and
    /// `X-Forwarded-For` believed.
    pub behind_nginx: bool,
    /// How nginx is told to send a file itself, where it has the location for that.
    pub sendfile: Option<Arc<Blobs>>,
    /// Looks at files before nginx sends them.
    pub looks: Looks,
    /// Where Python can be asked directly.
    pub python: Option<Arc<Python>>,
    /// Whose requests are ours, where a canary says so.
    pub cohort: Option<Arc<CohortFile>>,
    /// What all threads share.
    pub shared: Arc<Shared>,
}

/// What is the same on every thread and listener.
pub struct Shared {
    /// The configuration as it was at start.
    pub config: Config,
    /// How repository names are read.
    pub rules: NameRules,
    /// Checks bearer tokens.
    pub verifier: Verifier,
    /// Checks passwords.
    pub logins: Logins,
    /// Reads scopes.
    pub scopes: ScopeParser,
    /// Decides scopes.
    pub authorizer: Authorizer,
    /// Where pages of the catalog go on.
    pub page_tokens: PageTokens,
    /// Signs tokens.
    pub instance_key: InstanceKey,
    /// Writes the action log.
    pub audit: Audit,
    /// Tells the rest of Quay.
    pub events: Events,
    /// Finds blobs.
    pub storage: Storage,
    /// Makes Python forget what has changed.
    pub stale: StaleCaches,
    /// Takes blobs and manifests.
    pub pushes: Pushes,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Capabilities whose tables are not what we know, by the last look at the database.
    pub broken: ArcSwap<Vec<String>>,
    /// Requests being answered, and whether new ones should go elsewhere.
    pub in_flight: InFlight,
}
