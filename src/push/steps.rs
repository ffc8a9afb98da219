//! Where a push may be cut off: tests end the process at each of these points.

/// Every point of an upload, in the order in which it comes by.
pub const STEPS: [&str; 10] = [
    "post: room made",
    "post: row written",
    "body: some bytes stored",
    "patch: bytes stored",
    "patch: row written",
    "put: bytes stored",
    "put: bytes settled",
    "put: in place",
    "put: committed",
    "cancel: bytes gone",
];

/// Those of manifests, pushed and deleted.
pub const MANIFEST_STEPS: [&str; 3] = ["manifest: checked", "manifest: stored", "delete: done"];

/// Ends the process here, as `kill -9` does, if `QUAY_SIDECAR_DIE_AT` names this step. Not in
/// release builds.
pub(super) fn step(name: &str) {
    let tested = STEPS.contains(&name) || MANIFEST_STEPS.contains(&name);
    debug_assert!(tested, "{name} is not among the steps that are tested");
    die_at(name);
}

/// The same for steps of others, who know which of theirs are tested.
pub(crate) fn die_at(name: &str) {
    #[cfg(debug_assertions)]
    {
        use std::sync::LazyLock;
        static DIE_AT: LazyLock<Option<String>> =
            LazyLock::new(|| std::env::var("QUAY_SIDECAR_DIE_AT").ok());
        if DIE_AT.as_deref() == Some(name) {
            let own = rustix::process::getpid();
            let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
