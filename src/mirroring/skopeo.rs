//! Copies by skopeo, once for each tag, as Quay's own worker does (contract §7.4): to compare with,
//! and for what this program does not copy itself.

use std::io::{self, Write as _};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::process::Command;

use super::SyncError;
use super::job::Job;
use super::look::Look;
use crate::upstream::{Credentials, Options};

const SKOPEO: &str = "/usr/bin/skopeo";

/// Bytes of what it says that are kept.
const WORDS: usize = 16 << 10;

impl Job<'_> {
    /// Copies a tag through our own front door, as the mirror's robot.
    pub(super) async fn tag_by_skopeo(&self, tag: &str) -> Result<(), SyncError> {
        self.progress.doing(tag);
        let Look { parts, into, access, reference, .. } = &self.look;
        let mirroring = &parts.config.mirroring;
        let server = &parts.config.server.hostname;
        let server = mirroring.server_hostname.as_ref().unwrap_or(server);
        let token = self.robot_token().await?;
        let robot = Credentials { username: into.robot.clone(), password: token };
        let from = AuthFile::write(self.look.host(), access.options.credentials.as_ref())?;
        let to = AuthFile::write(server, Some(&robot))?;
        let mut command = Command::new(SKOPEO);
        if access.unsigned_images {
            command.arg("--insecure-policy");
        }
        command
            .args(["copy", "--all", "--remove-signatures"])
            .arg(format!("--src-tls-verify={}", access.options.verify_tls))
            .arg(format!("--dest-tls-verify={}", mirroring.verify_own_tls))
            .arg("--src-authfile")
            .arg(from.path())
            .arg("--dest-authfile")
            .arg(to.path())
            .arg(format!("docker://{reference}:{tag}"))
            .arg(format!("docker://{server}/{}:{tag}", into.name));
        proxy(&mut command, &access.options);
        run(command, access.options.operation_timeout).await
    }
}

/// Over the worker's own environment, as Quay does.
fn proxy(command: &mut Command, options: &Options) {
    let proxy = &options.proxy;
    for (name, value) in [
        ("HTTP_PROXY", &proxy.http),
        ("HTTPS_PROXY", &proxy.https),
        ("NO_PROXY", &proxy.exceptions),
    ] {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
}

async fn run(mut command: Command, patience: Duration) -> Result<(), SyncError> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let unstarted = |error: io::Error| SyncError::Skopeo(format!("{SKOPEO}: {error}"));
    let output = tokio::time::timeout(patience, command.output()).await;
    let output = output
        .map_err(|_| SyncError::Skopeo(format!("timed out after {} s", patience.as_secs())))?
        .map_err(unstarted)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(SyncError::Skopeo(redacted(words.get(..WORDS).unwrap_or(&words))))
}

/// Without what its debug output says of credentials.
fn redacted(words: &str) -> String {
    let line = |line: &str| {
        let secret = ["authorization", "\"auth\"", "creds"];
        let lower = line.to_ascii_lowercase();
        match secret.iter().find_map(|word| lower.find(word)) {
            Some(at) => format!("{}[REDACTED]", line.get(..at).unwrap_or_default()),
            None => line.to_owned(),
        }
    };
    words.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// A file of credentials for one host, which only we can read and which goes with this value.
struct AuthFile(tempfile::NamedTempFile);

impl AuthFile {
    fn write(host: &str, credentials: Option<&Credentials>) -> Result<Self, SyncError> {
        let written = || -> io::Result<Self> {
            let mut file = tempfile::NamedTempFile::new()?;
            let mut auths = serde_json::Map::new();
            if let Some(Credentials { username, password }) = credentials {
                let auth = STANDARD.encode(format!("{username}:{password}"));
                auths.insert(host.to_owned(), json!({"auth": auth}));
            }
            file.write_all(json!({"auths": auths}).to_string().as_bytes())?;
            Ok(Self(file))
        };
        written().map_err(|error| SyncError::Skopeo(format!("its credentials: {error}")))
    }

    fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_repeated() {
        let words = "GET /v2/\nAuthorization: Basic c2VjcmV0\n{\"auth\": \"c2VjcmV0\"}\nerror: no";
        let words = redacted(words);
        assert!(!words.contains("c2VjcmV0") && words.contains("error: no"), "{words}");
    }
}
