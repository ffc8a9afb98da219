//! Builds the services from the rooms below: `registryd` with the admin listener beside it, and
//! the watcher of the owner switches.

mod admin;
mod health;
mod listen;
pub mod owner;
mod registryd;

pub use listen::{Listen, ListenError, TcpListen};
pub use registryd::{Options, ServeError, run};
