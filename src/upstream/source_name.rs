//! How a repository in another registry is called.

use std::fmt;
use std::net::IpAddr;

use super::UpstreamError;
use crate::oci::Digest;

/// Docker Hub under the names that people give it, and where it really is.
const DOCKER_HUB: [&str; 2] = ["docker.io", "index.docker.io"];
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
/// Docker Hub's namespace of names with one component.
const DOCKER_HUB_LIBRARY: &str = "library";

/// Characters of a repository's path, as in docker's own grammar.
const MAX_PATH: usize = 255;

/// A repository in a registry: Quay's `external_reference`, `host[:port]/path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceName {
    /// As it was written.
    text: String,
    authority: String,
    path: String,
}

impl SourceName {
    /// Reads a reference by Quay's rules (contract §7.3 step 1) and skopeo's: what has no dot, no
    /// port and is not `localhost` before its first slash is on Docker Hub. The error is one of
    /// configuration.
    pub fn parse(reference: &str) -> Result<Self, UpstreamError> {
        let wrong = |problem: &str| {
            let shown: String = reference.chars().filter(|c| !c.is_control()).take(300).collect();
            UpstreamError::reference(&shown, problem)
        };
        if reference.contains("://") {
            return Err(wrong("it begins with a scheme; leave out everything up to `://`"));
        }
        let strange = |c: char| !c.is_ascii_graphic() || ['?', '#', '\\', '%'].contains(&c);
        if reference.contains(strange) {
            return Err(wrong("it contains white space or another character that none has"));
        }
        let (first, rest) = reference.split_once('/').unwrap_or_default();
        if first.is_empty() || rest.is_empty() {
            return Err(wrong("it has to be `host[:port]/repository`"));
        }
        match is_host(first) {
            true => Self::checked(reference, first, rest),
            false => Self::checked(reference, DOCKER_HUB[0], reference),
        }
    }

    /// The repository at `path` of the registry at `authority`, `host[:port]`, which is one however
    /// it looks. The error is one of configuration.
    pub fn in_registry(authority: &str, path: &str) -> Result<Self, UpstreamError> {
        Self::checked(&format!("{authority}/{path}"), authority, path)
    }

    fn checked(reference: &str, host: &str, path: &str) -> Result<Self, UpstreamError> {
        let wrong = |problem: &str| {
            let shown: String = reference.chars().filter(|c| !c.is_control()).take(300).collect();
            UpstreamError::reference(&shown, problem)
        };
        let (host, path) = (host.to_ascii_lowercase(), path.to_owned());
        if !is_authority(&host) {
            return Err(wrong("its host is no name, address or port that there can be"));
        }
        if path.contains([':', '@']) {
            return Err(wrong("it names a tag or a digest; name the repository alone"));
        }
        if path.len() > MAX_PATH || !path.split('/').all(is_component) {
            return Err(wrong(
                "its repository is none; use lower-case letters, digits, and `.`, `_`, `-` and `/` \
                 between them",
            ));
        }
        let text = reference.to_owned();
        if DOCKER_HUB.contains(&host.as_str()) {
            let authority = DOCKER_HUB_HOST.to_owned();
            let path = match path.contains('/') {
                true => path,
                false => format!("{DOCKER_HUB_LIBRARY}/{path}"),
            };
            return Ok(Self { text, authority, path });
        }
        Ok(Self { text, authority: host, path })
    }

    /// `host[:port]` of the registry that is asked.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// As policies on signatures name it: `host[:port]/path`, Docker Hub by the name it is known by
    /// (containers-policy.json(5)).
    pub fn canonical(&self) -> String {
        let host = match self.authority.as_str() {
            DOCKER_HUB_HOST => DOCKER_HUB[0],
            authority => authority,
        };
        format!("{host}/{}", self.path)
    }

    /// The repository in that registry.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether the first component of a reference is a registry (github.com/distribution/reference).
fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first != first.to_ascii_lowercase()
}

fn is_authority(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) => {
                (host, port.strip_prefix(':').or(port.is_empty().then_some("443")))
            }
            None => return false,
        },
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, Some("443")),
        },
    };
    let port = port.filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
    if port.and_then(|port| port.parse::<u16>().ok()).is_none_or(|port| port == 0) {
        return false;
    }
    match authority.starts_with('[') {
        true => host.parse::<std::net::Ipv6Addr>().is_ok(),
        false => host.parse::<IpAddr>().is_ok() || is_host_name(host),
    }
}

fn is_host_name(host: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_alphanumeric();
    host.len() <= 253
        && host.split('.').all(|label| {
            let bytes = label.as_bytes();
            bytes.len() <= 63
                && bytes.first().is_some_and(alphanumeric)
                && bytes.last().is_some_and(alphanumeric)
                && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
        })
}

