//! Stand-ins for gunicorn and for registryd: they say who they are and what they were asked.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::http::{read_body, read_head};
use crate::support::process::lock;

/// A request that asks for this gets it as an internal redirect, from registryd only.
pub const ACCEL: &str = "x-test-accel";

pub struct Backend {
    listener: OwnedFd,
    stopped: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<Weak<UnixStream>>>>,
    accepting: Option<std::thread::JoinHandle<()>>,
}

impl Backend {
    pub fn start(name: &'static str, path: &Path) -> Backend {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        // nginx's workers may be of another user.
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o666)).unwrap();
        let handle = listener.try_clone().unwrap().into();
        let stopped = Arc::new(AtomicBool::new(false));
        let open = Arc::new(Mutex::new(Vec::new()));
        let (stop, connections) = (stopped.clone(), open.clone());
        let accepting = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let stream = Arc::new(stream);
                let mut open = lock(&connections);
                open.retain(|known: &Weak<UnixStream>| known.strong_count() > 0);
                open.push(Arc::downgrade(&stream));
                drop(open);
                std::thread::spawn(move || {
                    // The end of a connection is how every conversation ends.
                    let _ = serve(name, &stream);
                });
            }
        });
        Backend { listener: handle, stopped, open, accepting: Some(accepting) }
    }

    /// As a kill does: no listener, no connection, only the socket's file is left.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Ends the listening, whether its file is still there or not.
        let _ = UnixStream::from(self.listener.try_clone().unwrap()).shutdown(Shutdown::Both);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        for stream in lock(&self.open).drain(..).filter_map(|stream| stream.upgrade()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.end();
    }
}

fn serve(name: &str, stream: &UnixStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let (first, headers) = read_head(&mut reader)?;
        let body = read_body(&mut reader, &headers, false)?;
        let mut words = first.split(' ');
        let method = words.next().unwrap_or_default();
        let target = words.next().unwrap_or_default();
        let version = words.next().unwrap_or_default();
        let close = headers.get("connection").is_some_and(|value| value == "close")
            || version == "HTTP/1.0";
        answer(name, &mut writer, method, target, &headers, &body, close)?;
        if close {
            return Ok(());
        }
    }
}

fn answer(
    name: &str,
    writer: &mut &UnixStream,
    method: &str,
    target: &str,
    headers: &BTreeMap<String, String>,
    body: &[u8],
    close: bool,
) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 200 OK\r\nX-Answered-By: {name}\r\n");
    let accel = headers.get(ACCEL).filter(|_| name == "rust");
    let streamed = headers.contains_key("x-quay-stream");
    let mut content = String::new();
    if let Some(accel) = accel.filter(|_| !streamed) {
        head.push_str(&format!(
            "X-Accel-Redirect: {accel}\r\nContent-Type: application/octet-stream\r\n\
             Docker-Content-Digest: sha256:abc\r\nCache-Control: max-age=31536000\r\n"
        ));
    } else {
        let connection = headers.get("connection").map_or("-", String::as_str);
        content = format!(
            "{name} {method} {target} streamed={streamed} connection={connection} host={} body={}",
            headers.get("host").map_or("-", String::as_str),
            body.len()
        );
        head.push_str("Content-Type: application/json\r\n");
    }
    head.push_str(&format!("Content-Length: {}\r\n", content.len()));
    if close {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    if method != "HEAD" {
        head.push_str(&content);
    }
    writer.write_all(head.as_bytes())
}
