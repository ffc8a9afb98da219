//! What has to be known of a registry before it is asked.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{AllowedHosts, Hosts, Patience, SourceName};

/// Where one source repository is and how it is reached.
#[derive(Clone, Debug)]
pub struct Options {
    /// The registry and the repository in it.
    pub source: SourceName,
    /// Speak HTTP without TLS.
    pub plain_http: bool,
    /// Who asks; nobody in particular where there are none.
    pub credentials: Option<Credentials>,
    /// `external_registry_config.verify_tls`. Without it no certificate is verified, and a registry
    /// that cannot be reached by HTTPS is spoken to over HTTP, as by skopeo.
    pub verify_tls: bool,
    /// `external_registry_config.proxy`.
    pub proxy: Proxy,
    /// Files of certificates in PEM, and folders with such files (`*.crt`, `*.pem`), that are
    /// trusted beside those of the system: Quay's extra_ca_certs, `/etc/containers/certs.d/<host>`.
    /// What is not there is passed over.
    pub extra_roots: Vec<PathBuf>,
    /// `SSRF_ALLOWED_HOSTS`.
    pub allowed_hosts: AllowedHosts,
    /// `skopeo_timeout`: how long anything but a blob may take, all tries together. A blob may take
    /// as much and a second more for each 16 KiB that arrived.
    pub operation_timeout: Duration,
    /// How many requests each host gets at once; share it among all sources of a process.
    pub hosts: Hosts,
    /// How long one request may take, and how often it is repeated.
    pub patience: Patience,
}

impl Options {
    /// Those of a public registry: HTTPS that is verified, no credentials, no proxy, five minutes.
    pub fn new(source: SourceName) -> Self {
        Self {
            source,
            plain_http: false,
            credentials: None,
            verify_tls: true,
            proxy: Proxy::default(),
            extra_roots: Vec::new(),
            allowed_hosts: AllowedHosts::default(),
            operation_timeout: Duration::from_secs(300),
            hosts: Hosts::default(),
            patience: Patience::default(),
        }
    }
}

/// A name and a password, or a token in its place.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `external_registry_username`
    pub username: String,
    /// `external_registry_password`
    pub password: String,
}

impl Credentials {
    /// As they go over the wire (RFC 7617).
    pub(super) fn encoded(&self) -> String {
        STANDARD.encode(format!("{}:{}", self.username, self.password))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// The way out, as in the environment of curl and skopeo. A proxy resolves names itself, so what
/// they resolve to is its business; names and addresses that are refused stay refused.
///
/// A mirror's proxy is set by whoever owns the repository: one on this machine, or link-local as
/// metadata services are, has to be in `SSRF_ALLOWED_HOSTS`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxy {
    /// `http_proxy`: a URL, for requests without TLS.
    pub http: Option<String>,
    /// `https_proxy`: a URL, for requests with TLS.
    pub https: Option<String>,
    /// `no_proxy`: names (and what is below them), addresses and networks, with commas between.
    pub exceptions: Option<String>,
}

impl Proxy {
    /// What `self` does not say is as in `other`: a mirror's proxy over the worker's environment.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        Self {
            http: self.http.or_else(|| other.http.clone()),
            https: self.https.or_else(|| other.https.clone()),
            exceptions: self.exceptions.or_else(|| other.exceptions.clone()),
        }
    }
}

/// A proxy's URL may hold a password.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |url: &Option<String>| {
            let url = url.as_deref()?;
            Some(url.rsplit_once('@').map_or(url, |(_, place)| place).to_owned())
        };
        f.debug_struct("Proxy")
            .field("http", &place(&self.http))
            .field("https", &place(&self.https))
            .field("exceptions", &self.exceptions)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_printed() {
        let source = SourceName::parse("quay.io/team/app").unwrap();
        let credentials =
            Credentials { username: "ada".to_owned(), password: "hunter2".to_owned() };
        let http = Some("http://proxy-user:hunter2@proxy.example:3128".to_owned());
        let proxy = Proxy { http, ..Proxy::default() };
        let options = Options { credentials: Some(credentials), proxy, ..Options::new(source) };
        let text = format!("{options:?}");
        assert!(text.contains("ada") && text.contains("proxy.example:3128"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_mirrors_proxy_goes_before_the_environments() {
        let text = |text: &str| Some(text.to_owned());
        let own = Proxy { https: text("http://own:1"), ..Proxy::default() };
        let environment = Proxy {
            http: text("http://all:1"),
            https: text("http://all:1"),
            exceptions: text("internal.example"),
        };
        let both = own.or(&environment);
        assert_eq!(both.https, text("http://own:1"));
        assert_eq!((both.http, both.exceptions), (environment.http, environment.exceptions));
    }
}
