//! Where a mirror may lead: to public addresses, and to what the operator allows. Whoever may edit
//! a mirror could else make Quay ask the machines around it (CVE-2026-32591; the list is that of
//! Quay's `util/security/ssrf.py`, and IANA's special-purpose registries).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Addresses that are not public, each with its reason.
const REFUSED_V4: [(&str, &str); 16] = [
    ("0.0.0.0/8", "this host"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by a provider's customers"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local, where metadata services are"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "for documentation"),
    ("192.88.99.0/24", "a relay to 6to4"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "for benchmarks"),
    ("198.51.100.0/24", "for documentation"),
    ("203.0.113.0/24", "for documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("255.255.255.255/32", "broadcast"),
];

/// All that is public in IPv6; the mapped, translated, private and link-local are outside of it.
const PUBLIC_V6: &str = "2000::/3";

const REFUSED_V6: [(&str, &str); 4] = [
    ("2001::/23", "reserved, Teredo among it"),
    ("2001:db8::/32", "for documentation"),
    ("2002::/16", "6to4, which holds an IPv4 address"),
    ("3fff::/20", "for documentation"),
];

/// Names that mean something inside a cluster or a cloud, whatever they resolve to.
const REFUSED_NAMES: [&str; 8] = [
    "localhost",
    "metadata.google.internal",
    "metadata.azure.internal",
    "metadata",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "kubernetes.default",
    "kubernetes",
];
const REFUSED_SUFFIXES: [&str; 3] = [".internal", ".local", ".localhost"];

struct Tables {
    v4: Vec<(Ipv4Net, &'static str)>,
    public_v6: Option<Ipv6Net>,
    v6: Vec<(Ipv6Net, &'static str)>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| Tables {
    v4: REFUSED_V4.iter().filter_map(|(net, why)| Some((net.parse().ok()?, *why))).collect(),
    public_v6: PUBLIC_V6.parse().ok(),
    v6: REFUSED_V6.iter().filter_map(|(net, why)| Some((net.parse().ok()?, *why))).collect(),
});

/// `SSRF_ALLOWED_HOSTS`: names and networks that are asked although they are not public.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedHosts {
    names: Vec<String>,
    networks: Vec<IpNet>,
}

/// Why a host is not asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the name {0} is one of this installation's surroundings")]
    Name(String),
    #[error("{host} is at {address}, which is no public address but {reason}")]
    Address { host: String, address: IpAddr, reason: &'static str },
}

impl AllowedHosts {
    /// Reads the setting: an entry is an address, a network (`10.0.0.0/8`, whatever bits of the
    /// host it has), or a name, whose case does not matter.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Self {
        let mut allowed = Self::default();
        for entry in entries.into_iter().map(str::trim).filter(|entry| !entry.is_empty()) {
            let network = entry.parse().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from));
            match network {
                Ok(network) => allowed.networks.push(network.trunc()),
                Err(_) => allowed.names.push(canonical(entry)),
            }
        }
        allowed
    }

    /// Judges a host by its name alone: where a proxy resolves it, or it is an address itself.
    pub(super) fn judge_host(&self, host: &str) -> Result<(), Refusal> {
        match address(host) {
            Some(address) => self.judge(host, &[address]),
            None => self.judge(host, &[]),
        }
    }

    /// Judges a host by its name and by all that it resolves to. One address that is not public is
    /// enough, whichever of them would be used.
    pub(super) fn judge(&self, host: &str, addresses: &[IpAddr]) -> Result<(), Refusal> {
        let name = canonical(host);
        if self.names.contains(&name) {
            return Ok(());
        }
        if is_refused_name(&name) && !addresses.iter().any(|address| self.has(*address)) {
            return Err(Refusal::Name(name));
        }
        self.judge_addresses(host, addresses, reason)
    }

    /// Judges a proxy, which is usually private, but has no business on this machine or among
    /// metadata services.
    pub(super) fn judge_proxy(&self, host: &str, addresses: &[IpAddr]) -> Result<(), Refusal> {
        if self.names.contains(&canonical(host)) {
            return Ok(());
        }
        self.judge_addresses(host, addresses, |address| {
            let near = match address.to_canonical() {
                IpAddr::V4(v4) => {
                    v4.is_loopback()
                        || v4.is_link_local()
                        || v4.is_unspecified()
                        || v4.is_multicast()
                }
                IpAddr::V6(v6) => {
                    v6.is_loopback()
                        || v6.is_unicast_link_local()
                        || v6.is_unspecified()
                        || v6.is_multicast()
                }
            };
            near.then_some("on this machine or this link")
        })
    }

    fn judge_addresses(
        &self,
        host: &str,
        addresses: &[IpAddr],
        reason: impl Fn(IpAddr) -> Option<&'static str>,
    ) -> Result<(), Refusal> {
        for &address in addresses.iter().filter(|address| !self.has(**address)) {
            if let Some(reason) = reason(address) {
                return Err(Refusal::Address { host: host.to_owned(), address, reason });
            }
        }
        Ok(())
    }

    fn has(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }
}

/// The address that a host of a URL is, if it is one.
pub(super) fn address(host: &str) -> Option<IpAddr> {
    host.trim_matches(['[', ']']).parse().ok()
}

