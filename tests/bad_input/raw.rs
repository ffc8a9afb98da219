//! HTTP by hand, for what no client library would send.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

const HANGS: Duration = Duration::from_secs(30);

/// An answer as it came, up to the end of the connection.
pub(super) struct Raw {
    pub(super) status: u16,
    /// Names in lower case, in order.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

/// Sends bytes on a connection of their own. None when it was closed without an answer.
pub(super) fn exchange(address: &str, bytes: &[u8]) -> Option<Raw> {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(HANGS)).expect("a socket");
    stream.set_write_timeout(Some(HANGS)).expect("a socket");
    let (mut reader, mut writer) = (&stream, &stream);
    // It may refuse before it has read everything, and close.
    let _ = writer.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let (mut answer, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => answer.extend(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error} after {:?}", answer.escape_ascii().to_string()),
        }
    }
    Raw::parse(&answer)
}

/// Sends the beginning of a request and waits until the other side closes the connection; an error
/// with what came so far where it does not.
pub(super) fn begin(address: &str, bytes: &[u8], patience: Duration) -> Result<Raw, String> {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(patience)).expect("a socket");
    stream.set_write_timeout(Some(patience)).expect("a socket");
    let (mut reader, mut writer) = (&stream, &stream);
    let _ = writer.write_all(bytes);
    let (mut answer, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => answer.extend(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(_) => return Err(format!("open after {:?}", answer.escape_ascii().to_string())),
        }
    }
    Raw::parse(&answer).ok_or_else(|| "closed without an answer".to_owned())
}

impl Raw {
    fn parse(answer: &[u8]) -> Option<Raw> {
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head: String = answer[..end].iter().map(|byte| char::from(*byte)).collect();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').unwrap_or((line, "\0"));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        });
        Some(Raw { status, headers: headers.collect(), body: answer[end + 4..].to_vec() })
    }

    /// The answer that came behind this one, to a request behind the first.
    pub(super) fn split_off_next(&mut self) -> Option<Raw> {
        let length = self.header("content-length").parse().ok()?;
        let next = Raw::parse(self.body.get(length..)?)?;
        self.body.truncate(length);
        Some(next)
    }

    pub(super) fn header(&self, name: &str) -> &str {
        let header = self.headers.iter().find(|(found, _)| found == name);
        header.map_or("", |(_, value)| value)
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The code of the error in the registry's shape.
    pub(super) fn code(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// That it is one answer, and its head nothing but plain headers.
    pub(super) fn check(&self) -> Result<(), String> {
        for (name, value) in &self.headers {
            let plain = |c: char| c == '\t' || !c.is_control();
            let named = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            if name.is_empty() || !named || !value.chars().all(plain) {
                return Err(format!("header {name:?}: {value:?}"));
            }
            if name.starts_with("x-evil") || name == "set-cookie" {
                return Err(format!("somebody else's header {name}"));
            }
        }
        let length = self.header("content-length").parse::<usize>().ok();
        match length {
            Some(length) if ![0, length].contains(&self.body.len()) => {
                Err(format!("{} bytes of body instead of {length}", self.body.len()))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body: String = self.text().chars().take(300).collect();
        write!(f, "{} {:?} {body:?}", self.status, self.headers)
    }
}
