//! The rows that a push or a deletion leaves are those that Quay left for the same one: the manifests
//! that were recorded, to the byte, pushed and deleted in the recorded order, and then every column
//! of every row that came, and every tag that ended.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::audit::{basic, renewed_to_push, section, token};
use super::columns::{
    How::{self, End, Number, Of, Truth},
    Row, TABLES, lives, parsed,
};
use super::installation::Installation;
use super::recording::{exchanges, read};
use super::{unrecorded, wire};
use crate::support::Registryd;
use crate::support::images::digest_of;

/// Every difference: in which operation, what, and why.
const DIFFERENT: [(&str, &str, &str); 1] = [(
    "delete image that has a cosign style tag",
    "one more ended: $temp",
    "Quay leaves the tag that keeps a pushed image for five minutes, and so answers 404 to the \
     deletion of what nothing else keeps (exchange 663)",
)];

/// Recorded pushes and deletions that are not made here, and why.
const NOT_MADE: [(&str, &str); 3] = [
    ("push manifest invalid json", "nothing was written; the recorded exchanges have its answer"),
    ("QUOTA: push manifest new tag", "with quotas, pushes are Python's (README)"),
    ("QUOTA: delete tag", "the same"),
];

/// What is put behind the bytes that the record cut off: the digests say that it is right.
const ENDS: [(&str, &str); 3] = [
    (
        "push index",
        r#"7a7124f79211af925622ed7da5f40fb2b3d498","platform":{"architecture":"arm64","os":"linux"}}]}"#,
    ),
    (
        "push artifact with subject by digest",
        r#"f"}],"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":402,"digest":"sha256:b30059f71f20925ff434fcd0e95811ff97f8e0719ad05f80d9c387e4d924ad59"},"annotations":{"a":"b"}}"#,
    ),
    (
        "push manifest with annotations",
        r#"],"annotations":{"quay.expires-after":"3h","org.x":"y"}}"#,
    ),
];

type Rows = BTreeMap<&'static str, Vec<Row>>;

/// What one operation did: rows that came, and the numbers of tags that ended, with when.
#[derive(Debug)]
struct Effects {
    came: Rows,
    ended: Vec<(String, String)>,
}

