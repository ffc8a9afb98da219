//! Other registries, spoken to as a client: the OCI distribution protocol as mirroring needs it
//! (contract §7.6). Knows no policy, no database, and trusts nobody: every answer is bounded, every
//! digest computed, every address judged before it is connected to, and credentials go to nobody
//! but the registry they are for and its own token service.

mod auth;
mod blob;
mod challenge;
mod counts;
mod directory;
mod error;
mod exchange;
mod gate;
mod guard;
mod link;
mod manifests;
mod options;
mod patience;
mod realm;
mod referrers;
mod roots;
mod source;
mod source_name;
mod ssrf;
mod tags;

pub use blob::BlobStream;
pub use counts::Counts;
pub use directory::{Directory, DirectoryApi, RegistryUrl};
pub use error::{Fault, UpstreamError};
pub use gate::Hosts;
pub use manifests::{FetchedManifest, Head};
pub use options::{Credentials, Options, Proxy};
pub use patience::Patience;
pub use source::Source;
pub use source_name::{Reference, SourceName};
pub use ssrf::AllowedHosts;
