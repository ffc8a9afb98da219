//! Builds the services from the rooms below: `registryd`, and the admin listener beside it.

mod admin;
mod health;
mod listen;
mod registryd;

pub use listen::{Listen, ListenError};
pub use registryd::{Options, ServeError, run};