fn canonical(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

fn is_refused_name(name: &str) -> bool {
    REFUSED_NAMES.contains(&name) || REFUSED_SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

/// Why an address is not public.
fn reason(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => reason_v4(address),
        IpAddr::V6(address) => reason_v6(address),
    }
}

fn reason_v4(address: Ipv4Addr) -> Option<&'static str> {
    TABLES.v4.iter().find(|(network, _)| network.contains(&address)).map(|(_, reason)| *reason)
}

fn reason_v6(address: Ipv6Addr) -> Option<&'static str> {
    if !TABLES.public_v6.is_some_and(|public| public.contains(&address)) {
        return Some("private, local, mapped or reserved");
    }
    TABLES.v6.iter().find(|(network, _)| network.contains(&address)).map(|(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(host: &str, addresses: &[&str], allowed: &[&str]) -> bool {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        AllowedHosts::parse(allowed.iter().copied()).judge(host, &addresses).is_ok()
    }

    #[test]
    fn the_tables_are_whole() {
        assert_eq!(TABLES.v4.len(), REFUSED_V4.len());
        assert_eq!(TABLES.v6.len(), REFUSED_V6.len());
        assert!(TABLES.public_v6.is_some());
    }

    #[test]
    fn addresses() {
        for public in ["93.184.216.34", "1.1.1.1", "172.32.0.1", "2606:2800:220:1::1", "2620::1"] {
            assert!(judged("registry.example", &[public], &[]), "{public}");
        }
        for refused in [
            "0.0.0.0",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "127.0.0.1",
            "127.0.0.2",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.170",
            "192.168.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "198.51.100.1",
            "203.0.113.1",
            "192.88.99.1",
            "::",
            "::1",
            "fc00::1",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "2001:db8::1",
            "2001::1",
            "3fff::1",
            // An IPv4 address within: mapped, compatible, NAT64 (both), 6to4.
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:8.8.8.8",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
        ] {
            assert!(!judged("registry.example", &[refused], &[]), "{refused}");
            assert!(AllowedHosts::default().judge_host(refused).is_err(), "{refused}");
        }
        // One of them is enough.
        assert!(!judged("registry.example", &["93.184.216.34", "10.0.0.2"], &[]));
        assert!(AllowedHosts::default().judge_host("[::1]").is_err());
    }

    #[test]
    fn names() {
        for refused in [
            "localhost",
            "LOCALHOST.",
            "metadata",
            "metadata.google.internal",
            "kubernetes",
            "kubernetes.default.svc",
            "a.internal",
            "printer.local",
            "a.localhost",
        ] {
            assert!(!judged(refused, &["93.184.216.34"], &[]), "{refused}");
            assert!(AllowedHosts::default().judge_host(refused).is_err(), "{refused}");
        }
        for fine in ["quay.io", "internal", "local.example", "internal.example"] {
            assert!(judged(fine, &["93.184.216.34"], &[]), "{fine}");
        }
    }

    #[test]
    fn what_the_operator_allows() {
        for (host, addresses, allowed, fine) in [
            ("registry.corp", &["10.0.0.5"][..], &["Registry.CORP"][..], true),
            ("registry.corp", &["10.0.0.5"], &["10.0.0.0/8"], true),
            ("registry.corp", &["10.0.0.5"], &["10.9.9.9/8"], true),
            ("registry.corp", &["10.0.0.5"], &["10.0.0.5"], true),
            ("registry.corp", &["10.0.0.5", "127.0.0.1"], &["10.0.0.0/8"], false),
            ("registry.corp", &["10.0.0.5"], &["192.168.0.0/16", "other.corp"], false),
            ("registry.internal", &["10.0.0.5"], &["10.0.0.0/8"], true),
            ("registry.internal", &["10.0.0.5"], &["192.168.0.0/16"], false),
            // Names that a proxy resolves, by name alone.
            ("registry.internal", &[], &["10.0.0.0/8"], false),
            ("registry.internal", &[], &["registry.internal"], true),
            ("[fd00::1]", &["fd00::1"], &["fd00::/8"], true),
            // A mapped address is not what it maps to.
            ("registry.corp", &["::ffff:10.0.0.5"], &["10.0.0.0/8"], false),
        ] {
            assert_eq!(judged(host, addresses, allowed), fine, "{host} {addresses:?} {allowed:?}");
        }
    }

    #[test]
    fn proxies_may_be_private() {
        let judged = |address: &str, allowed: &[&str]| {
            let allowed = AllowedHosts::parse(allowed.iter().copied());
            allowed.judge_proxy("proxy", &[address.parse().unwrap()]).is_ok()
        };
        assert!(judged("10.0.0.5", &[]) && judged("fd00::5", &[]) && judged("8.8.8.8", &[]));
        for near in ["127.0.0.1", "::1", "169.254.169.254", "fe80::1", "::ffff:127.0.0.1", "::"] {
            assert!(!judged(near, &[]), "{near}");
        }
        assert!(judged("127.0.0.1", &["127.0.0.0/8"]) && judged("127.0.0.1", &["proxy"]));
    }
}
