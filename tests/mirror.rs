//! `quay serve --mode mirror`: a registry of its own, from an empty folder on.

mod certificate;
mod crashes;
mod first_start;
mod garbage;
mod pulls;
mod tls;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::support::images::{Blob, Manifest, OCI_LAYER};
use crate::support::registryd::program;
use crate::support::{Folder, Pusher, Registryd, eventually, free_port};
use tls::{Answer, Client};

/// Where one is to be.
struct Own {
    data: PathBuf,
    /// `127.0.0.1:PORT`
    listen: String,
    _folder: Folder,
}

impl Own {
    fn new() -> Own {
        let folder = Folder::new();
        let listen = format!("127.0.0.1:{}", free_port());
        Own { data: folder.path().join("data"), listen, _folder: folder }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(["serve", "--mode", "mirror", "--admin-listen", "127.0.0.1:0"]);
        command.args(["--listen", &self.listen, "--data"]).arg(&self.data).args(args);
        command
    }

    /// Started with these arguments beyond the usual, and ready.
    fn start(&self, args: &[&str]) -> Registryd {
        let registryd = self.try_start(args);
        let registryd = registryd.unwrap_or_else(|(status, log)| panic!("{status}: {log}"));
        registryd.wait_until_ready();
        registryd
    }

    fn try_start(&self, args: &[&str]) -> Result<Registryd, (ExitStatus, String)> {
        Registryd::try_run(self.command(args))
    }

    /// What it says when it does not start, and its exit code.
    fn refusal(&self, args: &[&str]) -> (i32, String) {
        match self.try_start(args) {
            Ok(_) => panic!("it was started"),
            Err((status, said)) => (status.code().unwrap(), said),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.data.join(name)
    }

    fn certificate(&self) -> String {
        fs::read_to_string(self.path("tls.crt")).unwrap()
    }

    fn client(&self) -> Client {
        Client::connect(&self.listen, &self.certificate()).unwrap()
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.client().get(path, headers).unwrap()
    }

    /// What clients call it.
    fn hostname(&self) -> String {
        self.listen.replace("127.0.0.1", "localhost")
    }

    /// A token for pulling from `repository`, or for nothing, by a password or nobody's; else the
    /// status.
    fn token(&self, who: Option<(&str, &str)>, repository: &str) -> Result<String, u16> {
        self.token_to(who, repository, "pull")
    }

    fn token_to(
        &self,
        who: Option<(&str, &str)>,
        repository: &str,
        actions: &str,
    ) -> Result<String, u16> {
        let mut path = format!("/v2/auth?service={}", self.hostname());
        if !repository.is_empty() {
            path += &format!("&scope=repository:{repository}:{actions}");
        }
        let login = who.map(|(name, password)| {
            format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{password}")))
        });
        let header = login.as_deref().map(|login| ("Authorization", login));
        let answer = self.get(&path, header.as_slice());
        match answer.status {
            200 => {
                let body: Value = serde_json::from_slice(&answer.body).unwrap();
                Ok(body["token"].as_str().unwrap().to_owned())
            }
            status => Err(status),
        }
    }

    /// The administrator, about to push to `repository`.
    fn pusher<'a>(&self, registryd: &'a Registryd, password: &str, repository: &str) -> Pusher<'a> {
        let token = self.token_to(Some(("admin", password)), repository, "pull,push");
        let trusted = reqwest::Certificate::from_pem(self.certificate().as_bytes()).unwrap();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([trusted]);
        let client = client.build().unwrap();
        Pusher { registryd, token: token.unwrap(), repo: repository.to_owned(), client }
    }

    /// Pushes an image, where nobody else drives a runtime.
    fn push(&self, registryd: &Registryd, repository: &str, tag: &str, image: &Manifest) {
        let pusher = self.pusher(registryd, &password(registryd), repository);
        tokio::runtime::Runtime::new().unwrap().block_on(pusher.push(tag, image));
    }

    fn execute(&self, sql: &str) {
        let database = rusqlite::Connection::open(self.path("quay.db")).unwrap();
        database.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
        database.execute_batch(sql).unwrap();
    }

    fn sql(&self, query: &str) -> String {
        let database = rusqlite::Connection::open(self.path("quay.db")).unwrap();
        database.query_row(query, [], |row| row.get::<_, rusqlite::types::Value>(0)).map_or_else(
            |error| error.to_string(),
            |value| match value {
                rusqlite::types::Value::Integer(number) => number.to_string(),
                rusqlite::types::Value::Text(text) => text,
                other => format!("{other:?}"),
            },
        )
    }

    /// Every file below the folder, with its permissions and bytes.
    fn files(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut files = BTreeMap::new();
        collect(&self.data, &mut files);
        files
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::metadata(&path).unwrap();
        let mode = metadata.permissions().mode() & 0o777;
        let bytes = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        if metadata.is_dir() {
            collect(&path, files);
        }
        files.insert(path, (mode, bytes));
    }
}

/// What a first start printed of the administrator's password.
fn password(registryd: &Registryd) -> String {
    let printed = registryd.printed();
    let password = printed.lines().find_map(|line| line.trim().strip_prefix("password "));
    password.unwrap_or_else(|| panic!("no password: {printed}")).trim().to_owned()
}

/// An image of its own bytes.
fn image(text: &str) -> Manifest {
    Manifest::oci("amd64", vec![Blob::layer(OCI_LAYER, &[("hello", text)])])
}

fn run(command: &mut Command) -> Output {
    let name = command.get_program().to_owned();
    command.output().unwrap_or_else(|e| panic!("{}: {e}", name.display()))
}
