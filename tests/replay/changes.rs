//! The rows that a push or a delete leaves are those that Quay left for the same one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::audit::{basic, section, token};
use super::installation::Installation;
use super::recording::read;
use super::{unrecorded, wire};

/// Tables that pushes and deletes write to, apart from tags.
const TABLES: [&str; 8] = [
    "label",
    "logentry3",
    "manifest",
    "manifestblob",
    "manifestchild",
    "manifestlabel",
    "manifestsecuritystatus",
    "queueitem",
];

/// How many rows of each table came, what tags came, and how many ended.
#[derive(Debug, Default, PartialEq)]
struct Effects {
    rows: BTreeMap<String, usize>,
    /// Name (`$temp` for hidden ones), hidden, and how long it lives, in milliseconds.
    tags: Vec<(String, bool, Option<i64>)>,
    ended: usize,
}

/// In the order in which they were recorded: each finds what those before it left.
#[test]
fn rows_of_changes_are_quays() {
    let Some(installation) = Installation::restore() else { return };
    let effects = read(&installation.data.join("db-effects.md"));
    let registryd = installation.registryd(&[], None);
    let robot = token(&registryd, &basic(&installation, "acme+ci"), "acme/scratch", "pull,push");
    let manifest = |operation| recorded_manifest(&effects, operation);
    let one = manifest("push manifest new tag");
    let two = manifest("tag move to new manifest");
    let expiring = manifest("push manifest with quay.expires-after label");
    let labels = json!({"maintainer": "fx", "com.example.k": "v"});
    unrecorded::upload_all(&installation, "acme/scratch", &one, &labels);
    unrecorded::upload_all(&installation, "acme/scratch", &two, &json!({}));
    let labels = json!({"quay.expires-after": "1h"});
    unrecorded::upload_all(&installation, "acme/scratch", &expiring, &labels);
    let digest = crate::support::images::digest_of(one.as_bytes());
    // What it listed was cut off in the record.
    let index = index_of(&[&one, &two]);
    let operations = [
        ("push manifest new tag", "PUT", "fy1", one.as_str()),
        ("push same manifest same tag again", "PUT", "fy1", &one),
        ("push same manifest second tag", "PUT", "fy2", &one),
        ("push manifest by digest", "PUT", &digest, &one),
        ("tag move to new manifest", "PUT", "fy1", &two),
        ("tag move back to old manifest", "PUT", "fy1", &one),
        ("push manifest with quay.expires-after label", "PUT", "fyexp", &expiring),
        ("push index", "PUT", "fyidx", &index),
        ("delete tag", "DELETE", "fy2", ""),
        ("push tag after delete revive", "PUT", "fy2", &one),
        ("delete manifest by digest with two tags", "DELETE", &digest, ""),
    ];
    for (operation, method, reference, body) in operations {
        let before = State::of(&installation);
        let path = format!("/v2/acme/scratch/manifests/{reference}");
        let kind = if body == index { "index" } else { "manifest" };
        let content_type = format!("application/vnd.oci.image.{kind}.v1+json");
        let length = body.len().to_string();
        let headers = [
            ("Host", "localhost"),
            ("Authorization", &robot),
            ("Content-Type", &content_type),
            ("Content-Length", &length),
        ];
        let answer = wire::send(registryd.base(), method, &path, headers, body.as_bytes());
        let expected = if method == "PUT" { 201 } else { 202 };
        assert_eq!(answer.status, expected, "{operation}: {}", answer.text());
        let ours = State::of(&installation).since(&before);
        assert_eq!(ours, of_quay(&section(&effects, operation)), "{operation}");
    }
}

/// The manifest of an operation, which the record has whole if it is short.
fn recorded_manifest(effects: &str, operation: &str) -> String {
    let section = section(effects, operation);
    let start = section.split_once("manifest_bytes=").expect("a manifest").1;
    let end = start.find(", config_media_type=").expect("its end");
    start[..end].to_owned()
}

fn index_of(manifests: &[&str]) -> String {
    let entry = |text: &&str| {
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": text.len(),
            "digest": crate::support::images::digest_of(text.as_bytes())})
    };
    let entries: Vec<Value> = manifests.iter().map(entry).collect();
    json!({"schemaVersion": 2, "manifests": entries}).to_string()
}

/// What the record says.
fn of_quay(section: &str) -> Effects {
    let mut effects = Effects::default();
    for line in section.lines() {
        if line.starts_with("- UPDATE `tag`") {
            effects.ended += 1;
        }
        let Some((table, columns)) =
            line.strip_prefix("- INSERT `").and_then(|rest| rest.split_once("`: "))
        else {
            continue;
        };
        if table != "tag" {
            *effects.rows.entry(table.to_owned()).or_default() += 1;
            continue;
        }
        let column = |name: &str| {
            let mut columns = columns.split(", ");
            columns
                .find_map(|column| column.strip_prefix(name)?.strip_prefix('='))
                .expect("a column")
        };
        let ms = |name| column(name).parse::<i64>().ok();
        let lives =
            ms("lifetime_end_ms").zip(ms("lifetime_start_ms")).map(|(end, start)| end - start);
        effects.tags.push(named(column("name"), column("hidden") == "true", lives));
    }
    effects
}

fn named(name: &str, hidden: bool, lives: Option<i64>) -> (String, bool, Option<i64>) {
    (if hidden { &name[..5] } else { name }.to_owned(), hidden, lives)
}

struct State {
    counts: Vec<usize>,
    /// Id, name, hidden, start, end.
    tags: Vec<Vec<String>>,
}

impl State {
    fn of(installation: &Installation) -> State {
        let count = |table: &&str| {
            let count = installation.database.sql(&format!("SELECT count(*) FROM {table}"));
            count.parse().expect("a number")
        };
        let tags = installation.rows(
            "SELECT id, name, hidden, lifetime_start_ms, coalesce(lifetime_end_ms, -1)
             FROM tag ORDER BY id",
        );
        State { counts: TABLES.iter().map(count).collect(), tags }
    }

    fn since(&self, before: &State) -> Effects {
        let mut effects = Effects::default();
        for (index, table) in TABLES.iter().enumerate() {
            let came = self.counts[index] - before.counts[index];
            if came > 0 {
                effects.rows.insert((*table).to_owned(), came);
            }
        }
        for tag in &self.tags {
            match before.tags.iter().find(|old| old[0] == tag[0]) {
                Some(old) => effects.ended += usize::from(old[4] != tag[4]),
                None => {
                    let ms = |index: usize| tag[index].parse::<i64>().expect("milliseconds");
                    let lives = Some(ms(4)).filter(|end| *end >= 0).map(|end| end - ms(3));
                    effects.tags.push(named(&tag[1], tag[2] == "t", lives));
                }
            }
        }
        effects
    }
}
