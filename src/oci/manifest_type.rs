//! The media types of manifests, and which of them may be pushed.

use super::is_schema1;

/// The four kinds of manifest that are read here. Docker's schema 1 is Python's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ManifestType {
    /// `application/vnd.oci.image.manifest.v1+json`
    OciImage,
    /// `application/vnd.oci.image.index.v1+json`
    OciIndex,
    /// `application/vnd.docker.distribution.manifest.v2+json`: schema 2.
    DockerImage,
    /// `application/vnd.docker.distribution.manifest.list.v2+json`
    DockerList,
}

impl ManifestType {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::OciImage, Self::OciIndex, Self::DockerImage, Self::DockerList];

    /// The type of this name: an exact comparison, so a parameter makes it another type.
    pub fn parse(media_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == media_type)
    }

    /// As in `Content-Type` and in `mediatype.name`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OciImage => "application/vnd.oci.image.manifest.v1+json",
            Self::OciIndex => "application/vnd.oci.image.index.v1+json",
            Self::DockerImage => "application/vnd.docker.distribution.manifest.v2+json",
            Self::DockerList => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    /// Whether it names other manifests instead of layers.
    pub fn is_list(self) -> bool {
        matches!(self, Self::OciIndex | Self::DockerList)
    }

    /// Whether it is one of OCI's, which are read less strictly than Docker's.
    pub fn is_oci(self) -> bool {
        matches!(self, Self::OciImage | Self::OciIndex)
    }
}

/// What the configuration says of manifests pushed to one namespace.
#[derive(Clone, Copy, Debug)]
pub struct PushRules {
    /// `FEATURE_GENERAL_OCI_SUPPORT`, or the namespace is in `OCI_NAMESPACE_WHITELIST`.
    pub oci: bool,
    /// The namespace is in `V22_NAMESPACE_BLACKLIST`: it takes schema 1 alone.
    pub schema1_only: bool,
}

/// Who reads a pushed manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushType {
    /// We do.
    Ours(ManifestType),
    /// Python does: schema 1, which is also what no type and `application/json` stand for.
    Python,
    /// Nobody: 415 with [`UNSUPPORTED_TYPE`].
    Unsupported,
}

/// What Quay says to a type that cannot be pushed (contract §1.9.6).
pub const UNSUPPORTED_TYPE: &str = "manifest schema version not supported";

impl PushType {
    /// Judges the `Content-Type` of a push. Quay does so before it asks who pushes
    /// (contract §1.9.6).
    pub fn of(content_type: Option<&str>, rules: PushRules) -> Self {
        let content_type = content_type.unwrap_or_default();
        let Some(known) = ManifestType::parse(content_type) else {
            let schema1 =
                matches!(content_type, "" | "application/json") || is_schema1(content_type);
            return if schema1 { Self::Python } else { Self::Unsupported };
        };
        if rules.schema1_only || (known.is_oci() && !rules.oci) {
            return Self::Unsupported;
        }
        Self::Ours(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const USUAL: PushRules = PushRules { oci: true, schema1_only: false };

    #[test]
    fn names_go_both_ways() {
        for known in ManifestType::ALL {
            assert_eq!(ManifestType::parse(known.as_str()), Some(known));
        }
    }

    #[test]
    fn what_may_be_pushed_by_default() {
        for known in ManifestType::ALL {
            assert_eq!(PushType::of(Some(known.as_str()), USUAL), PushType::Ours(known));
        }
        for python in [
            None,
            Some(""),
            Some("application/json"),
            Some("application/vnd.docker.distribution.manifest.v1+json"),
            Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
        ] {
            assert_eq!(PushType::of(python, USUAL), PushType::Python, "{python:?}");
        }
        for unsupported in [
            "application/vnd.foo+json",
            "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
            "APPLICATION/vnd.oci.image.manifest.v1+json",
            "application/json; charset=utf-8",
            " ",
        ] {
            assert_eq!(PushType::of(Some(unsupported), USUAL), PushType::Unsupported);
        }
    }

    #[test]
    fn namespaces_with_rules_of_their_own() {
        let no_oci = PushRules { oci: false, schema1_only: false };
        let schema1_only = PushRules { oci: true, schema1_only: true };
        for known in ManifestType::ALL {
            let name = Some(known.as_str());
            let unsupported = PushType::of(name, no_oci) == PushType::Unsupported;
            assert_eq!(unsupported, known.is_oci(), "{known:?}");
            assert_eq!(PushType::of(name, schema1_only), PushType::Unsupported, "{known:?}");
        }
        assert_eq!(PushType::of(None, schema1_only), PushType::Python);
    }

    proptest! {
        #[test]
        fn only_exact_names_are_ours(text in ".{0,80}") {
            if let PushType::Ours(known) = PushType::of(Some(&text), USUAL) {
                prop_assert_eq!(known.as_str(), text);
            }
        }
    }
}
