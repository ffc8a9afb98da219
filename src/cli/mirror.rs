//! `quay serve --mode mirror …`

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, ValueEnum};
use quay_sidecar::config::ProcessEnvironment;
use quay_sidecar::serve::mirror::{self, FirstStart, Hostname, Username, Wanted};
use quay_sidecar::serve::{Address, Listen, Options, TcpListen};

use super::EX_USAGE;
use super::serve::serve;

/// Where a registry of its own listens unless told otherwise.
const DEFAULT_PORT: u16 = 8443;

#[derive(Args)]
#[command(next_help_heading = "A registry of its own")]
pub struct Mirror {
    /// mirror: a registry of its own, in one folder, with HTTPS.
    ///
    /// The first start makes what is in the folder: database, storage, keys, certificate,
    /// configuration, and an administrator whose password is printed then and never again. Later
    /// starts change none of it.
    // Required, and yet optional: not of who serves something else.
    #[arg(long, required = true)]
    mode: Option<Mode>,
    /// The folder of the registry: a new or empty one at first.
    #[arg(long, value_name = "DIR", required = true)]
    data: Option<PathBuf>,
    /// IP:PORT; `,public` after it marks one that other machines may connect to. Repeatable.
    /// [default: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<TcpListen>,
    /// What clients call the registry, with its port unless that is 443. Kept by the first start.
    /// [default: localhost with the port of the first --listen]
    #[arg(long, value_name = "NAME[:PORT]")]
    hostname: Option<Hostname>,
    /// Let everybody pull from public repositories, and make pushed ones public. Kept by the first
    /// start.
    #[arg(long)]
    anonymous_pull: bool,
    /// Name of the administrator, for the first start.
    #[arg(long, value_name = "NAME", default_value = "admin")]
    admin: Username,
    /// Where /metrics, /healthz and /readyz are. `,public` after it lets other machines connect.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9192")]
    admin_listen: TcpListen,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Mirror,
}

impl Mirror {
    pub fn run(self, began: Instant) -> ExitCode {
        let (Some(Mode::Mirror), Some(data)) = (self.mode, self.data) else {
            eprintln!("quay: serve needs --mode mirror and --data DIR, or a service: see --help");
            return ExitCode::from(EX_USAGE);
        };
        let mut listen: Vec<SocketAddr> = self.listen.iter().map(|listen| listen.0).collect();
        if listen.is_empty() {
            listen.push((Ipv4Addr::LOCALHOST, DEFAULT_PORT).into());
        }
        let wanted = Wanted {
            data,
            hostname: self.hostname,
            listen: listen[0],
            administrator: self.admin,
            anonymous_pull: self.anonymous_pull,
        };
        let opened = match mirror::open(&wanted, &ProcessEnvironment, announce) {
            Ok(opened) => opened,
            Err(error) => {
                eprintln!("quay: {}", error.to_string().trim_end());
                return ExitCode::from(if error.is_usage() { EX_USAGE } else { 1 });
            }
        };
        let listen = listen.into_iter().map(Address::Tcp);
        let options = Options {
            listen: listen.map(|address| Listen { address, nginx: false }).collect(),
            admin: self.admin_listen.0,
            python: None,
            https: Some(opened.https),
            collects_garbage: true,
            began,
        };
        // The folder is ours until the last row is written.
        let _folder = opened.folder;
        serve(opened.loaded, options)
    }
}

/// Standard output, not the log: the password is in it.
fn announce(first: &FirstStart) -> io::Result<()> {
    let FirstStart { hostname, certificate, administrator, password } = first;
    let (certificate, password) = (certificate.display(), password.expose());
    let mut out = io::stdout().lock();
    write!(
        out,
        "A new registry. What follows is printed this once:

  address        https://{hostname}
  certificate    {certificate}
  administrator  {administrator}
  password       {password}

Clients have to trust the certificate. Docker, podman and skopeo find it here:

  mkdir -p /etc/docker/certs.d/{hostname}
  cp {certificate} /etc/docker/certs.d/{hostname}/ca.crt
  docker login --username {administrator} {hostname}

"
    )?;
    out.flush()
}
