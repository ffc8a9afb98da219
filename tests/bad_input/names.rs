//! Names, tags, digests and scopes: nothing but the thing itself is ever found.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn hex(target: &Target) -> &str {
    target.world.public.manifest.digest.strip_prefix("sha256:").unwrap()
}

#[test]
fn names_that_are_not_the_repository() {
    let target = Target::get();
    let long = "a".repeat(60_000);
    for name in [
        ".",
        "..",
        "%2e%2e",
        "../demo/public",
        "demo/../demo/public",
        "demo/..%2fdemo%2fpublic",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "demo/public%00",
        "demo%00/public",
        "demo/public%ff",
        "%ff%fe/public",
        "demo/public%0a",
        "demo/public%0d%0aX-Evil:%201",
        "demo/public%20",
        "demo/public%09",
        "demo/public.",
        "demo/public%5c",
        "demo%5cpublic",
        "demo/public;v=1",
        "demo/public%3fx",
        "demo%252Fpublic",
        "DEMO/public",
        "demo/Public",
        "dem_/public",
        "demo/publi_",
        "demo/%25",
        "%25/%25",
        "____/public",
        "demo/public'--",
        "demo/public%27%20OR%201=1--",
        "d%C3%A9mo/public",
        "demo/publi%D1%81",
        "%E2%80%AEdemo/public",
        "public",
        &long,
    ] {
        for rest in ["manifests/latest", "tags/list", "blobs/sha256:00", "blobs/uploads/"] {
            let path = format!("/v2/{name}/{rest}");
            let answer = target.ask(&get(&path));
            assert!((400..500).contains(&answer.status), "{path:.90}: {answer:?}");
            // Even for somebody whose token is for this very name.
            let token = target.token(Some(&target.world.ada), name);
            let answer = target.ask(&get(&path).with("Authorization", &token));
            assert!((400..500).contains(&answer.status), "{path:.90}: {answer:?}");
        }
    }
    // Other spellings of the same.
    for name in ["demo%2Fpublic", "demo%2fpublic", "%64emo/public", "demo/public/"] {
        let answer = target.ask(&get(&format!("/v2/{name}/tags/list")));
        let found = answer.status == 200 || answer.header("location").ends_with("/tags/list");
        assert!(found, "{name}: {answer:?}");
    }
    target.assert_well();
}

#[test]
fn tags_match_nothing_but_themselves() {
    let target = Target::get();
    target.world.database.sql(
        "WITH new (name) AS (VALUES ('w_1'), ('wx1'))
         INSERT INTO tag (name, repository_id, manifest_id, lifetime_start_ms, hidden, reversion,
                          immutable, tag_kind_id)
         SELECT new.name, repository_id, manifest_id, lifetime_start_ms, hidden, reversion,
                immutable, tag_kind_id
         FROM tag, new WHERE tag.name = 'v1'",
    );
    let pull = |tag: &str| target.ask(&get(&format!("/v2/demo/public/manifests/{tag}")));
    for tag in ["v1", "w_1", "wx1"] {
        assert_eq!(pull(tag).status, 200, "{tag}");
    }
    target.world.database.sql("DELETE FROM tag WHERE name = 'w_1'");
    let long = "a".repeat(129);
    for tag in [
        "w_1",
        "v_",
        "_1",
        "__",
        "v%25",
        "%25",
        "w%251",
        "w%5c_1",
        "V1",
        "v1%00",
        "v1%0a",
        "v1%0d%0aX-Evil:1",
        "v1%20",
        "%20v1",
        "v1'--",
        "v1;",
        ".v1",
        "-v1",
        "..",
        "%2e%2e",
        "v1%ff",
        "%ff",
        "v%EF%BC%91",
        "v1%E2%80%8B",
        "sha256:zz",
        "sha256:",
        ":",
        &long,
    ] {
        let answer = pull(tag);
        assert_eq!(answer.status, 404, "{tag}: {answer:?}");
    }
    target.assert_well();
}

#[test]
fn digests_that_nothing_has() {
    let target = Target::get();
    let hex = hex(target);
    let layer = &target.world.public.manifest.layers()[0].digest;
    let upper = layer.to_uppercase().replace("SHA256", "sha256");
    let traversal = format!("sha256:{}/../../../config.yaml", &layer[7..]);
    let table = [
        upper,
        layer.replace("sha256", "SHA256"),
        layer.replace("sha256", "sha512"),
        layer.replace("sha256:", "sha256:0"),
        layer[..70].to_owned(),
        format!("{layer}0"),
        format!("{layer}%00"),
        format!("{layer}%0a"),
        format!("{layer}%2f..%2f..%2fconfig.yaml"),
        traversal,
        "sha256:..".to_owned(),
        "sha256:%2e%2e%2f%2e%2e%2fquay.pem".to_owned(),
        "sha256:..%2f..%2f..%2f..%2fetc%2fpasswd".to_owned(),
        "sha256:%".to_owned(),
        "sha256:%25".to_owned(),
        "sha256:____".to_owned(),
        "md5:d41d8cd98f00b204e9800998ecf8427e".to_owned(),
        format!("sha512:{hex}{hex}"),
        format!("sha256:{}", "0".repeat(60_000)),
    ];
    for digest in &table {
        for kind in ["blobs", "manifests"] {
            for method in ["GET", "HEAD"] {
                let path = format!("/v2/demo/public/{kind}/{digest}");
                let answer = target.ask(&Request { method, ..get(&path) });
                assert!([400, 404, 405].contains(&answer.status), "{path:.150}: {answer:?}");
            }
        }
    }
    let endless = format!("/v2/demo/public/blobs/sha256:{}", "0".repeat(10 << 20));
    if let Some(answer) = target.send(&get(&endless).bytes()) {
        assert!((400..500).contains(&answer.status), "{answer:?}");
    }
    target.assert_well();
}

