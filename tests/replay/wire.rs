//! The plainest of HTTP clients. It sends the bytes that it is given, where a library would tidy
//! the path and add headers of its own.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::process::PATIENCE;

/// An answer as it came.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends one request on a connection of its own to `http://ADDRESS`.
pub fn send<'h>(
    base: &str,
    method: &str,
    path: &str,
    headers: impl IntoIterator<Item = (&'h str, &'h str)>,
    body: &[u8],
) -> Answer {
    let address = base.strip_prefix("http://").expect("an address");
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("{address}: {e}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut answer = Vec::new();
    let sent = stream.write_all(&[head.as_bytes(), body].concat());
    let result = sent.and_then(|()| stream.read_to_end(&mut answer));
    result.unwrap_or_else(|e| panic!("{method} {path}: {e}"));
    parse(&answer).unwrap_or_else(|| {
        panic!("{method} {path}: no answer: {:?}", String::from_utf8_lossy(&answer))
    })
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header = |line: &str| {
        line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
    };
    let headers = lines.map(header).collect::<Option<Vec<_>>>()?;
    let mut answer = Answer { status, headers, body: bytes[end + 4..].to_vec() };
    if answer.header("Transfer-Encoding").is_some() {
        answer.body = dechunked(&answer.body)?;
    }
    Some(answer)
}

fn dechunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        let chunk = rest.get(end + 2..end + 2 + size)?;
        body.extend_from_slice(chunk);
        rest = rest.get(end + 4 + size..)?;
    }
}
