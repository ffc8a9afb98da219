//! As much as is allowed, and more: long indexes, deep ones, large manifests, and documents that are
//! made to cost more than they weigh.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use super::refusals::{counts, told};
use super::{Pusher, Registryd, StatusCode, World, image, pusher};
use crate::support::images::{Manifest, OCI_INDEX, OCI_MANIFEST, digest_of};

const MIB: usize = 1 << 20;

/// The most that a manifest may have.
const LARGEST: usize = 4 * MIB;

/// Children of a long index.
const MANY: usize = 1000;

fn statements(registryd: &Registryd) -> f64 {
    registryd.metric("db_statements_total{route=\"manifest_by_tag\"}")
}

fn child_digest(number: usize) -> String {
    format!("sha256:{number:064}")
}

/// An index of children that are two bytes each, with these numbers.
fn index_of(numbers: impl Iterator<Item = usize>) -> String {
    let children: Vec<_> = numbers
        .map(|number| {
            json!({"mediaType": OCI_MANIFEST, "digest": child_digest(number), "size": 2,
                "platform": {"architecture": "amd64", "os": "linux"}})
        })
        .collect();
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}).to_string()
}

/// Such children, as rows: a push of each takes longer than the test is worth.
fn make_children(world: &World, from: usize, to: usize) {
    world.database.sql(&format!(
        "INSERT INTO manifest (repository_id, digest, media_type_id, manifest_bytes)
         WITH RECURSIVE n (i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i < {to})
         SELECT {}, 'sha256:' || substr('{}', 1, 64 - length(CAST(i AS text))) || i,
             m.id, '{{}}' FROM n, mediatype m WHERE m.name = '{OCI_MANIFEST}'",
        world.nested.repo_id,
        "0".repeat(64),
    ));
}

#[tokio::test]
async fn an_index_of_a_thousand_children() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    make_children(&world, 1, MANY);
    let body = index_of(1..=MANY);
    let before = statements(&registryd);
    let answer = pusher.put_manifest("large", OCI_INDEX, body.clone()).await;
    assert_eq!(answer.status(), StatusCode::CREATED, "{}", answer.text().await.unwrap());
    // As many as for an index of two: repository and performer; children; a free moment, what keeps
    // the children, the manifest, two counts, its children, scanner; what they obey, the old tag,
    // the new one; whom to notify. On PostgreSQL, the lock.
    let lock = if crate::support::on_sqlite() { 0.0 } else { 1.0 };
    assert_eq!(statements(&registryd) - before, 13.0 + lock);
    assert_eq!(
        world.database.sql(&format!(
            "SELECT count(*) FROM manifestchild c JOIN manifest m ON m.id = c.manifest_id
             WHERE m.digest = '{}'",
            digest_of(body.as_bytes())
        )),
        MANY.to_string()
    );
    // Each of them is kept until the index is.
    let kept = format!(
        "SELECT count(*) FROM tag WHERE hidden AND repository_id = {} AND lifetime_end_ms > 0",
        world.nested.repo_id
    );
    assert_eq!(world.database.sql(&kept), MANY.to_string());
    assert_eq!(pusher.manifest("large").await.unwrap().1, body.as_bytes());
    // Deleted as quickly.
    let before = statements(&registryd);
    assert_eq!(pusher.delete("large").await.status(), StatusCode::ACCEPTED);
    assert_eq!(statements(&registryd) - before, 6.0 + lock);
}

#[tokio::test]
async fn a_thousand_children_and_one_is_missing() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    make_children(&world, 1, MANY / 2);
    make_children(&world, MANY / 2 + 2, MANY);
    let before = counts(&world);
    let body = index_of(1..=MANY);
    let (status, code, detail) =
        told(pusher.put_manifest("large", OCI_INDEX, body.clone()).await).await;
    assert_eq!((status, code.as_str()), (400, "MANIFEST_INVALID"));
    let missing = child_digest(MANY / 2 + 1);
    let message = format!("Could not find child manifest with digest `{missing}`");
    assert_eq!(detail["message"], message);
    assert_eq!(counts(&world), before);
    // It arrives.
    make_children(&world, MANY / 2 + 1, MANY / 2 + 1);
    let answer = pusher.put_manifest("large", OCI_INDEX, body).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
}

