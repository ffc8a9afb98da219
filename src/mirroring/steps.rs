//! Where a sync may be cut off: tests end the process at each of these points, and at those of the
//! pushes that it consists of.

use crate::push::die_at;

/// Every point, in the order in which it comes by.
pub const STEPS: [&str; 8] = [
    "mirror: claimed",
    "mirror: tags listed",
    "mirror: manifest fetched",
    "mirror: tag moved",
    "mirror: tag logged",
    "mirror: tag deleted",
    "mirror: all logged",
    "mirror: released",
];

/// Ends the process here, as `kill -9` does, if `QUAY_SIDECAR_DIE_AT` names this step. Not in
/// release builds.
pub(super) fn step(name: &str) {
    debug_assert!(STEPS.contains(&name), "{name} is not among the steps that are tested");
    die_at(name);
}
