//! The recorded Quay's database, storage and configuration, restored for one test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::recording::{self, read};
use super::tokens::Signer;
use crate::support::{Cluster, Database, Folder, Registryd, free_port};

/// Its SERVER_HOSTNAME.
const HOSTNAME: &str = "localhost:18080";

const TEMPLATE: &str = "recorded";

/// In the dump times are those of the recording, and a tag with a lifetime would be gone two days
/// later. This moves the last push, and all that has a time to end, to now.
const MAKE_RECENT: &str = "
    CREATE TEMP TABLE age AS
        SELECT (extract(epoch FROM now()) * 1000)::bigint - max(lifetime_start_ms) AS ms FROM tag;
    UPDATE tag SET lifetime_start_ms = lifetime_start_ms + age.ms,
        lifetime_end_ms = lifetime_end_ms + age.ms FROM age;
    UPDATE oauthaccesstoken SET expires_at = expires_at + age.ms * interval '1 ms' FROM age;
    UPDATE servicekey SET expiration_date = expiration_date + age.ms * interval '1 ms' FROM age;";

pub struct Installation {
    pub database: Database,
    pub data: PathBuf,
    pub signer: Signer,
    folder: Folder,
}

impl Installation {
    /// None when there are no recordings.
    pub fn restore() -> Option<Installation> {
        let data = recording::folder()?;
        let cluster = Cluster::shared();
        cluster.template(TEMPLATE, |database| {
            let dump = data.join("quay-seeded.sql");
            run(Command::new("psql")
                .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database.uri(), "-f"])
                .arg(dump));
            database.sql(MAKE_RECENT);
        });
        let folder = Folder::new();
        run(Command::new("tar")
            .arg("xzf")
            .arg(data.join("storage.tar.gz"))
            .args(["-C"])
            .arg(folder.path()));
        let signer = Signer::read(&data.join("quay.pem.b64"));
        let database = Database::of_template(cluster, TEMPLATE);
        let installation = Installation { database, data, signer, folder };
        installation.configure(HOSTNAME);
        Some(installation)
    }

    /// registryd with these settings on top of config.yaml.
    pub fn registryd(&self, args: &[&str], settings: Option<&str>) -> Registryd {
        let environment: Vec<_> =
            settings.iter().map(|json| ("QUAY_OVERRIDE_CONFIG", *json)).collect();
        Registryd::start_with(&self.conf(), args, &environment)
    }

    /// registryd under its own SERVER_HOSTNAME, token realm included.
    pub fn reachable_registryd(&self) -> Registryd {
        // Another process may take the port between our choice and registryd's bind.
        for _ in 0..10 {
            let address = format!("127.0.0.1:{}", free_port());
            self.configure(&address);
            match Registryd::try_launch(&self.conf(), &["--listen", &address]) {
                Ok(registryd) => {
                    registryd.wait_until_ready();
                    return registryd;
                }
                Err((_, log)) if log.contains("in use") => {}
                Err((status, log)) => panic!("registryd ended, {status}:\n{log}"),
            }
        }
        panic!("found no free port for registryd");
    }

    /// An empty folder for what a test makes.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }

    /// The file of a blob.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").expect("a digest");
        self.folder.path().join("storage/sha256").join(&hex[..2]).join(hex)
    }

    /// The password of one of the recorded logins.
    pub fn secret(&self, login: &str) -> String {
        let readme = read(&self.data.join("README.md"));
        let start = format!("| {login} | ");
        let row = readme.lines().find_map(|line| line.strip_prefix(&start));
        row.and_then(|row| row.split(" |").next()).expect(login).to_owned()
    }

    /// The rows of a query, as psql prints them.
    pub fn rows(&self, query: &str) -> Vec<Vec<String>> {
        let printed = self.database.sql(query);
        printed.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
    }

    /// The folder of config.yaml.
    pub fn conf(&self) -> PathBuf {
        self.folder.path().join("conf")
    }

    fn configure(&self, hostname: &str) {
        let conf = self.scratch("conf");
        let storage = self.folder.path().join("storage");
        let config = read(&self.data.join("config.yaml"))
            .replace("@STORAGE@", &storage.to_string_lossy())
            // Nobody is there: registryd needs no Redis.
            .replace("@REDISPORT@", "1")
            .replace(HOSTNAME, hostname);
        let uri = format!("DB_URI: {}\n", self.database.uri());
        let rest = config.lines().filter(|line| !line.starts_with("DB_URI:"));
        let config = rest.fold(uri, |text, line| text + line + "\n");
        let pem = self.data.join("quay.pem.b64");
        write(&conf.join("config.yaml"), config.as_bytes());
        write(&conf.join("quay.pem"), &run(Command::new("base64").arg("-d").arg(pem)));
        write(&conf.join("quay.kid"), read(&self.data.join("quay.kid")).as_bytes());
    }
}

fn write(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Runs a program to its end and gives what it printed.
pub fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    output.stdout
}
