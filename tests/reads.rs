//! The catalog and referrers (contract §1.6.1, §1.6.3, §3.9).

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::support::{Login, Registryd, World, http};

async fn get(registryd: &Registryd, path: &str, token: Option<&str>) -> Response {
    let mut request = http().get(registryd.url(path));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    request.send().await.unwrap()
}

/// A page of the catalog, and where the next one is.
async fn page(registryd: &Registryd, path: &str, token: Option<&str>) -> (Vec<String>, String) {
    let response = get(registryd, path, token).await;
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    let link = response.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
    let next = link.unwrap_or_default().replace('<', "").replace(">; rel=\"next\"", "");
    let body: Value = response.json().await.unwrap();
    (serde_json::from_value(body["repositories"].clone()).unwrap(), next)
}

async fn catalog(registryd: &Registryd, world: &World, who: Option<&Login>) -> Vec<String> {
    let token = world.token(who, "demo/private", &["pull"]);
    page(registryd, "/v2/_catalog", Some(&token)).await.0
}

#[tokio::test]
async fn everybody_sees_what_is_theirs() {
    let mut world = World::new();
    // Of every repository of demo that is alive and holds images.
    let of_ada = ["public", "private", "broken", "readonly", "nested/deep/repo"];
    let of_ada: Vec<String> = of_ada.iter().map(|name| format!("demo/{name}")).collect();
    let public = ["demo/public", "demo/broken", "zoe/stuff"];
    let nobody: [String; 0] = [];
    let registryd = world.registryd();
    let mut seen = catalog(&registryd, &world, Some(&world.ada)).await;
    seen.sort();
    let mut expected = of_ada.clone();
    expected.sort();
    assert_eq!(seen, expected);
    assert_eq!(catalog(&registryd, &world, Some(&world.puller)).await, ["demo/private"]);
    assert_eq!(catalog(&registryd, &world, Some(&world.bob)).await, nobody);
    assert_eq!(catalog(&registryd, &world, None).await, nobody);
    assert_eq!(page(&registryd, "/v2/_catalog", None).await.0, nobody);
    world.database.sql("UPDATE \"user\" SET enabled = false WHERE username = 'ada'");
    assert_eq!(catalog(&registryd, &world, Some(&world.ada)).await, nobody);
    world.database.sql("UPDATE \"user\" SET enabled = true WHERE username = 'ada'");
    drop(registryd);

    world.configure("FEATURE_PUBLIC_CATALOG", true.into());
    let registryd = world.registryd();
    for who in [None, Some(&world.bob)] {
        let seen = catalog(&registryd, &world, who).await;
        assert!(public.iter().all(|name| seen.contains(&(*name).to_owned())), "{seen:?}");
        assert!(!seen.contains(&"demo/private".to_owned()), "{seen:?}");
        // Neither another kind, nor what is marked for deletion.
        assert!(!seen.iter().any(|name| name == "demo/app" || name == "demo/gone"), "{seen:?}");
    }
    drop(registryd);

    world.configure("GLOBAL_READONLY_SUPER_USERS", json!(["bob"]));
    let registryd = world.registryd();
    let all = catalog(&registryd, &world, Some(&world.bob)).await;
    assert!(of_ada.iter().all(|name| all.contains(name)), "{all:?}");
}

#[tokio::test]
async fn pages_follow_each_other() {
    let world = World::new();
    let registryd = world.registryd();
    // Names in which LIKE would see more than letters.
    world.database.sql(&format!(
        "WITH names (odd) AS (VALUES ('a_b'), ('a%b'), ('a\\b')) \
         INSERT INTO repository (namespace_user_id, name, visibility_id, badge_token, kind_id, \
             trust_enabled, state) \
         SELECT {0}, odd, v.id, odd, k.id, false, 0 FROM visibility v, repositorykind k, names \
         WHERE v.name = 'private' AND k.name = 'image'; \
         INSERT INTO repositorypermission (user_id, repository_id, role_id) \
         SELECT {0}, r.id, o.id FROM repository r, role o \
         WHERE r.namespace_user_id = {0} AND o.name = 'admin'",
        world.bob.id
    ));
    let token = world.token(Some(&world.bob), "x/y", &[]);
    let (mut seen, mut path) = (Vec::new(), "/v2/_catalog?n=2".to_owned());
    while !path.is_empty() {
        let (names, next) = page(&registryd, &path, Some(&token)).await;
        assert!(names.len() <= 2);
        seen.extend(names);
        path = next;
    }
    assert_eq!(seen, ["bob/a_b", "bob/a%b", "bob/a\\b"]);
    // Whoever cannot read a token begins again; a name is no token.
    for (query, expected) in [
        ("n=1&last=bob/a_b", 1),
        ("n=0", 1),
        ("n=-7", 1),
        ("n=nan", 1),
        ("n=99999999999999999999", 3),
        ("n=3&next_page=gAAAAA", 3),
        ("n=3&next_page=%00", 3),
    ] {
        let (names, _) = page(&registryd, &format!("/v2/_catalog?{query}"), Some(&token)).await;
        assert_eq!((names.len(), names[0].as_str()), (expected, "bob/a_b"), "{query}");
    }
    let statements = || registryd.metric("db_statements_total{route=\"catalog\"}");
    let before = statements();
    page(&registryd, "/v2/_catalog", Some(&token)).await;
    // Who asks, and what they see.
    assert_eq!(statements() - before, 2.0);
    let head = http().head(registryd.url("/v2/_catalog")).bearer_auth(&token).send().await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
}

