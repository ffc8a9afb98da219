//! What may be written into files that other programs parse.
//!
//! Neither nginx nor supervisord can escape everything (`$` in nginx, a quote in a supervisord
//! command), so values are checked against what is plain in both, and refused with their name.

use std::path::Path;

/// A value that cannot be written into a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has a character with a meaning there.
    #[error("{what}: {value:?} has the character {character:?}; only {allowed} can be used here")]
    Character {
        /// Which value, in words of the configuration.
        what: String,
        /// The value.
        value: String,
        /// The first character that is not plain.
        character: char,
        /// What would be.
        allowed: &'static str,
    },
    /// It has none, or is relative, or is too long, or is no pattern that we understand.
    #[error("{what}: {value:?} {reason}")]
    Shape {
        /// Which value, in words of the configuration.
        what: String,
        /// The value.
        value: String,
        /// What is wrong.
        reason: String,
    },
}

pub(super) fn shape(what: &str, value: &str, reason: impl Into<String>) -> Refused {
    Refused::Shape { what: what.into(), value: value.into(), reason: reason.into() }
}

pub(super) fn only(
    what: &str,
    value: &str,
    allowed: &'static str,
    plain: impl Fn(char) -> bool,
) -> Result<(), Refused> {
    if value.is_empty() {
        return Err(shape(what, value, "is empty"));
    }
    match value.chars().find(|&c| !plain(c)) {
        None => Ok(()),
        Some(character) => {
            Err(Refused::Character { what: what.into(), value: value.into(), character, allowed })
        }
    }
}

/// An absolute path of plain characters, without `..`, as text.
pub(super) fn path<'p>(what: &str, path: &'p Path) -> Result<&'p str, Refused> {
    let lossy = path.to_string_lossy();
    let text = path.to_str().ok_or_else(|| shape(what, &lossy, "is not UTF-8"))?;
    only(what, text, "A-Z a-z 0-9 . _ / -", |c| c.is_ascii_alphanumeric() || "._/-".contains(c))?;
    if !text.starts_with('/') || text.split('/').any(|part| part == "..") {
        return Err(shape(what, text, "is no absolute path without .."));
    }
    Ok(text)
}

/// A name of organizations or repositories: what Quay lets them be called.
pub(super) fn name(what: &str, value: &str) -> Result<(), Refused> {
    only(what, value, "A-Z a-z 0-9 . _ / -", |c| c.is_ascii_alphanumeric() || "._/-".contains(c))
}

/// A word that becomes part of a variable's and of a file's name.
pub(super) fn flag(what: &str, value: &str) -> Result<(), Refused> {
    only(what, value, "a-z 0-9 _", |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

pub(super) fn method(what: &str, value: &str) -> Result<(), Refused> {
    only(what, value, "A-Z", |c| c.is_ascii_uppercase())
}

/// A regular expression that nginx and we read alike, without its anchors.
pub(super) fn pattern<'p>(what: &str, value: &'p str) -> Result<&'p str, Refused> {
    let refuse = |reason: &str| shape(what, value, reason);
    let inner = value.strip_prefix('^').and_then(|rest| rest.strip_suffix('$'));
    let inner = inner.ok_or_else(|| refuse("has to begin with ^ and end with $"))?;
    let mut before = ' ';
    for c in inner.chars() {
        // ^ only as in [^/]: anywhere else it would be a second anchor.
        if c.is_control() || !c.is_ascii() || "\"'$".contains(c) || (c == '^' && before != '[') {
            return Err(refuse(&format!("has the character {c:?}")));
        }
        before = c;
    }
    // In quotes nginx itself takes these for line ends, tabs and backslashes.
    if ["\\n", "\\r", "\\t", "\\\\"].iter().any(|escape| inner.contains(escape)) {
        return Err(refuse("has an escape that nginx reads differently"));
    }
    let compiled = regex::Regex::new(inner).map_err(|e| refuse(&format!("is no pattern: {e}")))?;
    // A capture would overwrite $1 of the location that the request is in (contract §6.5).
    if compiled.captures_len() > 1 {
        return Err(refuse("has a capture: write (?:…)"));
    }
    Ok(inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_refused_is_named() {
        let error = name("ROUTE_CANARY_REPOS[2]", "org/a$b").unwrap_err().to_string();
        assert_eq!(
            error,
            "ROUTE_CANARY_REPOS[2]: \"org/a$b\" has the character '$'; \
             only A-Z a-z 0-9 . _ / - can be used here"
        );
        assert!(path("run", Path::new("relative")).is_err());
        assert!(path("run", Path::new("/a/../b")).is_err());
        assert_eq!(path("run", Path::new("/a/b-c_d.e")), Ok("/a/b-c_d.e"));
    }

    #[test]
    fn patterns() {
        assert_eq!(pattern("p", "^/v2/[^/]+(?:/[^/]+)*/a\\.b$"), Ok("/v2/[^/]+(?:/[^/]+)*/a\\.b"));
        for bad in ["/v2", "^(a)$", "^a$b$", "^a\"$", "^a\\n$", "^a^b$", "^[$", "^\u{e9}$", "^$x"] {
            assert!(pattern("p", bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_passes_has_no_meaning_anywhere(value in ".{0,20}") {
            if name("x", &value).is_ok() {
                let special = value.contains(['$', '"', '\'', ';', '{', '%', '#', ' ', '\n', '\\']);
                prop_assert!(!special, "{value:?}");
            }
        }
    }
}
