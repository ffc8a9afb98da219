//! Addresses to listen on.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use rustix::net::sockopt::set_tcp_user_timeout;

/// Who may connect to a socket: our group; others too where they may pass through its folder, for
/// there nginx's workers are another user.
const SOCKET_MODE: u32 = 0o660;
const OPEN_SOCKET_MODE: u32 = 0o666;

/// Pending connections: what the kernel keeps while all threads are busy.
pub(super) const BACKLOG: u32 = 2048;

/// How long a client may take none of what it asked for, in ms: then the kernel ends its connection
/// (tcp(7), `TCP_USER_TIMEOUT`), and nothing is kept for it. Twice nginx's default (`send_timeout`), which
/// gives up first where there is one.
const STALLED_MS: u32 = 120_000;

/// An address, and whether it is nginx that connects to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where.
    pub address: Address,
    /// Whether internal redirects are sent and `X-Forwarded-For` is believed here.
    pub nginx: bool,
    /// Where nginx connects from; whoever connects from elsewhere is refused. Empty: this machine,
    /// or whoever may open the socket.
    pub from: Vec<IpNet>,
}

/// A TCP port of this machine only, unless `,public` says that others may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpListen(pub SocketAddr);

/// A TCP port or a socket file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// The path of a socket.
    Unix(PathBuf),
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Not an address.
    #[error(
        "{0:?} is neither IP:PORT nor unix:/path, optionally followed by ,nginx or ,public or \
         ,nginx=NETWORK"
    )]
    Syntax(String),
    /// Not networks.
    #[error("{0:?} names no networks after nginx=: write 10.128.0.0/14, or several with commas")]
    Networks(String),
    /// Other machines could connect, and nobody has said that they may.
    #[error("{0} is open to other machines: write {0},public if it is meant to be")]
    Public(SocketAddr),
    /// Other machines could pass for nginx.
    #[error(
        "{0} is open to other machines, and whoever connects would be believed to be nginx: use \
         unix:/path or a loopback address, or say where nginx is: {0},nginx=10.128.0.0/14"
    )]
    PublicNginx(SocketAddr),
    /// The system refuses it.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Where.
        address: Address,
        /// Why.
        source: std::io::Error,
    },
    /// Another process answers there.
    #[error("cannot listen on {0}: another process is listening there")]
    InUse(Address),
}

/// A bound listener.
pub(super) enum Bound {
    /// A TCP port.
    Tcp(TcpListener),
    /// A socket file.
    Unix(UnixListener),
}

/// Another handle of a listener, to end it while its server serves the connections it has.
pub(super) struct Closer(OwnedFd);

impl Bound {
    pub(super) fn closer(&self) -> io::Result<Closer> {
        Ok(Closer(match self {
            Self::Tcp(listener) => listener.try_clone()?.into(),
            Self::Unix(listener) => listener.try_clone()?.into(),
        }))
    }
}

impl Closer {
    /// Clients are refused from now on and can go elsewhere, those not accepted yet included.
    pub(super) fn close(self) {
        // shutdown(2) is the same for every kind of socket; a listener stops listening.
        if let Err(error) = UnixStream::from(self.0).shutdown(Shutdown::Both) {
            tracing::debug!(%error, "listener not closed");
        }
    }
}

impl Listen {
    /// Where registryd listens unless told otherwise.
    pub const DEFAULT_PORT: u16 = 8445;

    /// A port of this machine only.
    pub fn local(port: u16) -> Self {
        Self::clients(Address::Tcp((Ipv4Addr::LOCALHOST, port).into()))
    }

    /// For clients themselves.
    pub fn clients(address: Address) -> Self {
        Self { address, nginx: false, from: Vec::new() }
    }
}

/// Whether somebody may connect to a listener that these networks are named for. Who has no address
/// came through a socket file, which its mode guards.
pub(super) fn may_connect(from: &[IpNet], peer: Option<SocketAddr>) -> bool {
    let known = |peer: SocketAddr| {
        let address = peer.ip().to_canonical();
        from.iter().any(|network| network.contains(&address))
    };
    from.is_empty() || peer.is_none_or(known)
}

