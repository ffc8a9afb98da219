//! Builds the services from the rooms below: `registryd` with the admin listener beside it, a
//! registry of its own around that, and the watcher of the owner switches.

mod admin;
mod certificate;
mod health;
mod listen;
pub mod mirror;
pub mod owner;
mod registryd;
pub mod systemd;

pub use certificate::CertificateError;
pub use listen::{Address, Listen, ListenError, TcpListen};
pub use registryd::{Options, ServeError, run};
