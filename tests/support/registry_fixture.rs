//! A small registry of our own, as Quay would have left it in its database, storage and
//! configuration. Organization `demo`, with every kind of repository and image that a pull may meet.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::images::{Blob, DOCKER_LAYER, Manifest, OCI_LAYER};
use super::keys::{InstanceKey, random_secret};
use super::rows::{Lifetime, Rows};

#[derive(Clone, Debug)]
pub struct Fixture {
    /// SERVER_HOSTNAME, which is also the audience of tokens.
    pub hostname: String,
    /// The folder of config.yaml, quay.pem and quay.kid.
    pub conf: PathBuf,
    pub storage: PathBuf,
    /// What config.yaml says. [`Fixture::configure`] changes it.
    pub settings: Map<String, Value>,
    pub key: InstanceKey,

    /// Owner of the organization `demo`.
    pub ada: Login,
    /// A user without any rights.
    pub bob: Login,
    /// A disabled user.
    pub zoe: Login,
    /// Robot `demo+puller`: may read demo/private, and nothing else.
    pub puller: Login,

    /// demo/public:latest, also :v1.
    pub public: Image,
    /// demo/private:latest.
    pub private: Image,
    /// demo/public:docker, a Docker schema 2 manifest.
    pub docker: Image,
    /// demo/public:multi, an OCI index of two children that have no tag of their own.
    pub index: Image,
    /// demo/public:legacy, whose layer lies under the path scheme from before digests.
    pub legacy: Image,
    /// demo/public:expired, a tag of the past; nothing else keeps the manifest alive.
    pub expired: Image,
    /// demo/public, behind a hidden tag only: to be had by digest, under no name.
    pub hidden: Image,
    /// demo/public, an untagged artifact whose subject is `public`.
    pub referrer: Image,
    /// demo/broken:latest, in the database complete, but its layer's file is missing.
    pub broken: Image,
    /// demo/app:latest, in a (public) repository of kind application.
    pub application: Image,
    /// demo/readonly:latest, in a private read-only repository.
    pub readonly: Image,
    /// demo/gone:latest, in a public repository that is marked for deletion.
    pub gone: Image,
    /// demo/nested/deep/repo:latest, private.
    pub nested: Image,
    /// zoe/stuff:latest, public, in the namespace of a disabled user.
    pub disabled: Image,
    /// A blob uploaded to demo/private that no manifest uses.
    pub loose: Blob,
}

/// Somebody who can log in.
#[derive(Clone, Debug)]
pub struct Login {
    pub id: i32,
    pub uuid: String,
    pub username: String,
    pub password: String,
}

/// A manifest where it is stored.
#[derive(Clone, Debug)]
pub struct Image {
    /// With its namespace: `demo/public`.
    pub repo: String,
    pub repo_id: i32,
    pub tag: String,
    pub manifest: Manifest,
}

