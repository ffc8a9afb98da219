//! Paths, as nginx normalises them, and path patterns, as Quay's framework writes them.

use regex::escape;

use super::catalogue::Route;

/// What decides how this installation reads repository names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    /// `FEATURE_LIBRARY_SUPPORT`: a repository may be named without its namespace.
    pub library_support: bool,
    /// `LIBRARY_NAMESPACE`: the namespace of such a repository.
    pub library_namespace: String,
}

impl Default for Naming {
    fn default() -> Self {
        Self { library_support: true, library_namespace: "library".into() }
    }
}

impl Naming {
    /// `namespace/name` of a repository as a path names it.
    pub fn full(&self, name: &str) -> String {
        match name.contains('/') {
            true => name.to_owned(),
            false => format!("{}/{name}", self.library_namespace),
        }
    }
}

/// The path of a request as nginx sees it in `$uri`: without its query, decoded once, `.` and `..`
/// resolved, slashes merged. `None` for what nginx answers with 400.
pub fn normalise(target: &str) -> Option<Vec<u8>> {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let decoded = decode(path.as_bytes())?;
    if decoded.first() != Some(&b'/') || decoded.contains(&0) {
        return None;
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    // What follows the last slash; a directory ends in nothing.
    let mut rest: &[u8] = b"";
    let mut segments = decoded[1..].split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            segment if last => rest = segment,
            segment => parts.push(segment),
        }
    }
    let mut path = vec![b'/'];
    for part in parts {
        path.extend_from_slice(part);
        path.push(b'/');
    }
    path.extend_from_slice(rest);
    Some(path)
}

fn decode(path: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'%' {
            decoded.push(*byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(*b).to_digit(16));
        let value = digit()? * 16 + digit()?;
        decoded.push(u8::try_from(value).ok()?);
    }
    Some(decoded)
}

/// A digest of any algorithm (deployment contract, section 6.5).
const DIGEST: &str = "[A-Za-z0-9_+.-]+:[A-Fa-f0-9]+";

/// What is meant to be one: a manifest's, where the OCI spec wants more said than that there is no
/// such page.
const DIGEST_LIKE: &str = "[A-Za-z0-9_+.-]+:[^/]*";

/// ASCII, as nginx reads `\w`: a tag in another script goes to Python.
const TAG: &str = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}";

const ANY: &str = "[^/]+";

/// At least a namespace and a name.
const REPOSITORY: &str = "[^/]+(?:/[^/]+)+";

/// A name alone as well.
const REPOSITORY_OR_NAME: &str = "[^/]+(?:/[^/]+)*";

/// First segments of paths that are never a repository's page (Quay's list in its path converters,
/// and what nginx takes away before Quay's page of a repository is asked).
const RESERVED: [&str; 17] = [
    "v1",
    "v2",
    "cnr",
    "customtrigger",
    "bitbucket",
    "repository",
    "github",
    "push",
    "api",
    "oauth1",
    "oauth2",
    "webhooks",
    "keys",
    "secscan",
    "realtime",
    ".well-known",
    "userfiles",
];

/// How far a segment of a pattern narrows a path down; smaller is closer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Width {
    /// This very text.
    Literal,
    /// Any one segment.
    Segment,
    /// Any number of them.
    Many,
    /// The pattern has ended: a longer one is closer.
    End,
}

impl Route {
    /// The pattern of its paths, for nginx and for us: anchored, no captures, ASCII.
    ///
    /// It ends in `\z`: a `$` would also match before a decoded newline at the end.
    pub fn pattern(&self, naming: &Naming) -> String {
        self.regex(naming, "?:")
    }

    /// The same, with the name of the repository as group 1.
    pub(super) fn capturing_pattern(&self, naming: &Naming) -> String {
        self.regex(naming, "")
    }

    fn regex(&self, naming: &Naming, group: &str) -> String {
        let segments: Vec<String> =
            self.path.split('/').map(|segment| self.segment(segment, naming, group)).collect();
        format!("^{}\\z", segments.join("/"))
    }

