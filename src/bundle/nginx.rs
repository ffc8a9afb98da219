//! Our two nginx files: one for the http level, one for every server (design, "The bundle").
//!
//! Everything is checked before it is written: `nginx -t` accepts a misspelt upstream that comes out
//! of a map (contract §6.5), and nginx cannot escape a `$`.

use std::net::SocketAddr;
use std::path::PathBuf;

use askama::Template;

use super::facts::Facts;
use super::text::{self, Refused, shape};

/// Quay's upstream for the registry (contract §6.2).
pub const PYTHON_UPSTREAM: &str = "registry_app_server";
/// Ours.
pub const RUST_UPSTREAM: &str = "quay_rust";
/// What the registry's `proxy_pass` directives are made to use.
pub const REGISTRY_VARIABLE: &str = "quay_registry_upstream";
/// Asks registryd to send a blob itself instead of naming its file.
pub const STREAM_HEADER: &str = "X-Quay-Stream";
/// nginx reads its files through a buffer of 4096 bytes; a longer word is an error.
const LONGEST_WORD: usize = 3900;

/// What nginx has to know.
#[derive(Debug, Clone)]
pub struct Nginx {
    /// The run folder: flags are the files in `on/`.
    pub run: PathBuf,
    /// Where registryd listens.
    pub rust: RustAddress,
    /// Which requests can be ours.
    pub routing: Routing,
    /// Blobs that nginx may send itself; none: registryd streams them.
    pub blobs: Option<Blobs>,
}

/// Where registryd listens: a literal address, for a name that does not resolve keeps nginx from
/// starting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RustAddress {
    /// A socket file.
    Unix(PathBuf),
    /// A resolved service address.
    Tcp(SocketAddr),
}

/// Which requests can be ours, the first that fits deciding.
#[derive(Debug, Clone, Default)]
pub struct Routing {
    /// In the order in which they are tried.
    pub rules: Vec<Rule>,
    /// Who is in the cohort of gated rules.
    pub canary: Canary,
}

/// Requests of one kind, and who gets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// `GET`, `HEAD`, …
    pub methods: Vec<String>,
    /// From `^` to `$`, against the decoded path; without captures.
    pub path: String,
    /// Who.
    pub owner: RuleOwner,
}

/// Who gets the requests of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleOwner {
    /// Python, whatever flags there are.
    Python,
    /// Us while the file `on/<flag>` exists, else Python.
    Flag {
        /// `v2_pull`: lower case, digits and `_`.
        flag: String,
        /// Only requests of the canary's cohort.
        gated: bool,
    },
}

/// The selectors of gated rules; a request is in if any of them says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Canary {
    /// `ROUTE_CANARY_ORGS`.
    pub organizations: Vec<String>,
    /// `ROUTE_CANARY_REPOS`, as `organization/repository`.
    pub repositories: Vec<String>,
    /// `ROUTE_CANARY_PERCENT`, by repository.
    pub percent: u8,
    /// `ROUTE_CANARY_USERS` is set: nginx sends everything gated to registryd, which decides.
    pub by_user: bool,
    /// The organization of repositories that are asked for without one, where Quay has such.
    pub library: Option<String>,
}

/// The internal location for blobs on local disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blobs {
    /// The random part of its path.
    pub prefix: String,
    /// Storage roots; an index is what registryd names a root by.
    pub roots: Vec<(usize, PathBuf)>,
}

#[derive(Template)]
#[template(path = "nginx-http.conf", escape = "none")]
struct HttpFile<'a> {
    rust: String,
    rust_address: String,
    python: &'a [String],
    canary: Option<Cohort>,
    key: String,
    rules: Vec<RenderedRule>,
}

#[derive(Template)]
#[template(path = "nginx-server.conf", escape = "none")]
struct ServerFile<'a> {
    run: &'a str,
    flags: Vec<&'a str>,
    canary: bool,
    /// Completes the names that leave it out, so that all decide by the same text.
    library: Option<&'a str>,
    blobs: Option<RenderedBlobs<'a>>,
    server_headers: &'a [String],
    proxy_headers: &'a [String],
}

