//! From the columns of a mirror to how its source is reached.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::SyncError;
use super::globs::Globs;
use crate::auth::FieldKey;
use crate::catalog::Mirror;
use crate::config::Config;
use crate::upstream::{AllowedHosts, Credentials, Hosts, Options, Proxy, SourceName};

/// A mirror's settings, read.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) options: Options,
    pub(super) globs: Globs,
    /// None of them is all of them.
    pub(super) architectures: Vec<String>,
    /// Nothing has to be signed, whatever the policy of this machine says.
    pub(super) unsigned_images: bool,
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
    pub(super) fn read(
        mirror: &Mirror,
        config: &Config,
        key: &FieldKey,
        hosts: &Hosts,
    ) -> Result<Self, SyncError> {
        let json = |column: &str, error: serde_json::Error| {
            SyncError::Settings(format!("{column} of the mirror: {error}"))
        };
        let registry: RegistryConfig = serde_json::from_str(&mirror.external_registry_config)
            .map_err(|error| json("external_registry_config", error))?;
        let globs = Globs::parse(&mirror.rule_value).map_err(|error| json("rule_value", error))?;
        let architectures = match mirror.architecture_filter.as_deref() {
            None | Some("") => Vec::new(),
            Some(list) => serde_json::from_str::<Option<Vec<String>>>(list)
                .map_err(|error| json("architecture_filter", error))?
                .unwrap_or_default(),
        };
        let allowed = config.mirroring.allowed_hosts.iter().map(String::as_str);
        let source = SourceName::parse(&mirror.external_reference)?;
        let options = Options {
            credentials: credentials(mirror, key)?,
            verify_tls: registry.verify_tls.unwrap_or(true),
            proxy: registry.proxy.map(ProxyConfig::read).unwrap_or_default().or(&environment()),
            extra_roots: roots(&config.dir, source.authority()),
            allowed_hosts: AllowedHosts::parse(allowed),
            operation_timeout: Duration::from_secs(
                u64::try_from(mirror.timeout_s).unwrap_or_default().max(1),
            ),
            hosts: hosts.clone(),
            ..Options::new(source)
        };
        let unsigned_images = registry.unsigned_images.unwrap_or_default();
        Ok(Self { options, globs, architectures, unsigned_images })
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

fn credentials(mirror: &Mirror, key: &FieldKey) -> Result<Option<Credentials>, SyncError> {
    let decrypt = |column: &'static str, stored: &Option<String>| match stored.as_deref() {
        None | Some("") => Ok(None),
        Some(stored) => key.decrypt(stored).map(Some).map_err(|_| SyncError::Undecryptable(column)),
    };
    let username = decrypt("user name", &mirror.username)?;
    let password = decrypt("password", &mirror.password)?;
    let both = username.zip(password);
    // Quay leaves out the entry where either is empty.
    let both = both.filter(|(username, password)| !username.is_empty() && !password.is_empty());
    Ok(both.map(|(username, password)| Credentials { username, password }))
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
