//! Pulling: what clients see, what it costs, what is logged.

mod media_types;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join_all;
use reqwest::header::{ACCEPT, RANGE};
use reqwest::{Method, Response, StatusCode};

use crate::support::{Fixture, Image, Login, Registryd, World, http};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

/// A client with a token, or without.
struct Client<'a> {
    registryd: &'a Registryd,
    token: Option<String>,
}

impl<'a> Client<'a> {
    fn anonymous(registryd: &'a Registryd) -> Self {
        Self { registryd, token: None }
    }

    fn of(registryd: &'a Registryd, fixture: &Fixture, who: &Login, repo: &str) -> Self {
        Self { registryd, token: Some(fixture.token(Some(who), repo, &["pull"])) }
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = http().request(method, self.registryd.url(path));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path, &[(ACCEPT.as_str(), OCI)]).await
    }
}

fn by_tag(image: &Image) -> String {
    format!("/v2/{}/manifests/{}", image.repo, image.tag)
}

fn by_digest(image: &Image) -> String {
    format!("/v2/{}/manifests/{}", image.repo, image.manifest.digest)
}

fn blob(image: &Image, digest: &str) -> String {
    format!("/v2/{}/blobs/{digest}", image.repo)
}

fn header<'r>(response: &'r Response, name: &str) -> &'r str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

