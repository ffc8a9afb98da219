//! The internal location: blobs, and nothing else.

use std::fs;
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use sha2::{Digest, Sha256};

use super::backend::{ACCEL, Backend};
use super::http::{read_body, read_head, send};
use super::nginx::Nginx;
use super::quay::{Quay, Variant};
use crate::support::eventually;
use crate::support::process::PATIENCE;

const BLOB: &str = "/v2/a/b/blobs/sha256:0a0a";

struct Served {
    quay: Quay,
    prefix: String,
    content: Vec<u8>,
    path: String,
    _backends: [Backend; 2],
    nginx: Nginx,
}

impl Served {
    fn new(variant: Variant) -> Served {
        Served::at_boot(Quay::new(variant))
    }

    fn at_boot(quay: Quay) -> Served {
        quay.boot();
        quay.flag("v2_pull", true);
        let prefix = quay.run().blob_prefix().unwrap();
        let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let path = quay.store(&"0a".repeat(32), &content);
        let backends = [
            Backend::start("python", &quay.python_socket()),
            Backend::start("rust", &quay.rust_socket()),
        ];
        let nginx = Nginx::start(&quay);
        Served { quay, prefix, content, path, _backends: backends, nginx }
    }

    fn at(&self, path: &str) -> String {
        format!("/_qs/{}/0/{path}", self.prefix)
    }
}

#[test]
fn whole_head_and_ranges_with_gzip_on() {
    let served = Served::new(Variant::default());
    let port = served.quay.port;
    let accel = served.at(&served.path);
    let gzip = ("Accept-Encoding", "gzip");
    let whole = send(port, "GET", BLOB, &[(ACCEL, &accel), gzip]);
    assert_eq!((whole.status, whole.owner()), (200, "rust"));
    assert!(whole.body == served.content);
    for (name, value) in [
        ("content-length", "400000"),
        ("content-encoding", ""),
        ("content-type", "application/octet-stream"),
        ("docker-content-digest", "sha256:abc"),
        ("cache-control", "max-age=31536000"),
        ("x-frame-options", "DENY"),
        ("accept-ranges", "bytes"),
    ] {
        assert_eq!(whole.header(name), value, "{name}");
    }
    let head = send(port, "HEAD", BLOB, &[(ACCEL, &accel), gzip]);
    assert_eq!((head.status, head.header("content-length")), (200, "400000"));
    let part = send(port, "GET", BLOB, &[(ACCEL, &accel), gzip, ("Range", "bytes=10-19")]);
    assert_eq!((part.status, part.header("content-range")), (206, "bytes 10-19/400000"));
    assert_eq!(part.body, served.content[10..20]);
    let none = send(port, "GET", BLOB, &[(ACCEL, &accel), ("Range", "bytes=400000-")]);
    assert_eq!(none.status, 416);
    let old = served.quay.root().join("storage/sharedimages/6d5-AB");
    fs::create_dir_all(&old).unwrap();
    fs::write(old.join("layer"), "an old layer").unwrap();
    let accel = served.at("sharedimages/6d5-AB/layer");
    assert_eq!(send(port, "GET", BLOB, &[(ACCEL, &accel)]).text(), "an old layer");
}

#[test]
fn nothing_but_the_two_shapes() {
    let served = Served::new(Variant::default());
    let port = served.quay.port;
    let storage = served.quay.root().join("storage");
    let hex = "0a".repeat(32);
    // All of them are there, so only the location keeps them.
    for name in ["secret", "uploads/5b1", "sha256/0a/short", "sharedimages/x/json", "layer"] {
        let file = storage.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "secret").unwrap();
    }
    let inside = [
        "secret".to_owned(),
        "uploads/5b1".to_owned(),
        "sha256/0a/short".to_owned(),
        "sharedimages/x/json".to_owned(),
        "sharedimages/../layer".to_owned(),
        "sharedimages//layer".to_owned(),
        "sha256/0a/".to_owned(),
        format!("sha256/0A/{}", hex.to_uppercase()),
        format!("{}/x", served.path),
        format!("sha256/../sha256/0a/{hex}/../../../secret"),
        "../conf/stack/config.yaml".to_owned(),
        format!("{}$", served.path),
    ];
    let mut paths: Vec<String> = inside.iter().map(|path| served.at(path)).collect();
    paths.push(format!("/_qs/{}/1/{}", served.prefix, served.path));
    paths.push(format!("/_qs/{}/0/{}", "0".repeat(32), served.path));
    paths.push("/_qs/".to_owned());
    for path in paths {
        let answer = send(port, "GET", BLOB, &[(ACCEL, &path)]);
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
        assert!(!answer.text().contains("secret"), "{path}");
    }
    // From outside there is no such place at all.
    for method in ["GET", "HEAD", "PUT"] {
        assert_eq!(send(port, method, &served.at(&served.path), &[]).status, 404, "{method}");
    }
}