/// As many entries as are read, all of them the same child: it is listed once.
#[tokio::test]
async fn one_child_ten_thousand_times() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    make_children(&world, 1, 1);
    let body = index_of(std::iter::repeat_n(1, 10_000));
    let answer = pusher.put_manifest("same", OCI_INDEX, body.clone()).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert_eq!(pusher.manifest("same").await.unwrap().1, body.as_bytes());
    assert_eq!(world.database.sql("SELECT count(*) FROM manifestchild"), "3", "two of the fixture");
    let longer = index_of(std::iter::repeat_n(1, 10_001));
    let (status, _, detail) = told(pusher.put_manifest("same", OCI_INDEX, longer).await).await;
    assert_eq!(status, 400);
    assert!(detail["message"].as_str().unwrap().contains("too many items"), "{detail}");
}

/// Each level costs what the first did, and is there.
#[tokio::test]
async fn indexes_in_indexes() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let mut levels = vec![image("the innermost")];
    pusher.prepare(&levels[0]).await;
    assert_eq!(pusher.put(&levels[0].digest, &levels[0]).await.status(), StatusCode::CREATED);
    let mut costs = Vec::new();
    for _ in 0..40 {
        let inner = levels.last().unwrap().clone();
        let outer = Manifest::index(vec![("amd64", Manifest { children: Vec::new(), ..inner })]);
        let before = statements(&registryd);
        let answer = pusher.put(&format!("level{}", levels.len()), &outer).await;
        assert_eq!(answer.status(), StatusCode::CREATED, "level {}", levels.len());
        costs.push(statements(&registryd) - before);
        levels.push(outer);
    }
    assert!(costs.iter().all(|cost| *cost == costs[0]), "{costs:?}");
    for level in &levels {
        assert_eq!(pusher.manifest(&level.digest).await.unwrap().1, level.bytes);
    }
    // One that lists itself cannot be made: its digest would have to be in it. One that lists what
    // is not there yet is refused at any depth.
    let unknown = Manifest::index(vec![("amd64", Manifest::index(Vec::new()))]);
    assert_eq!(pusher.put("unknown", &unknown).await.status(), 400);
}

/// Not spaces, but things to store: labels of all sizes.
#[tokio::test]
async fn four_mebibytes_of_annotations() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let plain = image("annotated");
    pusher.prepare(&plain).await;
    let annotated = |count: usize, length: usize| {
        let mut body: serde_json::Value = serde_json::from_slice(&plain.bytes).unwrap();
        let annotations: serde_json::Map<_, _> =
            (0..count).map(|i| (format!("org.example.{i}"), "x".repeat(length).into())).collect();
        body["annotations"] = annotations.into();
        let mut body = body.to_string().into_bytes();
        assert!(body.len() <= LARGEST, "{count} of {length}: {}", body.len());
        body.resize(LARGEST, b' ');
        body
    };
    for (tag, count, length) in [("many", 9_900, 390), ("long", 2, 2_000_000)] {
        let body = annotated(count, length);
        let before = statements(&registryd);
        let answer = pusher.put_manifest(tag, OCI_MANIFEST, body.clone()).await;
        assert_eq!(answer.status(), StatusCode::CREATED, "{}", answer.text().await.unwrap());
        let lock = if crate::support::on_sqlite() { 0.0 } else { 1.0 };
        assert_eq!(statements(&registryd) - before, 14.0 + lock, "{tag}");
        assert!(pusher.manifest(tag).await.unwrap().1 == body, "{tag}");
        let labels = world.database.sql(&format!(
            "SELECT count(*) FROM manifestlabel l JOIN manifest m ON m.id = l.manifest_id
             WHERE m.digest = '{}'",
            digest_of(&body)
        ));
        // And the one of its config.
        assert_eq!(labels, (count + 1).to_string(), "{tag}");
    }
}

