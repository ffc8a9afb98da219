//! Pushes through nginx: every way of sending a blob, and what becomes of it when a client goes
//! away, when registryd dies, and when the owner changes. The stand-in for Python is a second
//! registryd on the same database and storage.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Booted, said};
use crate::bundle::http::{Answer, Client};
use crate::bundle::quay::{Quay, Variant};
use crate::support::history;
use crate::support::images::digest_of;
use crate::support::process::PATIENCE;
use crate::support::push_load::{PushLoad, owners_at, path_of};
use crate::support::{Login, Registryd, World, eventually, free_port};

const PUSH: &str = "ROUTE_OWNER_CAP_V2_PUSH";
const REPO: &str = "demo/private";
const MIB: usize = 1024 * 1024;

/// A Quay that takes pushes, by HTTP/1.1 and, on a port of its own, HTTP/2.
struct Site {
    booted: Booted,
    http_2: u16,
}

impl Site {
    fn new() -> Site {
        let quay = Quay::new(Variant { same_user: true, ..Variant::default() });
        let http_2 = free_port();
        let main = quay.read("nginx/nginx.conf");
        let server = format!(
            "server {{\n include server-base.conf;\n listen 127.0.0.1:{http_2} http2;\n \
             real_ip_header X-Forwarded-For;\n access_log {}/access.log lb_logs;\n}}\n",
            quay.root().display()
        );
        let main = format!("{}{server}}}\n", main.trim_end().trim_end_matches('}'));
        fs::write(quay.conf("nginx/nginx.conf"), main).unwrap();
        let mut world = World::with_own_storage();
        world.reach(&format!("127.0.0.1:{}", quay.port));
        let socket = format!("unix:{}", quay.python_socket().display());
        let python = Registryd::start(&world.conf, &["--listen", &socket]);
        Site { booted: Booted::around(quay, world, Box::new(python)), http_2 }
    }

    /// One whose pushes are ours.
    fn of_rust() -> Site {
        let site = Site::new();
        site.give(&format!("{PUSH}=rust"));
        site
    }

    fn give(&self, switch: &str) {
        let set = self.booted.set(switch);
        assert!(said(&set).contains("applied after "), "{set:?}");
    }

    fn token(&self, who: &Login) -> String {
        format!("Bearer {}", self.booted.world.token(Some(who), REPO, &["pull", "push"]))
    }

    fn send(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.send_as(&self.booted.world.ada, method, path, body)
    }

    fn send_as(&self, who: &Login, method: &str, path: &str, body: &[u8]) -> Answer {
        let token = self.token(who);
        let mut client = Client::new(self.booted.quay.port);
        client.send(method, path, &[("authorization", &token)], Some(body)).unwrap()
    }

    /// Begins an upload; the path of where to go on.
    fn begin(&self) -> String {
        let answer = self.send("POST", &uploads(REPO), b"");
        assert_eq!((answer.status, answer.owner()), (202, "rust"), "{answer:?}");
        path_of(answer.header("location")).to_owned()
    }

    /// Makes a blob of an upload and looks at its bytes.
    fn commit(&self, path: &str, content: &[u8]) -> Answer {
        let digest = digest_of(content);
        let answer = self.send("PUT", &format!("{path}?digest={digest}"), b"");
        assert_eq!(answer.status, 201, "{answer:?}");
        assert!(fs::read(self.booted.world.blob_path(&digest)).unwrap() == content);
        answer
    }

