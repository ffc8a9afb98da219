//! Debian's docker-registry, which we are held beside. It checks no token and logs nothing.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::images::Manifest;
use super::process::{AtExit, signal, wait};
use super::{Folder, eventually, free_port};
use crate::bundle::http::Client;

pub struct DockerRegistry {
    pub port: u16,
    child: Child,
    folder: Folder,
    _at_exit: AtExit,
}

impl DockerRegistry {
    /// Starts an empty one and waits until it answers.
    pub fn start() -> DockerRegistry {
        DockerRegistry::start_with("", "")
    }

    /// The same with more settings (as YAML): of the section `http`, and sections.
    pub fn start_with(http: &str, sections: &str) -> DockerRegistry {
        let folder = Folder::new();
        let port = free_port();
        let config = folder.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: 127.0.0.1:{port}, {http}}}\n{sections}\n",
            folder.path().join("data").display()
        );
        fs::write(&config, text).expect("our own folder");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry runs: install the package docker-registry");
        let _at_exit = AtExit::run(format!("kill {} 2>/dev/null", child.id()));
        eventually(
            || {
                let answer = Client::new(port).send("GET", "/v2/", &[], None).ok();
                // It may want to see credentials, or TLS.
                answer.filter(|answer| answer.status < 500)
            },
            || "docker-registry does not answer".to_owned(),
        );
        DockerRegistry { port, child, folder, _at_exit }
    }

    /// Stores an image in a repository, its children and blobs first.
    pub fn push(&self, repository: &str, tag: &str, image: &Manifest) {
        put(&mut Client::new(self.port), repository, tag, image);
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its blobs are.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

fn put(client: &mut Client, repository: &str, reference: &str, image: &Manifest) {
    for child in &image.children {
        put(client, repository, &child.digest, child);
    }
    for blob in &image.blobs {
        let begun =
            client.send("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], Some(b""));
        let location = begun.expect("an upload").header("location").to_owned();
        let path = location.splitn(4, '/').nth(3).expect("a URL");
        let path = format!("/{path}&digest={}", blob.digest);
        let stored = client.send("PUT", &path, &[], Some(&blob.bytes)).expect("an answer");
        assert_eq!(stored.status, 201, "{}: {}", blob.digest, stored.text());
    }
    let (path, headers) =
        (format!("/v2/{repository}/manifests/{reference}"), [("Content-Type", image.media_type)]);
    let stored = client.send("PUT", &path, &headers, Some(&image.bytes)).expect("an answer");
    assert_eq!(stored.status, 201, "{reference}: {}", stored.text());
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        signal(&self.child, "TERM");
        wait(&mut self.child, "docker-registry");
    }
}
