//! The machine's policy on signatures, `/etc/containers/policy.json`, as far as it has to be known:
//! skopeo enforces it for every copy, so what it asks for must not be passed over
//! (containers-policy.json(5)).

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use super::SyncError;

/// Where skopeo looks.
const POLICY: &str = "/etc/containers/policy.json";

/// What the policy asks of images from a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// Nothing.
    Anything,
    /// Signatures, which skopeo can verify.
    Signatures,
    /// They are not taken at all.
    Reject,
}

impl Policy {
    /// For all images of `source`, `host[:port]/path`. Where some tags or digests have a scope of
    /// their own, skopeo has to look.
    pub(super) fn of(source: &str) -> Result<Self, SyncError> {
        Self::read(Path::new(POLICY), source)
    }

    fn read(path: &Path, source: &str) -> Result<Self, SyncError> {
        let remedy = "put one there, or let the mirror take unsigned images";
        let wrong = |reason: &dyn std::fmt::Display| {
            SyncError::Settings(format!("{}: {reason}; {remedy}", path.display()))
        };
        let text = fs::read_to_string(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => wrong(&"there is no policy on signatures"),
            _ => wrong(&error),
        })?;
        let policy: Value = serde_json::from_str(&text).map_err(|error| wrong(&error))?;
        let scoped = policy.pointer("/transports/docker").and_then(Value::as_object);
        let requirements = scopes(source)
            .find_map(|scope| scoped?.get(&scope))
            .or_else(|| policy.get("default"))
            .and_then(Value::as_array)
            .filter(|requirements| !requirements.is_empty());
        let requirements = requirements.ok_or_else(|| wrong(&"it asks for nothing"))?;
        let kinds = requirements.iter().map(|requirement| requirement["type"].as_str());
        let own = |scope: &String| {
            let rest = scope.strip_prefix(source);
            rest.is_some_and(|rest| rest.starts_with([':', '@']))
        };
        let mut policy = match scoped.is_some_and(|scopes| scopes.keys().any(own)) {
            true => Self::Signatures,
            false => Self::Anything,
        };
        for kind in kinds {
            match kind {
                Some("insecureAcceptAnything") => {}
                Some("reject") => return Ok(Self::Reject),
                _ => policy = Self::Signatures,
            }
        }
        Ok(policy)
    }
}

/// The most exact first: the repository, what is above it, the host, wildcards of its name, and
/// everything.
fn scopes(source: &str) -> impl Iterator<Item = String> {
    let parents = std::iter::successors(Some(source), |scope| Some(scope.rsplit_once('/')?.0));
    let host = source.split('/').next().unwrap_or_default();
    let name = host.split(':').next().unwrap_or_default();
    let above = std::iter::successors(name.split_once('.'), |(_, rest)| rest.split_once('.'));
    let wildcards: Vec<String> = above.map(|(_, rest)| format!("*.{rest}")).collect();
    let parents: Vec<String> = parents.map(str::to_owned).collect();
    parents.into_iter().chain(wildcards).chain([String::new()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(policy: &str, source: &str) -> Option<Policy> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.json");
        fs::write(&path, policy).unwrap();
        Policy::read(&path, source).ok()
    }

    #[test]
    fn the_most_exact_scope_counts() {
        let policy = r#"{
            "default": [{"type": "reject"}],
            "transports": {"docker": {
                "quay.io/signed": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}],
                "quay.io/signed/not": [{"type": "insecureAcceptAnything"}],
                "*.example.com": [{"type": "insecureAcceptAnything"}],
                "docker.io/library/busybox": [{"type": "insecureAcceptAnything"}],
                "registry:5000": [{"type": "insecureAcceptAnything"}],
                "registry:5000/tagged:v1": [{"type": "reject"}]
            }}
        }"#;
        for (source, expected) in [
            ("quay.io/signed/app", Policy::Signatures),
            ("quay.io/signed/not", Policy::Anything),
            ("quay.io/other", Policy::Reject),
            ("a.b.example.com/x", Policy::Anything),
            ("example.com/x", Policy::Reject),
            ("docker.io/library/busybox", Policy::Anything),
            ("docker.io/busybox", Policy::Reject),
            ("registry:5000/x/y", Policy::Anything),
            ("registry:5000/tagged", Policy::Signatures),
            ("registry:5000/tagged/not", Policy::Anything),
            ("registry:5001/x/y", Policy::Reject),
        ] {
            assert_eq!(of(policy, source), Some(expected), "{source}");
        }
        let open = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        assert_eq!(of(open, "a/b"), Some(Policy::Anything));
        let everything = r#"{"default": [{"type": "reject"}],
            "transports": {"docker": {"": [{"type": "insecureAcceptAnything"}]}}}"#;
        assert_eq!(of(everything, "a/b"), Some(Policy::Anything));
    }

    #[test]
    fn what_cannot_be_read_accepts_nothing() {
        for bad in ["", "{}", r#"{"default": []}"#, "[]"] {
            assert_eq!(of(bad, "a/b"), None, "{bad}");
        }
        let none = Policy::read(Path::new("/nonexistent/policy.json"), "a/b").unwrap_err();
        assert!(none.to_string().contains("there is no policy"), "{none}");
    }
}
