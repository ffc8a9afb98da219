//! A registry to follow: Debian's, filled by whole images.

use std::fs;

use crate::support::docker_registry::DockerRegistry;
use crate::support::images::Manifest;

pub struct Source(pub DockerRegistry);

impl Source {
    pub fn start() -> Source {
        Source(DockerRegistry::start())
    }

    /// `host:port/path`, as a mirror has it.
    pub fn reference(&self) -> String {
        format!("127.0.0.1:{}/team/app", self.0.port)
    }

    /// Stores an image, its children and blobs first.
    pub fn push(&self, tag: &str, manifest: &Manifest) {
        self.push_to("team/app", tag, manifest);
    }

    /// The same, in another repository.
    pub fn push_to(&self, repository: &str, tag: &str, manifest: &Manifest) {
        self.0.push(repository, tag, manifest);
    }

    /// Takes the bytes of a blob away, or of a manifest: the source is broken from now on.
    pub fn lose(&self, digest: &str) {
        let hex = digest.trim_start_matches("sha256:");
        let blobs = self.0.data().join("docker/registry/v2/blobs/sha256");
        let file = blobs.join(&hex[..2]).join(hex).join("data");
        fs::remove_file(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }

    /// Takes a tag away.
    pub fn untag(&self, tag: &str) {
        let tags = self.0.data().join("docker/registry/v2/repositories/team/app/_manifests/tags");
        fs::remove_dir_all(tags.join(tag)).expect("the tag is there");
    }
}
