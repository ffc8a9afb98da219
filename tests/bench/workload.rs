//! The images that are pulled, and the requests that are measured.

use std::path::Path;

use crate::support::images::{ACCEPT, Blob, Manifest, OCI_LAYER, OCI_MANIFEST};
use crate::support::keys::{encrypt_field, hash_password, random_secret};
use crate::support::registry_fixture::Fixture;
use crate::support::rows::{Lifetime, Rows};
use crate::support::{Registryd, eventually};

/// Where all of it is: a private repository that the robot of the fixture may read.
pub const REPO: &str = "demo/private";

pub struct Workload {
    /// Its layers are measured one by one.
    pub image: Manifest,
    /// What the tag `storm` points to by turns: indexes of an image with five layers of 64 KiB.
    pub storms: [Manifest; 2],
    pub repo_id: i32,
    app_token: String,
    oauth_token: String,
}

/// One kind of request.
pub struct Row {
    pub name: String,
    pub path: String,
    /// What docker-registry needs of them is the first one.
    pub headers: Vec<String>,
    pub through_nginx: bool,
    pub on_sqlite: bool,
    /// Instead of the usual number.
    pub connections: Option<u32>,
    /// The same at docker-registry.
    pub docker: Option<String>,
    /// The same as a file that nginx serves.
    pub file: Option<String>,
}

impl Workload {
    /// Adds the images and two more logins to a registry that has just been seeded.
    pub fn seed(fixture: &Fixture) -> Workload {
        let image = Manifest::oci("amd64", [1 << 10, 64 << 10, 10 << 20].map(noise).into());
        let storm = || {
            let layers = [64 << 10; 5].map(noise);
            Manifest::index(vec![("amd64", Manifest::oci("amd64", layers.into()))])
        };
        let workload = Workload {
            image,
            storms: [storm(), storm()],
            repo_id: fixture.private.repo_id,
            app_token: random_secret(120),
            oauth_token: random_secret(40),
        };
        std::thread::scope(|scope| {
            let seeding = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(workload.store(fixture))
            });
            seeding.join().expect("the images were stored");
        });
        workload
    }

    async fn store(&self, fixture: &Fixture) {
        let setting = |key: &str| fixture.settings[key].as_str().expect("text");
        let mut rows = Rows::more(setting("DB_URI"), &fixture.storage).await;
        let [first, second] = &self.storms;
        for (tag, manifest) in
            // The storms' own tags keep what is left of a pull alive when `storm` has moved on.
            [
                ("bench", &self.image),
                ("storm", first),
                ("storm-1", first),
                ("storm-2", second),
            ]
        {
            let id = rows.manifest(self.repo_id, manifest).await;
            rows.tag(self.repo_id, tag, id, Lifetime::Forever).await;
        }
        let (name, secret) = self.app_token.split_at(60);
        let secret = encrypt_field(setting("DATABASE_SECRET_KEY"), secret);
        rows.app_token(fixture.ada.id, name, &secret).await;
        let (name, code) = self.oauth_token.split_at(20);
        rows.oauth_token(fixture.ada.id, name, &hash_password(code)).await;
        rows.commit().await;
    }

    /// Needs registryd for a token to pull with.
    pub fn rows(&self, fixture: &Fixture, registryd: &Registryd) -> Vec<Row> {
        let accept = format!("Accept: {OCI_MANIFEST}");
        let robot = (fixture.puller.username.as_str(), fixture.puller.password.as_str());
        let token_path = token_path(&fixture.hostname);
        let token = token(registryd, &token_path, robot);
        let bearer = format!("Authorization: Bearer {token}");
        let manifest = |name: &str, reference: &str| Row {
            name: format!("manifest by {name}"),
            path: format!("/v2/{REPO}/manifests/{reference}"),
            headers: vec![accept.clone(), bearer.clone()],
            through_nginx: true,
            on_sqlite: true,
            connections: None,
            docker: Some(format!("/v2/{REPO}/manifests/{reference}")),
            file: None,
        };
        let mut rows = vec![manifest("digest", &self.image.digest), manifest("tag", "bench")];
        for (name, blob) in ["1 KiB", "64 KiB", "10 MiB"].iter().zip(self.image.layers()) {
            let path = format!("/v2/{REPO}/blobs/{}", blob.digest);
            rows.push(Row {
                name: format!("blob of {name}"),
                docker: Some(path.clone()),
                path,
                headers: vec![accept.clone(), bearer.clone()],
                through_nginx: true,
                on_sqlite: *name == "64 KiB",
                connections: (*name == "10 MiB").then_some(8),
                file: Some(file_path(&fixture.storage, fixture, &blob.digest)),
            });
        }
        let anonymous = format!("{}&service={}", public_path(), fixture.hostname);
        let logins = [
            ("anonymous", None),
            ("a robot's", Some(robot)),
            ("an application's", Some(("$app", self.app_token.as_str()))),
            ("OAuth", Some(("$oauthtoken", self.oauth_token.as_str()))),
            ("a password's", Some((fixture.ada.username.as_str(), fixture.ada.password.as_str()))),
        ];
        for (name, login) in logins {
            rows.push(Row {
                name: format!("token, {name}"),
                path: if login.is_some() { token_path.clone() } else { anonymous.clone() },
                headers: login.into_iter().map(|(user, word)| basic(user, word)).collect(),
                through_nginx: false,
                on_sqlite: name != "a password's",
                // bcrypt is slow on purpose, so a crowd would only wait.
                connections: ["OAuth", "a password's"].contains(&name).then_some(2),
                docker: None,
                file: None,
            });
        }
        rows
    }
}

/// Where a token to pull the images is to be had.
pub fn token_path(hostname: &str) -> String {
    format!("/v2/auth?service={hostname}&scope=repository:{REPO}:pull")
}

fn public_path() -> &'static str {
    "/v2/auth?scope=repository:demo/public:pull"
}

pub fn basic(username: &str, password: &str) -> String {
    use base64::Engine as _;
    let login = base64::prelude::BASE64_STANDARD.encode(format!("{username}:{password}"));
    format!("Authorization: Basic {login}")
}

fn token(registryd: &Registryd, path: &str, (username, password): (&str, &str)) -> String {
    let port = registryd.base().rsplit(':').next().and_then(|port| port.parse().ok());
    let mut client = crate::bundle::http::Client::new(port.expect("a port"));
    let login = basic(username, password);
    let (name, value) = login.split_once(": ").expect("a header");
    let answer = client.send("GET", path, &[(name, value)], None).expect("an answer");
    let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    body["token"].as_str().unwrap_or_else(|| panic!("no token: {}", answer.text())).to_owned()
}

fn file_path(storage: &Path, fixture: &Fixture, digest: &str) -> String {
    let path = fixture.blob_path(digest);
    let below = path.strip_prefix(storage).expect("in the storage");
    format!("/{}", below.display())
}

/// Bytes that nothing compresses.
pub fn noise(length: usize) -> Blob {
    let mut bytes = Vec::with_capacity(length + 16);
    while bytes.len() < length {
        bytes.extend(uuid::Uuid::new_v4().as_bytes());
    }
    bytes.truncate(length);
    let uncompressed = Some((crate::support::images::digest_of(&bytes), length));
    Blob { uncompressed, ..Blob::new(OCI_LAYER, bytes) }
}