/// Links in the storage are not followed; what leads to it is the operator's own.
#[test]
fn the_storage_may_lie_behind_a_link() {
    let mut quay = Quay::new(Variant::default());
    let link = quay.root().join("datastorage");
    std::os::unix::fs::symlink(quay.root().join("storage"), &link).unwrap();
    quay.bundle.blob_roots = vec![(0, link)];
    let served = Served::at_boot(quay);
    let answer = send(served.quay.port, "GET", BLOB, &[(ACCEL, &served.at(&served.path))]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.body == served.content, "streamed instead: {:?}", answer.headers);
}

#[test]
fn what_nginx_cannot_open_is_streamed() {
    let served = Served::new(Variant::default());
    let quay = &served.quay;
    let outside = quay.root().join("outside");
    fs::write(&outside, "secret").unwrap();
    let link = quay.store_link(&"1a".repeat(32), &outside);
    let missing = format!("sha256/2a/{}", "2a".repeat(32));
    let unreadable = quay.store(&"3a".repeat(32), b"unreadable");
    let file = quay.root().join("storage").join(&unreadable);
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let mut paths = vec![link, missing];
    if rustix::process::geteuid().is_root() {
        paths.push(unreadable); // nginx's workers are of another user then
    }
    for path in paths {
        let accel = served.at(&path);
        let target = format!("{BLOB}?raw=%2F");
        let answer = send(quay.port, "GET", &target, &[(ACCEL, &accel)]);
        assert_eq!((answer.status, answer.owner()), (200, "rust"), "{path}");
        let said = answer.text();
        assert!(said.starts_with(&format!("rust GET {target} streamed=true")), "{said}");
        let head = send(quay.port, "HEAD", BLOB, &[(ACCEL, &accel)]);
        assert_eq!((head.status, head.by()), (200, "rust"));
    }
}

/// nginx keeps files open that are asked for often, for a second.
#[test]
fn a_blob_that_is_replaced_or_removed_is_noticed() {
    let served = Served::new(Variant::default());
    let (port, accel) = (served.quay.port, served.at(&served.path));
    let file = served.quay.root().join("storage").join(&served.path);
    let get = || send(port, "GET", BLOB, &[(ACCEL, &accel)]);
    assert!(get().body == served.content);
    let restored = file.with_extension("restored");
    fs::write(&restored, "the restored blob").unwrap();
    fs::rename(&restored, &file).unwrap();
    eventually(
        || (get().text() == "the restored blob").then_some(()),
        || "the old blob".to_owned(),
    );
    fs::remove_file(&file).unwrap();
    eventually(
        || get().text().contains("streamed=true").then_some(()),
        || "the removed blob".to_owned(),
    );
}

/// Headers of the TLS servers, and HEAD and Range over HTTP/2, with curl.
#[test]
fn over_tls_and_http_2() {
    let served = Served::new(Variant { tls: true, same_user: true, ..Variant::default() });
    let url = format!("https://127.0.0.1:{}{BLOB}", served.quay.port);
    let accel = format!("{ACCEL}: {}", served.at(&served.path));
    let curl = |more: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-sk", "--http2", "--compressed", "-D", "-", "-H", &accel]).args(more);
        let ran = command.arg(&url).output().expect("curl runs: install the package curl");
        assert!(ran.status.success(), "{ran:?}");
        ran.stdout
    };
    let head = String::from_utf8(curl(&["-I", "-o", "/dev/null"])).unwrap().to_lowercase();
    for line in [
        "http/2 200",
        "content-length: 400000",
        "strict-transport-security: max-age=63072000; preload",
        "x-frame-options: deny",
        "x-quay-owner: rust",
        "docker-content-digest: sha256:abc",
    ] {
        assert!(head.contains(line), "{line} is not in {head}");
    }
    let part = curl(&["-r", "0-3", "-o", "-"]);
    assert!(part.ends_with(&served.content[..4]));
    assert!(String::from_utf8_lossy(&part).starts_with("HTTP/2 206"));
}

