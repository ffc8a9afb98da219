//! Repository names.

use std::fmt;

/// How this installation reads repository names.
#[derive(Clone, Debug)]
pub struct NameRules {
    /// `LIBRARY_NAMESPACE`: the namespace of names with one component.
    pub library_namespace: String,
    /// `FEATURE_EXTENDED_REPOSITORY_NAMES`: repository names may contain slashes.
    pub extended: bool,
}

/// A repository: its namespace and its name, which may contain slashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RepoName {
    /// `user.username` of the owner.
    pub namespace: String,
    /// `repository.name`.
    pub repository: String,
}

impl RepoName {
    /// Splits a path at its first slash; one component is in the library namespace
    /// (contract §1.1).
    ///
    /// Returns `None` for a name that Quay would transliterate or percent-encode first: a name
    /// outside `[A-Za-z0-9_.\-~/]` is Python's to answer.
    pub fn parse(path: &str, rules: &NameRules) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-~/".contains(&b);
        if !path.bytes().all(plain) {
            return None;
        }
        let path = path.trim_end_matches('/');
        let (namespace, repository) =
            path.split_once('/').unwrap_or((rules.library_namespace.as_str(), path));
        if namespace.is_empty() || repository.is_empty() {
            return None;
        }
        Some(Self { namespace: namespace.to_owned(), repository: repository.to_owned() })
    }

    /// Whether the repository part has a name that Quay gives tokens for. The namespace is not
    /// looked at (contract §2.3 step 4).
    pub fn is_valid(&self, rules: &NameRules) -> bool {
        if self.repository.len() > 255 {
            return false;
        }
        if rules.extended {
            self.repository.split('/').all(is_component)
        } else {
            is_component(&self.repository)
        }
    }
}

/// `[a-z0-9][.a-z0-9_-]*`
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.bytes().next().is_some_and(alphanumeric)
        && text.bytes().all(|b| alphanumeric(b) || b"._-".contains(&b))
}

/// Whether Quay lets a user or an organization have this name: 2 to 255 small letters and digits, with
/// single `.`, `_`, `-` between them.
pub fn is_account_name(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    (2..=255).contains(&text.len()) && text.split(['.', '_', '-']).all(part)
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.repository)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(extended: bool) -> NameRules {
        NameRules { library_namespace: "library".into(), extended }
    }

    fn parse(path: &str) -> Option<(String, String)> {
        RepoName::parse(path, &rules(true)).map(|name| (name.namespace, name.repository))
    }

    #[test]
    fn the_first_slash_splits() {
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(parse("acme/app"), pair("acme", "app"));
        assert_eq!(parse("acme/nested/deep"), pair("acme", "nested/deep"));
        assert_eq!(parse("busybox"), pair("library", "busybox"));
        assert_eq!(parse("ACME/app"), pair("ACME", "app"));
        for python in ["größe/app", "a b/c", "a+b/c", "a\0/b", "", "/", "a%2Fb"] {
            assert_eq!(parse(python), None, "{python}");
        }
    }

    #[test]
    fn validity_is_about_the_repository_part() {
        let valid = |path: &str, extended| {
            let rules = rules(extended);
            RepoName::parse(path, &rules).is_some_and(|name| name.is_valid(&rules))
        };
        assert!(valid("ACME/app", true));
        assert!(valid("a/b/c.d_e-f", true));
        assert!(!valid("a/b/c", false));
        assert!(valid("a/b", false));
        assert!(!valid("acme/UPPER", true));
        assert!(!valid("acme/-x", true));
        assert!(!valid("acme/x/.y", true));
        assert!(!valid(&format!("a/{}", "b".repeat(256)), true));
    }

    proptest! {
        #[test]
        fn a_name_has_two_parts_or_is_none(path in ".{0,300}") {
            if let Some(name) = RepoName::parse(&path, &rules(true)) {
                prop_assert!(!name.namespace.contains('/'));
                prop_assert!(!name.repository.is_empty());
                prop_assert!(name.to_string().is_ascii());
            }
        }
    }
}