impl Fixture {
    /// Fills an empty database and two folders. Blocks; may be called from async code.
    pub fn seed(db_uri: &str, storage: &Path, conf: &Path, hostname: &str) -> Fixture {
        // On a thread of its own, because the caller's may be driving a runtime already.
        std::thread::scope(|scope| {
            let seeding = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(seed(db_uri, storage, conf, hostname))
            });
            seeding.join().expect("the registry was seeded")
        })
    }

    /// The same registry with another database and configuration folder, for one test.
    pub fn moved(&self, db_uri: &str, conf: &Path) -> Fixture {
        let mut fixture = Fixture { conf: conf.to_owned(), ..self.clone() };
        fixture.settings.insert("DB_URI".to_owned(), db_uri.into());
        fixture.write_conf();
        fixture
    }

    /// Changes a setting in config.yaml; null removes it.
    pub fn configure(&mut self, key: &str, value: Value) {
        match value {
            Value::Null => self.settings.remove(key),
            value => self.settings.insert(key.to_owned(), value),
        };
        self.write_conf();
    }

    /// Makes `address` the SERVER_HOSTNAME.
    pub fn reach(&mut self, address: &str) {
        self.configure("SERVER_HOSTNAME", address.into());
        address.clone_into(&mut self.hostname);
    }

    /// A token as /v2/auth would make one, good for five minutes. `who` is None for anonymous.
    pub fn token(&self, who: Option<&Login>, repo: &str, actions: &[&str]) -> String {
        self.key.sign(&self.claims(who, repo, actions))
    }

    /// The claims of such a token, for tests that bend them.
    pub fn claims(&self, who: Option<&Login>, repo: &str, actions: &[&str]) -> Value {
        let now = chrono::Utc::now().timestamp();
        let mut context = json!({"version": 2, "entity_kind": "anonymous", "kind": "anonymous"});
        if let Some(login) = who {
            let is_robot = login.username.contains('+');
            let (kind, reference) =
                if is_robot { ("robot", &login.username) } else { ("user", &login.uuid) };
            context = json!({
                "version": 2, "entity_kind": kind, "entity_reference": reference,
                "kind": "user", "user": login.username,
            });
        }
        context["com.apostille.roots"] = json!({repo: "$disabled"});
        context["com.apostille.root"] = json!("$disabled");
        json!({
            "iss": "quay", "aud": self.hostname, "nbf": now, "iat": now, "exp": now + 300,
            "sub": who.map_or("(anonymous)", |login| &login.username),
            "access": [{"type": "repository", "name": repo, "actions": actions}],
            "context": context,
        })
    }

    /// Where the storage has a blob's bytes.
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        super::rows::cas_path(&self.storage, digest)
    }

    fn write_conf(&self) {
        let write = |name: &str, content: &str| {
            let path = self.conf.join(name);
            std::fs::write(&path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        };
        // A line for each setting, its value in JSON, which YAML includes.
        let lines = self.settings.iter().map(|(key, value)| format!("{key}: {value}\n"));
        write("config.yaml", &lines.collect::<String>());
        write("quay.pem", &self.key.pem);
        write("quay.kid", &self.key.kid);
    }
}

