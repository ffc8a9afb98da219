//! Passing a request through to Python's registry: for bodies that nginx has not kept and so cannot
//! send again, and for every decline where the proxy in front is not ours (design, "Handing back").
//!
//! Nothing is buffered: a chunk is read when the one before it has been taken.

use std::cell::Cell;
use std::fmt;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body_util::{BodyExt, Either, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use tokio::time::error::Elapsed;

use super::error::ApiError;
use super::paths::RawTarget;
use super::{App, Route};
use crate::telemetry::metrics::outcome;

/// How long it may take to be let in.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a client may be silent in the middle of its body, as nginx has it.
const SILENCE: Duration = Duration::from_secs(60);

/// How long Python may take to begin its answer, from the last byte of the body that it has taken:
/// what Quay tells nginx.
const ANSWER: Duration = Duration::from_secs(2000);

/// What belongs to one connection and not to the request (RFC 9110 §7.6.1). `Expect` has been
/// answered by then.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Where Python's registry listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Python {
    /// A socket file: `unix:/path`.
    Unix(PathBuf),
    /// `HOST:PORT`
    Tcp(String),
}

impl FromStr for Python {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port =
            |text: &str| text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            None if port(text).is_some() => Ok(Self::Tcp(text.to_owned())),
            _ => Err(format!("{text:?} is neither unix:/path nor HOST:PORT")),
        }
    }
}

impl fmt::Display for Python {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

/// What goes to Python.
type Outgoing = Either<Empty<Bytes>, StreamBody<stream::LocalBoxStream<'static, Chunk>>>;
type Chunk = Result<Frame<Bytes>, std::io::Error>;

/// Middleware for listeners that are not nginx's: what was declined is asked of Python.
pub async fn instead<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let app = request.app_data::<web::Data<App>>().cloned();
    let response = next.call(request).await?.map_into_boxed_body();
    let error = response.response().error().and_then(Error::as_error::<ApiError>);
    let Some(app) = app.filter(|app| !app.behind_nginx && matches!(error, Some(ApiError::Python)))
    else {
        return Ok(response);
    };
    let request = response.request().clone();
    let answer = app.ask_python(&request, Payload::None).await;
    Ok(ServiceResponse::new(request, answer.unwrap_or_else(HttpResponse::from_error)))
}

impl App {
    /// What becomes of a request that was not answered here, and whose body nobody has read. nginx
    /// can ask Python in our place, but not with the body of an upload, which it has not kept.
    pub(super) async fn hand_back(
        &self,
        error: ApiError,
        request: &HttpRequest,
        body: web::Payload,
    ) -> Result<HttpResponse, ApiError> {
        let uploads = [Route::Uploads, Route::Upload].contains(&Route::of(request));
        let streamed = (uploads || !self.behind_nginx) && has_body(request);
        match error {
            ApiError::Python if self.python.is_some() && streamed => {
                self.ask_python(request, body.into_inner()).await
            }
            // nginx would ask Python without the body, and Python would wait for it.
            ApiError::Python if streamed => Err(ApiError::Unavailable(
                "only Python can go on with this upload, and there is no way to it from here: \
                 begin anew"
                    .to_owned(),
            )),
            error => Err(error),
        }
    }

    /// Python's answer to a request as it came. The body is `payload`, which nobody has read.
    pub(super) async fn ask_python(
        &self,
        request: &HttpRequest,
        payload: Payload,
    ) -> Result<HttpResponse, ApiError> {
        let Some(python) = &self.python else { return Err(ApiError::Python) };
        let answer = python.ask(self.behind_nginx, request, payload).await;
        self.shared.metrics.passed_through.get_or_create(&outcome(answer.is_ok())).inc();
        answer
            .map(respond)
            .map_err(|error| ApiError::Unavailable(format!("Python at {python}: {error}")))
    }
}

impl Python {
    async fn ask(
        &self,
        behind_nginx: bool,
        request: &HttpRequest,
        payload: Payload,
    ) -> Result<hyper::Response<Incoming>, Box<dyn std::error::Error>> {
        let moved = Rc::new(Cell::new(Instant::now()));
        let outgoing = outgoing(behind_nginx, request, payload, moved.clone())?;
        let connected = tokio::time::timeout(CONNECT, async {
            match self {
                Self::Unix(path) => {
                    let stream = UnixStream::connect(path).await?;
                    Ok::<_, std::io::Error>(Box::new(stream) as Box<dyn Connection>)
                }
                Self::Tcp(address) => Ok(Box::new(TcpStream::connect(address).await?) as _),
            }
        });
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(connected.await??)).await?;
        // Ends with the answer, or when either side goes away.
        actix_web::rt::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to Python ended");
            }
        });
        Ok(while_it_moves(&moved, sender.send_request(outgoing)).await??)
    }
}

