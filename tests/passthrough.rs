//! What registryd does not serve itself it asks of Python, byte by byte where nginx cannot.

use std::collections::BTreeMap;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use crate::bundle::backend::Backend;
use crate::bundle::http::{Client, read_body, read_head};
use crate::bundle::nginx::Nginx;
use crate::bundle::quay::{Quay, Variant};
use crate::support::process::PATIENCE;
use crate::support::{Registryd, World, eventually};

const UPLOAD: &str = "/v2/demo/public/blobs/uploads/0b1fd1d5-6a31-4b0a-a3a3-7d5e4d8b3f10";

/// Python's side of one connection, played by the test.
struct Python {
    listener: TcpListener,
}

struct Conversation {
    first: String,
    headers: BTreeMap<String, String>,
    stream: BufReader<TcpStream>,
}

impl Python {
    fn new() -> Python {
        Python { listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    fn accept(&self) -> Conversation {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = BufReader::new(stream);
        let (first, headers) = read_head(&mut stream).unwrap();
        Conversation { first, headers, stream }
    }
}

impl Conversation {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The next chunk of a chunked body.
    fn chunk(&mut self) -> Vec<u8> {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut self.stream, &mut line).unwrap();
        let mut chunk = vec![0; usize::from_str_radix(line.trim(), 16).unwrap() + 2];
        self.stream.read_exact(&mut chunk).unwrap();
        chunk.truncate(chunk.len() - 2);
        chunk
    }

    fn answer(mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }
}

/// One in which nothing is served here, whoever asks.
fn world_of_python() -> World {
    let mut world = World::new();
    world.configure("TESTING", true.into());
    world
}

fn world_and(python: &Python, more: &[&str]) -> (World, Registryd) {
    let world = world_of_python();
    let address = python.address();
    let arguments = [&["--python", address.as_str()], more].concat();
    let registryd = world.registryd_with(&arguments);
    (world, registryd)
}

fn connect(registryd: &Registryd) -> TcpStream {
    let stream = TcpStream::connect(registryd.base().trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn head(method: &str, target: &str, headers: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: registry.example\r\n{headers}\r\n")
}

#[test]
fn a_slow_body_arrives_as_it_is_sent() {
    let python = Python::new();
    let (_world, registryd) = world_and(&python, &["--behind-nginx"]);
    let mut client = connect(&registryd);
    let headers = "Transfer-Encoding: chunked\r\nX-Forwarded-For: 192.0.2.7\r\nTE: trailers\r\n\
                   Authorization: Bearer a.b.c\r\nExpect: 100-continue\r\n";
    client.write_all(head("PATCH", &format!("{UPLOAD}?a=%2F"), headers).as_bytes()).unwrap();
    let mut asked = python.accept();
    assert_eq!(asked.first, format!("PATCH {UPLOAD}?a=%2F HTTP/1.1"));
    assert_eq!(asked.header("host"), "registry.example");
    assert_eq!(asked.header("x-forwarded-for"), "192.0.2.7");
    assert_eq!(asked.header("authorization"), "Bearer a.b.c");
    assert_eq!((asked.header("te"), asked.header("expect")), ("", ""));
    assert_eq!(asked.header("transfer-encoding"), "chunked");
    for byte in b"slowly" {
        client.write_all(format!("1\r\n{}\r\n", char::from(*byte)).as_bytes()).unwrap();
        // The next one is not sent before this one is there.
        assert_eq!(asked.chunk(), [*byte]);
    }
    client.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(asked.chunk(), b"");
    let answer = "HTTP/1.1 202 ACCEPTED\r\nLocation: /somewhere\r\nRange: 0-5\r\nX-Twice: 1\r\n\
                  X-Twice: 2\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    asked.answer(answer);
    let mut client = BufReader::new(client);
    assert_eq!(read_head(&mut client).unwrap().0, "HTTP/1.1 100 Continue");
    let (first, headers) = read_head(&mut client).unwrap();
    assert_eq!(first, "HTTP/1.1 202 Accepted");
    assert_eq!((&*headers["location"], &*headers["range"]), ("/somewhere", "0-5"));
    assert_eq!(headers["x-twice"], "2");
    assert_eq!(headers["content-length"], "0");
    let passed = "quay_passed_through_total{outcome=\"ok\"}";
    assert!((registryd.metric(passed) - 1.0).abs() < f64::EPSILON);
}

#[test]
fn a_large_body_is_not_kept() {
    const SIZE: usize = 100 << 20;
    let python = Python::new();
    let (_world, registryd) = world_and(&python, &["--behind-nginx"]);
    let (_, before) = registryd.memory();
    let mut client = connect(&registryd);
    let sending = std::thread::spawn(move || {
        let length = format!("Content-Length: {SIZE}\r\n");
        client.write_all(head("PUT", &format!("{UPLOAD}?digest=sha256:0a"), &length).as_bytes())?;
        let block = vec![7; 1 << 20];
        (0..SIZE / block.len()).try_for_each(|_| client.write_all(&block))?;
        Ok::<_, std::io::Error>(client)
    });
    let mut asked = python.accept();
    assert_eq!(asked.header("content-length"), SIZE.to_string());
    let body = read_body(&mut asked.stream, &asked.headers, false).unwrap();
    assert!(body.len() == SIZE && body.iter().all(|byte| *byte == 7));
    let answer = "HTTP/1.1 201 CREATED\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n";
    asked.answer(answer);
    let mut client = BufReader::new(sending.join().unwrap().unwrap());
    let (first, headers) = read_head(&mut client).unwrap();
    assert_eq!(first, "HTTP/1.1 201 Created");
    assert_eq!(read_body(&mut client, &headers, true).unwrap(), b"yes");
    let (_, after) = registryd.memory();
    assert!(after - before < 16 << 20, "{} KiB more", (after - before) >> 10);
}

/// Python must not take the beginning of a body for all of it.
#[test]
fn a_client_that_goes_away_is_gone_for_python_too() {
    let python = Python::new();
    let (_world, registryd) = world_and(&python, &["--behind-nginx"]);
    for framing in ["Content-Length: 100\r\n", "Transfer-Encoding: chunked\r\n"] {
        let mut client = connect(&registryd);
        client.write_all(head("PATCH", UPLOAD, framing).as_bytes()).unwrap();
        let part: &[u8] = if framing.starts_with('C') { b"part" } else { b"4\r\npart\r\n" };
        client.write_all(part).unwrap();
        let mut asked = python.accept();
        client.shutdown(Shutdown::Both).unwrap();
        let mut rest = Vec::new();
        // An end or a reset; to wait in vain would be a timeout.
        let ended = asked.stream.read_to_end(&mut rest).map_err(|error| error.kind());
        assert!(!matches!(ended, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "{ended:?}");
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
        assert!(rest.len() < 100, "{rest:?}");
    }
}

#[test]
fn an_early_answer_is_passed_on() {
    let python = Python::new();
    let (_world, registryd) = world_and(&python, &["--behind-nginx"]);
    let mut client = connect(&registryd);
    client.write_all(head("PATCH", UPLOAD, "Content-Length: 1000000\r\n").as_bytes()).unwrap();
    let refusal = "HTTP/1.1 401 UNAUTHORIZED\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
    python.accept().answer(refusal);
    let mut client = BufReader::new(client);
    let (first, headers) = read_head(&mut client).unwrap();
    assert_eq!(first, "HTTP/1.1 401 Unauthorized");
    assert_eq!(read_body(&mut client, &headers, true).unwrap(), b"no");
}

#[test]
fn without_python_there_is_a_clear_error() {
    let nobody = Python::new();
    let address = nobody.address();
    drop(nobody);
    let world = world_of_python();
    let registryd = world.registryd_with(&["--behind-nginx", "--python", &address]);
    let mut client = connect(&registryd);
    client.write_all(head("PATCH", UPLOAD, "Content-Length: 4\r\n").as_bytes()).unwrap();
    client.write_all(b"body").unwrap();
    let mut client = BufReader::new(client);
    let (first, headers) = read_head(&mut client).unwrap();
    assert_eq!(first, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(headers["retry-after"], "1");
    eventually(
        || registryd.logs().contains(&format!("Python at {address}: ")).then_some(()),
        || registryd.logs(),
    );
}

/// In front of a listener that is not nginx's nobody else could ask Python.
#[test]
fn without_nginx_every_decline_is_asked_of_python() {
    let python = Python::new();
    let (_world, registryd) = world_and(&python, &[]);
    let manifest = "/v2/demo/public/manifests/new";
    for (method, target, body) in [
        ("GET", "/v2/demo%2Fpublic/manifests/docker?x=%41", ""),
        ("GET", "/v1/search?q=a", ""),
        ("DELETE", manifest, ""),
        ("PUT", manifest, "{}"),
        ("POST", "/v2/demo/public/blobs/uploads/", ""),
    ] {
        let mut client = connect(&registryd);
        let headers = format!("X-Forwarded-For: 192.0.2.7\r\nContent-Length: {}\r\n", body.len());
        client.write_all((head(method, target, &headers) + body).as_bytes()).unwrap();
        let mut asked = python.accept();
        assert_eq!(asked.first, format!("{method} {target} HTTP/1.1"));
        // Where nobody has checked it, a client's word on where it is from does not count.
        assert_eq!(asked.header("x-forwarded-for"), "127.0.0.1");
        if !body.is_empty() {
            assert_eq!(read_body(&mut asked.stream, &asked.headers, false).unwrap(), b"{}");
        }
        asked.answer("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npython");
        let mut client = BufReader::new(client);
        let (_, headers) = read_head(&mut client).unwrap();
        assert_eq!(read_body(&mut client, &headers, true).unwrap(), b"python", "{method} {target}");
    }
}

/// The real nginx streams the body of an upload, so it cannot ask Python after us.
#[test]
fn an_upload_through_nginx_reaches_python() {
    let quay = Quay::new(Variant { same_user: true, ..Variant::default() });
    quay.boot();
    let world = world_of_python();
    let _python = Backend::start("python", &quay.python_socket());
    let listen = format!("unix:{},nginx", quay.rust_socket().display());
    let python = format!("unix:{}", quay.python_socket().display());
    let registryd = world.registryd_with(&["--listen", &listen, "--python", &python]);
    let _nginx = Nginx::start(&quay);
    quay.flag("v2_push", true);
    let body = vec![b'x'; 300_000];
    let mut client = Client::new(quay.port);
    for method in ["PATCH", "PUT"] {
        let answer = client.send(method, UPLOAD, &[], Some(&body)).unwrap();
        assert_eq!((answer.status, answer.by()), (200, "python"), "{answer:?}");
        assert!(answer.text().contains("body=300000"), "{}", answer.text());
        assert_eq!(answer.owner(), "rust");
    }
    // Without a body nginx asks Python itself.
    let answer = client.send("DELETE", UPLOAD, &[], None).unwrap();
    assert_eq!((answer.by(), answer.owner()), ("python", "python"));
    let passed = registryd.metric("quay_passed_through_total");
    assert!((passed - 2.0).abs() < f64::EPSILON, "{passed}");
}