struct Cohort {
    percent: Option<u8>,
    everyone: u8,
    patterns: Vec<String>,
}

struct RenderedRule {
    pattern: String,
    owner: &'static str,
}

struct RenderedBlobs<'a> {
    prefix: &'a str,
    locations: Vec<RenderedRoot<'a>>,
}

struct RenderedRoot<'a> {
    index: usize,
    root: &'a str,
}

impl Nginx {
    /// The file for the http level.
    ///
    /// # Errors
    /// When a value cannot be written into an nginx file; the error names it.
    pub fn http(&self, facts: &Facts) -> Result<String, Refused> {
        let flags = self.routing.flags()?;
        let gated = self.routing.gated();
        let address = self.rust.render()?;
        let mut key: Vec<String> = flags.iter().map(|flag| format!("${{own_{flag}}}")).collect();
        if gated {
            key.push("$quay_cohort".to_owned());
        }
        key.push("$request_method:$uri".to_owned());
        let mut rules = Vec::new();
        for rule in &self.routing.rules {
            rule.render(&flags, gated, &mut rules)?;
        }
        let file = HttpFile {
            // $upstream_addr shows an address as it is written here.
            rust_address: regex::escape(&address),
            rust: address,
            python: &facts.python_servers,
            canary: gated.then(|| self.routing.canary.render()).transpose()?,
            key: key.join(":"),
            rules,
        };
        finish(file.render())
    }

    /// The file for every server.
    ///
    /// # Errors
    /// When a value cannot be written into an nginx file; the error names it.
    pub fn server(&self, facts: &Facts) -> Result<String, Refused> {
        let blobs = match &self.blobs {
            // Headers that differ between servers cannot be restated in one file.
            Some(blobs) if facts.headers_agree => Some(blobs.render()?),
            _ => None,
        };
        let file = ServerFile {
            run: text::path("the run folder", &self.run)?,
            flags: self.routing.flags()?,
            canary: self.routing.gated(),
            library: self.routing.canary.library()?,
            blobs: blobs.filter(|blobs| !blobs.locations.is_empty()),
            server_headers: &facts.server_headers,
            proxy_headers: &facts.proxy_headers,
        };
        finish(file.render())
    }
}

fn finish(rendered: askama::Result<String>) -> Result<String, Refused> {
    // The template's own last line end is not rendered.
    let rendered = rendered.map(|text| format!("{}\n", text.trim_end()));
    rendered.map_err(|error| shape("template", "", error.to_string()))
}

impl RustAddress {
    fn render(&self) -> Result<String, Refused> {
        Ok(match self {
            Self::Unix(path) => format!("unix:{}", text::path("registryd's socket", path)?),
            Self::Tcp(address) => address.to_string(),
        })
    }
}

impl Routing {
    /// Every flag once, in the order of the rules.
    ///
    /// # Errors
    /// When one is no name of a variable.
    pub fn flags(&self) -> Result<Vec<&str>, Refused> {
        let mut flags: Vec<&str> = Vec::new();
        for rule in &self.rules {
            if let RuleOwner::Flag { flag, .. } = &rule.owner {
                text::flag("flag", flag)?;
                if !flags.contains(&flag.as_str()) {
                    flags.push(flag);
                }
            }
        }
        Ok(flags)
    }

    fn gated(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule.owner, RuleOwner::Flag { gated: true, .. }))
    }
}

