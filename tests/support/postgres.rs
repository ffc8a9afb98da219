//! A PostgreSQL cluster of our own, and databases cloned from templates within milliseconds.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex};

use tokio_postgres::NoTls;

use super::process::{AtExit, Folder, eventually, lock, signal, unique, wait};

/// Listens on 127.0.0.1 and on a unix socket in its folder; user `quay`, who may do everything.
pub struct Cluster {
    folder: Folder,
    port: u16,
    server: Mutex<Option<Server>>,
    templates: Mutex<BTreeSet<String>>,
}

struct Server {
    child: Child,
    _at_exit: AtExit,
}

/// Dropped, connections included, when this goes out of scope.
pub struct Database {
    pub name: String,
    uri: String,
    admin_uri: String,
}

impl Cluster {
    /// The one that the tests of this process share. Never stop it: use [`Cluster::start`] for that.
    pub fn shared() -> &'static Cluster {
        static SHARED: LazyLock<Cluster> = LazyLock::new(Cluster::start);
        &SHARED
    }

    /// A private one, for tests that stop it.
    pub fn start() -> Cluster {
        let folder = Folder::new();
        if let Some((uid, gid)) = server_user() {
            chown(folder.path(), Some(uid), Some(gid)).expect("root may");
        }
        // Without fsync for these files only: the cluster itself runs as it would in earnest.
        let initdb = as_server_user("initdb")
            .args(["--username=quay", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"])
            .arg("-D")
            .arg(folder.path().join("data"))
            .output()
            .expect("initdb runs");
        assert!(initdb.status.success(), "initdb: {}", String::from_utf8_lossy(&initdb.stderr));

        let mut cluster =
            Cluster { folder, port: 0, server: Mutex::default(), templates: Mutex::default() };
        // Another process may take the port between our choice and PostgreSQL's bind.
        for _ in 0..10 {
            cluster.port = free_port();
            if cluster.launch() {
                return cluster;
            }
        }
        panic!("found no free port for PostgreSQL:\n{}", cluster.log());
    }

    /// Ends every connection and stops, as `pg_ctl stop -m fast` does.
    pub fn stop(&self) {
        self.end("INT");
    }

    /// Stops at once, without a checkpoint: the next start has to recover.
    pub fn crash(&self) {
        self.end("QUIT");
    }

    /// Starts again on the same port, with the same data.
    pub fn start_again(&self) {
        assert!(lock(&self.server).is_none(), "PostgreSQL is running");
        assert!(self.launch(), "port {} was taken meanwhile:\n{}", self.port, self.log());
    }

    pub fn uri(&self, database: &str) -> String {
        // A password because every real DB_URI has one; nobody asks for it here.
        format!("postgresql://quay:quay@127.0.0.1:{}/{database}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of the unix socket.
    pub fn socket_folder(&self) -> &Path {
        self.folder.path()
    }

    /// What the server wrote since it was last started.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// How many connections an application has.
    pub fn connections(&self, application: &str) -> f64 {
        let count = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{application}'"
        );
        psql(&self.uri("postgres"), &count).trim().parse().expect("a count")
    }

    /// An empty database.
    pub fn create(&self) -> Database {
        self.clone_template("template0")
    }

    /// Makes a template, once a process, by letting `build` fill an empty database.
    pub fn template(&self, name: &str, build: impl FnOnce(&Database)) {
        let mut templates = lock(&self.templates);
        if templates.contains(name) {
            return;
        }
        // An earlier attempt may have panicked half-way.
        psql(&self.uri("postgres"), &format!("DROP DATABASE IF EXISTS \"{name}\""));
        let database = self.create_named(name, "template0");
        build(&database);
        std::mem::forget(database);
        templates.insert(name.to_owned());
    }

    pub fn clone_template(&self, template: &str) -> Database {
        self.create_named(&format!("{template}_{}", unique()), template)
    }

    fn create_named(&self, name: &str, template: &str) -> Database {
        let (uri, admin_uri) = (self.uri(name), self.uri("postgres"));
        psql(&admin_uri, &format!("CREATE DATABASE \"{name}\" TEMPLATE \"{template}\""));
        Database { name: name.to_owned(), uri, admin_uri }
    }

    /// False when the port is taken; panics with the log on any other failure.
    fn launch(&self) -> bool {
        let log = File::create(self.folder.path().join("log")).expect("our own folder");
        let data = self.folder.path().join("data");
        let mut child = as_server_user("postgres")
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(self.folder.path())
            .args(["-p", &self.port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "shared_buffers=32MB"])
            .args(["-c", "max_connections=200"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file handle"))
            .stderr(log)
            // Not our group: ctrl-c is for us; the janitor stops it after us.
            .process_group(0)
            .spawn()
            .expect("postgres runs");
        let pid = child.id().to_string();
        let _at_exit = AtExit::run(format!("kill -QUIT {pid}"));

        // What pg_ctl waits for: the server's own word, in the file that names its process.
        let is_ready = || {
            let status = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            let mut lines = status.lines();
            lines.next() == Some(&pid) && lines.next_back().map(str::trim) == Some("ready")
        };
        let started = eventually(
            || match is_ready() {
                true => Some(Ok(())),
                false => child.try_wait().expect("our own child").map(Err),
            },
            || format!("PostgreSQL is not ready:\n{}", self.log()),
        );
        match started {
            Ok(()) => {
                *lock(&self.server) = Some(Server { child, _at_exit });
                true
            }
            Err(_) if self.log().contains("already in use") => false,
            Err(status) => panic!("PostgreSQL ended, {status}:\n{}", self.log()),
        }
    }

    fn end(&self, signal_name: &str) {
        let mut server = lock(&self.server).take().expect("PostgreSQL is running");
        signal(&server.child, signal_name);
        wait(&mut server.child, "PostgreSQL");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("PostgreSQL's log:\n{}", self.log());
        }
        if lock(&self.server).is_some() {
            self.end("QUIT");
        }
    }
}

impl Database {
    pub fn uri(&self) -> &str {
        &self.uri
    }

    pub async fn connect(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.uri, NoTls)
            .await
            .unwrap_or_else(|e| panic!("{}: {e}", self.uri));
        tokio::spawn(connection);
        client
    }

    /// Runs statements and gives what they print: rows by line, columns by `|`.
    pub fn sql(&self, statements: &str) -> String {
        psql(&self.uri, statements)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // In the background, because it takes PostgreSQL a checkpoint. Whether it works is no
        // test's business: the cluster may be stopped, or the database gone.
        let drop = format!("DROP DATABASE IF EXISTS \"{}\" WITH (FORCE)", self.name);
        let mut command = psql_command(&self.admin_uri, &drop);
        std::thread::spawn(move || command.output());
    }
}

/// Runs statements and gives what they print: rows by line, columns by `|`.
pub fn psql(uri: &str, statements: &str) -> String {
    let output = psql_command(uri, statements).output().expect("psql runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{statements}: {error}");
    String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned()
}

fn psql_command(uri: &str, statements: &str) -> Command {
    let mut command = Command::new(binary("psql"));
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", uri, "-c", statements]);
    command.stdin(Stdio::null());
    command
}

/// PostgreSQL's server programs refuse to run as root.
fn as_server_user(program: &str) -> Command {
    let mut command = Command::new(binary(program));
    // A folder that the other user may enter, whatever ours is.
    command.current_dir("/");
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
    command
}

/// The user to run the server as: `postgres` when we are root, otherwise ourselves (None).
fn server_user() -> Option<(u32, u32)> {
    let we_are_root = std::fs::metadata("/proc/self").is_ok_and(|us| us.uid() == 0);
    we_are_root.then(|| {
        let users = std::fs::read_to_string("/etc/passwd").expect("a list of users");
        let fields: Vec<&str> = users
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields[0] == "postgres")
            .expect("a user `postgres` (install the package postgresql), because we are root");
        (fields[2].parse().expect("a uid"), fields[3].parse().expect("a gid"))
    })
}

/// The newest installed version's, where Debian keeps them, or whatever PATH has.
fn binary(program: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions
        .map(|version| version.path().join("bin").join(program))
        .filter(|path| path.exists())
        .max_by_key(|path| {
            let version = path.components().rev().nth(2).map(|c| c.as_os_str().to_owned());
            version.and_then(|v| v.to_str()?.parse::<u32>().ok())
        })
        .unwrap_or_else(|| PathBuf::from(program))
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}
