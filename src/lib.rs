//! quay-sidecar: serves registry traffic of an existing Quay installation.
//!
//! A room per subject; a room uses only those below it in this list, which a test checks:
//! `serve`, `registry`, `push`, `delivery`, `bundle`, `switches`, `auth`, `events`, `audit`, `catalog`, `blobs`,
//! `config`, `telemetry`, `oci`, `rounds`.

pub mod audit;
pub mod auth;
pub mod blobs;
pub mod bundle;
pub mod catalog;
pub mod config;
pub mod delivery;
pub mod events;
pub mod oci;
pub mod push;
pub mod registry;
pub mod rounds;
pub mod serve;
pub mod switches;
pub mod telemetry;
