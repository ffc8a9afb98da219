//! Builds the services from the rooms below: `registryd` with the admin listener beside it, a
//! registry of its own around that, the watcher of the owner switches, and the worker that fills
//! mirrors.

mod admin;
mod certificate;
mod health;
mod listen;
pub mod mirror;
pub mod owner;
mod registryd;
pub mod repomirror;
mod status_page;
pub mod systemd;

pub use certificate::CertificateError;
pub use listen::{Address, Listen, ListenError, TcpListen};
pub use registryd::{Options, ServeError, run};
