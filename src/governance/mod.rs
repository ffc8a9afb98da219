//! What was decided and who may depart from it: decisions, exceptions from D-003, retired scripts.

mod decisions;
mod exceptions;
mod tooling;

pub use decisions::{Decision, decisions};
pub use exceptions::{Accepted, Exception, ExceptionError, FOLDER, Record, exceptions};
pub use tooling::{Script, tooling};
