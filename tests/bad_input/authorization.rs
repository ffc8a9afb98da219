//! Whatever may stand in an `Authorization` header: only a genuine token opens anything.

use aws_lc_rs::hmac;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::support::keys::InstanceKey;

const PRIVATE: &str = "/v2/demo/private/manifests/latest";
const PUBLIC: &str = "/v2/demo/public/manifests/latest";

fn part(json: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(json.to_string())
}

/// Refused even where no token is needed, and told where to get one.
#[track_caller]
fn assert_refused(target: &Target, authorization: &(impl AsRef<[u8]> + ?Sized)) {
    for path in [PRIVATE, PUBLIC, "/v2/"] {
        let answer = target.ask(&get(path).with("Authorization", authorization));
        assert_eq!(answer.status, 401, "{path}: {answer:?}");
        assert!(answer.header("www-authenticate").starts_with("Bearer realm="), "{answer:?}");
    }
}

#[test]
fn a_genuine_token_is_accepted() {
    let target = Target::get();
    let (ada, repo) = (Some(&target.world.ada), "demo/private");
    let token = target.token(ada, repo);
    assert_eq!(target.ask(&get(PRIVATE).with("Authorization", &token)).status, 200);
    // Two of them are none.
    let twice = get(PRIVATE).with("Authorization", &token).with("authorization", &token);
    assert_eq!(target.ask(&twice).status, 401);
    let padded = format!("  {token}\t");
    assert_eq!(target.ask(&get(PRIVATE).with("AUTHORIZATION", &padded)).status, 200);
    target.assert_well();
}

#[test]
fn headers_that_are_no_token() {
    let target = Target::get();
    let long = |length| format!("Bearer {}", "a".repeat(length));
    let table: [&[u8]; 22] = [
        b"Bearer",
        b"Bearer a",
        b"Bearer .",
        b"Bearer ..",
        b"Bearer a.b",
        b"Bearer a.b.c",
        b"Bearer a.b.c.d",
        b"Bearer e30.e30.e30",
        b"Bearer bnVsbA.e30.e30",
        b"Bearer W10.W10.W10",
        b"bearer a.b.c",
        b"Bearer  a.b.c",
        b"Token a.b.c",
        b"Basic YWRhOnB3",
        b"Basic",
        b"\xff\xfe\xfd",
        b"Bearer \xe9.\xe9.\xe9",
        b"Bearer a.b.c, Bearer d.e.f",
        b"Bearer a\tb.c",
        b"Digest username=\"ada\"",
        long(10_000).leak().as_bytes(),
        long(100_000).leak().as_bytes(),
    ];
    for value in table {
        assert_refused(target, value);
    }
    // Not a header at all, or too much of one.
    for value in [b"Bearer a\0b.c.d".to_vec(), vec![b'a'; 1 << 20]] {
        if let Some(answer) = target.send(&get(PRIVATE).with("Authorization", &value).bytes()) {
            assert!((400..500).contains(&answer.status), "{answer:?}");
        }
    }
    target.assert_well();
}

