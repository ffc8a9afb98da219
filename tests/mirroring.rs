//! Repositories that follow another registry: the worker and the command, against Debian's
//! docker-registry.

mod admin;
mod crashes;
mod faults;
mod midway;
mod organizations;
mod referrers;
mod rules;
mod scale;
mod siblings;
pub mod source;
mod swaps;
mod syncs;
mod wire;
mod worker;

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::images::Manifest;
use crate::support::registryd::program;
use crate::support::{Login, World, mirror_rows};
use source::Source;

/// A registry whose repository `demo/mirror` follows `team/app` of a source.
pub struct Mirrored {
    pub world: World,
    pub source: Source,
    pub robot: Login,
    pub repository_id: i32,
}

/// As Quay's API does it (contract §7.2).
pub const SYNC_NOW: &str = "UPDATE repomirrorconfig SET sync_status = 3, \
    sync_expiration_date = NULL, sync_retries_remaining = 3, sync_transaction_id = 'sync-now'";

impl Mirrored {
    /// Enabled, due, of every tag that `globs` mean.
    pub fn new(globs: &[&str]) -> Mirrored {
        let mut world = World::with_own_storage();
        let source = Source::start();
        world.configure("FEATURE_REPO_MIRROR", json!(true));
        world.configure("SSRF_ALLOWED_HOSTS", json!(["127.0.0.0/8"]));
        let robot = world.puller.clone();
        let sql = |statements: &str| world.database.sql(statements);
        mirror_rows::add_kinds(sql);
        let repository_id = mirror_rows::add(sql, "mirror", &source.reference(), globs, robot.id);
        Mirrored { world, source, robot, repository_id }
    }

    pub fn sql(&self, statements: &str) -> String {
        self.world.database.sql(statements)
    }

    /// Has it follow another source, `host:port/path`.
    pub fn follow(&self, reference: &str) {
        self.sql(&format!("UPDATE repomirrorconfig SET external_reference = '{reference}'"));
    }

    /// What a dry run prints of it.
    pub fn plan(&self) -> Value {
        let output = self.quay(&["sync"], &["demo/mirror", "--dry-run", "--json"]);
        let words = text(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {words}"))
    }

    /// `quay mirror sync demo/mirror --json`, to its end.
    pub fn sync(&self) -> Value {
        self.sync_of("demo/mirror")
    }

    /// The same for another mirror.
    pub fn sync_of(&self, name: &str) -> Value {
        let output = self.quay(&["sync"], &[name, "--json"]);
        let (out, log) = (text(&output.stdout), text(&output.stderr));
        let report = serde_json::from_str(&out);
        report.unwrap_or_else(|error| panic!("{error}: {out}\n{log}"))
    }

    pub fn quay(&self, command: &[&str], arguments: &[&str]) -> Output {
        Command::new(program())
            .arg("mirror")
            .args(command)
            .arg("--config")
            .arg(&self.world.conf)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("the binary of this build")
    }

    /// The alive tags that users see, with their digests.
    pub fn tags(&self) -> Vec<(String, String)> {
        let rows = self.sql(&format!(
            "SELECT t.name, m.digest FROM tag t JOIN manifest m ON m.id = t.manifest_id \
             WHERE t.repository_id = {} AND NOT t.hidden AND t.lifetime_end_ms IS NULL",
            self.repository_id
        ));
        let pair = |line: &str| {
            let (name, digest) = line.split_once('|').expect("two columns");
            (name.to_owned(), digest.to_owned())
        };
        let mut tags: Vec<_> = rows.lines().map(pair).collect();
        // Not every database knows the order of bytes.
        tags.sort();
        tags
    }

    /// Kind, verb, tag and message of what the action log has of the mirror, in order.
    pub fn log(&self) -> Vec<(String, Value)> {
        let rows = self.sql(&format!(
            "SELECT k.name, l.metadata_json FROM logentry3 l \
             JOIN logentrykind k ON k.id = l.kind_id WHERE l.repository_id = {} ORDER BY l.id",
            self.repository_id
        ));
        let row = |line: &str| {
            let (kind, metadata) = line.split_once('|').expect("two columns");
            (kind.to_owned(), serde_json::from_str(metadata).expect("JSON"))
        };
        rows.lines().map(row).collect()
    }

    pub fn kinds(&self) -> Vec<String> {
        self.log().into_iter().map(|(kind, _)| kind).collect()
    }

    /// Names and digests of the alive tags, as they should be.
    pub fn has(&self, expected: &[(&str, &Manifest)]) -> bool {
        let expected: Vec<(String, String)> = expected
            .iter()
            .map(|(tag, manifest)| ((*tag).to_owned(), manifest.digest.clone()))
            .collect();
        self.tags() == expected
    }

    /// `sync_status|sync_retries_remaining`
    pub fn state(&self) -> String {
        self.sql("SELECT sync_status, sync_retries_remaining FROM repomirrorconfig")
            .trim()
            .to_owned()
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