#[test]
fn pages_of_every_size() {
    let target = Target::get();
    for n in
        ["-1", "0", "1e9", "NaN", "99999999999999999999999", "%00", "%ff", "1%0d%0aX-Evil:1", ""]
    {
        for last in ["", "%00", "%ff", "%25", "_", "'--", "a%0d%0aX-Evil:1", &"z".repeat(20_000)] {
            let path = format!("/v2/demo/public/tags/list?n={n}&last={last}");
            let answer = target.ask(&get(&path));
            assert_eq!(answer.status, 200, "{path:.90}: {answer:?}");
            let page: Value = serde_json::from_slice(&answer.body).unwrap();
            assert!(page["tags"].as_array().unwrap().len() <= 100, "{path}: {page}");
        }
    }
    target.assert_well();
}

#[test]
fn scopes_that_ask_for_too_much() {
    let target = Target::get();
    let one = "&scope=repository:demo/private:pull";
    let long = "a".repeat(60_000);
    let ada = target.basic(&target.world.ada.username, &target.world.ada.password);
    for (query, expected) in [
        (one.repeat(50), 200),
        (one.repeat(51), 400),
        (one.repeat(1800), 400),
        (format!("&scope=repository:{long}:pull"), 400),
        ("&scope=repository:demo/private%00:pull".to_owned(), 400),
        ("&scope=repository:demo/private:pull%0a".to_owned(), 400),
        ("&scope=repository:demo/private:pull%0d%0aX-Evil:1".to_owned(), 400),
        ("&scope=repository:dem%C3%B6/private:pull".to_owned(), 400),
        ("&scope=repository:demo/%25:pull".to_owned(), 400),
        // Nobody's namespace, as any other that there is not.
        ("&scope=repository:../private:pull".to_owned(), 200),
        ("&scope=repository:demo/../private:pull".to_owned(), 400),
        ("&scope=%ff%fe".to_owned(), 400),
        ("&scope=registry:catalog:*".to_owned(), 400),
        ("&service=another.example".to_owned() + one, 400),
        ("&service=%0d%0aX-Evil:1".to_owned() + one, 400),
    ] {
        let path = format!("/v2/auth?{}", &query[1..]);
        let answer = target.ask(&get(&path).with("Authorization", &ada));
        assert_eq!(answer.status, expected, "{query:.90}: {answer:?}");
    }
    for query in ["", "scope=", "scope", "scope=&scope="] {
        let answer = target.ask(&get(&format!("/v2/auth?{query}")));
        assert_eq!(answer.status, 401, "{query}: {answer:?}");
    }
    let endless = format!("/v2/auth?scope=repository:{}:pull", "a".repeat(100_000));
    if let Some(answer) = target.send(&get(&endless).bytes()) {
        assert!((400..500).contains(&answer.status), "{answer:?}");
    }
    // A wildcard is a letter like any other: no rights, and nobody's.
    for name in ["dem_/private", "demo/privat_", "demo/p______"] {
        let path = format!("/v2/auth?scope=repository:{name}:pull");
        let puller = &target.world.puller;
        let robot = target.basic(&puller.username, &puller.password);
        let answer = target.ask(&get(&path).with("Authorization", &robot));
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        let token = body["token"].as_str().unwrap();
        target.bearer(token);
        let claims = token.split('.').nth(1).unwrap();
        let claims = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims["access"][0]["actions"], json!([]), "{name}");
    }
    target.assert_well();
}

proptest! {
    #![proptest_config(some_hundred())]

    #[test]
    fn no_path_finds_what_is_not_there(
        path in "/v2/([a-z0-9._~%/-]|%[0-9a-f]{2}){0,60}(/manifests/|/blobs/|/tags/list|)[ -~&&[^ ?#]]{0,60}"
    ) {
        let target = Target::get();
        if let Some(answer) = target.send(&get(&path).bytes()) {
            prop_assert!([308, 400, 401, 404, 405].contains(&answer.status), "{answer:?}");
        }
    }

    #[test]
    fn no_query_breaks_anything(query in "(scope=|service=|n=|last=|[!-~&&[^#]]|%[0-9a-fA-F]{2}){0,60}") {
        let target = Target::get();
        for path in ["/v2/auth", "/v2/demo/public/tags/list"] {
            let answer = target.send(&get(&format!("{path}?{query}")).bytes());
            let status = answer.map_or(400, |answer| answer.status);
            prop_assert!([200, 400, 401].contains(&status), "{status}");
        }
    }
}
