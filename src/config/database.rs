//! How to reach Quay's database: `DB_URI` and `DB_CONNECTION_ARGS` (contract section 6).

use std::path::PathBuf;
use std::time::Duration;

use config::ValueKind;

use super::db_params::{ARGS, Params};
use super::db_uri::{self, DbUri};
use super::reader::{Parsed, Reader, Show, Wrong};
use super::report::Severity;
use super::secret::Secret;

/// How to reach Quay's database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Database {
    /// The kind of database. The rest is about a server, and at its default for a file.
    pub engine: Engine,
    /// From the URI, else `user` of the arguments, `PGUSER`, or the name of the process' user.
    pub user: String,
    /// From the URI, else `password` of the arguments or `PGPASSWORD`. A `.pgpass` file is not read.
    pub password: Option<Secret>,
    /// Tried in order; at least one, each with its port (default 5432).
    pub hosts: Vec<(Host, u16)>,
    /// The database's name, from the URI.
    pub dbname: String,
    /// Encryption and verification.
    pub tls: Tls,
    /// Limit for one connection attempt; default 10 s, as in Quay.
    pub connect_timeout: Duration,
    /// `application_name` as shown by `pg_stat_activity`.
    pub application_name: Option<String>,
    /// Options for the server, such as `-c search_path=quay`.
    pub options: Option<String>,
    /// TCP keep-alive probes; `None` when they are switched off.
    pub keepalives: Option<Keepalives>,
    /// How long sent data may stay unacknowledged; the system decides when `None`.
    pub tcp_user_timeout: Option<Duration>,
    /// Which of several hosts will do.
    pub target: Target,
}

/// The kind of database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Engine {
    /// PostgreSQL.
    #[default]
    Postgres,
    /// A file of SQLite's.
    Sqlite(PathBuf),
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A host name or address.
    Tcp(String),
    /// The folder of a unix socket; the port is part of the socket's file name.
    UnixDir(PathBuf),
}

/// TCP keep-alive; each value is the system's own when `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keepalives {
    /// Idle time before the first probe (`keepalives_idle`).
    pub idle: Option<Duration>,
    /// Time between probes (`keepalives_interval`).
    pub interval: Option<Duration>,
    /// Lost probes until the connection counts as dead (`keepalives_count`).
    pub count: Option<u32>,
}

/// Which server will do (`target_session_attrs`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Target {
    /// The first that answers.
    #[default]
    Any,
    /// One that takes writes (`read-write`, `primary`).
    ReadWrite,
    /// One that does not (`read-only`, `standby`).
    ReadOnly,
}

/// Encryption, with the meaning that libpq gives these names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// `sslmode`; libpq's default is `prefer`.
    pub mode: SslMode,
    /// `sslrootcert`, else `~/.postgresql/root.crt` when it exists. Its presence turns `require`
    /// into `verify-ca`.
    pub root_cert: Option<PathBuf>,
    /// `sslcert`, else `~/.postgresql/postgresql.crt` when it exists.
    pub client_cert: Option<PathBuf>,
    /// `sslkey`, else `~/.postgresql/postgresql.key` when it exists.
    pub client_key: Option<PathBuf>,
}

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SslMode {
    /// Never encrypt.
    Disable,
    /// Encrypt only when the server insists.
    Allow,
    /// Encrypt when the server can.
    #[default]
    Prefer,
    /// Always encrypt; verify the chain only when there is a root certificate.
    Require,
    /// Encrypt and verify the chain, not the host name.
    VerifyCa,
    /// Encrypt, verify the chain and the host name.
    VerifyFull,
}

