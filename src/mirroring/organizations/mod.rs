//! Organizations that follow a namespace of another registry (contract §7.5). Its repositories are
//! looked for, made here by the organization's robot, and filled one by one, each with all of its
//! tags, by what fills other mirrors.

mod discovery;
mod log;
mod metrics;
mod repository;

pub use discovery::{Discovery, OrganizationPlan, cancel, discover, plan};
pub(super) use metrics::Metrics;
pub use repository::{plan as plan_repository, sync as sync_repository};

use super::settings::{Access, Columns};
use super::{Parts, SyncError};
use crate::catalog::OrgMirror;
use crate::upstream::RegistryUrl;

/// `host[:port]/namespace/repository` of a source, as the log has it.
fn external_reference(of: &OrgMirror, repository: &str) -> String {
    let url = of.url.trim_end_matches('/');
    let place = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    format!("{}/{}/{repository}", place.unwrap_or(url), of.external_namespace)
}

fn columns(of: &OrgMirror) -> Columns<'_> {
    Columns {
        username: of.username.as_deref(),
        password: of.password.as_deref(),
        external_registry_config: &of.external_registry_config,
        timeout_s: of.timeout_s,
    }
}

/// How a path of the source is reached. All architectures are taken: Quay's worker does not look at
/// `architecture_filter`.
fn access(parts: &Parts, of: &OrgMirror, path: &str) -> Result<(RegistryUrl, Access), SyncError> {
    let registry = RegistryUrl::parse(&of.url)?;
    let access = Access::read(parts, registry.source(path)?, &columns(of))?;
    Ok((registry, access))
}
