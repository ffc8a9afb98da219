//! Our edits of the nginx files that Quay generated: a closed list, by anchors that are counted.
//!
//! The first three are all or nothing; each of the others is skipped, with a notice, where its
//! anchor is gone. Everything else stays as it is, byte for byte.

use std::ops::Range;

use super::facts::QuayNginx;
use super::lexer::{Directive, LexError, children, directives};
use super::nginx::{PYTHON_UPSTREAM, REGISTRY_VARIABLE};

/// The file for the http level, beside Quay's.
pub const HTTP_FILE: &str = "quay-sidecar-http.conf";
/// The file for every server, beside Quay's.
pub const SERVER_FILE: &str = "quay-sidecar-server.conf";

/// `proxy_pass` directives for the registry in every release that we know (contract §1.1).
const REGISTRY_PASSES: usize = 7;

/// Quay's two files with our edits in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spliced {
    /// `http-base.conf`.
    pub http_base: String,
    /// `server-base.conf`.
    pub server_base: String,
    /// Optional edits that were skipped, and why.
    pub notices: Vec<String>,
}

/// Why nothing can be edited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpliceError {
    /// It cannot be read as an nginx configuration.
    #[error("{file}: {error}")]
    Syntax {
        /// Which file.
        file: &'static str,
        /// Where and what.
        error: LexError,
    },
    /// Another Quay than those we know.
    #[error(
        "server-base.conf has {found} proxy_pass directives to {PYTHON_UPSTREAM}, \
         not {REGISTRY_PASSES}: this release of Quay is not known to us"
    )]
    Passes {
        /// How many there are.
        found: usize,
    },
    /// It has our edits already.
    #[error("{0} has our edits already, so it is not as Quay left it")]
    Marked(&'static str),
}

/// Whether a file has our edits.
pub fn is_spliced(text: &str) -> bool {
    [HTTP_FILE, SERVER_FILE].iter().any(|file| text.contains(&include(file)))
}

fn include(file: &str) -> String {
    format!("include {file}; # quay-sidecar")
}

/// Makes our edits in Quay's files.
///
/// # Errors
/// When the anchors are not as expected; then no edit is made at all.
pub fn splice(quay: QuayNginx<'_>) -> Result<Spliced, SpliceError> {
    for (file, text) in [("http-base.conf", quay.http_base), ("server-base.conf", quay.server_base)]
    {
        if is_spliced(text) {
            return Err(SpliceError::Marked(file));
        }
    }
    let lex = |file, text| directives(text).map_err(|error| SpliceError::Syntax { file, error });
    let server = lex("server-base.conf", quay.server_base)?;
    let http = lex("http-base.conf", quay.http_base)?;

    let target = format!("http://{PYTHON_UPSTREAM}");
    let passes: Vec<&Directive<'_>> =
        server.iter().filter(|d| d.is("proxy_pass", &[&target])).collect();
    if passes.len() != REGISTRY_PASSES {
        return Err(SpliceError::Passes { found: passes.len() });
    }
    let mut notices = Vec::new();

    let mut edits = Edits::default();
    edits.insert(0, format!("{}\n", include(SERVER_FILE)));
    for pass in &passes {
        if let Some(word) = pass.words.get(1) {
            edits.replace(word.start..word.end(), format!("http://${REGISTRY_VARIABLE}"));
        }
    }
    let optional: [(&str, Vec<Edit>); 4] = [
        ("proxy_set_header Host", keep_connections(&server, &passes)),
        ("if ($request_method = HEAD) { gzip off; }", stream_uncompressed(&server, &passes)),
        ("location = /502.html", broken_uploads(&server)),
        ("location for manifests", large_manifests(&server, &passes)),
    ];
    for (anchor, found) in optional {
        if found.is_empty() {
            notices.push(format!("server-base.conf has no {anchor}: left without that edit"));
        }
        edits.0.extend(found);
    }
    let server_base = edits.apply(quay.server_base);

    let mut edits = Edits::default();
    match access_log(&http) {
        Some(edit) => edits.0.push(edit),
        None => notices.push("http-base.conf has no log_format lb_logs: no owner in it".to_owned()),
    }
    let gap = if quay.http_base.ends_with('\n') { "" } else { "\n" };
    edits.insert(quay.http_base.len(), format!("{gap}{}\n", include(HTTP_FILE)));
    Ok(Spliced { http_base: edits.apply(quay.http_base), server_base, notices })
}

/// nginx closes a connection after each request unless told otherwise, which ours need not.
fn keep_connections(server: &[Directive<'_>], passes: &[&Directive<'_>]) -> Vec<Edit> {
    let mut edits = Vec::new();
    for pass in passes {
        let inside = || children(server, pass.parent);
        // HTTP/1.0 has no connections to keep, and a first header of its own would drop the
        // inherited ones.
        if !inside().any(|d| d.is("proxy_http_version", &["1.1"])) {
            continue;
        }
        let host = |d: &&Directive<'_>| {
            d.name() == "proxy_set_header" && d.args().first() == Some(&"Host")
        };
        if let Some(host) = inside().find(host) {
            let text = " proxy_set_header Connection $quay_connection;".to_owned();
            edits.push(Edit { at: host.span.end..host.span.end, text });
        }
    }
    edits
}

