//! registryd as a service of its own: from a name to the address that nginx is told.
//!
//! nginx would look a name up when it starts, and not start without an answer; so it never sees one.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::time::Duration;

/// The hook holds up Quay's start, so a resolver that does not answer is not waited for.
const LIMIT: Duration = Duration::from_secs(5);

/// A service that nginx cannot be told of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// Not an address.
    #[error("QUAY_SIDECAR_SERVICE: {0:?} is not HOST:PORT")]
    Syntax(String),
    /// There is no address for its name.
    #[error("QUAY_SIDECAR_SERVICE: {name} cannot be resolved: {reason}")]
    Unresolved {
        /// The name, with its port.
        name: String,
        /// What the resolver said.
        reason: String,
    },
    /// Nobody can listen there.
    #[error("QUAY_SIDECAR_SERVICE: {name} is {address}, where no service can be")]
    Useless {
        /// The name, with its port.
        name: String,
        /// What it resolved to.
        address: SocketAddr,
    },
}

/// The address of `HOST:PORT`: the first one that a service can have.
pub(super) fn resolve(name: &str) -> Result<SocketAddr, ServiceError> {
    let port = name.rsplit_once(':').and_then(|(host, port)| {
        let port: u16 = port.parse().ok()?;
        (!host.is_empty() && port != 0).then_some(port)
    });
    if port.is_none() || name.contains(char::is_whitespace) {
        return Err(ServiceError::Syntax(name.to_owned()));
    }
    let unresolved = |reason: String| ServiceError::Unresolved { name: name.to_owned(), reason };
    let found = look_up(name).map_err(unresolved)?;
    let useless = |address| ServiceError::Useless { name: name.to_owned(), address };
    match found.iter().find(|address| is_usable(address.ip())) {
        Some(address) => Ok(*address),
        None => {
            Err(found.first().map_or_else(|| unresolved("no address".to_owned()), |a| useless(*a)))
        }
    }
}

/// On a thread that may be left behind: the system's resolver has no limit that we could set.
fn look_up(name: &str) -> Result<Vec<SocketAddr>, String> {
    let (done, answer) = mpsc::channel();
    let name = name.to_owned();
    std::thread::spawn(move || {
        let found = name.to_socket_addrs().map(Iterator::collect);
        // Nobody listens any more when it took too long.
        let _ = done.send(found.map_err(|error: std::io::Error| error.to_string()));
    });
    answer.recv_timeout(LIMIT).unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}")))
}

/// One machine's address, in a network or of this machine itself.
fn is_usable(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || broadcast)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nginx_is_told_is_an_address() {
        let resolved = |name: &str| resolve(name).map(|address| address.to_string());
        assert_eq!(resolved("10.0.0.7:8445").unwrap(), "10.0.0.7:8445");
        assert_eq!(resolved("[fd00::7]:8445").unwrap(), "[fd00::7]:8445");
        assert!(resolve("localhost:8445").unwrap().ip().is_loopback());
        for bad in ["", "quay", ":1", "quay:", "quay:0", "quay:70000", "quay: 1", "a b:1"] {
            assert!(matches!(resolve(bad), Err(ServiceError::Syntax(_))), "{bad}");
        }
        for useless in ["0.0.0.0:1", "[::]:1", "224.0.0.1:1", "255.255.255.255:1", "[ff02::1]:1"] {
            assert!(matches!(resolve(useless), Err(ServiceError::Useless { .. })), "{useless}");
        }
        let unknown = resolve("registryd.invalid:1").unwrap_err().to_string();
        assert!(unknown.contains("registryd.invalid:1 cannot be resolved"), "{unknown}");
    }
}
