//! Our pieces in a Quay: the real nginx and the real supervisord, on a stand-in for Quay's tree.

pub mod backend;
mod blobs;
mod doctor;
mod files;
mod flips;
mod hook;
pub mod http;
pub mod nginx;
pub mod quay;
mod routing;
mod supervisor;
