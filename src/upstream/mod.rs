//! Other registries, spoken to as a client: the OCI distribution protocol as mirroring needs it
//! (contract §7.6). Knows no policy, no database, and trusts nobody: every answer is bounded, every
//! digest computed, every address judged before it is connected to, and credentials go to nobody
//! but the registry they are for and its own token service.

mod counts;
mod error;
mod options;
mod skeleton;
mod source_name;

pub use counts::Counts;
pub use error::{Fault, UpstreamError};
pub use options::{Credentials, Options, Proxy};
pub use skeleton::{AllowedHosts, BlobStream, FetchedManifest, Head, Hosts, Patience, Source};
pub use source_name::{Reference, SourceName};