/// A blob that we stream would be compressed: no length for HEAD, no Range.
fn stream_uncompressed(server: &[Directive<'_>], passes: &[&Directive<'_>]) -> Vec<Edit> {
    let of_registry = |d: &Directive<'_>| passes.iter().any(|pass| pass.parent == d.parent);
    let head = server.iter().enumerate().filter(|(index, d)| {
        d.is("if", &["($request_method", "=", "HEAD)"])
            && of_registry(d)
            && children(server, Some(*index)).any(|d| d.is("gzip", &["off"]))
    });
    // Before Quay's own, for the last that fits decides alone.
    let edit = |(_, d): (usize, &Directive<'_>)| Edit {
        at: d.span.start..d.span.start,
        text: "if ($quay_owner = rust) { gzip off; } ".to_owned(),
    };
    head.map(edit).collect()
}

/// Without this, an upload that breaks is told 413: the error page has a small limit of its own.
fn broken_uploads(server: &[Directive<'_>]) -> Vec<Edit> {
    let page = server.iter().find(|d| d.is("location", &["=", "/502.html"]));
    let body = page.and_then(|page| page.body.clone());
    body.map(|body| Edit { at: body.start..body.start, text: " client_max_body_size 0;".into() })
        .into_iter()
        .collect()
}

/// nginx refuses a body of more than 1 MiB, but a registry should take manifests of 4 MiB (OCI
/// distribution spec); whoever sends a little more hears from the registry what is wrong. Those of
/// repositories with one part to their name, or more than two, come to `^/v2` (contract §6.2).
fn large_manifests(server: &[Directive<'_>], passes: &[&Directive<'_>]) -> Vec<Edit> {
    let mut edits = Vec::new();
    for parent in passes.iter().filter_map(|pass| pass.parent) {
        let Some(location) = server.get(parent) else { continue };
        let pattern = location.args().last().copied().unwrap_or_default();
        let limited = children(server, Some(parent)).any(|d| d.name() == "client_max_body_size");
        if limited || !(pattern.contains("/manifests/") || pattern == "^/v2") {
            continue;
        }
        if let Some(body) = &location.body {
            let text = " client_max_body_size 5m;".to_owned();
            edits.push(Edit { at: body.start..body.start, text });
        }
    }
    edits
}

/// `… $upstream_response_time)' ' $quay_answered_by';`
fn access_log(http: &[Directive<'_>]) -> Option<Edit> {
    let named =
        |d: &&Directive<'_>| d.name() == "log_format" && d.args().first() == Some(&"lb_logs");
    let format = http.iter().find(named)?;
    let end = format.words.last()?.end();
    Some(Edit { at: end..end, text: " ' $quay_answered_by'".to_owned() })
}

struct Edit {
    at: Range<usize>,
    text: String,
}

#[derive(Default)]
struct Edits(Vec<Edit>);

impl Edits {
    fn insert(&mut self, at: usize, text: String) {
        self.0.push(Edit { at: at..at, text });
    }

    fn replace(&mut self, at: Range<usize>, text: String) {
        self.0.push(Edit { at, text });
    }

    fn apply(mut self, text: &str) -> String {
        self.0.sort_by_key(|edit| (edit.at.start, edit.at.end));
        let mut edited = String::with_capacity(text.len() + 1024);
        let mut copied = 0;
        for edit in &self.0 {
            edited.push_str(text.get(copied..edit.at.start).unwrap_or_default());
            edited.push_str(&edit.text);
            copied = edit.at.end;
        }
        edited.push_str(text.get(copied..).unwrap_or_default());
        edited
    }
}

/// Every upstream that the files together name but do not define (contract §6.5: nginx looks such
/// a name up in the DNS at the first request, after `nginx -t` has passed).
///
/// # Errors
/// When one of the texts is no nginx configuration.
pub fn undefined_upstreams(texts: &[&str]) -> Result<Vec<String>, LexError> {
    let mut defined: Vec<String> = Vec::new();
    let mut used: Vec<String> = Vec::new();
    for text in texts {
        let all = directives(text)?;
        for (index, directive) in all.iter().enumerate() {
            let args = directive.args();
            match (directive.name(), args.as_slice()) {
                ("upstream", [name]) => defined.push((*name).to_owned()),
                ("map", [_, variable]) if *variable == format!("${REGISTRY_VARIABLE}") => {
                    let values = children(&all, Some(index));
                    used.extend(values.filter_map(|d| d.args().first().map(|&v| v.to_owned())));
                }
                ("proxy_pass", [target]) => {
                    let host = target.strip_prefix("http://").unwrap_or_default();
                    let name = host.split(['$', '/', ':']).next().unwrap_or_default();
                    if !name.is_empty() {
                        used.push(name.to_owned());
                    }
                }
                _ => {}
            }
        }
    }
    used.retain(|name| !defined.contains(name));
    used.sort();
    used.dedup();
    Ok(used)
}