async fn referrers(registryd: &Registryd, world: &World, path: &str) -> (u16, String, Value) {
    let token = world.token(Some(&world.ada), "demo/public", &["pull"]);
    let path = format!("/v2/demo/public/referrers/{path}");
    let response = get(registryd, &path, Some(&token)).await;
    let applied = response.headers().get("oci-filters-applied");
    let applied = applied.map_or_else(String::new, |value| value.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    (status, applied, response.json().await.unwrap_or_default())
}

#[tokio::test]
async fn referrers_of_a_manifest() {
    let world = World::new();
    let registryd = world.registryd();
    let (subject, referrer) = (&world.public.manifest.digest, &world.referrer.manifest);
    let kind = referrer.artifact_type.as_deref().unwrap();
    let digests = |index: &Value| -> Vec<String> {
        let list = index["manifests"].as_array().unwrap();
        list.iter().map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect()
    };
    let (status, applied, index) = referrers(&registryd, &world, subject).await;
    assert_eq!((status, applied.as_str()), (200, ""));
    assert_eq!(digests(&index), [referrer.digest.as_str()]);
    assert_eq!(index["manifests"][0]["artifactType"], kind);
    assert_eq!(index["manifests"][0]["size"], referrer.bytes.len());

    let filter = |kind: &str| {
        let kind: String = form_urlencoded::byte_serialize(kind.as_bytes()).collect();
        format!("{subject}?artifactType={kind}")
    };
    let (_, applied, index) = referrers(&registryd, &world, &filter(kind)).await;
    assert_eq!((applied.as_str(), digests(&index).len()), ("artifactType", 1));
    for other in ["", "foo/bar", "%", "application/_"] {
        let (_, applied, index) = referrers(&registryd, &world, &filter(other)).await;
        assert_eq!((applied.as_str(), digests(&index).len()), ("artifactType", 0), "{other}");
    }
    let unknown = format!("sha256:{}", "0".repeat(64));
    let (status, _, index) = referrers(&registryd, &world, &unknown).await;
    assert_eq!((status, index["manifests"].clone()), (200, json!([])));

    // What older clients listed under a tag is listed too, once.
    let tag = subject.replace(':', "-");
    let list = json!({"schemaVersion": 2, "manifests": [
        {"digest": referrer.digest}, {"digest": world.docker.manifest.digest}, {"digest": unknown}
    ]});
    world.database.sql(&format!(
        "INSERT INTO manifest (repository_id, digest, media_type_id, manifest_bytes) \
         SELECT {0}, 'sha256:fa11', id, '{list}' FROM mediatype \
         WHERE name = 'application/vnd.oci.image.index.v1+json'; \
         INSERT INTO tag (name, repository_id, manifest_id, lifetime_start_ms, hidden, reversion, \
             immutable, tag_kind_id) \
         SELECT '{tag}', {0}, m.id, 0, false, false, false, k.id FROM manifest m, tagkind k \
         WHERE m.digest = 'sha256:fa11' AND k.name = 'tag'",
        world.public.repo_id
    ));
    let (_, _, index) = referrers(&registryd, &world, subject).await;
    assert_eq!(digests(&index), [&*referrer.digest, &*world.docker.manifest.digest]);
    let (_, _, index) = referrers(&registryd, &world, &filter(kind)).await;
    assert_eq!(digests(&index), [referrer.digest.as_str()]);
    world.database.sql(&format!("DELETE FROM tag WHERE name = '{tag}'"));

    // What would be too much to read at once is Python's.
    let double = "UPDATE manifest SET manifest_bytes = manifest_bytes || manifest_bytes \
        WHERE subject IS NOT NULL AND length(manifest_bytes) <= 16777216;";
    let kept = world.database.sql("SELECT manifest_bytes FROM manifest WHERE subject IS NOT NULL");
    world.database.sql(&double.repeat(24));
    let (status, _, error) = referrers(&registryd, &world, subject).await;
    assert_eq!(status, 405, "{error}");
    assert!(error.to_string().contains("many_referrers"), "{error}");
    world
        .database
        .sql(&format!("UPDATE manifest SET manifest_bytes = '{kept}' WHERE subject IS NOT NULL"));
    // A digest of another kind is one of a manifest that is not there.
    let (status, _, index) = referrers(&registryd, &world, "sha512:0a").await;
    assert_eq!((status, index["manifests"].clone()), (200, json!([])));

    let statements = || registryd.metric("db_statements_total{route=\"referrers\"}");
    let before = statements();
    referrers(&registryd, &world, subject).await;
    assert_eq!(statements() - before, 1.0);
}

#[tokio::test]
async fn referrers_are_as_private_as_their_repository() {
    let mut world = World::new();
    let registryd = world.registryd();
    let digest = world.private.manifest.digest.clone();
    let of = |repo: &str| format!("/v2/{repo}/referrers/{digest}");
    let refused = get(&registryd, &of("demo/private"), None).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let missing = get(&registryd, &of("demo/missing"), None).await;
    assert_eq!(missing.status(), StatusCode::UNAUTHORIZED);
    let token = world.token(Some(&world.ada), "demo/missing", &["pull"]);
    let missing = get(&registryd, &of("demo/missing"), Some(&token)).await;
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    drop(registryd);
    world.configure("FEATURE_REFERRERS_API", false.into());
    let registryd = world.registryd();
    let off = get(&registryd, &of("demo/public"), None).await;
    assert_eq!(off.status(), StatusCode::NOT_FOUND);
    assert_eq!(off.json::<Value>().await.unwrap(), json!({"error": "Not Found"}));
}
