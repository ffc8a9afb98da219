//! Image indexes and Docker's manifest lists, as far as a pull has to look into them.

use serde::Deserialize;

use super::ManifestType;

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: Option<String>,
    os: Option<String>,
}

impl Entry {
    fn is_amd64_linux(&self) -> bool {
        self.platform.as_ref().is_some_and(|platform| {
            platform.architecture.as_deref() == Some("amd64")
                && platform.os.as_deref() == Some("linux")
        })
    }
}

/// Whether `media_type` is an OCI index or a Docker manifest list.
pub fn is_index(media_type: &str) -> bool {
    ManifestType::parse(media_type).is_some_and(ManifestType::is_list)
}

/// The digest of the first entry for amd64 and linux: what Quay sends to clients that take no
/// index (contract §1.6.4).
pub fn amd64_linux(index: &[u8]) -> Option<String> {
    let index: Index = serde_json::from_slice(index).ok()?;
    Some(index.manifests.into_iter().find(Entry::is_amd64_linux)?.digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_fits() {
        let found =
            |entries: &str| amd64_linux(format!("{{\"manifests\":[{entries}]}}").as_bytes());
        let entry = |digest: &str, architecture: &str, os: &str| {
            format!(
                "{{\"digest\":\"{digest}\",\"platform\":\
                 {{\"architecture\":\"{architecture}\",\"os\":\"{os}\"}}}}"
            )
        };
        let [arm, windows] = [entry("a", "arm64", "linux"), entry("w", "amd64", "windows")];
        let [first, second] = [entry("1", "amd64", "linux"), entry("2", "amd64", "linux")];
        let bare = "{\"digest\":\"b\"},{\"digest\":\"e\",\"platform\":{}}";
        let all = [bare, &arm, &windows, &first, &second].join(",");
        assert_eq!(found(&all).as_deref(), Some("1"));
        assert_eq!(found(&[bare, &arm, &windows].join(",")), None);
        assert_eq!(found(""), None);
        for broken in ["", "{}", "[]", "{\"manifests\":{}}", "{\"manifests\":[{}]}"] {
            assert_eq!(amd64_linux(broken.as_bytes()), None, "{broken}");
        }
    }
}
