//! Manifest media types and what a client accepts.

const SCHEMA1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

/// Whether `media_type` is one of Docker's schema 1 manifests.
pub fn is_schema1(media_type: &str) -> bool {
    SCHEMA1.contains(&media_type)
}

/// The media types of an `Accept` header the way Quay reads them: parameters cut off, quality
/// and wildcards ignored, exact comparison (contract §1.6.4).
#[derive(Debug, Default)]
pub struct Accept(Vec<String>);

impl Accept {
    /// Collects the media types of any number of `Accept` header lines.
    pub fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let types = lines
            .flat_map(|line| line.split(','))
            .map(|item| item.split(';').next().unwrap_or_default().trim().to_owned())
            .filter(|item| !item.is_empty())
            .collect();
        Self(types)
    }

    /// Whether a stored manifest of this type is sent as it is. Where it is not, Quay converts.
    pub fn takes(&self, stored: &str) -> bool {
        if self.0.iter().any(|accepted| accepted == stored) {
            return true;
        }
        let indifferent = self.0.iter().all(|accepted| accepted == "application/json");
        indifferent && is_schema1(stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

    fn accept(lines: &[&str]) -> Accept {
        Accept::parse(lines.iter().copied())
    }

    #[test]
    fn exact_membership_without_parameters() {
        assert!(accept(&[OCI]).takes(OCI));
        assert!(accept(&["text/plain, application/vnd.oci.image.manifest.v1+json;q=0"]).takes(OCI));
        assert!(accept(&["text/plain", OCI]).takes(OCI));
        assert!(!accept(&["*/*"]).takes(OCI));
        assert!(!accept(&["application/*"]).takes(OCI));
        assert!(!accept(&[]).takes(OCI));
        assert!(!accept(&["application/json"]).takes(OCI));
    }

    proptest! {
        #[test]
        fn only_what_is_named_is_taken(lines in proptest::collection::vec(".{0,80}", 0..4)) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            if accept(&lines).takes(OCI) {
                prop_assert!(lines.iter().any(|line| line.contains(OCI)));
            }
        }
    }

    #[test]
    fn schema1_is_sent_to_the_indifferent() {
        for schema1 in SCHEMA1 {
            assert!(accept(&[]).takes(schema1));
            assert!(accept(&["application/json"]).takes(schema1));
            assert!(!accept(&[OCI]).takes(schema1));
        }
    }
}