    fn segment(&self, segment: &str, naming: &Naming, group: &str) -> String {
        let Some(name) = placeholder(segment) else { return escape(segment) };
        let repository = if naming.library_support { REPOSITORY_OR_NAME } else { REPOSITORY };
        let v2 = self.family == "registry-v2";
        match name {
            "repopath" => format!("({group}{repository})"),
            "repopathredirect" | "v1createrepopath" => repository.into(),
            "apirepopath" => REPOSITORY.into(),
            "path" => ".+".into(),
            // Quay deletes by whatever name.
            "digest" if v2 && self.path.contains("/blobs/") && self.methods == ["DELETE"] => {
                ANY.into()
            }
            "digest" if v2 && self.path.contains("/manifests/") => DIGEST_LIKE.into(),
            "digest" => DIGEST.into(),
            "tag" if v2 => TAG.into(),
            _ => ANY.into(),
        }
    }

    /// What the pattern cannot say: names that a route leaves to others.
    pub(super) fn leaves(&self, path: &[u8]) -> bool {
        let path = String::from_utf8_lossy(path);
        if self.path.contains("<v1createrepopath") {
            let name = path.trim_end_matches('/');
            return ["auth", "tags", "images"].iter().any(|end| name.ends_with(end));
        }
        let first = path.split('/').nth(1).unwrap_or_default();
        self.path.starts_with("/<") && RESERVED.contains(&first)
    }

    /// How close the pattern is, segment by segment: uploads before blobs, and so on.
    pub(super) fn widths(&self) -> Vec<Width> {
        let of = |segment| match placeholder(segment) {
            None => Width::Literal,
            Some("repopath" | "apirepopath" | "repopathredirect" | "v1createrepopath" | "path") => {
                Width::Many
            }
            Some(_) => Width::Segment,
        };
        self.path.split('/').map(of).chain([Width::End]).collect()
    }

    /// Whether its path names a repository.
    pub fn has_repository(&self) -> bool {
        self.path.contains("<repopath>")
    }
}

/// `path` of `<path:path>`.
fn placeholder(segment: &str) -> Option<&str> {
    let inner = segment.strip_prefix('<')?.strip_suffix('>')?;
    inner.split(':').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switches::catalogue;

    #[test]
    fn paths_are_read_as_nginx_reads_them() {
        let of = |target| normalise(target).map(|path| String::from_utf8(path).unwrap());
        let some = |path: &str| Some(path.to_owned());
        assert_eq!(of("/v2/a%2Fb//tags/list?n=1"), some("/v2/a/b/tags/list"));
        assert_eq!(of("/v2/./a/../b/"), some("/v2/b/"));
        assert_eq!(of("/v2/a/.."), some("/v2/"));
        assert_eq!(of("/v2/a/."), some("/v2/a/"));
        assert_eq!(of("/"), some("/"));
        assert_eq!(of("/%252F"), some("/%2F"));
        for bad in ["", "v2/", "/../v2/", "/%", "/%2", "/%zz", "/a%00"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn patterns_are_those_of_the_contract() {
        let pattern = |id| catalogue().route(id).unwrap().pattern(&Naming::default());
        let n = "(?:[^/]+(?:/[^/]+)*)";
        assert_eq!(pattern(319), r"^/v2/\z");
        assert_eq!(pattern(320), format!(r"^/v2/{n}/blobs/{DIGEST}\z"));
        assert_eq!(pattern(329), format!(r"^/v2/{n}/blobs/[^/]+\z"));
        assert_eq!(pattern(328), format!(r"^/v2/{n}/manifests/{TAG}\z"));
        assert_eq!(pattern(330), format!(r"^/v2/{n}/blobs/uploads/\z"));
        let two = Naming { library_support: false, ..Naming::default() };
        let route = catalogue().route(335).unwrap();
        assert_eq!(route.pattern(&two), r"^/v2/(?:[^/]+(?:/[^/]+)+)/tags/list\z");
    }
}
