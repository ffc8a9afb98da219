//! Bytes that are hardly HTTP, or not at all.

use proptest::prelude::*;

use super::*;

const PULL: &str = "GET /v2/demo/public/manifests/latest HTTP/1.1\r\nHost: x\r\n\
    Accept: application/vnd.oci.image.manifest.v1+json\r\n";

#[test]
fn requests_in_odd_forms() {
    let target = Target::get();
    let options = "OPTIONS /v2/demo/public/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n";
    for (request, expected) in [
        ("GET /v2/ HTTP/1.0\r\n\r\n".to_owned(), 401),
        ("GET http://other.example/v2/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 401),
        ("GET /v2/?a=b#c HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 401),
        ("HEAD /v2/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 401),
        ("TRACE /v2/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 405),
        ("BREW /v2/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 405),
        ("get /v2/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 405),
        ("POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".to_owned(), 405),
        ("DELETE /v2/demo/public/tags/list HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 405),
        (PULL.replace("GET", "BREW") + "\r\n", 405),
        (options.to_owned(), 200),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 404),
        ("GET /v3/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 404),
        ("GET /v2/auth/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 404),
        ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 404),
        ("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 404),
        // A body where none belongs is nobody's request.
        (format!("{PULL}Content-Length: 5\r\n\r\nhello"), 200),
        (format!("{PULL}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), 200),
    ] {
        let answer = target.send(request.as_bytes()).expect(&request);
        assert_eq!(answer.status, expected, "{request}: {answer:?}");
    }
    target.assert_well();
}

#[test]
fn slashes_too_many_are_redirected() {
    let target = Target::get();
    let list = "/v2/demo/public/tags/list";
    for (path, to) in [
        ("/v2", "/v2/"),
        ("//v2/", "/v2/"),
        ("/v2//demo/public/tags/list", list),
        ("/v2/demo%2f%2Fpublic/tags/list", list),
        ("//v2///demo//public///tags////list?n=1", "/v2/demo/public/tags/list?n=1"),
        ("//other.example/v2/", "/other.example/v2/"),
    ] {
        let answer = target.ask(&get(path));
        let found = (answer.status, answer.header("location"));
        assert_eq!(found, (308, format!("http://x{to}").as_str()), "{path}");
        // Without a host there is none to send anybody to.
        let bare = format!("GET {path} HTTP/1.0\r\n\r\n");
        let answer = target.send(bare.as_bytes()).unwrap();
        assert_eq!((answer.status, answer.header("location")), (308, to), "{path}");
    }
    let evil = "GET /v2 HTTP/1.1\r\nHost: x\"><script>alert(1)</script>\r\n\r\n";
    if let Some(answer) = target.send(evil.as_bytes()) {
        assert!(!answer.text().contains("<script>"), "{answer:?}");
    }
    target.assert_well();
}

#[test]
fn what_is_no_request_is_refused_or_dropped() {
    let target = Target::get();
    let many = "X-A: b\r\n".repeat(5000);
    let hidden = "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n";
    let length = hidden.len();
    for request in [
        String::new(),
        "\r\n\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "GET /v2/\r\n\r\n".to_owned(),
        "GET /v2/ HTTP/9.9\r\n\r\n".to_owned(),
        "GET  /v2/  HTTP/1.1\r\n\r\n".to_owned(),
        "GET v2/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "GET \\v2\\ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "CONNECT other.example:443 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0".to_owned(),
        format!("{PULL}no colon\r\n\r\n"),
        format!("{PULL}X-A : b\r\n\r\n"),
        format!("{PULL}: b\r\n\r\n"),
        format!("{PULL}X-A: b\r\n folded\r\n\r\n"),
        format!("{PULL}X-A: b\0c\r\n\r\n"),
        format!("{PULL}X-A: b\rX-Evil: c\r\n\r\n"),
        format!("{PULL}{many}\r\n"),
        format!("{PULL}X-A: {}\r\n\r\n", "b".repeat(1 << 20)),
        format!("{PULL}Content-Length: -1\r\n\r\n"),
        format!("{PULL}Content-Length: 1e3\r\n\r\n"),
        format!("{PULL}Content-Length: 99999999999999999999\r\n\r\n"),
        format!("{PULL}Content-Length: {length}\r\nContent-Length: 0\r\n\r\n{hidden}"),
        format!("{PULL}Content-Length: {length}, 0\r\n\r\n{hidden}"),
        format!("{PULL}Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{PULL}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        format!("{PULL}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        format!("{PULL}Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n"),
        format!("{PULL}Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n"),
        format!("{PULL}Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nhello"),
        format!("{PULL}Transfer-Encoding: chunked\r\n\r\n5\r\nhel"),
        format!("{PULL}Expect: 200-ok\r\n\r\n"),
        format!("{PULL}Upgrade: h2c\r\nConnection: upgrade\r\n\r\n"),
    ] {
        // One answer at most; what looks like a second request inside was none.
        target.send(request.as_bytes());
    }
    // A body is read by nobody, however long it is.
    let long = format!("{PULL}Content-Length: {}\r\n\r\n", 32 << 20);
    target.send(&[long.as_bytes(), &vec![b'x'; 32 << 20]].concat());
    target.assert_well();
}

#[test]
fn line_ends_in_values_end_no_line() {
    let target = Target::get();
    for path in [
        "/v2/demo/public%0d%0aX-Evil:%201/manifests/latest",
        "/v2/%0d%0aX-Evil:%201%0d%0a%0d%0a/tags/list",
        "/v2/demo/public/manifests/latest%0d%0aX-Evil:%201",
        "/v2/demo/public/blobs/sha256:%0d%0aX-Evil:%201",
        "/v2/demo/public/tags/list?n=1&last=%0d%0aX-Evil:%201",
        "/v2/auth?scope=%0d%0aX-Evil:%201&service=%0d%0aX-Evil:%201",
        "//v2/%0d%0aX-Evil:%201",
        "/v2%0aX-Evil:%201",
        "/%0d%0a20%20ERROR%20forged",
    ] {
        for id in ["a\u{85}b", "x y", "é", &"a".repeat(5000)] {
            let request = get(path).with("X-Request-Id", id);
            let answer = target.ask(&request);
            let given = answer.header("x-request-id");
            assert!(given.len() == 32 && given.is_ascii(), "{given}");
        }
    }
    target.assert_well();
}

proptest! {
    #![proptest_config(some_hundred())]

    #[test]
    fn no_bytes_break_anything(bytes in prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..300),
        "(GET|PUT|OPTIONS|[A-Z]{1,9}) [/!-~]{0,30} HTTP/1.[0-9]\r\n([A-Za-z-]{0,12}: ?[ -~]{0,20}\r\n){0,4}\r\n.{0,30}"
            .prop_map(String::into_bytes),
    ]) {
        // Whatever it answers is looked at there.
        Target::get().send_several(&bytes);
    }
}

#[test]
fn after_random_bytes_it_is_well() {
    no_bytes_break_anything();
    Target::get().assert_well();
}
