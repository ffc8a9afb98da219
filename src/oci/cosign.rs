//! Tags that cosign makes for an image: its signature, attestations and bill of materials.

use super::Digest;

const SUFFIXES: [&str; 3] = ["sig", "att", "sbom"];

/// Whether `tag` is `sha256-<64 hexadecimal digits>.<sig|att|sbom>`. The tags of an image go with
/// it; such a tag takes none along (contract §4.5 step 4).
pub fn is_cosign_tag(tag: &str) -> bool {
    tag.split_once('.').is_some_and(|(name, suffix)| {
        let digest = name.strip_prefix("sha256-").map(|hex| format!("sha256:{hex}"));
        SUFFIXES.contains(&suffix) && digest.is_some_and(|digest| Digest::parse(&digest).is_some())
    })
}

/// The tags that cosign makes for the manifest with this digest.
pub fn cosign_tags(manifest: &Digest) -> [String; 3] {
    SUFFIXES.map(|suffix| format!("sha256-{}.{suffix}", manifest.hex()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{EMPTY_LAYER, is_tag};
    use proptest::prelude::*;

    #[test]
    fn the_tags_of_a_manifest_are_cosigns() {
        let digest = Digest::parse(EMPTY_LAYER).unwrap();
        let tags = cosign_tags(&digest);
        assert_eq!(tags[0], format!("{}.sig", EMPTY_LAYER.replace(':', "-")));
        assert!(tags.iter().all(|tag| is_cosign_tag(tag) && is_tag(tag)));
    }

    #[test]
    fn others_are_not() {
        let hex = "ab".repeat(32);
        for other in [
            String::new(),
            "latest".into(),
            format!("sha256-{hex}"),
            format!("sha256-{hex}."),
            format!("sha256-{hex}.SIG"),
            format!("sha256-{hex}.sig.sig"),
            format!("sha256-{hex}.sig\n"),
            format!("sha256:{hex}.sig"),
            format!("sha256-{}.sig", hex.to_uppercase()),
            format!("sha256-{}.sig", &hex[1..]),
            format!("sha512-{hex}{hex}.sig"),
            format!("x-sha256-{hex}.sig"),
        ] {
            assert!(!is_cosign_tag(&other), "{other}");
        }
    }

    proptest! {
        #[test]
        fn only_what_cosign_makes(text in "(sha256-)?[a-f0-9]{63,65}\\.?(sig|att|sbom|x)?|.{0,90}") {
            let hex = text.get(7..71).map(|hex| format!("sha256:{hex}"));
            let made = hex.and_then(|digest| Digest::parse(&digest)).map(|digest| cosign_tags(&digest));
            prop_assert_eq!(is_cosign_tag(&text), made.is_some_and(|tags| tags.contains(&text)));
        }
    }
}
