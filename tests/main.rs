//! Everything that is tested from outside: one binary, so that it is linked once.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod agreement;
mod bad_input;
mod bundle;
mod database;
mod delivery;
mod events;
mod faults;
mod manifests;
mod mirror;
mod owner;
mod passthrough;
mod pulls;
mod reads;
mod replay;
mod rooms;
mod s3;
mod sqlite;
mod support;
mod switches;
mod tokens;
mod uploads;
