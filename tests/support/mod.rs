//! What black-box tests stand on: PostgreSQL, a seeded registry, and the real binary.

#![allow(dead_code, unused_imports, reason = "not every test uses everything")]
#![allow(unreachable_pub, missing_docs, reason = "public to the tests alone")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod database;
pub mod docker_registry;
pub mod fault_proxy;
pub mod history;
pub mod images;
pub mod keys;
pub mod mirror_rows;
pub mod postgres;
pub mod process;
pub mod push_load;
pub mod pusher;
pub mod registry_fixture;
pub mod registryd;
mod rows;
mod sqlite;

use std::ops::{Deref, DerefMut};
use std::sync::LazyLock;

pub use database::{Database, Server, TableLock, left_out, on_sqlite, postgres_only};
pub use postgres::{Cluster, free_port};
pub use process::{Folder, eventually};
pub use pusher::Pusher;
pub use registry_fixture::{Fixture, Image, Login};
pub use registryd::Registryd;

/// SERVER_HOSTNAME where nothing has to be reachable under it.
pub const HOSTNAME: &str = "registry.example";

/// A program that scripts/test has put beside the build.
pub fn tool(name: &str) -> std::path::PathBuf {
    let quay = std::path::PathBuf::from(registryd::program());
    let target = quay.parent().and_then(std::path::Path::parent);
    let tool = target.expect("a target folder").join("tools").join(name);
    assert!(tool.exists(), "{} is missing: scripts/test installs it", tool.display());
    tool
}

/// A registry for one test: a database and configuration of its own, and everything about what is
/// in them through [`Fixture`]. The storage is shared by all worlds of a process: only read it.
pub struct World {
    pub database: Database,
    fixture: Fixture,
    folder: Folder,
}

impl World {
    pub fn new() -> World {
        World::on(Cluster::shared(), &SEEDED)
    }

    /// One that clients can reach under its SERVER_HOSTNAME, token realm included. Start registryd
    /// with the returned arguments.
    pub fn reachable() -> (World, [String; 2]) {
        let mut world = World::new();
        let address = format!("127.0.0.1:{}", free_port());
        world.reach(&address);
        (world, ["--listen".to_owned(), address])
    }

    /// A world on a server of its own, with a storage of its own: for tests that break things.
    pub fn apart() -> (World, Server) {
        let cluster = Cluster::start();
        let seeded = Seeded::new(&cluster);
        let mut world = World::on(&cluster, &seeded);
        // Keep the storage for as long as the world.
        world.folder.keep(seeded.folder);
        let server = match &world.database {
            Database::Postgres(_) => Server::Postgres(cluster),
            Database::Sqlite { file, .. } => Server::Sqlite(file.clone()),
        };
        (world, server)
    }

    /// One on SQLite, whatever this run of the tests is on.
    pub fn on_sqlite() -> World {
        let seeded: &Seeded = &SEEDED;
        World::with(seeded, Database::carried(Cluster::shared(), TEMPLATE))
    }

    fn on(cluster: &Cluster, seeded: &Seeded) -> World {
        World::with(seeded, Database::of_template(cluster, TEMPLATE))
    }

    fn with(seeded: &Seeded, database: Database) -> World {
        let folder = Folder::new();
        let fixture = seeded.fixture.moved(database.uri(), folder.path());
        World { database, fixture, folder }
    }

    /// One that may be pushed to: its storage is a copy that is its own.
    pub fn with_own_storage() -> World {
        let mut world = World::new();
        let storage = world.folder.path().join("storage");
        world.move_storage(storage);
        world
    }

    /// Goes on with a copy of its storage, in a folder that is not there yet.
    pub fn move_storage(&mut self, storage: std::path::PathBuf) {
        let mut copy = std::process::Command::new("cp");
        let copied = copy.arg("-a").arg(&self.storage).arg(&storage);
        assert!(copied.status().expect("cp runs").success());
        let mut locations = self.settings["DISTRIBUTED_STORAGE_CONFIG"].clone();
        for (_, location) in locations.as_object_mut().expect("locations") {
            location[1]["storage_path"] = storage.to_str().expect("our own folder").into();
        }
        self.configure("DISTRIBUTED_STORAGE_CONFIG", locations);
        self.storage = storage;
    }

    pub fn registryd(&self) -> Registryd {
        self.registryd_with(&[])
    }

    pub fn registryd_with(&self, args: &[&str]) -> Registryd {
        Registryd::start(&self.conf, args)
    }
}

impl Deref for World {
    type Target = Fixture;

    fn deref(&self) -> &Fixture {
        &self.fixture
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Fixture {
        &mut self.fixture
    }
}

/// Asks exactly what it is told to: no redirects followed, no proxy, and no TLS, for which it would
/// read all certificates of the system.
pub fn http() -> reqwest::Client {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
    let client = client.tls_certs_only([]);
    client.build().expect("a client")
}

const TEMPLATE: &str = "seeded";

static SEEDED: LazyLock<Seeded> = LazyLock::new(|| Seeded::new(Cluster::shared()));

/// The registry that worlds are copies of.
struct Seeded {
    folder: Folder,
    fixture: Fixture,
}

impl Seeded {
    fn new(cluster: &Cluster) -> Seeded {
        let folder = Folder::new();
        let (storage, conf) = (folder.path().join("storage"), folder.path().join("conf"));
        std::fs::create_dir(&storage).expect("our own folder");
        std::fs::create_dir(&conf).expect("our own folder");
        let mut fixture = None;
        cluster.template(TEMPLATE, |database| {
            fixture = Some(Fixture::seed(database.uri(), &storage, &conf, HOSTNAME));
        });
        Seeded { folder, fixture: fixture.expect("a fresh cluster has no template") }
    }
}
