//! Everything that a registry of its own begins with: keys, certificate, configuration, database.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use askama::Template;
use chrono::{Datelike, Utc};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, SanType, date_time_ymd};

use super::MirrorError;
use super::folder::Folder;
use super::names::{Hostname, Username};
use crate::auth::fresh::{FreshKey, hash_password, page_token_key, random_text};
use crate::catalog::{Founding, found};
use crate::config::Secret;

/// The only storage location.
const LOCATION: &str = "default";

/// Characters of the administrator's password, five bits each.
const PASSWORD: usize = 24;

/// Characters of SECRET_KEY and DATABASE_SECRET_KEY.
const SECRET: usize = 64;

/// How long the first certificate is good for. Whoever trusts it trusts this one certificate, and
/// nobody renews it.
const YEARS: i32 = 10;

/// What the administrator has to be told, now or never.
#[derive(Debug)]
pub struct FirstStart {
    /// What clients call the registry.
    pub hostname: Hostname,
    /// The certificate that they have to trust.
    pub certificate: PathBuf,
    /// Who may do everything.
    pub administrator: Username,
    /// The password; only its hash is kept.
    pub password: Secret,
}

#[derive(Template)]
#[template(path = "mirror-config.yaml", escape = "none")]
struct ConfigFile<'a> {
    hostname: String,
    database: String,
    location: &'a str,
    storage: String,
    administrator: String,
    anonymous_pull: bool,
    database_secret_key: &'a str,
    secret_key: &'a str,
    page_token_key: &'a str,
}

/// Makes it all. `announce` is called last: where the password cannot be told, or the process ends
/// before, there is no registry yet, and the next start begins again.
pub(super) fn make(
    folder: &Folder,
    (hostname, administrator, anonymous_pull): (&Hostname, &Username, bool),
    announce: impl FnOnce(&FirstStart) -> io::Result<()>,
) -> Result<(), MirrorError> {
    folder.begin()?;
    let key = FreshKey::generate()?;
    folder.make("quay.pem", key.pem.expose().as_bytes())?;
    folder.make("quay.kid", key.kid.as_bytes())?;
    let (certificate, certificate_key) = self_signed(hostname.host())?;
    folder.make("tls.crt", certificate.as_bytes())?;
    folder.make("tls.key", certificate_key.expose().as_bytes())?;
    folder.make(
        "config.yaml",
        configuration(folder, hostname, administrator, anonymous_pull)?.as_bytes(),
    )?;
    let password = random_text(PASSWORD)?;
    let founding = Founding {
        administrator: &administrator.to_string(),
        password_hash: &hash_password(&password)?,
        location: LOCATION,
        address: &format!("https://{hostname}"),
        kid: &key.kid,
        jwk: &key.jwk,
    };
    found(&folder.file("quay.db"), &founding)?;
    let first = FirstStart {
        hostname: hostname.clone(),
        certificate: folder.file("tls.crt"),
        administrator: administrator.clone(),
        password,
    };
    announce(&first).map_err(MirrorError::Announce)?;
    folder.finish()
}

fn configuration(
    folder: &Folder,
    hostname: &Hostname,
    administrator: &Username,
    anonymous_pull: bool,
) -> Result<String, MirrorError> {
    // JSON is YAML.
    let quoted = |text: String| serde_json::Value::from(text).to_string();
    let [database_secret_key, secret_key] = [random_text(SECRET)?, random_text(SECRET)?];
    let page_token_key = page_token_key()?;
    let file = ConfigFile {
        hostname: quoted(hostname.to_string()),
        database: quoted(format!("sqlite:///{}", folder.file("quay.db").display())),
        location: LOCATION,
        storage: quoted(folder.storage().display().to_string()),
        administrator: quoted(administrator.to_string()),
        anonymous_pull,
        database_secret_key: database_secret_key.expose(),
        secret_key: secret_key.expose(),
        page_token_key: page_token_key.expose(),
    };
    file.render()
        .map_err(|error| MirrorError::file(&folder.file("config.yaml"), io::Error::other(error)))
}

/// A certificate that is its own authority, for a host and for this machine, and its key; both PEM.
fn self_signed(host: &str) -> Result<(String, Secret), rcgen::Error> {
    let mut params = CertificateParams::new(["localhost".to_owned()])?;
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    match host.parse() {
        Ok(address) => addresses.insert(0, address),
        Err(_) => params.subject_alt_names.insert(0, SanType::DnsName(host.try_into()?)),
    }
    params.subject_alt_names.extend(addresses.into_iter().map(SanType::IpAddress));
    let mut seen = Vec::new();
    params.subject_alt_names.retain(|name| {
        !seen.contains(name) && {
            seen.push(name.clone());
            true
        }
    });
    params.distinguished_name = Default::default();
    params.distinguished_name.push(DnType::CommonName, "quay-sidecar");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // The first of last month: clocks differ.
    let today = Utc::now().date_naive();
    let start = today - chrono::Months::new(1);
    let month = u8::try_from(start.month()).unwrap_or(1);
    params.not_before = date_time_ymd(start.year(), month, 1);
    params.not_after = date_time_ymd(start.year() + YEARS, month, 1);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), Secret::new(key.serialize_pem())))
}