/// Documents of a few bytes to 4 MiB that some parsers choke on.
fn bombs(image: &Manifest) -> Vec<(&'static str, Vec<u8>)> {
    let around = |inside: String| {
        let text = std::str::from_utf8(&image.bytes).unwrap();
        format!("{},\"bomb\":{inside}}}", text.strip_suffix('}').unwrap()).into_bytes()
    };
    let fill = LARGEST - 2000;
    let members = |name: &dyn Fn(usize) -> String| {
        let members: Vec<String> = (0..300_000).map(|i| format!("{}:0", name(i))).collect();
        let mut members = format!("{{{}}}", members.join(","));
        members.truncate(members.len().min(fill));
        members
    };
    let layers = |count: usize| {
        let mut body: serde_json::Value = serde_json::from_slice(&image.bytes).unwrap();
        let layer = body["layers"][0].clone();
        body["layers"] = std::iter::repeat_n(layer, count).collect();
        body.to_string().into_bytes()
    };
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&vec![b' '; 64 * MIB]).unwrap();
    vec![
        ("lists in lists", around("[".repeat(fill))),
        ("lists in lists, closed", around(format!("{0}{1}", "[".repeat(101), "]".repeat(101)))),
        ("objects in objects", around("{\"a\":".repeat(fill / 5))),
        ("an unfinished string of escapes", around(format!("\"{}", "\\\\".repeat(fill / 2)))),
        ("members of one name", members(&|_| "\"a\"".to_owned()).into_bytes()),
        ("members of many names", members(&|i| format!("\"{i}\"")).into_bytes()),
        ("a number without an end", around("9".repeat(fill)).split_last().unwrap().1.to_vec()),
        ("many layers", layers(10_001)),
        ("a pack of spaces", gzip.finish().unwrap()),
        ("nothing but spaces", vec![b' '; LARGEST]),
        ("zeros", vec![0; LARGEST]),
    ]
}

/// All of them at once; refused, and cheap.
#[tokio::test(flavor = "multi_thread")]
async fn documents_that_are_bombs() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let image = image("bombed");
    pusher.prepare(&image).await;
    let before = counts(&world);
    let (resting, _) = registryd.memory();
    let bombs = bombs(&image);
    join_all(bombs.iter().map(|(name, bytes)| throw(&pusher, name, bytes))).await;
    assert_eq!(counts(&world), before);
    let (_, peak) = registryd.memory();
    // Each body is held once, as bytes; what is made of it is bounded.
    let most = resting + (bombs.len() * LARGEST) as u64 * 3;
    assert!(peak < most, "{} MiB", peak >> 20);
    // It is well.
    assert_eq!(pusher.put("t", &image).await.status(), StatusCode::CREATED);
}

async fn throw(pusher: &Pusher<'_>, name: &str, bytes: &[u8]) {
    let headers = [("Content-Type", OCI_MANIFEST)];
    let answer = pusher.send(Method::PUT, "manifests/t", &headers, bytes.to_vec()).await;
    let (status, code, _) = told(answer).await;
    assert_eq!((status, code.as_str()), (400, "MANIFEST_INVALID"), "{name}");
}

/// What says that it is packed is not taken, whatever it is.
#[tokio::test]
async fn a_packed_manifest_is_none() {
    let world = World::with_own_storage();
    let registryd = world.registryd();
    let pusher = pusher(&registryd, &world);
    let image = image("packed");
    pusher.prepare(&image).await;
    let before = counts(&world);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&image.bytes).unwrap();
    let packed = gzip.finish().unwrap();
    for reference in ["t", &image.digest, &digest_of(&packed)] {
        let headers = [("Content-Type", OCI_MANIFEST), ("Content-Encoding", "gzip")];
        let path = format!("manifests/{reference}");
        let answer = pusher.send(Method::PUT, &path, &headers, packed.clone()).await;
        assert_eq!(told(answer).await.0, 415, "{reference}");
    }
    assert_eq!(counts(&world), before);
}
