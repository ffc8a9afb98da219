//! Between a client and an object storage: writes down what is asked, and breaks some of it.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::support::process::lock;

/// What happens to a request.
#[derive(Clone, Copy)]
pub enum Fault {
    /// The storage never sees it; the answer is this status, and this code of an error.
    Answer(&'static str, &'static str),
    /// The storage answers it, but only so many bytes of that arrive.
    Cut(usize),
    /// Nobody ever answers.
    Hang,
    /// The connection is reset while the request is on its way.
    Reset,
    /// The answer names another object than the one that was stored.
    WrongEtag,
    /// Nothing goes on before [`FaultProxy::release`].
    Hold,
}

pub const SLOW_DOWN: Fault = Fault::Answer("503 Slow Down", "SlowDown");

pub const INTERNAL: Fault = Fault::Answer("500 Internal Server Error", "InternalError");

pub const LATE_ERROR: Fault = Fault::Answer("200 OK", "InternalError");

pub const FULL: Fault = Fault::Answer("507 Insufficient Storage", "XMinioStorageFull");

pub const NO_UPLOAD: Fault = Fault::Answer("404 Not Found", "NoSuchUpload");

/// One request each connection, so that a fault hits one request.
pub struct FaultProxy {
    pub port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    heads: Mutex<Vec<String>>,
    faults: Mutex<Vec<(&'static str, usize, Fault)>>,
    released: Notify,
}

impl FaultProxy {
    pub async fn to(port: u16) -> FaultProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Arc::new(Shared::default());
        let (own, serving) = (listener.local_addr().unwrap().port(), shared.clone());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = serving.clone();
                // A side that goes away ends this request, no more.
                tokio::spawn(async move { pass(client, port, &shared).await.ok() });
            }
        });
        FaultProxy { port: own, shared, task }
    }

    /// The next `times` requests whose head contains `mark` meet this fault.
    pub fn fail(&self, mark: &'static str, times: usize, fault: Fault) {
        lock(&self.shared.faults).push((mark, times, fault));
    }

    /// From now on nothing is broken.
    pub fn heal(&self) {
        lock(&self.shared.faults).clear();
    }

    /// Lets every request go on that is held.
    pub fn release(&self) {
        self.shared.released.notify_waiters();
    }

    /// How many requests had `mark` in their head.
    pub fn seen(&self, mark: &str) -> usize {
        lock(&self.shared.heads).iter().filter(|head| head.contains(mark)).count()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn fault(&self, head: &str) -> Option<Fault> {
        let mut faults = lock(&self.faults);
        let (_, times, fault) =
            faults.iter_mut().find(|(mark, times, _)| *times > 0 && head.contains(mark))?;
        *times -= 1;
        Some(*fault)
    }
}

async fn pass(mut client: TcpStream, port: u16, shared: &Shared) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let end = loop {
        if client.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let fault = shared.fault(&head);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut missing = length.map_or(0, |length| length.parse().unwrap()) - (bytes.len() - end - 4);
    lock(&shared.heads).push(head);
    match fault {
        Some(Fault::Answer(status, code)) => {
            let mut body = [0; 65536];
            while missing > 0 {
                missing = missing.saturating_sub(client.read(&mut body).await?);
            }
            let error = format!("<Error><Code>{code}</Code><Message>No</Message></Error>");
            let length = error.len();
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            );
            client.write_all(format!("{head}{error}").as_bytes()).await
        }
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Reset) => client.set_zero_linger(),
        Some(fault) => {
            if let Fault::Hold = fault {
                shared.released.notified().await;
            }
            let mut storage = to_storage(port, &bytes, end).await?;
            tokio::io::copy(&mut (&mut client).take(missing as u64), &mut storage).await?;
            let most = if let Fault::Cut(most) = fault { most } else { usize::MAX };
            let mut answer = Vec::new();
            (&mut storage).take(most.max(1) as u64).read_to_end(&mut answer).await?;
            if let Fault::WrongEtag = fault {
                change_etag(&mut answer);
            }
            client.write_all(&answer[..most.min(answer.len())]).await
        }
        None => {
            let mut storage = to_storage(port, &bytes, end).await?;
            copy_bidirectional(&mut client, &mut storage).await.map(drop)
        }
    }
}

/// What has come of a request, its head up to `end`, goes to the storage.
async fn to_storage(port: u16, bytes: &[u8], end: usize) -> std::io::Result<TcpStream> {
    let mut storage = TcpStream::connect(("127.0.0.1", port)).await?;
    storage.write_all(&bytes[..end]).await?;
    storage.write_all(b"\r\nconnection: close").await?;
    storage.write_all(&bytes[end..]).await?;
    Ok(storage)
}

/// The first digit of the entity tag in the head of an answer.
fn change_etag(answer: &mut [u8]) {
    let head = String::from_utf8_lossy(answer).to_ascii_lowercase();
    let digit = head.find("etag: \"").expect("an entity tag") + "etag: \"".len();
    answer[digit] = if answer[digit] == b'0' { b'1' } else { b'0' };
}
