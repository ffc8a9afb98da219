//! Where an answer of ours differs from the recorded one.

use std::collections::BTreeSet;
use std::io::Read;

use flate2::read::GzDecoder;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::pages::opened;
use super::recording::{Exchange, Response};
use super::tokens::{Signer, now, shifted};
use super::wire::Answer;

/// The headers that mean something to a client. The others are each server's own.
const HEADERS: &[&str] = &[
    "Accept-Ranges",
    "Access-Control-Allow-Headers",
    "Access-Control-Allow-Methods",
    "Access-Control-Allow-Origin",
    "Access-Control-Max-Age",
    "Allow",
    "Cache-Control",
    "Content-Length",
    "Content-Range",
    "Content-Type",
    "Docker-Content-Digest",
    "Docker-Distribution-API-Version",
    "Docker-Upload-UUID",
    "Link",
    "Location",
    "OCI-Filters-Applied",
    "Range",
    "Retry-After",
    "Vary",
    "WWW-Authenticate",
    "X-Sparse-Manifest-Support",
];

/// Lists of methods, which Quay sends in an order that changes with every start.
const SETS: &[&str] = &["Access-Control-Allow-Methods", "Allow"];

/// Everything that differs, one line each; empty when nothing does.
pub fn differences(expected: &Exchange, answer: &Answer, signer: &Signer) -> Vec<String> {
    let expected_response = without_nginx(&expected.response);
    let mut found = Vec::new();
    if answer.status != expected_response.status {
        found.push(format!("status: {} instead of {}", answer.status, expected_response.status));
    }
    for name in HEADERS {
        let (theirs, ours) =
            (values(&expected_response.headers, name), values(&answer.headers, name));
        if theirs != ours {
            found.push(format!("{name}: {ours:?} instead of {theirs:?}"));
        }
    }
    match (&expected.jwt, token(&answer.body)) {
        (Some(jwt), Some(token)) => found.extend(token_differences(jwt, &token, signer)),
        _ => found.extend(body_difference(&expected_response, &answer.body)),
    }
    found
}

/// The values of a header, in order where that matters.
fn values(headers: &[(String, String)], name: &str) -> Vec<String> {
    let mine = headers.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
    let values = mine.map(|(_, value)| if name == "Link" { opened(value) } else { value.clone() });
    if !SETS.contains(&name) {
        return values.collect();
    }
    let joined = values.collect::<Vec<_>>().join(",");
    let set: BTreeSet<&str> = joined.split(',').map(str::trim).filter(|m| !m.is_empty()).collect();
    set.into_iter().map(str::to_owned).collect()
}

/// An answer as it was before nginx compressed it.
fn without_nginx(response: &Response) -> Response {
    let mut response = response.clone();
    if response.header("Content-Encoding") == Some("gzip") {
        let packed = response.body.bytes().expect("a recorded body");
        let mut body = Vec::new();
        GzDecoder::new(packed.as_slice()).read_to_end(&mut body).expect("gzip");
        response.headers.push(("Content-Length".to_owned(), body.len().to_string()));
        response.body.sha256 = sha256(&body);
        (response.body.text, response.body.b64) = (String::from_utf8(body).ok(), None);
    }
    response
}