fn is_local(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

impl FromStr for TcpListen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let (address, public) = match text.strip_suffix(",public") {
            Some(address) => (address, true),
            None => (text, false),
        };
        let address = address.parse().map_err(|_| ListenError::Syntax(text.to_owned()))?;
        match public || is_local(&address) {
            true => Ok(Self(address)),
            false => Err(ListenError::Public(address)),
        }
    }
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        if let Some((address, networks)) = text.split_once(",nginx=") {
            let networks: Result<Vec<IpNet>, _> = networks.split(',').map(str::parse).collect();
            let from = networks.map_err(|_| ListenError::Networks(text.to_owned()))?;
            let address = address.parse().map_err(|_| ListenError::Syntax(text.to_owned()))?;
            return Ok(Self { address: Address::Tcp(address), nginx: true, from });
        }
        let (address, nginx) = match text.strip_suffix(",nginx") {
            Some(address) => (address, true),
            None => (text, false),
        };
        let address = match address.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Address::Unix(path.into()),
            Some(_) => return Err(ListenError::Syntax(text.to_owned())),
            None => Address::Tcp(address.parse::<TcpListen>()?.0),
        };
        match address {
            Address::Tcp(address) if nginx && !is_local(&address) => {
                Err(ListenError::PublicNginx(address))
            }
            address => Ok(Self { address, nginx, from: Vec::new() }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// Whether only this machine can connect to it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => is_local(address),
            Self::Unix(_) => true,
        }
    }

    /// Binds it, and says where: port 0 becomes a real one. A socket file left behind by a dead
    /// process is replaced.
    pub(super) fn bind(&self) -> Result<(Bound, Self), ListenError> {
        let failed = |source| ListenError::Bind { address: self.clone(), source };
        match self {
            Self::Tcp(address) => {
                let listener = TcpListener::bind(address).map_err(failed)?;
                // Connections have it from their listener.
                set_tcp_user_timeout(&listener, STALLED_MS).map_err(|e| failed(e.into()))?;
                let address = listener.local_addr().map_err(failed)?;
                Ok((Bound::Tcp(listener), Self::Tcp(address)))
            }
            Self::Unix(path) => {
                let socket = |m: std::fs::Metadata| m.file_type().is_socket();
                if std::fs::symlink_metadata(path).is_ok_and(socket) {
                    if UnixStream::connect(path).is_ok() {
                        return Err(ListenError::InUse(self.clone()));
                    }
                    std::fs::remove_file(path).map_err(failed)?;
                }
                let listener = UnixListener::bind(path).map_err(failed)?;
                let folder = path.parent().map(std::fs::metadata).transpose().map_err(failed)?;
                let open = folder.is_some_and(|folder| folder.permissions().mode() & 0o001 != 0);
                let mode = if open { OPEN_SOCKET_MODE } else { SOCKET_MODE };
                let mode = std::fs::Permissions::from_mode(mode);
                std::fs::set_permissions(path, mode).map_err(failed)?;
                Ok((Bound::Unix(listener), self.clone()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses() {
        let parse = |text: &str| text.parse::<Listen>().map(|l| (l.address.to_string(), l.nginx));
        let ok = |address: &str, nginx| (address.to_owned(), nginx);
        assert_eq!(parse("127.0.0.1:8445").unwrap(), ok("http://127.0.0.1:8445", false));
        assert_eq!(parse("[::1]:0,nginx").unwrap(), ok("http://[::1]:0", true));
        assert_eq!(parse("unix:/run/q.sock,nginx").unwrap(), ok("unix:/run/q.sock", true));
        for bad in ["", "8445", "localhost:1", "unix:", "unix:rel", "127.0.0.1:99999", ",nginx"] {
            assert!(matches!(parse(bad), Err(ListenError::Syntax(_))), "{bad}");
        }
    }

    #[test]
    fn nothing_is_public_by_itself() {
        let parse = |text: &str| text.parse::<Listen>();
        for open in ["0.0.0.0:1", "[::]:1", "10.0.0.7:1", "[::ffff:10.0.0.7]:1"] {
            assert!(matches!(parse(open), Err(ListenError::Public(_))), "{open}");
            assert!(parse(&format!("{open},public")).is_ok_and(|l| !l.nginx), "{open}");
            let nginx = parse(&format!("{open},public,nginx"));
            assert!(matches!(nginx, Err(ListenError::PublicNginx(_))), "{open}");
        }
        for local in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(parse(local).is_ok() && local.parse::<TcpListen>().is_ok(), "{local}");
        }
    }

    #[test]
    fn nginx_elsewhere_is_known_by_its_networks() {
        let listen: Listen = "0.0.0.0:8445,nginx=10.128.0.0/14,fd00:10::/48".parse().unwrap();
        assert!(listen.nginx);
        let may = |peer: &str| may_connect(&listen.from, Some(peer.parse().unwrap()));
        assert!(may("10.131.7.9:40000") && may("[::ffff:10.128.0.1]:1") && may("[fd00:10::7]:1"));
        assert!(!may("10.132.0.1:1") && !may("127.0.0.1:1") && !may("[fd00:11::7]:1"));
        assert!(may_connect(&[], Some(([192, 0, 2, 1], 1).into())));
        for bad in ["0.0.0.0:1,nginx=", "0.0.0.0:1,nginx=quay", "0.0.0.0:1,nginx=10.0.0.0/33"] {
            assert!(matches!(bad.parse::<Listen>(), Err(ListenError::Networks(_))), "{bad}");
        }
        assert!(matches!("unix:/q,nginx=::/0".parse::<Listen>(), Err(ListenError::Syntax(_))));
    }

    #[test]
    fn clients_that_stop_reading_are_given_up() {
        let (bound, address) = Address::Tcp(([127, 0, 0, 1], 0).into()).bind().unwrap();
        let (Bound::Tcp(listener), Address::Tcp(address)) = (bound, address) else {
            unreachable!()
        };
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (connection, _) = listener.accept().unwrap();
        let given_up_after = rustix::net::sockopt::tcp_user_timeout(connection).unwrap();
        assert_eq!(given_up_after, STALLED_MS);
    }

    #[test]
    fn a_socket_is_as_open_as_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        for (of_folder, of_socket) in [(0o750, 0o660), (0o751, 0o666)] {
            let mode = std::fs::Permissions::from_mode(of_folder);
            std::fs::set_permissions(folder.path(), mode).unwrap();
            let path = folder.path().join(format!("{of_folder}.sock"));
            Address::Unix(path.clone()).bind().unwrap();
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, of_socket);
        }
    }

    #[test]
    fn a_socket_is_taken_over_from_the_dead_only() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Unix(folder.path().join("q.sock"));
        let (first, _) = address.bind().unwrap();
        assert!(matches!(address.bind(), Err(ListenError::InUse(_))));
        drop(first);
        assert!(address.bind().is_ok());
        let Address::Unix(path) = &address else { unreachable!() };
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, "not a socket").unwrap();
        assert!(matches!(address.bind(), Err(ListenError::Bind { .. })));
        assert_eq!(std::fs::read_to_string(path).unwrap(), "not a socket");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = text.parse::<Listen>();
        }
    }
}
