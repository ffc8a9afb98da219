//! Where a run may be cut off: tests end the process at each of these points.

use crate::push::die_at;

/// Every point, in the order in which it comes by.
pub const STEPS: [&str; 6] = [
    "gc: tags gone",
    "gc: blobs' rows gone",
    "gc: a blob's bytes gone",
    "gc: an upload's bytes gone",
    "gc: an upload's row gone",
    "gc: a leftover gone",
];

/// Ends the process here, as `kill -9` does, if `QUAY_SIDECAR_DIE_AT` names this step. Not in
/// release builds.
pub(super) fn step(name: &str) {
    debug_assert!(STEPS.contains(&name), "{name} is not among the steps that are tested");
    die_at(name);
}
