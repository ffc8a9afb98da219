//! A client that shows every byte: no retries, no redirects, no decoding.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;

use crate::support::process::PATIENCE;

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Who says that it answered.
    pub fn by(&self) -> &str {
        self.header("x-answered-by")
    }

    /// Who nginx says that it was.
    pub fn owner(&self) -> &str {
        self.header("x-quay-owner")
    }
}

/// A connection that is kept for as long as the server lets it.
pub struct Client {
    port: u16,
    kept: Option<BufReader<TcpStream>>,
}

impl Client {
    pub fn new(port: u16) -> Client {
        Client { port, kept: None }
    }

    pub fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> io::Result<Answer> {
        let mut stream = match self.kept.take() {
            Some(kept) => kept,
            None => {
                let stream = TcpStream::connect(("127.0.0.1", self.port))?;
                stream.set_read_timeout(Some(PATIENCE))?;
                BufReader::new(stream)
            }
        };
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: registry.example\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = body {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body.unwrap_or_default());
        stream.get_mut().write_all(&bytes)?;
        let answer = read_answer(&mut stream, method)?;
        if answer.header("connection") != "close" {
            self.kept = Some(stream);
        }
        Ok(answer)
    }
}

/// One request on a connection of its own; panics when nothing is answered.
pub fn send(port: u16, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
    let sent = Client::new(port).send(method, target, headers, None);
    sent.unwrap_or_else(|error| panic!("{method} {target}: {error}"))
}

fn read_answer(stream: &mut impl BufRead, method: &str) -> io::Result<Answer> {
    let (first, headers) = read_head(stream)?;
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no answer: {first:?}")))?;
    let mut answer = Answer { status, headers, body: Vec::new() };
    if method == "HEAD" || status == 204 || status == 304 {
        return Ok(answer);
    }
    answer.body = read_body(stream, &answer.headers, true)?;
    Ok(answer)
}

/// The first line, and the headers with their names in lower case.
pub fn read_head(stream: &mut impl BufRead) -> io::Result<(String, BTreeMap<String, String>)> {
    let mut first = String::new();
    if stream.read_line(&mut first)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some((name, value)) = line.split_once(':') else {
            return Ok((first.trim_end().to_owned(), headers));
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
}

pub fn read_body(
    stream: &mut impl BufRead,
    headers: &BTreeMap<String, String>,
    until_end: bool,
) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if let Some(length) = headers.get("content-length") {
        body.resize(length.parse().map_err(io::Error::other)?, 0);
        stream.read_exact(&mut body)?;
    } else if headers.get("transfer-encoding").is_some_and(|value| value == "chunked") {
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            let start = body.len();
            body.resize(start + length, 0);
            stream.read_exact(&mut body[start..])?;
            stream.read_line(&mut line)?;
            if length == 0 {
                break;
            }
        }
    } else if until_end {
        stream.read_to_end(&mut body)?;
    }
    Ok(body)
}