fn body_difference(expected: &Response, ours: &[u8]) -> Option<String> {
    if sha256(ours) == expected.body.sha256 {
        return None;
    }
    let Some(theirs) = expected.body.bytes() else {
        return Some(format!("body: {} bytes of another digest", ours.len()));
    };
    let at = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
    let from = |bytes: &[u8]| {
        let end = bytes.len().min(at + 100);
        String::from_utf8_lossy(&bytes[at.min(end)..end]).into_owned()
    };
    Some(format!("body: from byte {at} {:?} instead of {:?}", from(ours), from(&theirs)))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The token in `{"token":"…"}`, if that is exactly what the body is.
pub fn token(body: &[u8]) -> Option<String> {
    let body = std::str::from_utf8(body).ok()?;
    let token = body.strip_prefix("{\"token\":\"")?.strip_suffix("\"}\n")?;
    (!token.contains('"')).then(|| token.to_owned())
}

/// The same token but for when it was made, which must be now.
fn token_differences(expected: &Value, token: &str, signer: &Signer) -> Vec<String> {
    let Some((header, claims)) = signer.verify(token) else {
        return vec!["token: not signed with the instance key".to_owned()];
    };
    let mut found = Vec::new();
    if header != expected["header"] {
        found.push(format!("token header: {header} instead of {}", expected["header"]));
    }
    let time = |claims: &Value| claims["iat"].as_i64().expect("a time");
    let made = time(&claims);
    if (now() - made).abs() > 60 {
        found.push(format!("token: made at {made}, which is not now"));
    }
    let theirs = shifted(&expected["claims"], made - time(&expected["claims"]));
    if claims != theirs {
        found.push(format!("token claims: {claims} instead of {theirs}"));
    }
    found
}

/// A comparison that finds nothing would pass for a perfect registry.
#[test]
fn every_kind_of_difference_is_found() {
    use serde_json::json;

    let signer = Signer::generate();
    let iat = now();
    let claims = json!({"iat": iat, "nbf": iat, "exp": iat + 3600, "sub": "ada", "access": []});
    let header = json!({"alg": "RS256"});
    let body = |claims: &Value| format!("{{\"token\":\"{}\"}}\n", signer.sign(&header, claims));
    let exchange = |jwt: Value, body: &str| -> Exchange {
        let headers = json!([["Allow", "GET, PUT"], ["Server", "gunicorn"], ["Vary", "Origin"]]);
        let recorded = json!({
            "seq": 1, "name": "made-up", "jwt": jwt,
            "request": {"method": "GET", "path": "/", "headers": {}, "body": null},
            "response": {"status": 200, "headers": headers,
                "body": {"sha256": sha256(body.as_bytes()), "text": body}},
        });
        serde_json::from_value(recorded).expect("an exchange")
    };
    let answer = |status, headers: &[(&str, &str)], body: &str| {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Answer { status, headers, body: body.as_bytes().to_vec() }
    };
    const GOOD: &[(&str, &str)] = &[("allow", "PUT, GET"), ("vary", "Origin"), ("date", "today")];

    let plain = exchange(Value::Null, "hello");
    let of = |answer: Answer| differences(&plain, &answer, &signer).join("; ");
    assert_eq!(of(answer(200, GOOD, "hello")), "");
    assert_eq!(of(answer(404, GOOD, "hello")), "status: 404 instead of 200");
    assert_eq!(of(answer(200, GOOD, "help")), "body: from byte 3 \"p\" instead of \"lo\"",);
    assert_eq!(of(answer(200, &GOOD[1..], "hello")), r#"Allow: [] instead of ["GET", "PUT"]"#);
    let more = [GOOD, &[("link", "</x>")]].concat();
    assert_eq!(of(answer(200, &more, "hello")), r#"Link: ["</x>"] instead of []"#);
    let twice = [GOOD, &[("vary", "Cookie")]].concat();
    assert_ne!(of(answer(200, &twice, "hello")), "");

    let recorded = json!({"header": header, "claims": shifted(&claims, -1000)});
    let token = exchange(recorded, "not looked at");
    let of = |body: &str| differences(&token, &answer(200, GOOD, body), &signer).join("; ");
    assert_eq!(of(&body(&claims)), "");
    for (name, value) in
        [("exp", json!(iat + 1)), ("sub", json!("bob")), ("access", json!([1])), ("x", json!(1))]
    {
        let mut other = claims.clone();
        other[name] = value;
        assert!(of(&body(&other)).starts_with("token claims: "), "{name}: {}", of(&body(&other)));
    }
    assert!(of(&body(&shifted(&claims, -1000))).contains("which is not now"));
    assert_ne!(of(&body(&claims).replace('}', ",\"more\":1}")), "");
    assert_ne!(of(&body(&claims).replace("\"}", "AAAA\"}")), "");
    let foreign = Signer::generate().sign(&header, &claims);
    assert_ne!(of(&format!("{{\"token\":\"{foreign}\"}}\n")), "");
}