impl Rule {
    /// A line for when it is ours, and one that ends the search when it is not.
    fn render(
        &self,
        flags: &[&str],
        cohort: bool,
        lines: &mut Vec<RenderedRule>,
    ) -> Result<(), Refused> {
        let what = format!("route {} {}", self.methods.join("|"), self.path);
        if self.methods.is_empty() {
            return Err(shape(&what, "", "has no method"));
        }
        for method in &self.methods {
            text::method(&what, method)?;
        }
        // `\z`, for `$` would also match before a line end that a client wrote as %0A.
        let request =
            format!("(?:{}):{}\\z", self.methods.join("|"), text::pattern(&what, &self.path)?);
        if let RuleOwner::Flag { flag, gated } = &self.owner {
            let mut key: Vec<&str> =
                flags.iter().map(|other| if other == flag { "1" } else { "[01]" }).collect();
            if cohort {
                key.push(if *gated { "1" } else { "[01]" });
            }
            lines.push(rendered_rule(format!("~^{}:{request}", key.join(":")), "rust")?);
        }
        lines.push(rendered_rule(format!("~^[01:]+:{request}"), "python")?);
        Ok(())
    }
}

fn rendered_rule(pattern: String, owner: &'static str) -> Result<RenderedRule, Refused> {
    if pattern.len() > LONGEST_WORD {
        return Err(shape("route", &pattern, "is longer than nginx can read"));
    }
    Ok(RenderedRule { pattern, owner })
}

impl Canary {
    fn library(&self) -> Result<Option<&str>, Refused> {
        let library = self.library.as_deref();
        library.map(|name| text::name("LIBRARY_NAMESPACE", name)).transpose()?;
        Ok(library)
    }

    fn render(&self) -> Result<Cohort, Refused> {
        if self.percent > 100 {
            let value = self.percent.to_string();
            return Err(shape("ROUTE_CANARY_PERCENT", &value, "is more than 100"));
        }
        let mut alternatives = Vec::new();
        for (index, name) in self.organizations.iter().enumerate() {
            let what = format!("ROUTE_CANARY_ORGS[{index}]");
            text::name(&what, name)?;
            if name.contains('/') {
                return Err(shape(&what, name, "is no organization: it has a slash"));
            }
            alternatives.push(format!("{}/.+", regex::escape(name)));
        }
        for (index, name) in self.repositories.iter().enumerate() {
            let what = format!("ROUTE_CANARY_REPOS[{index}]");
            text::name(&what, name)?;
            if !name.contains('/') {
                return Err(shape(&what, name, "is no organization/repository"));
            }
            alternatives.push(regex::escape(name));
        }
        Ok(Cohort {
            percent: Some(self.percent).filter(|&percent| percent > 0),
            everyone: u8::from(self.by_user),
            patterns: lines(alternatives),
        })
    }
}

/// Alternatives joined into few lines: a map tries one after another. Names as plain keys of a map
/// would not be told from others in capitals.
fn lines(alternatives: Vec<String>) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for alternative in alternatives {
        match lines.last_mut() {
            Some(line) if line.len() + alternative.len() < LONGEST_WORD => {
                line.push('|');
                line.push_str(&alternative);
            }
            _ => lines.push(alternative),
        }
    }
    lines
}

impl Blobs {
    fn render(&self) -> Result<RenderedBlobs<'_>, Refused> {
        let prefix = &self.prefix;
        if prefix.len() < 32 || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(shape("the prefix of blobs", "***", "is not 32 or more hex digits"));
        }
        // A root with another character is left to registryd, which streams.
        let mut locations = Vec::new();
        for (index, root) in &self.roots {
            if let Ok(path) = text::path("storage", root) {
                let root = path.trim_end_matches('/');
                if !root.is_empty() {
                    locations.push(RenderedRoot { index: *index, root });
                }
            }
        }
        Ok(RenderedBlobs { prefix, locations })
    }

    /// The roots that nginx cannot be told of, for a notice.
    pub fn unusable(&self) -> impl Iterator<Item = &PathBuf> {
        self.roots
            .iter()
            .map(|(_, root)| root)
            .filter(|root| text::path("storage", root).is_err() || root.as_os_str() == "/")
    }

    /// What registryd answers to have nginx send a file: `path` is relative to the root.
    pub fn redirect(&self, index: usize, path: &str) -> String {
        format!("/_qs/{}/{index}/{path}", self.prefix)
    }
}
