//! The bundle's way onto a machine, and off it again without a trace: `quay install`, `uninstall`
//! and `status`.
//!
//! Every change is a [`Step`]. They are worked out first, so that they can be shown, and a manifest
//! is written before the first of them that matters: what was begun and not ended (a kill, a full
//! disk) can be run again or undone. Quay's own files are never edited: we add ours beside them.

mod command;
mod files;
mod install;
mod look;
mod manifest;
mod podman;
mod step;
mod target;
mod uninstall;
mod unit;

pub use files::FileError;
pub use install::install;
pub use look::{Looked, Losses, look, losses};
pub use manifest::{Entry, Manifest, State};
pub use podman::Podman;
pub use step::{Step, carry_out};
pub use target::{NewFile, Place, Target};
pub use uninstall::uninstall;

/// What cannot be served, or must not be touched, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize)]
#[error("{reason}\n  remedy: {remedy}")]
pub struct Refusal {
    /// What is wrong, with its place.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl Refusal {
    fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason: reason.into(), remedy: remedy.into() }
    }
}

/// Why nothing is done, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It must not be done.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Refused(Vec<Refusal>),
    /// A file that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A command that failed.
    #[error("{0}")]
    Command(String),
    /// Whoever was told of the steps wanted no more of them.
    #[error("stopped after {0} steps; run it again, or undo it with `quay uninstall`")]
    Stopped(usize),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(vec![refusal])
    }
}