#[test]
fn headers_of_tokens_choose_nothing() {
    let target = Target::get();
    let key = &target.world.key;
    let attacker = InstanceKey::generate();
    let claims = target.world.claims(Some(&target.world.ada), "demo/private", &["pull"]);
    let with = |signer: &InstanceKey, head: Value| target.bearer(&signer.sign_with(&head, &claims));

    for head in [
        json!({"alg": "RS256", "kid": key.kid}),
        json!({"alg": "RS256", "kid": key.kid, "jwk": attacker.jwk}),
        json!({"alg": "RS256", "kid": key.kid, "jku": "http://127.0.0.1:9/keys"}),
        json!({"alg": "RS256", "kid": key.kid, "x5u": "http://127.0.0.1:9/keys"}),
        json!({"alg": "RS256", "kid": key.kid, "x5c": [attacker.pem]}),
        json!({"alg": "RS256", "kid": attacker.kid, "jwk": attacker.jwk}),
        json!({"alg": "RS256", "jwk": attacker.jwk}),
        json!({"alg": "RS256", "kid": target.world.conf.join("quay.pem")}),
        json!({"alg": "RS256", "kid": "x' OR '1'='1"}),
        json!({"alg": "RS256", "kid": "%"}),
        json!({"alg": "RS256", "kid": "a\0b"}),
        json!({"alg": "RS256", "kid": "k".repeat(50_000)}),
    ] {
        assert_refused(target, &with(&attacker, head));
    }
    // The right key, the wrong words about it.
    for head in [
        json!({"alg": "none", "kid": key.kid}),
        json!({"alg": "HS256", "kid": key.kid}),
        json!({"alg": "RS384", "kid": key.kid}),
        json!({"alg": "PS256", "kid": key.kid}),
        json!({"alg": "rs256", "kid": key.kid}),
        json!({"alg": ["RS256"], "kid": key.kid}),
        json!({"alg": null, "kid": key.kid}),
        json!({"kid": key.kid}),
        json!({"alg": "RS256"}),
        json!({"alg": "RS256", "kid": 1}),
        json!({"alg": "RS256", "kid": null}),
        json!({"alg": "RS256", "kid": [key.kid]}),
        json!({"alg": "RS256", "kid": {"kid": key.kid}}),
        json!([{"alg": "RS256", "kid": key.kid}]),
    ] {
        assert_refused(target, &with(key, head));
    }
    // And the real key with it is accepted, however much else the header says.
    let head = json!({"alg": "RS256", "kid": key.kid, "jwk": attacker.jwk, "typ": "x"});
    let answer = target.ask(&get(PRIVATE).with("Authorization", &with(key, head)));
    assert_eq!(answer.status, 200);
    target.assert_well();
}

#[test]
fn signatures_of_another_kind() {
    let target = Target::get();
    let key = &target.world.key;
    let claims = target.world.claims(Some(&target.world.ada), "demo/private", &["pull"]);
    // HMAC with what everybody may know as its secret.
    let modulus = key.jwk["n"].as_str().unwrap();
    let public = [key.jwk.to_string(), modulus.to_owned(), key.kid.clone(), String::new()];
    for secret in public {
        let head = part(&json!({"alg": "HS256", "kid": key.kid}));
        let signed = format!("{head}.{}", part(&claims));
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let tag = hmac::sign(&secret, signed.as_bytes());
        let signature = BASE64_URL_SAFE_NO_PAD.encode(tag);
        assert_refused(target, &target.bearer(&format!("{signed}.{signature}")));
    }
    let good = key.sign(&claims);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let other = key.sign(&target.world.claims(None, "demo/public", &["pull"]));
    let zeroes = BASE64_URL_SAFE_NO_PAD.encode([0; 256]);
    for token in [
        format!("{signed}."),
        signed.to_owned(),
        format!("{signed}.{}", &signature[..signature.len() - 4]),
        format!("{signed}.{signature}AAAA"),
        format!("{signed}.{zeroes}"),
        format!("{signed}.{}", other.rsplit_once('.').unwrap().1),
        format!("{good}.{signature}"),
        format!("{signature}.{signed}"),
    ] {
        assert_refused(target, &target.bearer(&token));
    }
    target.assert_well();
}

