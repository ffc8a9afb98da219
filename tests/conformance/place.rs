//! Where the suite finds a registry: everything of it on loopback, in folders of its own, gone when
//! the suite has ended.

use std::fs;
use std::path::Path;

use crate::Combination;
use crate::support::docker_registry::DockerRegistry;
use crate::support::registry_fixture::{Fixture, Login};
use crate::support::rows::Rows;
use crate::support::stack::Stack;
use crate::support::{Cluster, Database, Folder, Registryd, free_port, postgres};

/// Where the suite pushes to. It has to be there: a push alone makes no repository.
pub const REPO: &str = "conformance";

/// Where it mounts from. The suite's tokens are for the repository that is written to alone, so
/// that a mount is granted only from a public one (contract §1.9.1).
pub const SOURCE: &str = "conformance-source";

pub struct Place {
    /// Host and port of the registry.
    pub address: String,
    pub login: Option<Login>,
    registry: Registry,
}

enum Registry {
    Direct { registryd: Registryd, _seeded: Box<Seeded> },
    Nginx { stack: Box<Stack>, _database: Option<Database> },
    Docker { _docker: DockerRegistry },
}

impl Place {
    pub fn start(combination: Combination, quay: &Path) -> Place {
        match combination {
            Combination::PostgresDirect => Place::direct(Seeded::on_postgres()),
            Combination::SqliteDirect => Place::direct(Seeded::on_sqlite()),
            Combination::PostgresNginx => Place::nginx(Seeded::on_postgres(), quay),
            Combination::SqliteNginx => Place::nginx(Seeded::on_sqlite(), quay),
            Combination::DockerRegistry => {
                let docker = DockerRegistry::start();
                let address = format!("127.0.0.1:{}", docker.port);
                Place { address, login: None, registry: Registry::Docker { _docker: docker } }
            }
        }
    }

    fn direct(mut seeded: Seeded) -> Place {
        let address = format!("127.0.0.1:{}", free_port());
        seeded.fixture.reach(&address);
        let registryd = Registryd::start(&seeded.fixture.conf, &["--listen", &address]);
        let login = Some(seeded.fixture.ada.clone());
        Place {
            address,
            login,
            registry: Registry::Direct { registryd, _seeded: Box::new(seeded) },
        }
    }

    fn nginx(seeded: Seeded, quay: &Path) -> Place {
        let Seeded { fixture, database, folder, cluster } = seeded;
        let stack = Stack::around(quay.to_owned(), "", fixture, folder, cluster);
        for capability in ["BASE", "AUTH", "PUSH"] {
            stack.set(&format!("ROUTE_OWNER_CAP_V2_{capability}=rust"));
        }
        stack.switch("rust");
        let address = stack.fixture.hostname.clone();
        let login = Some(stack.fixture.ada.clone());
        let registry = Registry::Nginx { stack: Box::new(stack), _database: database };
        Place { address, login, registry }
    }

    /// How many of the suite's requests went past registryd, to the stand-in for Python.
    pub fn handed_on(&self) -> usize {
        match &self.registry {
            Registry::Nginx { stack, .. } => stack.answered_by_python(REPO),
            Registry::Direct { .. } | Registry::Docker { .. } => 0,
        }
    }

    /// What the registry logged.
    pub fn log(&self) -> String {
        match &self.registry {
            Registry::Direct { registryd, .. } => registryd.logs(),
            Registry::Nginx { stack, .. } => stack.log(),
            Registry::Docker { .. } => String::new(),
        }
    }
}

/// A registry at rest. Fields are dropped in this order.
struct Seeded {
    fixture: Fixture,
    /// None on PostgreSQL, where it goes with the cluster.
    database: Option<Database>,
    folder: Folder,
    cluster: Cluster,
}

impl Seeded {
    const DATABASE: &str = "conformance";

    fn on_postgres() -> Seeded {
        let folder = Folder::new();
        let (storage, conf) = (folder.path().join("storage"), folder.path().join("conf"));
        for folder in [&storage, &conf] {
            fs::create_dir(folder).expect("our own folder");
        }
        let cluster = Cluster::start();
        let mut fixture = None;
        cluster.template(Seeded::DATABASE, |database| {
            let seeded = Fixture::seed(database.uri(), &storage, &conf, "registry.example");
            add_repositories(&seeded, database);
            fixture = Some(seeded);
        });
        let fixture = fixture.expect("a fresh cluster has no template");
        Seeded { fixture, database: None, folder, cluster }
    }

    fn on_sqlite() -> Seeded {
        let seeded = Seeded::on_postgres();
        let database = Database::carried(&seeded.cluster, Seeded::DATABASE);
        let fixture = seeded.fixture.moved(database.uri(), &seeded.fixture.conf);
        Seeded { fixture, database: Some(database), ..seeded }
    }
}

/// Those that the suite uses, in the organization that ada owns.
fn add_repositories(fixture: &Fixture, database: &postgres::Database) {
    let demo = database.sql("SELECT id FROM \"user\" WHERE username = 'demo'");
    let demo = demo.trim().parse().expect("the fixture has it");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut rows = Rows::more(database.uri(), &fixture.storage).await;
        for (name, visibility) in [(REPO, "private"), (SOURCE, "public")] {
            let id = rows.repository(demo, name, visibility, "image", 0).await;
            rows.permission(fixture.ada.id, id, "admin").await;
        }
        rows.commit().await;
    });
}
