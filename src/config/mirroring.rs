//! Repositories that follow other registries (contract §6, §7).

use std::time::Duration;

use config::ValueKind;

use super::reader::{Parsed, Reader, feature, flag, names, number, text};

/// How mirrors are filled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirroring {
    /// `FEATURE_REPO_MIRROR`, default false: there are mirrors.
    pub enabled: bool,
    /// `REPO_MIRROR_ROLLBACK`, default false: when a sync fails, what it has done is undone.
    pub rollback: bool,
    /// `REPO_MIRROR_MAX_MANIFEST_LIST_SIZE`, default 10 MiB: lists that are filtered by architecture
    /// are not larger, bytes.
    pub largest_list: usize,
    /// `REPO_MIRROR_MAX_MANIFEST_ENTRIES`, default 1000: entries of such a list that count.
    pub most_entries: usize,
    /// `SSRF_ALLOWED_HOSTS`, default none: names and networks that may be sources although they are
    /// inside.
    pub allowed_hosts: Vec<String>,
    /// `REPO_MIRROR_SERVER_HOSTNAME`, default `SERVER_HOSTNAME`: where skopeo pushes to.
    pub server_hostname: Option<String>,
    /// `REPO_MIRROR_TLS_VERIFY`, default true: skopeo checks our own certificate.
    pub verify_own_tls: bool,
    /// `REPO_MIRROR_INTERVAL`, default 30 s: how often mirrors that are due are looked for. We look
    /// more often, so that "sync now" begins within seconds.
    pub interval: Duration,
    /// `ORG_MIRROR_INTERVAL`, default 30 s: the same for organizations that follow others.
    pub organization_interval: Duration,
    /// `ORG_MIRROR_MAX_DISCOVERY_DURATION`, default 1800 s: how long it may take to list what such an
    /// organization follows.
    pub longest_discovery: Duration,
}

pub(super) fn read(r: &mut Reader<'_>) -> Mirroring {
    Mirroring {
        enabled: r.setting("FEATURE_REPO_MIRROR", false, feature),
        rollback: r.setting("REPO_MIRROR_ROLLBACK", false, flag),
        largest_list: r.setting("REPO_MIRROR_MAX_MANIFEST_LIST_SIZE", 10 << 20, size(1..=1 << 30)),
        most_entries: r.setting("REPO_MIRROR_MAX_MANIFEST_ENTRIES", 1000, size(1..=1_000_000)),
        allowed_hosts: r.setting("SSRF_ALLOWED_HOSTS", Vec::new(), names),
        server_hostname: r.setting("REPO_MIRROR_SERVER_HOSTNAME", None, optional_text),
        verify_own_tls: r.setting("REPO_MIRROR_TLS_VERIFY", true, flag),
        interval: r.setting("REPO_MIRROR_INTERVAL", Duration::from_secs(30), seconds),
        organization_interval: r.setting("ORG_MIRROR_INTERVAL", Duration::from_secs(30), seconds),
        longest_discovery: r.setting(
            "ORG_MIRROR_MAX_DISCOVERY_DURATION",
            Duration::from_secs(1800),
            seconds,
        ),
    }
}

fn size(range: std::ops::RangeInclusive<i64>) -> impl Fn(&ValueKind) -> Parsed<usize> {
    move |value| Ok(usize::try_from(number(range.clone())(value)?).unwrap_or(usize::MAX))
}

fn optional_text(value: &ValueKind) -> Parsed<Option<String>> {
    match value {
        ValueKind::Nil => Ok(None),
        value => text(value).map(|text| Some(text).filter(|text| !text.is_empty())),
    }
}

fn seconds(value: &ValueKind) -> Parsed<Duration> {
    Ok(Duration::from_secs(number(1..=i64::from(u32::MAX))(value)?.unsigned_abs()))
}