/// Which number here stands for which of the record.
#[derive(Default)]
struct Numbers(BTreeMap<(&'static str, String), String>);

impl Numbers {
    /// Whether it does, or may.
    fn may(&self, table: &'static str, theirs: &str, ours: &str) -> bool {
        match self.0.get(&(table, theirs.to_owned())) {
            Some(known) => known == ours,
            None => !self.0.iter().any(|((of, _), known)| *of == table && known == ours),
        }
    }

    fn note(&mut self, table: &'static str, theirs: &str, ours: &str) {
        self.0.insert((table, theirs.to_owned()), ours.to_owned());
    }
}

/// Who asks.
struct Tokens {
    robot: String,
    user: String,
    app: String,
    oauth: String,
}

/// A push of a manifest that was recorded, or a deletion.
struct Operation<'a> {
    name: &'static str,
    as_whom: &'a str,
    method: &'static str,
    reference: String,
    body: String,
}

#[test]
fn rows_of_changes_are_quays() {
    let Some(installation) = Installation::restore() else { return };
    let effects = read(&installation.data.join("db-effects.md"));
    let plain = installation.registryd(&[], None);
    let recorded = exchanges(&installation.data);
    let scratch = "acme/scratch";
    let log_in = |login| token(&plain, &basic(&installation, login), scratch, "pull,push");
    let tokens = Tokens {
        robot: log_in("acme+ci"),
        user: log_in("admin"),
        // Logins of these kinds are Python's, their tokens are served here.
        app: renewed_to_push(&installation, &recorded, 31, scratch),
        oauth: renewed_to_push(&installation, &recorded, 32, scratch),
    };
    let operations = operations(&effects, &tokens);
    let mut made: Vec<&str> = operations.iter().map(|operation| operation.name).collect();

    let mut comparison = Comparison::new(&installation, &effects);
    for operation in &operations {
        match operation.name {
            "push manifest with repo_push webhook notification configured" => {
                installation.database.sql(WATCHED);
                comparison.of(&plain, operation);
                installation.database.sql("DELETE FROM repositorynotification");
            }
            _ => comparison.of(&plain, operation),
        }
    }
    drop(plain);
    for (name, settings, tag) in [
        ("REPLICATION: push manifest new tag", "FEATURE_STORAGE_REPLICATION", "rep"),
        ("RESET_CHILD: push index", "RESET_CHILD_MANIFEST_EXPIRATION", "rcidx"),
    ] {
        let registryd = installation.registryd(&[], Some(&json!({settings: true}).to_string()));
        let body = manifest(&effects, name);
        if name.starts_with("RESET_CHILD") {
            store_child_of(&installation, &body);
        }
        let (method, reference) = ("PUT", tag.to_owned());
        let operation = Operation { name, as_whom: &tokens.user, method, reference, body };
        comparison.of(&registryd, &operation);
        made.push(name);
    }
    comparison.finish();
    let wanted = effects.lines().filter_map(|line| line.strip_prefix("## ")).filter(|name| {
        // Variants have a word before the colon.
        let what = name.rsplit(": ").next().unwrap_or(name);
        ["push ", "tag move ", "delete "].iter().any(|change| what.starts_with(change))
    });
    for name in wanted {
        let left_out = NOT_MADE.iter().any(|(left_out, _)| *left_out == name);
        assert!(left_out || made.contains(&name), "{name} is neither compared nor left out");
    }
}

/// Those of a registry with the settings of the record, in its order: each finds what those before it
/// left.
fn operations<'a>(effects: &str, tokens: &'a Tokens) -> Vec<Operation<'a>> {
    let one = digest_of(manifest(effects, "push manifest new tag").as_bytes());
    let by_user = digest_of(manifest(effects, FIRST_BY_USER).as_bytes());
    let cosign = format!("{}.sig", by_user.replace(':', "-"));
    let artifact = "push artifact with subject by digest";
    let of_artifact = digest_of(manifest(effects, artifact).as_bytes());
    let (robot, user) = (tokens.robot.as_str(), tokens.user.as_str());
    // The operation, who asks, under what name, and whose manifest; none is a deletion.
    [
        ("push manifest new tag", robot, "fy1", "push manifest new tag"),
        ("push same manifest same tag again", robot, "fy1", "push manifest new tag"),
        ("push same manifest second tag", robot, "fy2", "push manifest new tag"),
        ("push manifest by digest", robot, &one, "push manifest new tag"),
        ("tag move to new manifest", robot, "fy1", "tag move to new manifest"),
        ("tag move back to old manifest", robot, "fy1", "push manifest new tag"),
        (EXPIRING, robot, "fyexp", EXPIRING),
        ("push index", robot, "fyidx", "push index"),
        (artifact, robot, &of_artifact, artifact),
        ("delete tag", robot, "fy2", ""),
        ("push tag after delete revive", robot, "fy2", "push manifest new tag"),
        ("delete manifest by digest with two tags", robot, &one, ""),
        (FIRST_BY_USER, user, "u1", FIRST_BY_USER),
        ("delete tag by user", user, "u1", ""),
        ("push manifest by app token", &tokens.app, "u2", FIRST_BY_USER),
        ("push manifest by oauth token", &tokens.oauth, "u3", FIRST_BY_USER),
        ("push manifest with repo_push webhook notification configured", user, "u4", FIRST_BY_USER),
        (TWO_LABELS, user, "u5a", TWO_LABELS),
        ("push third tag of expiring manifest already existing", user, "u5b", TWO_LABELS),
        (INVALID, user, "u6", INVALID),
        ("push manifest with annotations", user, "u7", "push manifest with annotations"),
        ("push cosign style tag", user, &cosign, "push manifest with annotations"),
        ("delete image that has a cosign style tag", user, &by_user, ""),
    ]
    .into_iter()
    .map(|(name, as_whom, reference, of)| Operation {
        name,
        as_whom,
        method: if of.is_empty() { "DELETE" } else { "PUT" },
        reference: reference.to_owned(),
        body: if of.is_empty() { String::new() } else { manifest(effects, of) },
    })
    .collect()
}

const FIRST_BY_USER: &str = "push manifest new tag by user (redis events)";
const EXPIRING: &str = "push manifest with quay.expires-after label";
const TWO_LABELS: &str = "push second tag of expiring manifest";
const INVALID: &str = "push manifest with invalid quay.expires-after";

/// The labels in the configs, of which the record has no bytes.
fn labels(operation: &str) -> Value {
    match operation {
        "push manifest new tag" => json!({"maintainer": "fx", "com.example.k": "v"}),
        EXPIRING => json!({"quay.expires-after": "1h"}),
        TWO_LABELS => json!({"quay.expires-after": "2h", "quay.immutable": "true"}),
        INVALID => json!({"quay.expires-after": "soon"}),
        _ => json!({}),
    }
}

/// Somebody wants to be told of pushes.
const WATCHED: &str = "INSERT INTO repositorynotification
         (uuid, repository_id, event_id, method_id, config_json, event_config_json, title,
          number_of_failures)
     SELECT '11111111-1111-1111-1111-111111111111', r.id, e.id, m.id, '{}', '{}', '', 0
     FROM repository r, externalnotificationevent e, externalnotificationmethod m
     WHERE r.id = 6 AND e.name = 'repo_push' AND m.name = 'webhook'";

