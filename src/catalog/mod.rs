//! Quay's tables as functions. All SQL is in this room, each statement beside the row it fills;
//! most are the same for PostgreSQL and SQLite, and what differs is a [`value::Sql`] of two texts.
//!
//! Nothing is cached but the lookup tables. Quay caches more (contract §3.10); here requests that
//! ask the same at the same time share a statement instead, so nothing that we answer is stale.

mod accounts;
mod action_log;
mod commits;
mod connection;
mod credentials;
mod enums;
mod error;
mod founding;
mod garbage;
mod keys;
mod labels;
mod live;
mod manifests;
mod mirrors;
mod new_organizations;
mod new_repositories;
mod performer;
mod postgres;
mod pulls;
mod queue;
mod quota_notices;
mod quotas;
mod referrers;
mod repositories;
mod roles;
pub mod schema;
mod scopes;
mod sqlite;
mod tag_changes;
mod tags;
mod tls;
mod transaction;
mod uploads;
mod value;

pub use accounts::{Account, Robot};
pub use action_log::LogRow;
pub use commits::Committed;
pub use connection::{Catalog, Session};
pub use credentials::{AccessToken, AppToken, OAuthToken, Owner};
pub use error::CatalogError;
pub use founding::{Founding, FoundingError, found};
pub use garbage::{FreedBlob, Removed};
pub use keys::ServiceKey;
pub use manifests::{Change, Contents, Named, NamedBlob, NewManifest, NewTag, Stored, StoredChild};
pub use mirrors::{AliveTag, Mirror, MirrorStanding, Release, SyncStatus};
pub use new_organizations::NewOrganization;
pub use new_repositories::NewRepository;
pub use performer::{Entity, Performer, PerformerDetail};
pub use pulls::{Blob, BlobLookup, Found, Manifest, ManifestLookup, Repository, StoredAt};
pub use quota_notices::ChannelNotice;
pub use quotas::{Crossed, Severity, Standing};
pub use referrers::{Referrer, Referrers, TooLarge};
pub use repositories::{Beside, Caller, Listed};
pub use roles::{NamespaceRole, Role};
pub use scopes::{Authority, RepositoryState, ScopedRepository};
pub use tag_changes::{Deleted, TagError};
pub use tags::TagPage;
pub use uploads::{Progress, Upload};
