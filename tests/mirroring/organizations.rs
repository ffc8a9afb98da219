//! Organizations that follow a namespace of another registry.

mod catalogue;
mod discovery;
mod repositories;
mod worker;

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::source::Source;
use super::text;
use crate::support::World;
use crate::support::images::{Blob, Manifest, OCI_LAYER};
use crate::support::keys::encrypt_field;
use crate::support::registryd::program;
use catalogue::{Api, Catalogue};

/// A registry whose empty organization `acme` follows `team` of another.
pub struct Following {
    pub world: World,
    pub source: Source,
    pub catalogue: Catalogue,
    /// `user.id` of `acme+mirror`.
    pub robot_id: i32,
}

/// Quay's names for what the log knows of such organizations.
const KINDS: [&str; 6] = [
    "org_mirror_sync_started",
    "org_mirror_sync_success",
    "org_mirror_sync_failed",
    "org_mirror_sync_cancelled",
    "org_mirror_repo_created",
    "org_mirror_repo_creation_failed",
];

impl Following {
    /// Enabled, due, without credentials and filters; what is made is private.
    pub fn new(api: Api) -> Following {
        let mut world = World::with_own_storage();
        let source = Source::start();
        let catalogue = Catalogue::of(api, source.0.port);
        world.configure("FEATURE_REPO_MIRROR", json!(true));
        world.configure("FEATURE_ORG_MIRROR", json!(true));
        world.configure("SSRF_ALLOWED_HOSTS", json!(["127.0.0.0/8"]));
        let sql = |statement: &str| world.database.sql(statement);
        for kind in KINDS {
            sql(&format!("INSERT INTO logentrykind (name) VALUES ('{kind}')"));
        }
        let account = |name: &str, organization: bool| -> i32 {
            let id = sql(&format!(
                "INSERT INTO \"user\" (uuid, username, email, verified, organization, robot, \
                     invoice_email, invalid_login_attempts, last_invalid_login, \
                     removed_tag_expiration_s, enabled, creation_date) \
                 VALUES ('{name}', '{name}', '{name}', false, {organization}, {}, false, 0, \
                     '2026-01-01 00:00:00', 1209600, true, '2026-01-01 00:00:00') RETURNING id",
                !organization
            ));
            id.trim().parse().unwrap()
        };
        let (organization, robot_id) = (account("acme", true), account("acme+mirror", false));
        let number = if api == Api::Harbor { 1 } else { 2 };
        sql(&format!(
            "INSERT INTO orgmirrorconfig (organization_id, creation_date, is_enabled, mirror_type, \
                 external_registry_type, external_registry_url, external_namespace, \
                 external_registry_config, internal_robot_id, repository_filters, visibility_id, \
                 delete_stale_repos, sync_interval, sync_start_date, sync_retries_remaining, \
                 sync_status, sync_transaction_id, skopeo_timeout, architecture_filter) \
             SELECT {organization}, '2026-01-01 00:00:00', true, 1, {number}, \
                 'http://127.0.0.1:{}', 'team', \
                 '{{\"verify_tls\": false, \"unsigned_images\": true}}', {robot_id}, '[]', id, \
                 false, 86400, '2026-01-01 00:00:00', 3, 0, 'old', 300, '[]' \
             FROM visibility WHERE name = 'private'",
            catalogue.port
        ));
        Following { world, source, catalogue, robot_id }
    }

    pub fn sql(&self, statements: &str) -> String {
        self.world.database.sql(statements).trim().to_owned()
    }

    /// Repositories of the source, each with one image at `latest`.
    pub fn shelve(&self, names: &[&str]) {
        for name in names {
            self.source.push_to(&format!("team/{name}"), "latest", &image(name));
        }
        self.catalogue.has(names);
    }

    /// Encrypted, as Quay's API stores them.
    pub fn credentials(&self, username: Option<&str>, password: &str) {
        let secret = self.world.settings["DATABASE_SECRET_KEY"].as_str().unwrap();
        let encrypted = |text: &str| format!("'{}'", encrypt_field(secret, text));
        self.sql(&format!(
            "UPDATE orgmirrorconfig SET external_registry_username = {}, \
                 external_registry_password = {}",
            username.map_or("NULL".to_owned(), encrypted),
            encrypted(password)
        ));
    }