/// The one child of an index, which was pushed unrecorded: with a tag, and its bytes unknown.
fn store_child_of(installation: &Installation, index: &str) {
    let index: Value = serde_json::from_str(index).expect("an index");
    let child = &index["manifests"][0];
    let (digest, media_type) = (&child["digest"], &child["mediaType"]);
    let length = child["size"].as_u64().expect("a size");
    let now = chrono::Utc::now().timestamp_millis();
    installation.database.sql(&format!(
        "INSERT INTO manifest (repository_id, digest, media_type_id, manifest_bytes,
             subject_backfilled, artifact_type_backfilled)
             SELECT 6, '{}', id, '{}', true, true FROM mediatype WHERE name = '{}';
         INSERT INTO tag (name, repository_id, manifest_id, lifetime_start_ms, hidden, reversion,
             immutable, tag_kind_id)
             SELECT 'rcchild', 6, m.id, {now}, false, false, false, k.id
             FROM manifest m, tagkind k WHERE m.digest = '{0}' AND k.name = 'tag'",
        digest.as_str().expect("a digest"),
        " ".repeat(usize::try_from(length).expect("a small manifest")),
        media_type.as_str().expect("a type"),
    ));
}

/// The manifest that an operation stored.
fn manifest(effects: &str, operation: &str) -> String {
    let section = section(effects, operation);
    let row = section.lines().find_map(|line| line.strip_prefix("- INSERT `manifest`: "));
    let columns = parsed(row.expect("a manifest"), TABLES[1].1);
    let (digest, bytes) = (&columns[2], &columns[4]);
    let bytes = whole(operation, bytes);
    assert_eq!(digest_of(bytes.as_bytes()), *digest, "{operation}: not what was pushed");
    bytes
}

/// The record cuts long texts off, and says how long they were.
fn whole(operation: &str, recorded: &str) -> String {
    let Some((begin, length)) = recorded.split_once('…') else { return recorded.to_owned() };
    let (_, end) = ENDS.iter().find(|(of, _)| *of == operation).expect(operation);
    assert_eq!(length, format!("({} chars)", begin.len() + end.len()), "{operation}");
    format!("{begin}{end}")
}

/// What the record says of an operation.
fn of_quay(section: &str) -> Effects {
    let mut effects = Effects { came: Rows::new(), ended: Vec::new() };
    for line in section.lines() {
        if let Some(update) = line.strip_prefix("- UPDATE `tag` id=") {
            let (id, change) = update.split_once(": lifetime_end_ms: ").expect("an end");
            let end = change.rsplit(" → ").next().expect("a time");
            effects.ended.push((id.to_owned(), end.to_owned()));
        } else if let Some(insert) = line.strip_prefix("- INSERT `") {
            let (table, text) = insert.split_once("`: ").expect("a row");
            let known = TABLES.iter().find(|(name, _)| *name == table);
            let (table, columns) = known.unwrap_or_else(|| panic!("{table} is not compared"));
            effects.came.entry(table).or_default().push(parsed(text, columns));
        } else {
            let change = ["- UPDATE", "- DELETE"].iter().any(|change| line.starts_with(change));
            assert!(!change, "not compared: {line}");
        }
    }
    effects
}

struct Comparison<'a> {
    installation: &'a Installation,
    effects: &'a str,
    numbers: Numbers,
    differences: Vec<String>,
    explained: BTreeSet<&'static str>,
    rows: usize,
}

impl<'a> Comparison<'a> {
    fn new(installation: &'a Installation, effects: &'a str) -> Self {
        let (numbers, differences, explained) = Default::default();
        Self { installation, effects, numbers, differences, explained, rows: 0 }
    }

    /// Makes an operation, and compares what it did.
    fn of(&mut self, registryd: &Registryd, operation: &Operation<'_>) {
        let Operation { name, as_whom, method, reference, body } = operation;
        unrecorded::upload_all(self.installation, "acme/scratch", body, &labels(name));
        let before = self.state();
        let kind = if body.contains("\"manifests\"") { "index" } else { "manifest" };
        let content_type = format!("application/vnd.oci.image.{kind}.v1+json");
        let length = body.len().to_string();
        let headers = [
            ("Host", "localhost"),
            ("User-Agent", "containers/5.29 (github.com/containers/image)"),
            ("Authorization", as_whom),
            ("Content-Type", &content_type),
            ("Content-Length", &length),
        ];
        let path = format!("/v2/acme/scratch/manifests/{reference}");
        let answer = wire::send(registryd.base(), method, &path, headers, body.as_bytes());
        let expected = if *method == "PUT" { 201 } else { 202 };
        assert_eq!(answer.status, expected, "{name}: {}", answer.text());
        let ours = since(self.state(), &before);
        let theirs = of_quay(&section(self.effects, name));
        self.compare_moments(name, &theirs, &ours);
        self.compare(name, &theirs, ours);
    }

