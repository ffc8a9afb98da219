//! Who serves something.

use std::fmt;

/// The runtime that serves a route or runs a worker (the switch model, section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// Quay itself.
    Python,
    /// This binary. The decision register calls it `go`.
    Rust,
    /// Nobody; for workers only.
    Off,
}

impl Owner {
    /// As it is written in a switch.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Rust => "rust",
            Self::Off => "off",
        }
    }

    /// Lower case only; surrounding spaces do not count.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.trim_matches([' ', '\t']) {
            "python" => Some(Self::Python),
            "rust" | "go" => Some(Self::Rust),
            "off" => Some(Self::Off),
            _ => None,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
