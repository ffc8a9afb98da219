//! Other registries as they are met: real ones, behind connections and answers that are not good.

mod access;
mod blobs;
mod directory;
mod faults;
mod origin;
mod reads;
mod redirects;
mod routes;
