//! Owner switches: which runtime, Python or this binary, serves which traffic, and why.
//!
//! Values and rules only: what is read is given to this room as text, except for two functions
//! that touch files, [`Reading::of`] and [`set`]. Whatever is wrong with an input, owners move
//! towards Python (the switch model, sections 7 to 9, with its list of decisions).
//!
//! - [`catalogue`]: 12 families, 413 routes, 36 programs, as data in `conf/`
//! - [`Snapshot`]: one version of the switch file; [`Stage`]: the switches of the environment
//! - [`Poller`]: what holds now, given what was read when
//! - [`Resolver`]: the owner of a route, a request or a worker, and each rule that decided
//! - [`Cohort`]: what registryd has to know of the canary
//! - [`set`]: `quay switch set`

mod canary;
mod catalogue;
mod cohort;
pub(crate) mod csv;
mod document;
mod edit;
mod environment;
mod key;
mod layout;
mod murmur;
mod overrides;
mod owner;
mod paths;
mod poller;
mod problem;
mod resolve;
mod router;
mod snapshot;
mod source;
mod store;
mod text;
mod value;
mod yaml;

pub use canary::{Canary, Membership};
pub use catalogue::{Catalogue, Family, Route, Worker, catalogue};
pub use cohort::Cohort;
pub use edit::{Assignment, Edited, edit};
pub use environment::Stage;
pub use key::Key;
pub use murmur::{bucket, is_within};
pub use overrides::override_conflicts;
pub use owner::Owner;
pub use paths::{Naming, normalise};
pub use poller::{Event, Poller, Standing, Status as PollerStatus};
pub use problem::{Code, Origin, Place, Problem, Severity};
pub use resolve::{Decision, Declared, Explanation, Hindrances, Reason, Resolver, Rule};
pub use router::{Found, Router};
pub use snapshot::{Assigned, Change, Effective, Setting, Snapshot, Switches};
pub use source::{CONFIG_FILE, Content, Document, Reading, SECTION, SWITCH_FILE};
pub use store::{Refusal, SetError, Written, set};
