//! `quay switch watch`: sees that every request goes to the owner that the switches name, and that
//! each worker runs there and nowhere else; and to Python whenever that cannot be us.
//!
//! A program of its own, so that a failure of registryd does not take the way back with it.

mod crashes;
mod files;
mod guard;
mod hindrance;
mod install;
mod map;
mod metrics;
mod mover;
mod plan;
mod programs;
mod service;
mod status;
mod step;
mod watch;
mod workers;

pub use install::{Installation, Paths};
pub use plan::{declared, naming};
pub use service::ServiceError;
pub use status::{Flip, Line, Status};
pub use watch::{WatchError, watch};