async fn code(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: serde_json::Value = response.json().await.unwrap();
    (status, body["errors"][0]["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_private_image_comes_byte_for_byte() {
    let world = World::new();
    let registryd = world.registryd();
    let image = &world.private;
    let client = Client::of(&registryd, &world, &world.puller, &image.repo);
    for path in [by_tag(image), by_digest(image)] {
        let response = client.get(&path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert_eq!(header(&response, "content-type"), OCI);
        assert_eq!(header(&response, "docker-content-digest"), image.manifest.digest);
        assert_eq!(response.bytes().await.unwrap(), image.manifest.bytes);
        let head = client.send(Method::HEAD, &path, &[(ACCEPT.as_str(), OCI)]).await;
        assert_eq!(head.status(), StatusCode::OK, "HEAD {path}");
        assert_eq!(header(&head, "content-length"), image.manifest.bytes.len().to_string());
    }
    for stored in &image.manifest.blobs {
        let response = client.get(&blob(image, &stored.digest)).await;
        assert_eq!(header(&response, "docker-content-digest"), stored.digest);
        assert_eq!(header(&response, "content-type"), "application/octet-stream");
        assert_eq!(header(&response, "cache-control"), "max-age=31536000");
        assert_eq!(response.bytes().await.unwrap(), stored.bytes);
        let head = client.send(Method::HEAD, &blob(image, &stored.digest), &[]).await;
        assert_eq!(header(&head, "content-length"), stored.bytes.len().to_string());
        assert_eq!(header(&head, "cache-control"), "max-age=31436000");
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_precisely() {
    let world = World::new();
    let registryd = world.registryd();
    let ada = |repo: &str| Client::of(&registryd, &world, &world.ada, repo);
    let absent = format!("sha256:{}", "0".repeat(64));
    for (repo, path, expected) in [
        ("demo/nope", "/v2/demo/nope/manifests/latest".to_owned(), (404, "NAME_UNKNOWN")),
        ("demo/nope", "/v2/demo/nope/tags/list".to_owned(), (404, "NAME_UNKNOWN")),
        ("demo/nope", format!("/v2/demo/nope/blobs/{absent}"), (404, "BLOB_UNKNOWN")),
        ("demo/private", "/v2/demo/private/manifests/nope".to_owned(), (404, "MANIFEST_UNKNOWN")),
        ("demo/private", format!("/v2/demo/private/manifests/{absent}"), (404, "MANIFEST_UNKNOWN")),
        ("demo/private", format!("/v2/demo/private/blobs/{absent}"), (404, "BLOB_UNKNOWN")),
        ("demo/private", "/v2/demo/private/blobs/sha512:abcd".to_owned(), (404, "BLOB_UNKNOWN")),
        (&world.expired.repo, by_tag(&world.expired), (404, "TAG_EXPIRED")),
        (&world.gone.repo, by_tag(&world.gone), (404, "NAME_UNKNOWN")),
        // No token at all: what exists and what does not look alike.
        ("", by_tag(&world.private), (401, "UNAUTHORIZED")),
        ("", "/v2/demo/nope/manifests/latest".to_owned(), (401, "UNAUTHORIZED")),
        ("demo/public", by_tag(&world.private), (401, "UNAUTHORIZED")),
    ] {
        let client = match repo {
            "" => Client::anonymous(&registryd),
            repo => ada(repo),
        };
        let (status, code) = code(client.get(&path).await).await;
        assert_eq!((status, code.as_str()), expected, "{path}");
    }
}

#[tokio::test]
async fn hidden_tags_keep_manifests_alive_but_have_no_name() {
    let world = World::new();
    let registryd = world.registryd();
    let image = &world.hidden;
    let client = Client::of(&registryd, &world, &world.ada, &image.repo);
    assert_eq!(client.get(&by_digest(image)).await.status(), StatusCode::OK);
    let listed: serde_json::Value =
        client.get(&format!("/v2/{}/tags/list", image.repo)).await.json().await.unwrap();
    let tags = listed["tags"].as_array().unwrap();
    assert!(!tags.is_empty() && tags.iter().all(|tag| *tag != image.tag.as_str()), "{listed}");
}

#[tokio::test]
async fn applications_are_never_served_as_images() {
    let world = World::new();
    let registryd = world.registryd();
    world.database.sql("UPDATE repository SET visibility_id = (SELECT id FROM visibility WHERE name = 'public') WHERE name = 'app'");
    let client = Client::anonymous(&registryd);
    let answer = code(client.get(&by_tag(&world.application)).await).await;
    assert_eq!(answer, (405, "UNSUPPORTED".to_owned()));
}

#[tokio::test]
async fn tags_are_listed_in_pages() {
    let world = World::new();
    let registryd = world.registryd();
    let client = Client::anonymous(&registryd);
    let path = "/v2/demo/public/tags/list";
    let few: serde_json::Value = client.get(path).await.json().await.unwrap();
    let few = few["tags"].as_array().unwrap().len();
    let insert = "WITH RECURSIVE numbers (n) AS ( \
            SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 250) \
        INSERT INTO tag (name, repository_id, manifest_id, lifetime_start_ms, tag_kind_id) \
        SELECT 'p' || n, t.repository_id, t.manifest_id, 1, t.tag_kind_id \
        FROM numbers, tag t JOIN repository r ON r.id = t.repository_id \
        WHERE r.name = 'public' AND t.name = 'latest'";
    world.database.sql(insert);
    let mut path = format!("{path}?n=100");
    let (mut all, mut pages) = (Vec::new(), 0);
    loop {
        let response = client.get(&path).await;
        let link = header(&response, "link").to_owned();
        let body: serde_json::Value = response.json().await.unwrap();
        assert_eq!(body["name"], "demo/public");
        all.extend(body["tags"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()));
        pages += 1;
        let Some(next) = link.strip_prefix('<').and_then(|l| l.strip_suffix(">; rel=\"next\""))
        else {
            break;
        };
        path = next.to_owned();
    }
    let mut sorted = all.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!((pages, sorted.len(), all.len()), (3, 250 + few, 250 + few));
    let none: serde_json::Value =
        client.get("/v2/demo/public/tags/list?n=0").await.json().await.unwrap();
    assert_eq!(none, serde_json::json!({"name": "demo/public", "tags": []}));
}

#[tokio::test]
async fn parts_of_a_blob() {
    let world = World::new();
    let registryd = world.registryd();
    let image = &world.public;
    let stored = &image.manifest.layers()[0];
    let (path, length) = (blob(image, &stored.digest), stored.bytes.len());
    let client = Client::anonymous(&registryd);
    let range =
        async |range: &str| client.send(Method::GET, &path, &[(RANGE.as_str(), range)]).await;

    let part = range("bytes=2-5").await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(header(&part, "content-range"), format!("bytes 2-5/{length}"));
    assert_eq!(part.bytes().await.unwrap(), stored.bytes.slice(2..6));

    let rest = range("bytes=-3").await;
    assert_eq!(rest.bytes().await.unwrap(), stored.bytes.slice(length - 3..));
    assert_eq!(range("bytes=0-1,3-4").await.status(), StatusCode::OK);
    assert_eq!(range("bytes=99999999-").await.status(), StatusCode::RANGE_NOT_SATISFIABLE);
}

#[tokio::test]
async fn a_cold_read_is_one_statement() {
    let world = World::new();
    let registryd = world.registryd();
    let image = &world.private;
    let client = Client::of(&registryd, &world, &world.ada, &image.repo);
    // Keys and lookup tables are read once a process, under names of their own.
    client.get(&by_tag(image)).await;
    for (route, path) in [
        ("manifest_by_tag", by_tag(image)),
        ("manifest_by_digest", by_digest(image)),
        ("blob", blob(image, &image.manifest.config().digest)),
        ("tags", format!("/v2/{}/tags/list", image.repo)),
    ] {
        let counts = || {
            let routes = ["enums", "service_keys", "token", "last_accessed", route];
            routes
                .map(|route| registryd.metric(&format!("db_statements_total{{route=\"{route}\"}}")))
        };
        let before = counts();
        assert_eq!(client.get(&path).await.status(), StatusCode::OK);
        let after = counts();
        assert_eq!(after[4] - before[4], 1.0, "{route}");
        assert_eq!(after[..4], before[..4], "{route}");
    }
}

/// A tag moves while many pull it: whoever asks after the move gets what it was moved to, and they
/// still share statements.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_from_before_its_question() {
    let world = Arc::new(World::new());
    let registryd = world.registryd();
    let image = &world.public;
    let url = registryd.url(&by_tag(image));
    let http = http();
    let pull = || async {
        let response = http.get(&url).header(ACCEPT, OCI).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        header(&response, "docker-content-digest").to_owned()
    };
    let over = AtomicBool::new(false);
    let asked = AtomicUsize::new(0);
    let crowd = async {
        while !over.load(Ordering::Relaxed) {
            join_all((0..20).map(|_| pull())).await;
            asked.fetch_add(20, Ordering::Relaxed);
        }
    };
    let moves = async {
        for round in 0..20 {
            let target = if round % 2 == 0 { &world.hidden } else { image };
            let digest = &target.manifest.digest;
            let sql = format!(
                "UPDATE tag SET manifest_id = (SELECT id FROM manifest WHERE digest = '{digest}' \
                     AND repository_id = {id}) WHERE name = '{tag}' AND repository_id = {id}",
                id = image.repo_id,
                tag = image.tag,
            );
            let world = world.clone();
            tokio::task::spawn_blocking(move || world.database.sql(&sql)).await.unwrap();
            let found = join_all((0..20).map(|_| pull())).await;
            asked.fetch_add(20, Ordering::Relaxed);
            assert!(found.iter().all(|found| found == digest), "{round}: {found:?}");
        }
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(crowd, moves);
    let statements = registryd.metric("db_statements_total{route=\"manifest_by_tag\"}");
    let asked = asked.into_inner() as f64;
    assert!(statements < asked, "{statements} statements for {asked} pulls");
}

#[tokio::test]
async fn many_pulls_share_a_commit_and_a_lone_one_has_its_own() {
    let world = World::new();
    let registryd = world.registryd();
    let image = &world.private;
    let batches = || registryd.metric("audit_batches_total{outcome=\"ok\"}");
    let client = Client::of(&registryd, &world, &world.ada, &image.repo);

    let before = batches();
    client.get(&by_digest(image)).await;
    assert_eq!(batches() - before, 1.0);

    let before = batches();
    let http = http();
    let token = client.token.as_ref().unwrap();
    let pulls =
        (0..200).map(|_| http.get(registryd.url(&by_digest(image))).bearer_auth(token).send());
    for answer in join_all(pulls).await {
        assert_eq!(answer.unwrap().status(), StatusCode::OK);
    }
    let commits = batches() - before;
    assert!(commits < 200.0, "{commits} commits for 200 pulls");
    let rows = world.database.sql("SELECT count(*) FROM logentry3");
    assert_eq!(rows.trim(), "201");
}

#[tokio::test]
async fn pulls_are_logged_as_quay_logs_them() {
    let world = World::new();
    let registryd = world.registryd();
    let image = &world.private;
    let robot = Client::of(&registryd, &world, &world.puller, &image.repo);
    let agent = [(ACCEPT.as_str(), OCI), ("user-agent", "skopeo/1.0 \"x\"")];
    robot.send(Method::HEAD, &by_tag(image), &agent).await;
    Client::anonymous(&registryd).get(&by_digest(&world.public)).await;
    world.database.sql("UPDATE \"user\" SET enabled = false WHERE username = 'ada'");
    let ada = Client::of(&registryd, &world, &world.ada, &image.repo);
    ada.send(Method::GET, &by_tag(image), &[(ACCEPT.as_str(), OCI), ("user-agent", "u")]).await;

    let rows = world.database.sql(
        "SELECT k.name, n.username, p.username, r.name, l.ip, l.metadata_json FROM logentry3 l \
         JOIN logentrykind k ON k.id = l.kind_id JOIN \"user\" n ON n.id = l.account_id \
         LEFT JOIN \"user\" p ON p.id = l.performer_id JOIN repository r ON r.id = l.repository_id \
         ORDER BY l.id",
    );
    let expected = [
        format!(
            "pull_repo|demo|demo+puller|private|127.0.0.1|{{\"repo\": \"private\", \"namespace\": \"demo\", \"user-agent\": \"skopeo/1.0 \\\"x\\\"\", \"tag\": \"{}\", \"mediaType\": \"{OCI}\", \"username\": \"demo+puller\", \"is_robot\": true}}",
            image.tag
        ),
        format!(
            "pull_repo|demo||public|127.0.0.1|{{\"repo\": \"public\", \"namespace\": \"demo\", \"user-agent\": \"\", \"manifest_digest\": \"{}\", \"mediaType\": \"{OCI}\"}}",
            world.public.manifest.digest
        ),
        // A disabled user is named but is no performer.
        format!(
            "pull_repo|demo||private|127.0.0.1|{{\"repo\": \"private\", \"namespace\": \"demo\", \"user-agent\": \"u\", \"tag\": \"{}\", \"mediaType\": \"{OCI}\", \"username\": \"ada\"}}",
            image.tag
        ),
    ];
    assert_eq!(rows.trim().lines().collect::<Vec<_>>(), expected);
}

/// Refused pulls are logged where the operator wants that, with who was refused.
#[tokio::test]
async fn refused_pulls_are_logged_as_quay_logs_them() {
    let mut world = World::new();
    world.configure("ACTION_LOG_AUDIT_PULL_FAILURES", true.into());
    let registryd = world.registryd_with(&["--behind-nginx"]);
    let bob = Client::of(&registryd, &world, &world.bob, "bob/other");
    for path in [by_tag(&world.private), by_digest(&world.private)] {
        assert_eq!(bob.get(&path).await.status(), StatusCode::UNAUTHORIZED);
    }
    let anonymous = Client::anonymous(&registryd);
    assert_eq!(anonymous.get(&by_tag(&world.private)).await.status(), StatusCode::UNAUTHORIZED);
    // Blobs and tags are not logged, nor is what is only missing; Python names another account
    // where there is no repository.
    let tags = "/v2/demo/private/tags/list";
    assert_eq!(anonymous.get(tags).await.status(), StatusCode::UNAUTHORIZED);
    let missing = anonymous.get("/v2/demo/public/manifests/missing").await;
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    let nowhere = anonymous.get("/v2/demo/nowhere/manifests/latest").await;
    assert_eq!(header(&nowhere, "x-accel-redirect"), "@quay_python");
    let rows = world.database.sql(
        "SELECT k.name, l.account_id, p.username, l.repository_id, l.metadata_json \
         FROM logentry3 l JOIN logentrykind k ON k.id = l.kind_id \
         LEFT JOIN \"user\" p ON p.id = l.performer_id ORDER BY l.id",
    );
    let demo = world.database.sql("SELECT id FROM \"user\" WHERE username = 'demo'");
    let row = |performer: &str, reference: &str| {
        format!(
            "pull_repo_failed|{demo}|{performer}|{}|{{\"namespace\": \"demo\", \"repo\": \"private\", \
             {reference}, \"message\": \"access to the requested resource is not authorized\"}}",
            world.private.repo_id
        )
    };
    let tag = format!("\"tag\": \"{}\"", world.private.tag);
    let digest = format!("\"manifest_digest\": \"{}\"", world.private.manifest.digest);
    let expected = [row("bob", &tag), row("bob", &digest), row("", &tag)];
    assert_eq!(rows.trim().lines().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn log_switches() {
    let image_path = |world: &World| by_tag(&world.public);
    for (key, value) in [
        ("DISABLED_FOR_PULL_LOGS", serde_json::json!(["demo"])),
        ("DISABLED_FOR_AUDIT_LOGS", serde_json::json!(["demo"])),
        ("FEATURE_DISABLE_PULL_LOGS_FOR_FREE_NAMESPACES", serde_json::json!(true)),
        ("REGISTRY_STATE", serde_json::json!("readonly")),
    ] {
        let mut world = World::new();
        world.configure(key, value);
        let registryd = world.registryd();
        let response = Client::anonymous(&registryd).get(&image_path(&world)).await;
        assert_eq!(response.status(), StatusCode::OK, "{key}");
        assert_eq!(world.database.sql("SELECT count(*) FROM logentry3").trim(), "0", "{key}");
    }
}

#[tokio::test]
async fn what_is_not_built_is_handed_back() {
    let mut world = World::new();
    world.configure("LOGS_MODEL", "splunk".into());
    let conversions = World::new();
    for (world, path, reason) in [
        (&world, by_tag(&world.public), "logs_model"),
        (&conversions, by_tag(&conversions.docker), "manifest_conversion"),
        (&conversions, "/v2/gr%C3%B6%C3%9Fe/app/tags/list".to_owned(), "repository_name"),
    ] {
        let declined = format!("quay_declined_total{{capability=\"V2_PULL\",reason=\"{reason}\"}}");
        for (args, status, redirect) in
            [(&[][..], 405, ""), (&["--behind-nginx"][..], 200, "@quay_python")]
        {
            let registryd = world.registryd_with(args);
            let response = Client::anonymous(&registryd).get(&path).await;
            assert_eq!(response.status().as_u16(), status, "{path}");
            assert_eq!(header(&response, "x-accel-redirect"), redirect, "{path}");
            let body = response.text().await.unwrap();
            assert_eq!(body.contains(reason), redirect.is_empty(), "{path}: {body}");
            assert_eq!(registryd.metric(&declined), 1.0, "{path}");
        }
    }
}

#[tokio::test]
async fn switches_of_the_whole_registry() {
    let abort = |message: &str| format!("{{\"error\": \"{message}\"}}");
    for (key, value, path, status, body) in [
        (
            "ACCOUNT_RECOVERY_MODE",
            true,
            "/v2/demo/public/tags/list",
            405,
            abort("Quay running for account recoveries only."),
        ),
        ("FEATURE_ADVERTISE_V2", false, "/v2/", 404, abort("Not Found")),
        (
            "FEATURE_ANONYMOUS_ACCESS",
            false,
            "/v2/auth?service=registry.example&scope=repository:demo/public:pull",
            401,
            abort("Anonymous access is not allowed"),
        ),
    ] {
        let mut world = World::new();
        world.configure(key, value.into());
        let registryd = world.registryd();
        let response = Client::anonymous(&registryd).get(path).await;
        assert_eq!(response.status().as_u16(), status, "{key}");
        assert_eq!(response.text().await.unwrap(), body, "{key}");
    }
    let mut world = World::new();
    world.configure("FEATURE_LIBRARY_SUPPORT", false.into());
    let registryd = world.registryd();
    let response = Client::anonymous(&registryd).get("/v2/public/tags/list").await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert!(response.text().await.unwrap().starts_with("<!doctype html>"));
}