    /// Sends the head of a PATCH and some of its body.
    fn begin_patch(&self, path: &str, length: usize, some: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.booted.quay.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let token = self.token(&self.booted.world.ada);
        let head = format!(
            "PATCH {path} HTTP/1.1\r\nHost: registry.example\r\nAuthorization: {token}\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(some).unwrap();
        stream
    }

    /// Waits until so much of an upload is in the storage.
    fn until_stored(&self, path: &str, length: usize) {
        let file = self.upload(path);
        let found = || fs::metadata(&file).map_or(0, |found| found.len());
        eventually(
            || (found() >= length as u64).then_some(()),
            || format!("{} of {length} bytes are stored", found()),
        );
    }

    fn upload(&self, path: &str) -> PathBuf {
        let uuid = path.rsplit('/').next().unwrap();
        self.booted.world.storage.join("uploads").join(uuid)
    }

    /// How many requests nginx says that it has refused as too large.
    fn too_large(&self) -> usize {
        let log = fs::read_to_string(self.booted.quay.root().join("access.log")).unwrap();
        log.lines().filter(|line| line.contains("\" 413 ")).count()
    }

    /// What nginx keeps of bodies on its disk.
    fn kept_bodies(&self) -> Vec<PathBuf> {
        files(&self.booted.quay.root().join("temp/body"))
    }

    /// By curl: the status, the headers in lower case, and what else curl has to say.
    fn curl(&self, method: &str, url: &str, options: &[&str], body: &[u8]) -> Curled {
        let file = self.booted.quay.root().join("body");
        fs::write(&file, body).unwrap();
        let token = self.token(&self.booted.world.ada);
        let mut curl = Command::new("curl");
        curl.args(["-sSv", "-o", "/dev/null", "-D", "-", "-X", method, "--max-time", "60"]);
        curl.args(["--noproxy", "*", "-H", &format!("Authorization: {token}")]);
        if !body.is_empty() {
            curl.arg("-T").arg(&file);
        }
        let ran =
            curl.args(options).arg(url).output().expect("curl runs: install the package curl");
        let head = String::from_utf8(ran.stdout).unwrap().to_lowercase();
        let talk = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.success(), "{head}{talk}");
        // After a 100 there is another head.
        let last = head.trim_end().rsplit("\r\n\r\n").next().unwrap().to_owned();
        let status = last.split(' ').nth(1).unwrap().parse().unwrap();
        Curled { status, head: last, talk }
    }
}

struct Curled {
    status: u16,
    head: String,
    talk: String,
}

impl Curled {
    fn header(&self, name: &str) -> &str {
        let value = |line: &'_ str| line.strip_prefix(name)?.strip_prefix(": ").map(str::len);
        let line = self.head.lines().find(|line| value(line).is_some());
        line.map_or("", |line| line[name.len() + 2..].trim())
    }
}

fn uploads(repo: &str) -> String {
    format!("/v2/{repo}/blobs/uploads/")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn content(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8 ^ seed)).collect()
}

/// HTTP/1.1 and 2, with a length and without, asking first and not, to the place that was named and
/// to its path alone.
#[test]
fn every_way_of_sending_a_blob() {
    let site = Site::of_rust();
    let one = format!("http://127.0.0.1:{}", site.booted.quay.port);
    let two = format!("http://127.0.0.1:{}", site.http_2);
    let http_2 = "--http2-prior-knowledge";
    let ways: [(&str, &str, &[&str], &str); 5] = [
        ("with a length", &one, &["-H", "Expect:"], ""),
        ("in chunks", &one, &["-H", "Expect:", "-H", "Transfer-Encoding: chunked"], ""),
        ("asking first", &one, &["-H", "Expect: 100-continue"], "100 Continue"),
        ("over HTTP/2", &two, &[http_2], ""),
        ("over HTTP/2, without a length", &two, &[http_2, "-H", "Content-Length:"], ""),
    ];
    for (number, (name, base, options, said)) in ways.into_iter().enumerate() {
        let content = content(3 * MIB, number as u8);
        let digest = digest_of(&content);
        for absolute in [true, false] {
            // What HTTP/1.1 is told to go on with is a URL of the port for HTTP/1.1.
            if absolute && base == two {
                continue;
            }
            let follow = |answer: &Curled| {
                let location = answer.header("location");
                assert!(location.starts_with(&format!("{one}/v2/")), "{name}: {location}");
                match absolute {
                    true => location.to_owned(),
                    false => format!("{base}{}", path_of(location)),
                }
            };
            let url = format!("{base}{}", uploads(REPO));
            let empty: Vec<&str> = options.iter().filter(|o| **o == http_2).copied().collect();
            let begun = site.curl("POST", &url, &[&empty[..], &["-d", ""]].concat(), b"");
            assert_eq!(begun.status, 202, "{name}: {}", begun.head);
            let added = site.curl("PATCH", &follow(&begun), options, &content);
            assert_eq!(added.status, 202, "{name}: {}{}", added.head, added.talk);
            assert_eq!(added.header("range"), format!("0-{}", 3 * MIB - 1), "{name}");
            assert!(added.talk.contains(said), "{name}: {}", added.talk);
            let url = format!("{}?digest={digest}", follow(&added));
            let put = site.curl("PUT", &url, &[&empty[..], &["-d", ""]].concat(), b"");
            assert_eq!(put.status, 201, "{name}: {}", put.head);
            for answer in [&begun, &added, &put] {
                assert_eq!(answer.header("x-quay-owner"), "rust", "{name}: {}", answer.head);
            }
            let stored = site.booted.world.blob_path(&digest);
            assert!(fs::read(&stored).unwrap() == content, "{name}");
            // In one request, too.
            let begun = site.curl("POST", &format!("{base}{}", uploads(REPO)), &empty, b"");
            let url = format!("{}?digest={digest}", follow(&begun));
            let put = site.curl("PUT", &url, options, &content);
            assert_eq!(put.status, 201, "{name}: {}", put.head);
        }
    }
    assert_eq!(site.too_large(), 0);
}