/// When the last bytes of a body were handed on.
type Moved = Rc<Cell<Instant>>;

/// An answer that comes within [`ANSWER`] of that.
async fn while_it_moves<T>(moved: &Moved, answer: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut answer = pin!(answer);
    loop {
        let last = moved.get();
        match tokio::time::timeout_at(last + ANSWER, answer.as_mut()).await {
            Err(_) if moved.get() > last => {}
            ended => return ended,
        }
    }
}

trait Connection: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Connection for T {}

fn outgoing(
    behind_nginx: bool,
    request: &HttpRequest,
    payload: Payload,
    moved: Moved,
) -> Result<hyper::Request<Outgoing>, hyper::http::Error> {
    let target = request.extensions().get::<RawTarget>().map(|raw| raw.0.to_string());
    let target = target.unwrap_or_else(|| request.uri().to_string());
    let mut outgoing = hyper::Request::builder().method(request.method().as_str()).uri(target);
    for (name, value) in request.headers().iter().filter(|(name, _)| passes(name.as_str())) {
        // A client's word on where it is from counts only where the proxy has written it.
        if behind_nginx || !name.as_str().starts_with("x-forwarded-") {
            outgoing = outgoing.header(name.as_str(), value.as_bytes());
        }
    }
    if let Some(peer) = request.peer_addr().filter(|_| !behind_nginx) {
        outgoing = outgoing.header("x-forwarded-for", peer.ip().to_string());
    }
    let body = match payload {
        Payload::None => Either::Left(Empty::new()),
        payload => Either::Right(StreamBody::new(chunks(payload, moved).boxed_local())),
    };
    outgoing.header("connection", "close").body(body)
}

fn passes(name: &str) -> bool {
    !HOP_BY_HOP.contains(&name)
}

/// What the client sends, for as long as it does.
fn chunks(payload: Payload, moved: Moved) -> impl Stream<Item = Chunk> {
    stream::unfold(Some((payload, moved)), |body| async move {
        let (mut payload, moved) = body?;
        moved.set(Instant::now());
        let other = |reason: &str| std::io::Error::other(reason.to_owned());
        match tokio::time::timeout(SILENCE, payload.next()).await {
            Ok(Some(Ok(chunk))) => Some((Ok(Frame::data(chunk)), Some((payload, moved)))),
            Ok(Some(Err(error))) => Some((Err(other(&error.to_string())), None)),
            Ok(None) => None,
            Err(_) => Some((Err(other("the client sent nothing for too long")), None)),
        }
    })
}

/// Python's answer, as it comes.
fn respond(answer: hyper::Response<Incoming>) -> HttpResponse {
    let (head, body) = answer.into_parts();
    let status = StatusCode::from_u16(head.status.as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = HttpResponse::build(status);
    let mut length = None;
    for (name, value) in head.headers.iter().filter(|(name, _)| passes(name.as_str())) {
        if name == "content-length" {
            length = value.to_str().ok().and_then(|value| value.parse::<u64>().ok());
            continue;
        }
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            response.append_header((name, value));
        }
    }
    let body = body.into_data_stream();
    match length {
        Some(length) => response.body(actix_web::body::SizedStream::new(length, body)),
        None => response.streaming(body),
    }
}

/// Whether a body follows that nginx has not kept: it streams those of uploads.
fn has_body(request: &HttpRequest) -> bool {
    let headers = request.headers();
    let length = headers.get(header::CONTENT_LENGTH);
    headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|value| value != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_waited_for_from_the_last_byte_on() {
        let moved = Moved::new(Cell::new(Instant::now()));
        let (began, sender) = (Instant::now(), moved.clone());
        let upload = async move {
            for _ in 0..30 {
                tokio::time::sleep(ANSWER / 10).await;
                sender.set(Instant::now());
            }
            tokio::time::sleep(ANSWER / 2).await;
        };
        assert!(while_it_moves(&moved, upload).await.is_ok());
        let silent = Instant::now();
        assert!(silent - began > ANSWER * 3);
        moved.set(silent);
        assert!(while_it_moves(&moved, std::future::pending::<()>()).await.is_err());
        assert!(silent.elapsed() < ANSWER * 2);
    }

    #[test]
    fn addresses() {
        let unix: Python = "unix:/tmp/gunicorn_registry.sock".parse().unwrap();
        assert_eq!(unix.to_string(), "unix:/tmp/gunicorn_registry.sock");
        let tcp: Python = "quay-python:8080".parse().unwrap();
        assert_eq!(tcp, Python::Tcp("quay-python:8080".into()));
        for bad in ["", "unix:", "unix:relative", "host", "host:port", "http://host"] {
            bad.parse::<Python>().unwrap_err();
        }
    }
}