/// A part of a repository's path: separators only between letters and digits.
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().copied().is_some_and(alphanumeric)
        && bytes.last().copied().is_some_and(alphanumeric)
        && bytes.iter().all(|&b| alphanumeric(b) || b"._-".contains(&b))
        && !text.contains("..")
}

/// A manifest in a repository, by its tag or by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A tag; made by [`Self::tag`], which checks it.
    Tag(TagName),
    /// A digest.
    Digest(Digest),
}

/// A tag name of the distribution specification: safe in a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TagName(String);

impl Reference {
    /// The manifest that this tag is at. `None` for a name that no tag can have: it is
    /// `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`.
    pub fn tag(name: &str) -> Option<Self> {
        is_tag_name(name).then(|| Self::Tag(TagName(name.to_owned())))
    }

    /// As in a URL.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Tag(TagName(name)) => name,
            Self::Digest(digest) => digest.as_str(),
        }
    }
}

impl From<Digest> for Reference {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Narrower than [`crate::oci::is_tag`], which takes Unicode's letters as Python does.
pub(super) fn is_tag_name(name: &str) -> bool {
    crate::oci::is_tag(name) && name.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_where_they_lead() {
        for (reference, authority, path) in [
            ("quay.io/projectquay/quay", "quay.io", "projectquay/quay"),
            ("Registry.Example:5000/a/b/c-d.e_f", "registry.example:5000", "a/b/c-d.e_f"),
            ("docker.io/busybox", "registry-1.docker.io", "library/busybox"),
            ("docker.io/library/busybox", "registry-1.docker.io", "library/busybox"),
            ("index.docker.io/grafana/grafana", "registry-1.docker.io", "grafana/grafana"),
            ("grafana/grafana", "registry-1.docker.io", "grafana/grafana"),
            ("localhost/app", "localhost", "app"),
            ("127.0.0.1:5000/app", "127.0.0.1:5000", "app"),
            ("[2001:db8::1]/app", "[2001:db8::1]", "app"),
            ("[2001:db8::1]:5000/app", "[2001:db8::1]:5000", "app"),
            ("quay.io/a__b/c--d", "quay.io", "a__b/c--d"),
        ] {
            let name = SourceName::parse(reference).unwrap();
            assert_eq!((name.authority(), name.path()), (authority, path), "{reference}");
            assert_eq!(name.to_string(), reference);
        }
    }

    #[test]
    fn in_a_registry_that_looks_like_none() {
        let name = SourceName::in_registry("registry", "team/app").unwrap();
        assert_eq!((name.authority(), name.path()), ("registry", "team/app"));
        let hub = SourceName::in_registry("docker.io", "busybox").unwrap();
        assert_eq!((hub.authority(), hub.path()), ("registry-1.docker.io", "library/busybox"));
        for (authority, path) in [("user@registry", "a"), ("registry", "a b"), ("", "a")] {
            assert!(SourceName::in_registry(authority, path).is_err(), "{authority} {path}");
        }
    }

    #[test]
    fn what_is_no_name() {
        for reference in [
            "",
            "quay.io",
            "quay.io/",
            "/quay.io",
            "https://quay.io/a/b",
            "quay.io/a b",
            "quay.io/a\n",
            "quay.io/a/b:latest",
            "quay.io/a/b@sha256:0000",
            "quay.io/a/../b",
            "quay.io/a//b",
            "quay.io/%2e%2e",
            "quay.io?/a",
            "quay.io#/a",
            "quay.io\\a/b",
            "quay.io:/a",
            "quay.io:0/a",
            "quay.io:70000/a",
            "quay.io:+80/a",
            "quay.io:bad/a",
            "user@quay.io/a",
            "user:secret@quay.io/a",
            "quay.io./a",
            "-quay.io/a",
            "[::1/a",
            "[::1]x/a",
            "[::1]:/a",
            "[quay.io]/a",
            "::1/a",
            "quay.io/A",
            "quay.io/a-",
            "quay.io/é",
        ] {
            let error = SourceName::parse(reference).unwrap_err();
            assert_eq!(error.fault(), super::super::Fault::Configuration, "{reference}");
        }
    }

    #[test]
    fn tags() {
        for tag in ["latest", "_", "1.2.3-rc.1_x"] {
            assert_eq!(Reference::tag(tag).unwrap().as_str(), tag);
        }
        for not in ["", ".a", "-a", "a/b", "a?b", "ä", "a b", &"a".repeat(129)] {
            assert_eq!(Reference::tag(not), None, "{not}");
        }
    }
}