/// A slow client holds nothing up, and what it sends does not wait on nginx's disk.
#[test]
fn bodies_go_through_as_they_come() {
    let site = Site::of_rust();
    let content = content(20 * MIB, 9);
    let path = site.begin();
    let (first, second) = content.split_at(10 * MIB);
    let mut slow = site.begin_patch(&path, content.len(), first);
    site.until_stored(&path, 8 * MIB);
    assert_eq!(site.kept_bodies(), Vec::<PathBuf>::new());
    // Meanwhile others are served.
    let other = site.begin();
    assert_eq!(site.send("PATCH", &other, b"quick").status, 202);
    site.commit(&other, b"quick");
    slow.write_all(second).unwrap();
    let mut status = [0; 12];
    slow.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 202");
    assert_eq!(site.kept_bodies(), Vec::<PathBuf>::new());
    assert_eq!(site.commit(&path, &content).owner(), "rust");
}

/// What is refused before its body was read is told why, also through nginx.
#[test]
fn refusals_come_before_the_body_is_through() {
    let site = Site::of_rust();
    let body = content(20 * MIB, 3);
    let nowhere = format!("{}6f2a3a52-5f8c-4a53-a6a5-3e8b1d0e7a11", uploads(REPO));
    for _ in 0..5 {
        let unknown = site.send("PATCH", &nowhere, &body);
        assert_eq!((unknown.status, unknown.owner()), (404, "rust"), "{}", unknown.text());
        let mut client = Client::new(site.booted.quay.port);
        let refused = client.send("PATCH", &nowhere, &[], Some(&body)).unwrap();
        assert_eq!((refused.status, refused.owner()), (401, "rust"), "{}", refused.text());
    }
}

#[test]
fn a_client_that_goes_away_loses_nothing_else() {
    let site = Site::of_rust();
    let content = content(20 * MIB, 5);
    let path = site.begin();
    assert_eq!(site.send("PATCH", &path, &content[..MIB]).status, 202);
    let gone = site.begin_patch(&path, 19 * MIB, &content[MIB..9 * MIB]);
    site.until_stored(&path, 7 * MIB);
    drop(gone);
    // It is where it was; its next request may have to wait for the end of the lost one.
    let status = site.send("GET", &path, b"");
    assert_eq!(status.header("range"), format!("0-{}", MIB - 1), "{status:?}");
    let added = eventually(
        || Some(site.send("PATCH", &path, &content[MIB..])).filter(|added| added.status != 503),
        || "the upload is not given free".to_owned(),
    );
    assert_eq!(added.status, 202, "{}", added.text());
    site.commit(&path, &content);
    assert_eq!(site.too_large(), 0);
}