#[test]
fn claims_of_every_shape() {
    let target = Target::get();
    let deep = (0..500).fold(json!(1), |inner, _| json!([inner]));
    let now = chrono::Utc::now().timestamp();
    for (claim, value) in [
        ("aud", json!("another.example")),
        ("aud", json!([])),
        ("aud", json!({"0": target.world.hostname})),
        ("iss", json!("mallory")),
        ("exp", json!(now - 60)),
        ("exp", json!(i64::MAX)),
        ("exp", json!(u64::MAX)),
        ("exp", json!(1e308)),
        ("exp", json!("tomorrow")),
        ("nbf", json!(now + 3600)),
        ("iat", json!(i64::MIN)),
        ("iat", json!(-1e308)),
        ("sub", json!(null)),
        ("sub", json!(7)),
        ("access", json!("everything")),
        ("access", json!([{"type": "repository", "name": "demo/private", "actions": ["all"]}])),
        ("access", json!([{"type": "registry", "name": "catalog", "actions": ["*"]}])),
        ("access", deep.clone()),
        ("context", json!({"entity_kind": "user"})),
        ("context", json!({"entity_kind": "superuser", "entity_reference": "ada"})),
        ("anything", deep),
    ] {
        let ada = Some(&target.world.ada);
        let mut claims = target.world.claims(ada, "demo/private", &["pull"]);
        claims[claim] = value;
        let token = target.bearer(&target.world.key.sign(&claims));
        let answer = target.ask(&get(PRIVATE).with("Authorization", &token));
        assert_eq!(answer.status, 401, "{claim}: {answer:?}");
    }
    // A hundred thousand open brackets, as a header and as claims.
    let bomb = BASE64_URL_SAFE_NO_PAD.encode("[".repeat(60_000));
    let head = part(&json!({"alg": "RS256", "kid": target.world.key.kid}));
    for token in [format!("{bomb}.e30.e30"), format!("{head}.{bomb}.e30")] {
        assert_refused(target, &target.bearer(&token));
    }
    // References are values, whatever is in them.
    for reference in ["nobody", "x' OR '1'='1", "a\0b", "%", "ü", &"u".repeat(9000)] {
        for kind in ["user", "robot", "appspecifictoken", "oauthtoken"] {
            let mut claims = target.world.claims(None, "demo/private", &["pull"]);
            claims["context"] = json!({"entity_kind": kind, "entity_reference": reference});
            let token = target.bearer(&target.world.key.sign(&claims));
            let answer = target.ask(&get(PRIVATE).with("Authorization", &token));
            assert!([200, 401].contains(&answer.status), "{kind} {reference:?}: {answer:?}");
        }
    }
    target.assert_well();
}

#[test]
fn credentials_that_are_none() {
    let target = Target::get();
    let path = "/v2/auth?scope=repository:demo/private:pull";
    let names = ["", "nobody", "a\0b", "ada'--", "%", "_da", "ad%", "ädä", "$token", "+", "a+b+c"];
    let mut values: Vec<Vec<u8>> = ["", "x", "a\0b", "p:w", "ü", &"p".repeat(5000), "a.b.c"]
        .iter()
        .flat_map(|password| names.map(|name| target.basic(name, password).into_bytes()))
        .collect();
    values.extend([
        b"Basic".to_vec(),
        b"Basic !!!!".to_vec(),
        b"Basic /////w==".to_vec(),
        b"Basic YWRh".to_vec(),
        b"Basic \xff\xff".to_vec(),
        [b"Basic ".to_vec(), vec![b'A'; 100_000]].concat(),
        target.token(Some(&target.world.ada), "demo/private").into_bytes(),
    ]);
    for value in values {
        let answer = target.ask(&get(path).with("Authorization", &value));
        let (status, code) = (answer.status, answer.code());
        let refused = status == 401 && code == "UNAUTHORIZED";
        assert!(refused || (status, code.as_str()) == (405, "UNSUPPORTED"), "{answer:?}");
    }
    target.assert_well();
}

proptest! {
    #![proptest_config(some_hundred())]

    #[test]
    fn no_header_opens_a_private_repository(
        value in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            "(Bearer|Basic) [A-Za-z0-9_.=+/-]{0,200}".prop_map(String::into_bytes),
        ]
    ) {
        let target = Target::get();
        let plain = !value.iter().any(|byte| b"\r\n".contains(byte));
        if let Some(answer) = target.send(&get(PRIVATE).with("Authorization", &value).bytes()) {
            prop_assert!([400, 401].contains(&answer.status), "{answer:?}");
        } else {
            prop_assert!(!plain, "no answer");
        }
    }

    #[test]
    fn a_changed_token_is_refused(at in any::<prop::sample::Index>(), by in 1..255u8) {
        let target = Target::get();
        let ada = Some(&target.world.ada);
        let mut token = target.world.token(ada, "demo/private", &["pull"]).into_bytes();
        let at = at.index(token.len() - 1);
        token[at] = token[at].wrapping_add(by);
        prop_assume!(!b"\r\n".contains(&token[at]));
        let value = [b"Bearer ", token.as_slice()].concat();
        if let Some(answer) = target.send(&get(PRIVATE).with("Authorization", &value).bytes()) {
            prop_assert!([400, 401].contains(&answer.status), "{answer:?}");
        }
    }
}