    /// As Quay's API asks for a sync.
    pub fn sync_now(&self) {
        self.sql(
            "UPDATE orgmirrorconfig SET sync_status = 3, sync_expiration_date = NULL, \
                 sync_start_date = '2026-01-01 00:00:00', sync_retries_remaining = 3, \
                 sync_transaction_id = 'asked'",
        );
    }

    /// As Quay's API asks for the end of one.
    pub fn cancel(&self) {
        self.sql(
            "UPDATE orgmirrorconfig SET sync_status = -2, sync_retries_remaining = 0, \
                 sync_expiration_date = '2026-01-01 00:00:00', sync_transaction_id = 'cancelled'",
        );
    }

    /// `quay mirror sync acme --json`, to its end.
    pub fn sync(&self) -> Value {
        let output = self.quay("sync", &["acme", "--json"]);
        let (out, log) = (text(&output.stdout), text(&output.stderr));
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{log}"))
    }

    pub fn quay(&self, command: &str, arguments: &[&str]) -> Output {
        Command::new(program())
            .args(["mirror", command, "--config"])
            .arg(&self.world.conf)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("the binary of this build")
    }

    /// `sync_status|sync_retries_remaining` of the organization.
    pub fn state(&self) -> String {
        self.sql("SELECT sync_status, sync_retries_remaining FROM orgmirrorconfig")
    }

    /// Its repositories: name, status, retries, message.
    pub fn rows(&self) -> Vec<String> {
        let rows = self.sql(
            "SELECT repository_name, sync_status, sync_retries_remaining, \
                 coalesce(status_message, '-') \
             FROM orgmirrorrepository ORDER BY repository_name",
        );
        rows.lines().map(str::to_owned).collect()
    }

    /// What is here: repository, tag, digest.
    pub fn tags(&self) -> Vec<(String, String, String)> {
        let rows = self.sql(
            "SELECT r.name, t.name, m.digest FROM tag t \
             JOIN manifest m ON m.id = t.manifest_id \
             JOIN repository r ON r.id = t.repository_id \
             JOIN \"user\" n ON n.id = r.namespace_user_id \
             WHERE n.username = 'acme' AND NOT t.hidden AND t.lifetime_end_ms IS NULL \
             ORDER BY r.name, t.name",
        );
        rows.lines()
            .map(|line| match line.split('|').collect::<Vec<_>>()[..] {
                [repository, tag, digest] => (repository.into(), tag.into(), digest.into()),
                _ => panic!("{line}"),
            })
            .collect()
    }

    /// What the action log has of the organization: kind, whether its robot did it, metadata.
    pub fn log(&self) -> Vec<(String, bool, Value)> {
        let rows = self.sql(
            "SELECT k.name, coalesce(l.performer_id, 0), l.metadata_json FROM logentry3 l \
             JOIN logentrykind k ON k.id = l.kind_id JOIN \"user\" n ON n.id = l.account_id \
             WHERE n.username = 'acme' ORDER BY l.id",
        );
        rows.lines()
            .map(|line| match line.splitn(3, '|').collect::<Vec<_>>()[..] {
                [kind, performer, metadata] => (
                    kind.to_owned(),
                    performer == self.robot_id.to_string(),
                    serde_json::from_str(metadata).expect("JSON"),
                ),
                _ => panic!("{line}"),
            })
            .collect()
    }

    pub fn kinds(&self) -> Vec<String> {
        self.log().into_iter().map(|(kind, _, _)| kind).collect()
    }

    /// `host:port/team/repository` of the source.
    pub fn reference(&self, repository: &str) -> String {
        format!("127.0.0.1:{}/team/{repository}", self.catalogue.port)
    }
}

pub fn image(text: &str) -> Manifest {
    Manifest::oci("amd64", vec![Blob::layer(OCI_LAYER, &[("hello", text)])])
}
