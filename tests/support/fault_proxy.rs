//! Between a client and a server that is real: writes down what is asked, and breaks some of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::process::lock;

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The server never sees it; the answer is this status, these header lines (each with its end)
    /// and this body.
    Answer(&'static str, &'static str, &'static str),
    /// The same with header lines made for the test.
    Say(&'static str, String, String),
    /// The server answers it, but only so many bytes of that arrive, the head's included.
    Cut(usize),
    /// The same, and then nothing happens any more.
    Stall(usize),
    /// The last byte of the answer is another one.
    Flip,
    /// The answer is without this header, given in lower case.
    Without(&'static str),
    /// The request arrives without this header.
    Unasked(&'static str),
    /// Nobody ever answers.
    Hang,
    /// The connection is reset while the request is on its way.
    Reset,
    /// The answer names another object than the one that was stored.
    WrongEtag,
    /// Nothing goes on before [`FaultProxy::release`].
    Hold,
}

/// One request each connection, so that a fault hits one request.
pub struct FaultProxy {
    pub port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    heads: Mutex<Vec<String>>,
    faults: Mutex<Vec<(String, usize, Fault)>>,
    delivered: AtomicU64,
    released: Notify,
}

impl FaultProxy {
    pub async fn to(port: u16) -> FaultProxy {
        FaultProxy::at("127.0.0.1", port).await
    }

    /// One on another address of this machine.
    pub async fn at(address: &str, port: u16) -> FaultProxy {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
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
    pub fn fail(&self, mark: &str, times: usize, fault: Fault) {
        lock(&self.shared.faults).push((mark.to_owned(), times, fault));
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
        self.heads().iter().filter(|head| head.contains(mark)).count()
    }

    /// Bytes of answers that went through from beginning to end, or to where they were cut.
    pub fn delivered(&self) -> u64 {
        self.shared.delivered.load(Ordering::Relaxed)
    }

    /// All heads, in their order.
    pub fn heads(&self) -> Vec<String> {
        lock(&self.shared.heads).clone()
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
        let (_, times, fault) = faults
            .iter_mut()
            .find(|(mark, times, _)| *times > 0 && head.contains(mark.as_str()))?;
        *times -= 1;
        Some(fault.clone())
    }
}

/// How a client begins that wants TLS: it has to hear at once that there is none.
const TLS_HANDSHAKE: u8 = 0x16;

async fn pass(mut client: TcpStream, port: u16, shared: &Shared) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let end = loop {
        if client.read_buf(&mut bytes).await? == 0 || bytes[0] == TLS_HANDSHAKE {
            return Ok(());
        }
        if let Some(end) = head_end(&bytes) {
            break end;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let fault = shared.fault(&head);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut missing = length.map_or(0, |length| length.parse().unwrap()) - (bytes.len() - end - 4);
    lock(&shared.heads).push(head.clone());
    let said = match &fault {
        Some(Fault::Answer(status, headers, body)) => Some((*status, *headers, *body)),
        Some(Fault::Say(status, headers, body)) => Some((*status, headers.as_str(), body.as_str())),
        _ => None,
    };
    if let Some((status, headers, body)) = said {
        let mut unread = [0; 65536];
        while missing > 0 {
            missing = missing.saturating_sub(client.read(&mut unread).await?);
        }
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n"
        );
        return client.write_all(format!("{head}{body}").as_bytes()).await;
    }
    match fault {
        Some(Fault::Hang) => return std::future::pending().await,
        Some(Fault::Reset) => return client.set_zero_linger(),
        Some(Fault::Hold) => shared.released.notified().await,
        _ => {}
    }
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    match fault {
        Some(Fault::Unasked(header)) => {
            server.write_all(without(&head, header).as_bytes()).await?;
        }
        _ => server.write_all(&bytes[..end]).await?,
    }
    server.write_all(b"\r\nconnection: close").await?;
    server.write_all(&bytes[end..]).await?;
    let Some(fault) = fault.filter(|fault| !matches!(fault, Fault::Unasked(_))) else {
        let (_, answered) = copy_bidirectional(&mut client, &mut server).await?;
        shared.delivered.fetch_add(answered, Ordering::Relaxed);
        return Ok(());
    };
    tokio::io::copy(&mut (&mut client).take(missing as u64), &mut server).await?;
    let mut answer = Vec::new();
    if let Fault::Cut(most) | Fault::Stall(most) = fault {
        // Whoever is asked has to begin an answer, also where nothing of it arrives.
        server.readable().await?;
        let cut = tokio::io::copy(&mut server.take(most as u64), &mut client).await?;
        shared.delivered.fetch_add(cut, Ordering::Relaxed);
        if matches!(fault, Fault::Stall(_)) {
            // Until the client has enough of it.
            client.read_to_end(&mut answer).await?;
        }
        return Ok(());
    }
    server.read_to_end(&mut answer).await?;
    match fault {
        Fault::WrongEtag => change_etag(&mut answer),
        Fault::Flip => *answer.last_mut().expect("an answer") ^= 1,
        Fault::Without(header) => {
            let end = head_end(&answer).expect("a head");
            let head = without(&String::from_utf8_lossy(&answer[..end]), header);
            answer.splice(..end, head.into_bytes());
        }
        _ => {}
    }
    shared.delivered.fetch_add(answer.len() as u64, Ordering::Relaxed);
    client.write_all(&answer).await
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n")
}

fn without(head: &str, header: &str) -> String {
    let is_it = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default();
        name.eq_ignore_ascii_case(header)
    };
    head.split("\r\n").filter(|line| !is_it(line)).collect::<Vec<_>>().join("\r\n")
}

/// The first digit of the entity tag in the head of an answer.
fn change_etag(answer: &mut [u8]) {
    let head = String::from_utf8_lossy(answer).to_ascii_lowercase();
    let digit = head.find("etag: \"").expect("an entity tag") + "etag: \"".len();
    answer[digit] = if answer[digit] == b'0' { b'1' } else { b'0' };
}
