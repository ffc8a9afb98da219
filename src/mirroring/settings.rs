//! From the columns of a mirror to how its source is reached.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::globs::Globs;
use super::{Parts, SyncError};
use crate::auth::FieldKey;
use crate::catalog::Mirror;
use crate::upstream::{AllowedHosts, Credentials, Options, Proxy, SourceName};

/// A repository mirror's settings, read.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) access: Access,
    pub(super) globs: Globs,
}

/// How a source is reached, and what is taken of it.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) options: Options,
    /// None of them is all of them.
    pub(super) architectures: Vec<String>,
    /// Nothing has to be signed, whatever the policy of this machine says.
    pub(super) unsigned_images: bool,
}

/// The columns of a mirror, of whichever table, that say so.
pub(super) struct Columns<'a> {
    pub(super) username: Option<&'a str>,
    pub(super) password: Option<&'a str>,
    pub(super) external_registry_config: &'a str,
    pub(super) timeout_s: i64,
}

/// What is encrypted of them; empty where there is none.
pub(super) struct Secrets {
    pub(super) username: String,
    pub(super) password: String,
}

/// `external_registry_config`
#[derive(Deserialize)]
#[serde(default)]
struct RegistryConfig {
    verify_tls: Option<bool>,
    unsigned_images: Option<bool>,
    proxy: Option<ProxyConfig>,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self { verify_tls: Some(true), unsigned_images: None, proxy: None }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ProxyConfig {
    http_proxy: Option<String>,
    https_proxy: Option<String>,
    no_proxy: Option<String>,
}

impl Settings {
    pub(super) fn read(parts: &Parts, mirror: &Mirror) -> Result<Self, SyncError> {
        let columns = Columns {
            username: mirror.username.as_deref(),
            password: mirror.password.as_deref(),
            external_registry_config: &mirror.external_registry_config,
            timeout_s: mirror.timeout_s,
        };
        let source = SourceName::parse(&mirror.external_reference)?;
        let mut access = Access::read(parts, source, &columns)?;
        let globs =
            Globs::parse(&mirror.rule_value).map_err(|error| unreadable("rule_value", &error))?;
        if let Some(list) = mirror.architecture_filter.as_deref().filter(|list| !list.is_empty()) {
            access.architectures = serde_json::from_str::<Option<Vec<String>>>(list)
                .map_err(|error| unreadable("architecture_filter", &error))?
                .unwrap_or_default();
        }
        Ok(Self { access, globs })
    }
}

impl Access {
    pub(super) fn read(
        parts: &Parts,
        source: SourceName,
        columns: &Columns<'_>,
    ) -> Result<Self, SyncError> {
        let config = &parts.config;
        let registry: RegistryConfig = serde_json::from_str(columns.external_registry_config)
            .map_err(|error| unreadable("external_registry_config", &error))?;
        let allowed = config.mirroring.allowed_hosts.iter().map(String::as_str);
        let timeout_s = u64::try_from(columns.timeout_s).unwrap_or_default();
        let options = Options {
            credentials: columns.secrets(&parts.field_key)?.pair(),
            verify_tls: registry.verify_tls.unwrap_or(true),
            proxy: registry.proxy.map(ProxyConfig::read).unwrap_or_default().or(&environment()),
            extra_roots: roots(&config.dir, source.authority()),
            allowed_hosts: AllowedHosts::parse(allowed),
            operation_timeout: Duration::from_secs(timeout_s.max(1)),
            hosts: parts.hosts.clone(),
            ..Options::new(source)
        };
        let unsigned_images = registry.unsigned_images.unwrap_or_default();
        Ok(Self { options, architectures: Vec::new(), unsigned_images })
    }
}

pub(super) fn unreadable(column: &str, error: &serde_json::Error) -> SyncError {
    SyncError::Settings(format!("{column} of the mirror: {error}"))
}

impl Columns<'_> {
    pub(super) fn secrets(&self, key: &FieldKey) -> Result<Secrets, SyncError> {
        let decrypt = |column: &'static str, stored: Option<&str>| match stored {
            None | Some("") => Ok(String::new()),
            Some(stored) => key.decrypt(stored).map_err(|_| SyncError::Undecryptable(column)),
        };
        Ok(Secrets {
            username: decrypt("user name", self.username)?,
            password: decrypt("password", self.password)?,
        })
    }
}

impl Secrets {
    /// Both, or nothing: Quay leaves them out where either is empty.
    fn pair(self) -> Option<Credentials> {
        let Self { username, password } = self;
        let both = !username.is_empty() && !password.is_empty();
        both.then_some(Credentials { username, password })
    }
}

impl ProxyConfig {
    fn read(self) -> Proxy {
        let set = |url: Option<String>| url.filter(|url| !url.is_empty());
        Proxy {
            http: set(self.http_proxy),
            https: set(self.https_proxy),
            exceptions: set(self.no_proxy),
        }
    }
}

/// As curl and skopeo read it.
fn environment() -> Proxy {
    let set = |name: &str| {
        let either = std::env::var(name.to_uppercase()).or_else(|_| std::env::var(name));
        either.ok().filter(|value| !value.is_empty())
    };
    Proxy { http: set("http_proxy"), https: set("https_proxy"), exceptions: set("no_proxy") }
}

/// Certificates beside those of the system: Quay's own folder, and those of skopeo and docker for
/// this host.
fn roots(config: &Path, authority: &str) -> Vec<PathBuf> {
    let mut roots = vec![config.join("extra_ca_certs")];
    // The authority was checked: it has no slash, and is no `..`.
    for folder in ["/etc/containers/certs.d", "/etc/docker/certs.d"] {
        roots.push(Path::new(folder).join(authority));
    }
    roots
}
