//! Answers that come before the body is through. Whoever sends it has to hear that the connection is
//! of no more use: a client that puts its next request on it would wait for ever.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::*;

/// What a client may have to wait for the end of its connection.
const AT_ONCE: Duration = Duration::from_secs(5);

const LENGTH: &str = "Content-Length: 10485760\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

/// One chunk and no end, or a part of what was announced.
fn part(framing: &str) -> Vec<u8> {
    let mut part = if framing == CHUNKED { b"10000\r\n".to_vec() } else { Vec::new() };
    part.extend(vec![b'x'; 0x10000]);
    part
}

/// Requests that are answered without their bodies, with the status.
fn refused(target: &Target) -> Vec<(String, u16)> {
    let ada = target.world.token(Some(&target.world.ada), "demo/private", &["pull", "push"]);
    let by_ada = format!("Authorization: {}\r\n", target.bearer(&ada));
    let uploads = "/v2/demo/private/blobs/uploads";
    let unknown = "00000000-0000-0000-0000-000000000000";
    vec![
        (format!("PATCH {uploads}/{unknown} HTTP/1.1\r\nHost: x\r\n"), 401),
        (format!("POST {uploads}/ HTTP/1.1\r\nHost: x\r\n"), 401),
        ("PUT /v2/demo/private/manifests/a HTTP/1.1\r\nHost: x\r\n".to_owned(), 401),
        (format!("PATCH {uploads}/{unknown} HTTP/1.1\r\nHost: x\r\n{by_ada}"), 404),
        (format!("PUT {uploads}/{unknown}?digest=a HTTP/1.1\r\nHost: x\r\n{by_ada}"), 404),
        ("PUT /v2/auth HTTP/1.1\r\nHost: x\r\n".to_owned(), 405),
        ("PUT /nowhere HTTP/1.1\r\nHost: x\r\n".to_owned(), 404),
        ("GET /v2/ HTTP/1.1\r\nHost: x\r\n".to_owned(), 401),
    ]
}

#[test]
fn a_connection_whose_body_nobody_reads_ends() {
    let target = Target::get();
    let address = target.registryd.base().strip_prefix("http://").unwrap();
    let mut wrong = Vec::new();
    for (head, status) in refused(target) {
        for framing in [LENGTH, CHUNKED] {
            let began = Instant::now();
            let request = format!("{head}{framing}\r\n");
            let sent = [request.as_bytes(), &part(framing)].concat();
            // The writing side stays open: this client has more to say.
            let answer = raw::begin(address, &sent, AT_ONCE);
            let closes = answer.as_ref().is_ok_and(|answer| answer.header("connection") == "close");
            let right = answer.as_ref().is_ok_and(|answer| answer.status == status);
            if !right || !closes {
                let line = request.lines().next().unwrap_or_default().to_owned();
                wrong.push(format!("{line}, {framing:?}: {answer:?} after {:?}", began.elapsed()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    target.assert_well();
}

/// One that goes on sending has its answer, and is not read for ever.
#[test]
fn a_client_that_goes_on_is_answered_and_cut_off() {
    let target = Target::get();
    let address = target.registryd.base().strip_prefix("http://").unwrap();
    for framing in [LENGTH, CHUNKED] {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_write_timeout(Some(AT_ONCE)).unwrap();
        let head = format!("PUT /v2/demo/private/manifests/a HTTP/1.1\r\nHost: x\r\n{framing}\r\n");
        let (mut writer, chunk) = (&stream, [part(framing), b"\r\n".to_vec()].concat());
        writer.write_all(head.as_bytes()).unwrap();
        let began = Instant::now();
        // With CHUNKED this would never end.
        while writer.write_all(&chunk).is_ok() {
            assert!(began.elapsed() < AT_ONCE, "{framing:?} is read on and on");
        }
        let _ = stream.shutdown(Shutdown::Both);
    }
    target.assert_well();
}

/// Where the body was read, or there was none, the connection is kept.
#[test]
fn other_connections_are_kept() {
    let target = Target::get();
    let request = "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n";
    let whole = "PUT /v2/auth HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    let mut first = target.exchange([whole, request].concat().as_bytes()).unwrap();
    assert_eq!((first.status, first.header("connection")), (405, ""));
    let second = first.split_off_next().expect("the second answer");
    assert_eq!(second.status, 401);
}
