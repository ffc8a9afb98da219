//! Our pieces in an existing Quay: nginx's routes, supervisord's programs, and the way back.
//!
//! [`Bundle::apply`] runs last in Quay's own start (`init/`), on the files that Quay has just
//! generated. Which requests are ours is then decided by flag files ([`RunFolder`]), without any
//! reload; what can be ours at all is an input ([`Routing`]).

mod apply;
mod certificate;
mod doctor;
mod facts;
mod files;
mod gate;
mod ini;
mod kubernetes;
mod lexer;
mod nginx;
mod run_folder;
mod splice;
mod sqlite_file;
mod supervisord;
mod text;
mod tree;
mod xmlrpc;

pub use apply::{Applied, Bundle, BundleError, Outcome, Rendered, When};
pub use doctor::Check;
pub use facts::{Facts, FactsError, QuayNginx};
pub use gate::{GateError, nginx_test};
pub use ini::{Ini, IniError, Section};
pub use kubernetes::Kubernetes;
pub use lexer::LexError;
pub use nginx::{Blobs, Canary, Nginx, Routing, Rule, RuleOwner, RustAddress, STREAM_HEADER};
pub use run_folder::{RunFolder, RunFolderError, Workers};
pub use splice::{SpliceError, Spliced, splice, undefined_upstreams};
pub use supervisord::{
    MIRROR_WORKER, PYTHONS_MIRROR_WORKER, Programs, RETIRED, SplicedPrograms, SupervisordError,
    prove, stale,
};
pub use text::Refused;
pub use tree::{FileError, PristineError, Tree};
pub use xmlrpc::{Process, Supervisor, SupervisorError};
