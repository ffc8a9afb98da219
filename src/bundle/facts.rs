//! What Quay's own nginx files say that ours have to repeat or rely on.

use super::lexer::{Directive, LexError, children, directives};
use super::nginx::PYTHON_UPSTREAM;

/// The texts of Quay's generated nginx files, as Quay left them.
#[derive(Debug, Clone, Copy)]
pub struct QuayNginx<'a> {
    /// `nginx.conf`.
    pub main: &'a str,
    /// `http-base.conf`.
    pub http_base: &'a str,
    /// `server-base.conf`.
    pub server_base: &'a str,
}

/// What is read from them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The `server` lines of the registry's upstream: where Python is.
    pub python_servers: Vec<String>,
    /// Every upstream that Quay defines.
    pub upstreams: Vec<String>,
    /// What every server adds to its answers: arguments of `add_header`.
    pub server_headers: Vec<String>,
    /// Whether all servers that include `server-base.conf` add the same.
    pub headers_agree: bool,
    /// What registry locations tell Python: arguments of `proxy_set_header`.
    pub proxy_headers: Vec<String>,
    /// How many servers include `server-base.conf`.
    pub servers: usize,
}

/// Files that we do not understand well enough to touch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    /// One cannot be read as an nginx configuration.
    #[error("{file}: {error}")]
    Syntax {
        /// Which file.
        file: &'static str,
        /// Where and what.
        error: LexError,
    },
    /// The registry's upstream is not there, or has no server.
    #[error("http-base.conf defines no upstream {PYTHON_UPSTREAM} with a server")]
    NoPython,
    /// No server would get our part.
    #[error("nginx.conf has no server that includes server-base.conf")]
    NoServer,
    /// Flags would be seen late.
    #[error("{0} sets open_file_cache, which would delay owner switches: take it out")]
    FileCache(&'static str),
}

/// What registry locations set in every release that we know, should a new one set nothing.
const PROXY_HEADERS: [&str; 3] = [
    "X-Forwarded-For $proper_forwarded_for",
    "X-Forwarded-Proto $proper_scheme",
    "Host $http_host",
];

impl Facts {
    /// Reads Quay's files.
    ///
    /// # Errors
    /// When they are not what we know how to work with.
    pub fn read(quay: QuayNginx<'_>) -> Result<Self, FactsError> {
        let lex = |file, text| directives(text).map_err(|error| FactsError::Syntax { file, error });
        let main = lex("nginx.conf", quay.main)?;
        let http = lex("http-base.conf", quay.http_base)?;
        let server = lex("server-base.conf", quay.server_base)?;
        for (file, all) in
            [("nginx.conf", &main), ("http-base.conf", &http), ("server-base.conf", &server)]
        {
            let cached = |d: &Directive<'_>| d.name() == "open_file_cache" && d.args() != ["off"];
            if all.iter().any(cached) {
                return Err(FactsError::FileCache(file));
            }
        }
        let mut facts = Self::default();
        facts.read_upstreams(&http)?;
        facts.read_server_headers(&main, &server)?;
        facts.proxy_headers = proxy_headers(&server);
        Ok(facts)
    }

    fn read_upstreams(&mut self, http: &[Directive<'_>]) -> Result<(), FactsError> {
        for (index, upstream) in http.iter().enumerate() {
            if upstream.name() != "upstream" {
                continue;
            }
            self.upstreams.extend(upstream.args().first().map(|&name| name.to_owned()));
            if upstream.args() == [PYTHON_UPSTREAM] {
                let servers = children(http, Some(index)).filter(|d| d.name() == "server");
                self.python_servers = servers.map(Directive::written).collect();
            }
        }
        if self.python_servers.is_empty() { Err(FactsError::NoPython) } else { Ok(()) }
    }

    fn read_server_headers(
        &mut self,
        main: &[Directive<'_>],
        server_base: &[Directive<'_>],
    ) -> Result<(), FactsError> {
        let added = |all: &[Directive<'_>], parent| -> Vec<String> {
            let added = children(all, parent).filter(|d| d.name() == "add_header");
            added.map(Directive::written).collect()
        };
        let mut of_servers = main.iter().enumerate().filter_map(|(index, server)| {
            let ours = server.name() == "server"
                && children(main, Some(index)).any(|d| d.is("include", &["server-base.conf"]));
            ours.then(|| added(main, Some(index)))
        });
        let first = of_servers.next().ok_or(FactsError::NoServer)?;
        self.servers = 1;
        self.headers_agree = true;
        for other in of_servers {
            self.servers += 1;
            self.headers_agree &= other == first;
        }
        self.server_headers = added(server_base, None);
        self.server_headers.extend(first);
        Ok(())
    }
}

/// Those of the last location for the registry that sets its own: the most general one.
fn proxy_headers(server: &[Directive<'_>]) -> Vec<String> {
    let target = format!("http://{PYTHON_UPSTREAM}");
    let of_location = |pass: &Directive<'_>| -> Vec<String> {
        let all = children(server, pass.parent).filter(|d| d.name() == "proxy_set_header");
        all.map(Directive::written).collect()
    };
    let mut locations = server
        .iter()
        .filter(|d| d.is("proxy_pass", &[&target]))
        .map(of_location)
        .filter(|headers| !headers.is_empty());
    // `/v1/` comes after `^/v2`; both say the same in every release that we know.
    let last = locations.next_back();
    last.unwrap_or_else(|| PROXY_HEADERS.iter().map(|&header| header.to_owned()).collect())
}
