//! What clients call the registry, and what its administrator is called.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::oci::is_account_name;

/// `NAME[:PORT]`, as clients write it: a DNS name or an IP address (version 6 in brackets).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hostname {
    text: String,
    host: String,
}

impl Hostname {
    /// The host alone, an IPv6 address without its brackets: what a certificate names.
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A name that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// Of a host.
    #[error("{0:?} is no NAME[:PORT] with a DNS name or an IP address ([…] around version 6)")]
    Hostname(String),
    /// Of a user.
    #[error(
        "{0:?} is no user name: 2 to 255 small letters and digits, with single . _ - between them"
    )]
    Username(String),
}

impl FromStr for Hostname {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let refused = || NameError::Hostname(text.to_owned());
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or_else(refused)?;
                address.parse::<std::net::Ipv6Addr>().map_err(|_| refused())?;
                match port {
                    "" => (address, None),
                    port => (address, Some(port.strip_prefix(':').ok_or_else(refused)?)),
                }
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let number = |port: &str| port.parse::<u16>().is_ok_and(|n| n > 0 && n.to_string() == port);
        if !(host.parse::<IpAddr>().is_ok() || is_dns_name(host)) || !port.is_none_or(number) {
            return Err(refused());
        }
        Ok(Self { text: text.to_owned(), host: host.to_owned() })
    }
}

/// Letters, digits and hyphens between dots (RFC 1123, 2.1); not all numbers, which would be an
/// address written wrongly.
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let top = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(label) && !top.bytes().all(|b| b.is_ascii_digit())
}

/// A user name that Quay accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Username(String);

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Username {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match is_account_name(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(NameError::Username(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostnames() {
        for (text, host) in [
            ("localhost:8443", "localhost"),
            ("registry.example", "registry.example"),
            ("10.0.0.7:443", "10.0.0.7"),
            ("[::1]:8443", "::1"),
            ("[fe80::1]", "fe80::1"),
        ] {
            let name: Hostname = text.parse().unwrap();
            assert_eq!((name.to_string().as_str(), name.host()), (text, host));
        }
        for bad in [
            "",
            ":8443",
            "a b",
            "https://a",
            "a/b",
            "a:0",
            "a:99999",
            "a:+1",
            "a:",
            "::1",
            "[::1",
            "[a]:1",
            "-a",
            "a..b",
            "a.",
            "1.2.3",
            "ü.example",
            "a@b",
            "a: 1 # x",
        ] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad}");
        }
    }

    #[test]
    fn usernames() {
        for good in ["admin", "ab", "a.b-c_d9"] {
            assert!(good.parse::<Username>().is_ok(), "{good}");
        }
        for bad in ["", "a", "Admin", "a..b", "-ab", "ab-", "a b", "a+b", "a]", "ä1"] {
            assert!(bad.parse::<Username>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,40}|[a-z0-9:.\\[\\]-]{0,40}") {
            let _ = (text.parse::<Hostname>(), text.parse::<Username>());
        }
    }
}
