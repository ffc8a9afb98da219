//! Those that we are measured beside.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::bundle::http::Client;
use crate::support::images::Manifest;
use crate::support::process::{AtExit, signal, wait};
use crate::support::{Folder, eventually, free_port};
use crate::workload::{REPO, Workload};

/// Files in the same nginx that is in front of registryd, under the same conditions: Quay's own
/// configuration closes every connection after one answer of `/v2/`.
pub fn file_server(port: u16) -> String {
    format!(
        "server {{\n listen 127.0.0.1:{port};\n keepalive_timeout 0;\n \
         location / {{ root @STORAGE@; }}\n}}\n"
    )
}

/// Debian's docker-registry. It checks no token, asks no database and logs nothing.
pub struct DockerRegistry {
    pub base: String,
    child: Child,
    _folder: Folder,
    _at_exit: AtExit,
}

impl DockerRegistry {
    pub fn start(workload: &Workload) -> DockerRegistry {
        let folder = Folder::new();
        let port = free_port();
        let config = folder.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
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
            .expect("docker-registry runs: scripts/bench installs it");
        let _at_exit = AtExit::run(format!("kill {} 2>/dev/null", child.id()));
        let mut client = Client::new(port);
        eventually(
            || client.send("GET", "/v2/", &[], None).ok().filter(|answer| answer.status == 200),
            || "docker-registry does not answer".to_owned(),
        );
        push(&mut client, &workload.image);
        let base = format!("http://127.0.0.1:{port}");
        DockerRegistry { base, child, _folder: folder, _at_exit }
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        signal(&self.child, "TERM");
        wait(&mut self.child, "docker-registry");
    }
}

fn push(client: &mut Client, image: &Manifest) {
    for blob in &image.blobs {
        let begun = client.send("POST", &format!("/v2/{REPO}/blobs/uploads/"), &[], Some(b""));
        let place = begun.expect("an upload").header("location").to_owned();
        let path = place.splitn(4, '/').nth(3).expect("an absolute URL");
        let path = format!("/{path}&digest={}", blob.digest);
        let put = client.send("PUT", &path, &[], Some(&blob.bytes)).expect("an answer");
        assert_eq!(put.status, 201, "{}", put.text());
    }
    let (path, media_type) = (format!("/v2/{REPO}/manifests/bench"), image.media_type);
    let put = client.send("PUT", &path, &[("content-type", media_type)], Some(&image.bytes));
    assert_eq!(put.expect("an answer").status, 201);
}

/// RSA signatures of 2048 bits that OpenSSL makes in a second on one core.
pub fn openssl_signatures() -> f64 {
    let output = Command::new("openssl").args(["speed", "-seconds", "3", "rsa2048"]).output();
    let output = output.expect("openssl runs: scripts/bench installs it");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with("rsa 2048 bits"));
    let rate = line.and_then(|line| line.split_whitespace().nth(5)?.parse().ok());
    rate.unwrap_or_else(|| panic!("openssl speed said {text}"))
}
