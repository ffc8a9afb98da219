//! Repositories, and whole organizations, that follow another registry, filled natively (contract §7;
//! design, D-005). Knows no HTTP: `upstream` speaks to the source, `push` stores what it gives, and
//! here is decided what is asked for, in which order, and what becomes of it.
//!
//! A Python and a Rust worker can share the tables: both claim a row by the same statement, and a tag
//! that either has moved is whole.

mod blobs;
mod claim;
mod copy;
mod error;
mod globs;
mod job;
mod log;
mod look;
mod metrics;
mod organizations;
mod plan;
mod policy;
mod progress;
mod settings;
mod skopeo;
mod steps;
mod sync;

pub use claim::{Claim, Ending};
pub use error::SyncError;
pub use globs::Globs;
pub use metrics::Metrics;
pub use organizations::{
    Discovery, OrganizationPlan, cancel, discover, plan as plan_organization, plan_repository,
    sync_repository,
};
pub use plan::{Plan, PlannedTag, plan};
pub use progress::{Progress, Snapshot};
pub use steps::STEPS;
pub use sync::{Outcome, sync};

use crate::audit::Audit;
use crate::auth::{Authorizer, FieldKey};
use crate::catalog::Catalog;
use crate::config::Config;
use crate::events::StaleCaches;
use crate::push::Pushes;
use crate::upstream::Hosts;

/// What all syncs of a process share.
pub struct Parts {
    /// The database.
    pub catalog: Catalog,
    /// Where blobs and manifests go.
    pub pushes: Pushes,
    /// The action log.
    pub audit: Audit,
    /// What Python has cached.
    pub stale: StaleCaches,
    /// Who may push.
    pub authorizer: Authorizer,
    /// What credentials are encrypted with.
    pub field_key: FieldKey,
    /// How many requests each host gets at once.
    pub hosts: Hosts,
    /// What operators see.
    pub metrics: Metrics,
    /// Everything else.
    pub config: Config,
}