const SSL_MODES: [(&str, SslMode); 6] = [
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

const TARGETS: [(&str, Target); 5] = [
    ("any", Target::Any),
    ("read-write", Target::ReadWrite),
    ("primary", Target::ReadWrite),
    ("read-only", Target::ReadOnly),
    ("standby", Target::ReadOnly),
];

const SQLITE_FORM: &str = "write it as sqlite:////path/to/file.db, with four slashes";

const SOCKET_DIR: &str = "/var/run/postgresql";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the database's settings; reports and returns a stand-in when they cannot be used.
pub(super) fn read(r: &mut Reader<'_>) -> Database {
    let Some(value) = r.source.get("DB_URI") else {
        r.required("DB_URI", |_| Ok(String::new()));
        return Database::default();
    };
    let uri = match parse_uri(value) {
        Ok(uri) => uri,
        Err(wrong) => {
            r.show("DB_URI", "***".into(), r.source.place("DB_URI"));
            r.error("DB_URI", wrong);
            return Database::default();
        }
    };
    if uri.scheme == "sqlite" {
        return sqlite(r, &uri);
    }
    let mut params = Params::collect(r, &uri);
    let database = Database {
        engine: Engine::Postgres,
        user: user(r, &mut params, &uri),
        password: uri.password.or_else(|| params.take("password").map(Secret::new)),
        hosts: hosts(r, &mut params, uri.hosts),
        dbname: uri.dbname.unwrap_or_default(),
        tls: tls(r, &mut params),
        connect_timeout: connect_timeout(r, &mut params),
        application_name: params
            .take_shown(r, "application_name")
            .or(params.take("fallback_application_name")),
        options: params.take("options"),
        keepalives: keepalives(r, &mut params),
        tcp_user_timeout: params
            .number(r, "tcp_user_timeout")
            .map(|ms| Duration::from_millis(ms.into())),
        target: params.word(r, "target_session_attrs", &TARGETS),
    };
    r.show("DB_URI", redacted(&database), r.source.place("DB_URI"));
    database
}

fn parse_uri(value: &ValueKind) -> Parsed<DbUri> {
    const FORM: &str = "write it as postgresql://user:password@host:port/name";
    let ValueKind::String(text) = value else {
        return Err(Wrong::kind("text", value));
    };
    let uri = db_uri::parse(text.trim()).map_err(|error| Wrong::new(error.to_string(), FORM))?;
    match uri.scheme.as_str() {
        "postgresql" | "postgres" if uri.dbname.is_none() => {
            Err(Wrong::new("names no database", FORM))
        }
        "postgresql" | "postgres" => Ok(uri),
        "sqlite" => match uri.dbname.as_deref() {
            None | Some(":memory:") => Err(Wrong::new("names no file", SQLITE_FORM)),
            Some(_) => Ok(uri),
        },
        "mysql" | "mariadb" => Err(Wrong::new(
            format!("{} is not served by this program; Python keeps serving", uri.scheme),
            "leave the registry with Python, or move it to PostgreSQL",
        )),
        _ => Err(Wrong::new("not the URI of a PostgreSQL or SQLite database", FORM)),
    }
}

/// What stands after the third slash is the path, as SQLAlchemy reads it.
fn sqlite(r: &mut Reader<'_>, uri: &DbUri) -> Database {
    let path = PathBuf::from(uri.dbname.clone().unwrap_or_default());
    let place = r.source.place("DB_URI");
    r.show("DB_URI", format!("sqlite:///{}", path.display()).show(), place.clone());
    if path.is_relative() {
        let wrong = Wrong::new(
            "a relative path: relative to what, depends on where a process was started",
            SQLITE_FORM,
        );
        r.problem(Severity::Warning, "DB_URI", place, wrong);
    }
    Database { engine: Engine::Sqlite(path), ..Database::default() }
}

/// The URI without its password and parameters, from the parts that are really in use.
fn redacted(db: &Database) -> String {
    let password = if db.password.is_some() { ":***" } else { "" };
    let host = |(host, port): &(Host, u16)| match host {
        Host::Tcp(name) if name.contains(':') => format!("[{name}]:{port}"),
        Host::Tcp(name) => format!("{name}:{port}"),
        Host::UnixDir(path) => format!("{}:{port}", path.display()),
    };
    let hosts: Vec<String> = db.hosts.iter().map(host).collect();
    format!("postgresql://{}{password}@{}/{}", db.user, hosts.join(","), db.dbname).show()
}

fn user(r: &mut Reader<'_>, params: &mut Params, uri: &DbUri) -> String {
    let param = params.take("user");
    let os = || r.env.var("USER").or_else(|| r.env.var("LOGNAME"));
    let user = uri.user.clone().or(param).or_else(os).unwrap_or_default();
    if user.is_empty() {
        r.error(
            "DB_URI",
            Wrong::new("names no user", "write it as postgresql://user:password@host:port/name"),
        );
    }
    user
}

/// Python passes a host of the URI on and lets it win over the arguments; the port likewise.
fn hosts(
    r: &mut Reader<'_>,
    params: &mut Params,
    from_uri: Vec<(String, Option<u16>)>,
) -> Vec<(Host, u16)> {
    let place = params.place("port");
    let mut ports = Vec::new();
    for text in params.take("port").iter().flat_map(|ports| ports.split(',')) {
        match db_uri::port(text.trim()) {
            Some(port) => ports.push(port),
            None => {
                let wrong = Wrong::new("not a port number", "set it to a number from 1 to 65535");
                r.problem(Severity::Error, &format!("{ARGS}.port"), place.clone(), wrong);
            }
        }
    }
    let names = match from_uri.is_empty() {
        false => from_uri,
        true => {
            let host = params.take("host").unwrap_or_else(|| SOCKET_DIR.into());
            host.split(',').map(|name| (name.trim().to_string(), None)).collect()
        }
    };
    // A single port, or the one behind the last host, counts for every host without its own.
    let shared = names.last().and_then(|(_, port)| *port).or(ports.last().copied()).unwrap_or(5432);
    let one = |(index, (name, port)): (usize, (String, Option<u16>))| {
        let port = port.or(ports.get(index).copied()).unwrap_or(shared);
        let host = if name.starts_with('/') { Host::UnixDir(name.into()) } else { Host::Tcp(name) };
        (host, port)
    };
    names.into_iter().enumerate().map(one).collect()
}

fn tls(r: &mut Reader<'_>, params: &mut Params) -> Tls {
    let (key, place) = (format!("{ARGS}.sslmode"), params.place("sslmode"));
    if place == "default" {
        r.show(&key, "prefer".into(), place.clone());
    }
    let mode = params.word(r, "sslmode", &SSL_MODES);
    if params.is("sslrootcert", "system") {
        let wrong = Wrong::new(
            "the system's root certificates are not supported",
            "name the file that holds them, such as /etc/ssl/certs/ca-certificates.crt",
        );
        r.problem(
            Severity::Error,
            &format!("{ARGS}.sslrootcert"),
            params.place("sslrootcert"),
            wrong,
        );
    }
    let home = r.env.var("HOME").map(|home| PathBuf::from(home).join(".postgresql"));
    let mut file = |r: &mut Reader<'_>, name: &str, fallback: &str| {
        let given = params.take_shown(r, name).map(PathBuf::from);
        given
            .or_else(|| home.as_ref().map(|home| home.join(fallback)).filter(|path| path.is_file()))
    };
    let tls = Tls {
        mode,
        root_cert: file(r, "sslrootcert", "root.crt"),
        client_cert: file(r, "sslcert", "postgresql.crt"),
        client_key: file(r, "sslkey", "postgresql.key"),
    };
    if matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull) && tls.root_cert.is_none() {
        let remedy = format!("set {ARGS}.sslrootcert to the file of the certificate authority");
        r.problem(
            Severity::Error,
            &key,
            place,
            Wrong::new("nothing to verify the server against", remedy),
        );
    }
    tls
}

/// Zero means "no limit" to libpq, and Quay's own default to us: a pull must not wait for ever.
fn connect_timeout(r: &mut Reader<'_>, params: &mut Params) -> Duration {
    match params.number(r, "connect_timeout") {
        None | Some(0) => CONNECT_TIMEOUT,
        Some(seconds) => Duration::from_secs(seconds.into()),
    }
}

fn keepalives(r: &mut Reader<'_>, params: &mut Params) -> Option<Keepalives> {
    let seconds = |n: u32| Some(Duration::from_secs(n.into())).filter(|d| !d.is_zero());
    let on = params.number(r, "keepalives") != Some(0);
    let keepalives = Keepalives {
        idle: params.number(r, "keepalives_idle").and_then(seconds),
        interval: params.number(r, "keepalives_interval").and_then(seconds),
        count: params.number(r, "keepalives_count").filter(|count| *count > 0),
    };
    on.then_some(keepalives)
}