/// The request in flight fails once, as what it is; the push goes on, with Python and with us.
#[test]
fn registryd_killed_under_an_upload() {
    let site = Site::of_rust();
    let content = content(20 * MIB, 7);
    let path = site.begin();
    assert_eq!(site.send("PATCH", &path, &content[..MIB]).status, 202);
    let mut cut = site.begin_patch(&path, 19 * MIB, &content[MIB..9 * MIB]);
    site.until_stored(&path, 7 * MIB);
    site.booted.registryd("KILL");
    let mut answer = Vec::new();
    // nginx may close the connection with the rest of the body unread.
    let _ = cut.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(answer.ends_with("the page for a 502"), "{answer}");

    let status = site.send("GET", &path, b"");
    assert_eq!((status.status, status.header("range")), (204, "0-1048575"), "{status:?}");
    let added = site.send("PATCH", &path, &content[MIB..]);
    assert_eq!(added.status, 202, "{}", added.text());
    site.commit(&path, &content);
    assert_eq!(site.too_large(), 0);
    // The same push from its beginning.
    let again = site.send("POST", &uploads(REPO), b"");
    let path = path_of(again.header("location")).to_owned();
    assert_eq!(site.send("PATCH", &path, &content).status, 202);
    site.commit(&path, &content);
    site.booted.eventually("rust", || site.send("POST", &uploads(REPO), b"").owner() == "rust");
}

/// Pushes go on with whoever has the next request, and so do deletions.
#[test]
fn flips_in_mid_push_fail_nothing() {
    let site = Site::new();
    let load = PushLoad::start(site.booted.quay.port, &site.booted.world);
    for flip in 0..12 {
        site.give(&owners_at(flip));
        load.wait_for_more(3);
    }
    let pushed = load.stop();
    assert!(pushed.failed.is_empty(), "{} failed: {}", pushed.failed.len(), pushed.failed[0]);
    assert!(pushed.crossed >= 10, "{} of {} images crossed", pushed.crossed, pushed.images);
    assert!(pushed.deleted >= 10, "{} deleted", pushed.deleted);
    assert_eq!(site.too_large(), 0);
    let database = &site.booted.world.database;
    assert_eq!(history::broken(|sql| database.sql(sql)), "");
    assert_eq!(history::halves(|sql| database.sql(sql)), "");
}

/// A canary decides who begins an upload; by name of the repository, also who goes on with it. Where
/// it goes by who asks, an upload in the middle is ours, whoever began it.
#[test]
fn canaries_with_uploads() {
    let site = Site::new();
    let (ada, bob) = (&site.booted.world.ada, &site.booted.world.bob);
    let push = |who: &Login, content: &[u8]| -> [String; 3] {
        let begun = site.send_as(who, "POST", &uploads(REPO), b"");
        let path = path_of(begun.header("location")).to_owned();
        let added = site.send_as(who, "PATCH", &path, content);
        assert_eq!(added.status, 202, "{added:?}");
        let put = format!("{path}?digest={}", digest_of(content));
        let put = site.send_as(who, "PUT", &put, b"");
        assert_eq!(put.status, 201, "{put:?}");
        [begun, added, put].map(|answer| answer.owner().to_owned())
    };
    // A canary is in nginx's map: until old workers are gone, both answer.
    let until = |who: &Login, content: &[u8], owners: [&str; 3]| {
        eventually(
            || (push(who, content) == owners).then_some(()),
            || format!("not {owners:?}: {:?}", push(who, content)),
        );
    };
    site.give("ROUTE_CANARY_REPOS=[demo/nested]");
    site.give("ROUTE_OWNER_FAMILY_REGISTRY_V2=rust");
    until(ada, b"not in the cohort", ["python", "python", "python"]);
    site.give(&format!("ROUTE_CANARY_REPOS=[{REPO}]"));
    until(bob, b"its repository is", ["rust", "rust", "rust"]);
    site.give("ROUTE_CANARY_REPOS=[demo/nested]");
    until(bob, b"its repository is not", ["python", "python", "python"]);
    site.give(&format!("ROUTE_CANARY_USERS=[{}]", ada.username));
    until(ada, b"she is", ["rust", "rust", "rust"]);
    until(bob, b"he is not", ["python", "rust", "rust"]);
}