async fn seed(db_uri: &str, storage: &Path, conf: &Path, hostname: &str) -> Fixture {
    let key = InstanceKey::get();
    let field_secret = random_secret(64);
    let settings = json!({
        "SETUP_COMPLETE": true,
        "TESTING": false,
        "SERVER_HOSTNAME": hostname,
        "PREFERRED_URL_SCHEME": "http",
        "DB_URI": db_uri,
        "DISTRIBUTED_STORAGE_CONFIG": {"default": ["LocalStorage", {"storage_path": storage}]},
        "DISTRIBUTED_STORAGE_PREFERENCE": ["default"],
        "DISTRIBUTED_STORAGE_DEFAULT_LOCATIONS": ["default"],
        "SECRET_KEY": random_secret(64),
        "DATABASE_SECRET_KEY": field_secret,
        "AUTHENTICATION_TYPE": "Database",
        "LOGS_MODEL": "database",
        "FEATURE_REFERRERS_API": true,
        // A Redis of this machine is not ours to tell things.
        "FEATURE_USER_EVENTS": false,
    });
    let Value::Object(settings) = settings else { unreachable!("it is an object") };

    let mut rows = Rows::begin(db_uri, storage).await;
    rows.instance_key(key, hostname).await;
    let ada = rows.user("ada", true).await;
    let bob = rows.user("bob", true).await;
    let zoe = rows.user("zoe", false).await;
    let demo = rows.organization("demo", &ada).await;
    let puller = rows.robot("demo+puller", &field_secret).await;

    let mut repo = Repositories { rows: &mut rows, demo, ada: &ada };
    let public = repo.create("public", "public", "image", 0).await;
    let private = repo.create("private", "private", "image", 0).await;
    let broken = repo.create("broken", "public", "image", 0).await;
    let app = repo.create("app", "public", "application", 0).await;
    let readonly = repo.create("readonly", "private", "image", 1).await;
    let gone = repo.create("gone", "public", "image", 3).await;
    let nested = repo.create("nested/deep/repo", "private", "image", 0).await;
    let stuff =
        ("zoe/stuff".to_owned(), rows.repository(zoe.id, "stuff", "public", "image", 0).await);
    rows.permission(zoe.id, stuff.1, "admin").await;
    rows.permission(puller.id, private.1, "read").await;

    // One layer that many images share, and one that is each image's own.
    let base = Blob::layer(
        OCI_LAYER,
        &[("etc/os-release", "NAME=\"Example Linux\"\n"), ("etc/motd", "Welcome.\n")],
    );
    let own = |text: &str| Blob::layer(OCI_LAYER, &[("hello", text)]);
    let simple = |text: &str| Manifest::oci("amd64", vec![base.clone(), own(text)]);
    let docker_layer = Blob::layer(DOCKER_LAYER, &[("hello", "docker\n")]);
    let child =
        |architecture: &str| Manifest::oci(architecture, vec![own(&format!("{architecture}\n"))]);

    let mut store = Images { rows: &mut rows };
    let latest = store.tagged(&public, "latest", simple("public\n")).await;
    store.tagged(&public, "v1", latest.manifest.clone()).await;
    let docker =
        store.tagged(&public, "docker", Manifest::docker("amd64", vec![docker_layer])).await;
    let multi = Manifest::index(vec![("amd64", child("amd64")), ("arm64", child("arm64"))]);
    let index = store.tagged(&public, "multi", multi).await;
    let legacy = store.tagged(&public, "legacy", simple("legacy\n")).await;
    let expired = store.put(&public, "expired", Lifetime::Expired, simple("expired\n")).await;
    let name = format!("$temp-{}", uuid::Uuid::new_v4());
    let hidden = store.put(&public, &name, Lifetime::Hidden, simple("hidden\n")).await;
    let artifact = Manifest::referrer("application/vnd.example.signature.v1", &latest.manifest);
    let name = format!("$temp-{}", uuid::Uuid::new_v4());
    let referrer = store.put(&public, &name, Lifetime::Hidden, artifact).await;
    let fixture = Fixture {
        public: latest,
        docker,
        index,
        legacy,
        expired,
        hidden,
        referrer,
        private: store.tagged(&private, "latest", simple("private\n")).await,
        broken: store.tagged(&broken, "latest", simple("broken\n")).await,
        application: store.tagged(&app, "latest", simple("application\n")).await,
        readonly: store.tagged(&readonly, "latest", simple("readonly\n")).await,
        gone: store.tagged(&gone, "latest", simple("gone\n")).await,
        nested: store.tagged(&nested, "latest", simple("nested\n")).await,
        disabled: store.tagged(&stuff, "latest", simple("disabled\n")).await,
        loose: own("loose\n"),
        hostname: hostname.to_owned(),
        conf: conf.to_owned(),
        storage: storage.to_owned(),
        settings,
        key: key.clone(),
        ada,
        bob,
        zoe,
        puller,
    };
    rows.upload(private.1, &fixture.loose).await;
    rows.move_to_legacy_path(&fixture.legacy.manifest.layers()[1]).await;
    rows.commit().await;
    let missing = fixture.blob_path(&fixture.broken.manifest.layers()[1].digest);
    std::fs::remove_file(&missing).unwrap_or_else(|e| panic!("{}: {e}", missing.display()));
    fixture.write_conf();
    fixture
}

type Repository = (String, i32);

struct Repositories<'a> {
    rows: &'a mut Rows,
    demo: i32,
    ada: &'a Login,
}

impl Repositories<'_> {
    /// In demo, made by ada, who gets the explicit admin row that Quay gives to creators.
    async fn create(&mut self, name: &str, visibility: &str, kind: &str, state: i32) -> Repository {
        let id = self.rows.repository(self.demo, name, visibility, kind, state).await;
        self.rows.permission(self.ada.id, id, "admin").await;
        (format!("demo/{name}"), id)
    }
}

struct Images<'a> {
    rows: &'a mut Rows,
}

impl Images<'_> {
    async fn tagged(&mut self, repo: &Repository, tag: &str, manifest: Manifest) -> Image {
        self.put(repo, tag, Lifetime::Forever, manifest).await
    }

    async fn put(
        &mut self,
        repo: &Repository,
        tag: &str,
        lifetime: Lifetime,
        manifest: Manifest,
    ) -> Image {
        let manifest_id = self.rows.manifest(repo.1, &manifest).await;
        self.rows.tag(repo.1, tag, manifest_id, lifetime).await;
        Image { repo: repo.0.clone(), repo_id: repo.1, tag: tag.to_owned(), manifest }
    }
}