    fn state(&self) -> Rows {
        let rows = TABLES.iter().map(|(table, columns)| {
            let column = |(name, how): &(&str, How)| match how {
                Truth => format!("CASE WHEN {name} THEN 'true' ELSE 'false' END"),
                _ => format!("coalesce(CAST({name} AS text), 'null')"),
            };
            let columns: Vec<String> = columns.iter().map(column).collect();
            let query = format!("SELECT {} FROM {table} ORDER BY id", columns.join(", "));
            (*table, self.installation.rows(&query))
        });
        rows.collect()
    }

    fn compare(&mut self, operation: &str, theirs: &Effects, mut ours: Effects) {
        for (table, columns) in TABLES {
            let mut left = ours.came.remove(table).unwrap_or_default();
            for row in theirs.came.get(table).into_iter().flatten() {
                self.rows += 1;
                let found = left.iter().position(|ours| self.is(columns, table, row, ours));
                match found {
                    Some(found) => self.learn(columns, table, row, &left.remove(found)),
                    None => {
                        self.differ(operation, &format!("no such {table}: {row:?} in {left:?}"))
                    }
                }
            }
            for row in left {
                self.differ(operation, &format!("one more {table}: {row:?}"));
            }
        }
        for (id, _) in &theirs.ended {
            let here = self.numbers.0.get(&("tag", id.clone()));
            match ours.ended.iter().position(|(ours, _)| Some(ours) == here) {
                Some(at) => drop(ours.ended.remove(at)),
                None => self.differ(operation, &format!("tag {id} has not ended")),
            }
        }
        for (id, _) in &ours.ended {
            let name = "SELECT CASE WHEN hidden THEN substr(name, 1, 5) ELSE name END FROM tag";
            let name = self.installation.database.sql(&format!("{name} WHERE id = {id}"));
            self.differ(operation, &format!("one more ended: {name}"));
        }
    }

    /// All that end at once end at one moment, there and here.
    fn compare_moments(&mut self, operation: &str, theirs: &Effects, ours: &Effects) {
        let moments = |effects: &Effects| {
            effects.ended.iter().map(|(_, end)| end.clone()).collect::<BTreeSet<_>>().len()
        };
        if moments(theirs) != moments(ours) {
            self.differ(operation, &format!("ended at {:?}", ours.ended));
        }
    }

    fn differ(&mut self, operation: &str, what: &str) {
        match DIFFERENT.iter().find(|(of, known, _)| *of == operation && *known == what) {
            Some((_, _, reason)) => drop(self.explained.insert(reason)),
            None => self.differences.push(format!("{operation}: {what}")),
        }
    }

    /// Whether a row here is the recorded one.
    fn is(&self, columns: &[(&str, How)], table: &'static str, theirs: &Row, ours: &Row) -> bool {
        let start = columns.iter().position(|(name, _)| *name == "lifetime_start_ms");
        columns.iter().enumerate().all(|(at, (_, how))| match how {
            Number => self.numbers.may(table, &theirs[at], &ours[at]),
            Of(other) => self.numbers.may(other, &theirs[at], &ours[at]),
            End => {
                let start = start.expect("it has a beginning");
                lives(&theirs[start], &theirs[at]) == lives(&ours[start], &ours[at])
            }
            how => how.same(&theirs[at], &ours[at]),
        })
    }

    fn learn(&mut self, columns: &[(&str, How)], table: &'static str, theirs: &Row, ours: &Row) {
        for (at, (_, how)) in columns.iter().enumerate() {
            match how {
                Number => self.numbers.note(table, &theirs[at], &ours[at]),
                Of(other) => self.numbers.note(other, &theirs[at], &ours[at]),
                _ => {}
            }
        }
    }

    fn finish(self) {
        println!(
            "compared {} rows: {} differences, and {} with a reason",
            self.rows,
            self.differences.len(),
            self.explained.len()
        );
        assert!(self.differences.is_empty(), "{}", self.differences.join("\n"));
        assert_eq!(self.explained.len(), DIFFERENT.len(), "one is no more: {DIFFERENT:?}");
        assert!(self.rows >= 100, "the record has been read");
    }
}

fn since(after: Rows, before: &Rows) -> Effects {
    let mut effects = Effects { came: Rows::new(), ended: Vec::new() };
    for (table, rows) in after {
        let columns = TABLES.iter().find(|(name, _)| *name == table).expect("a table").1;
        let end = columns.iter().position(|(_, how)| matches!(how, End));
        for row in rows {
            match (before[table].iter().find(|old| old[0] == row[0]), end) {
                (Some(old), Some(end)) if old[end] != row[end] => {
                    effects.ended.push((row[0].clone(), row[end].clone()));
                }
                (Some(_), _) => {}
                (None, _) => effects.came.entry(table).or_default().push(row),
            }
        }
    }
    effects
}