#[test]
fn an_upload_whose_answer_breaks_is_not_called_too_large() {
    let served = Served::new(Variant::default());
    let quay = &served.quay;
    quay.flag("v2_push", true);
    fs::remove_file(quay.python_socket()).unwrap();
    fs::remove_file(quay.rust_socket()).unwrap();
    let body = vec![0; 3 * 1024 * 1024];
    let mut client = super::http::Client::new(quay.port);
    let answer = eventually(
        || client.send("PATCH", "/v2/a/b/blobs/uploads/5b1", &[], Some(&body)).ok(),
        || "no answer".to_owned(),
    );
    assert_eq!((answer.status, answer.text().as_str()), (502, "the page for a 502"));
}

/// HEAD, GET and Range are the same, whatever the client accepts and whichever HTTP it speaks.
#[test]
fn gzip_and_http_version_change_nothing() {
    let served = Served::new(Variant { tls: true, ..Variant::default() });
    let url = format!("https://127.0.0.1:{}{BLOB}", served.quay.port);
    let accel = format!("{ACCEL}: {}", served.at(&served.path));
    for (version, status) in [("--http1.1", "HTTP/1.1 "), ("--http2", "HTTP/2 ")] {
        for encoding in ["Accept-Encoding:", "Accept-Encoding: gzip"] {
            let curl = |more: &[&str]| {
                let mut command = Command::new("curl");
                command.args(["-sk", version, "-D", "-", "-H", &accel, "-H", encoding]).args(more);
                let ran = command.arg(&url).output().expect("curl runs: install the package curl");
                assert!(ran.status.success(), "{ran:?}");
                let end = ran.stdout.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
                let head = String::from_utf8_lossy(&ran.stdout[..end]).to_lowercase();
                assert!(head.starts_with(&status.to_lowercase()), "{head}");
                assert!(!head.contains("content-encoding"), "{encoding}: {head}");
                assert!(head.contains("docker-content-digest: sha256:abc"), "{head}");
                (head, ran.stdout[end..].to_vec())
            };
            let (head, _) = curl(&["-I", "-o", "/dev/null"]);
            assert!(head.contains(" 200") && head.contains("content-length: 400000"), "{head}");
            let (head, whole) = curl(&[]);
            assert!(head.contains(" 200") && head.contains("content-length: 400000"), "{head}");
            assert!(whole == served.content, "{version} {encoding}");
            let (head, part) = curl(&["-r", "10-19"]);
            assert!(head.contains(" 206") && head.contains("bytes 10-19/400000"), "{head}");
            assert_eq!(part, served.content[10..20]);
        }
    }
}

/// nginx reads its files again while a blob is on its way: the old worker sends it to the end.
#[test]
fn a_reload_cuts_no_download() {
    let served = Served::new(Variant::default());
    // More than the sockets' buffers hold, so that most of it is still to be sent.
    let content: Vec<u8> = (0..16_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let path = served.quay.store(&"4a".repeat(32), &content);
    let mut stream = TcpStream::connect(("127.0.0.1", served.quay.port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "GET {BLOB} HTTP/1.1\r\nHost: registry.example\r\n{ACCEL}: {}\r\n\r\n",
        served.at(&path)
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let (first, headers) = read_head(&mut reader).unwrap();
    assert!(first.contains(" 200 "), "{first}");
    let old = served.nginx.workers();
    served.nginx.hang_up();
    eventually(
        || served.nginx.workers().iter().any(|pid| !old.contains(pid)).then_some(()),
        || "no new worker".to_owned(),
    );
    assert!(served.nginx.workers().iter().any(|pid| old.contains(pid)), "it was sent already");
    let body = read_body(&mut reader, &headers, false).unwrap();
    assert_eq!(Sha256::digest(&body), Sha256::digest(&content));
}
