//! Sends one request to a bucket until it is answered, for a bounded number of times and for a
//! bounded time.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chrono::Utc;
use reqwest::header::HeaderMap;
use reqwest::{Response, StatusCode, Url, redirect};
use tokio::time::{Instant, sleep, timeout};

use super::answer::{Answer, ErrorAnswer};
use super::error::{Fault, S3Error, reason};
use super::request::Request;
use super::sign::signed;
use crate::config::S3;

/// How long a storage may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until a connection is there.
    pub connect: Duration,
    /// Until an answer begins, and between two pieces of it; a request that moves bytes has
    /// another second for each MiB.
    pub answer: Duration,
    /// Before the first repetition, on average; the others wait longer and longer.
    pub pause: Duration,
}

/// The answer's as in boto.
impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(60),
            pause: Duration::from_millis(100),
        }
    }
}

/// How often a request is sent at most.
const TRIES: u32 = 4;

/// Bytes a second that a storage takes in, or copies, at its slowest.
const SLOWEST: u64 = 1024 * 1024;

/// Answers that are documents are short.
const LONGEST_DOCUMENT: usize = 64 * 1024;

/// A bucket that can be talked to. Cheap to clone.
#[derive(Clone)]
pub(super) struct Client(Arc<Inner>);

struct Inner {
    storage: S3,
    http: reqwest::Client,
    patience: Patience,
}

/// An answer that was read to its end.
pub(super) struct Whole {
    pub headers: HeaderMap,
    pub text: String,
}

impl Client {
    /// Certificates are verified with those that the system trusts, where there is TLS. Proxies are
    /// those of the environment, as for boto, but never on the way to this machine itself.
    pub fn new(storage: &S3, patience: Patience) -> Result<Self, reqwest::Error> {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("quay-sidecar/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(patience.connect)
            .pool_idle_timeout(Duration::from_secs(30));
        let builder = if is_loopback(&storage.endpoint) { builder.no_proxy() } else { builder };
        let plain = storage.endpoint.starts_with("http://");
        let builder = if plain { builder.tls_certs_only([]) } else { builder };
        let http = builder.build()?;
        Ok(Self(Arc::new(Inner { storage: storage.clone(), http, patience })))
    }

    pub fn storage(&self) -> &S3 {
        &self.0.storage
    }

    /// Tries for a request that moves that many bytes.
    pub fn tries(&self, work: u64) -> Tries {
        let deadline = Instant::now() + 2 * self.allowance(work);
        Tries { done: 0, pause: self.0.patience.pause, deadline }
    }

    /// The answer, its body read.
    pub async fn send(&self, request: &Request) -> Result<Whole, S3Error> {
        let mut tries = self.tries(request.work);
        loop {
            match self.send_once(request).await {
                Err(error) if error.fault == Fault::Storage && tries.again(&error).await => {}
                outcome => return outcome,
            }
        }
    }

    /// The next piece of a body.
    pub async fn next(
        &self,
        request: &Request,
        response: &mut Response,
    ) -> Result<Option<Bytes>, S3Error> {
        match timeout(self.0.patience.answer, response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(broken(request, error)),
            Err(_) => Err(failed(request, Fault::Storage, "its answer stopped coming".to_owned())),
        }
    }

    async fn send_once(&self, request: &Request) -> Result<Whole, S3Error> {
        let mut response = self.open(request).await?;
        let text = self.text(request, &mut response).await?;
        // A storage that began to answer before it knew reports an error in a good answer.
        if let Ok(Answer::Error(error)) = Answer::parse(&text) {
            return Err(answered(request, response.status(), response.headers(), &error));
        }
        Ok(Whole { headers: std::mem::take(response.headers_mut()), text })
    }

    /// The answer, its body to be read with [`next`](Self::next). Tried once: who reads has to try
    /// again anyway.
    pub async fn open(&self, request: &Request) -> Result<Response, S3Error> {
        let sent = self.prepared(request)?.send();
        let mut response = match timeout(self.allowance(request.work), sent).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(broken(request, error)),
            Err(_) => return Err(failed(request, Fault::Storage, "no answer".to_owned())),
        };
        if response.status().is_success() {
            return Ok(response);
        }
        let error = match self.text(request, &mut response).await.map(|text| Answer::parse(&text)) {
            Ok(Ok(Answer::Error(error))) => error,
            _ => ErrorAnswer::default(),
        };
        Err(answered(request, response.status(), response.headers(), &error))
    }

    fn prepared(&self, request: &Request) -> Result<reqwest::RequestBuilder, S3Error> {
        let signed = signed(&self.0.storage, request, Utc::now());
        let url = Url::parse(&signed.url)
            .map_err(|error| failed(request, Fault::Settings, format!("its URL: {error}")))?;
        let mut builder = self.0.http.request(request.method.clone(), url);
        for (name, value) in &signed.headers {
            builder = builder.header(*name, value);
        }
        // Named also where it is 0: some storages insist.
        let length = request.body.bytes.len();
        if length > 0 || matches!(request.method.as_str(), "PUT" | "POST") {
            builder = builder.header("content-length", length).body(request.body.bytes.clone());
        }
        Ok(builder)
    }

    async fn text(&self, request: &Request, response: &mut Response) -> Result<String, S3Error> {
        let mut body = BytesMut::new();
        while let Some(chunk) = self.next(request, response).await? {
            if body.len() + chunk.len() > LONGEST_DOCUMENT {
                return Err(failed(request, Fault::Storage, "its answer is too long".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    fn allowance(&self, work: u64) -> Duration {
        self.0.patience.answer + Duration::from_secs(work / SLOWEST)
    }
}

/// How often, and until when, something is tried.
pub(super) struct Tries {
    done: u32,
    pause: Duration,
    deadline: Instant,
}

impl Tries {
    /// Waits before the next try, if there is to be one.
    pub async fn again(&mut self, error: &S3Error) -> bool {
        self.done += 1;
        let longest = self.pause * 2 * 3_u32.pow(self.done - 1);
        let pause = longest.mul_f64(random_share());
        if self.done >= TRIES || Instant::now() + pause >= self.deadline {
            return false;
        }
        tracing::debug!(%error, "another try");
        sleep(pause).await;
        true
    }
}

/// From 0 to 1: those who failed together do not come back together.
fn random_share() -> f64 {
    let mut bytes = [0];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(bytes[0]) / f64::from(u8::MAX)
}

pub(super) fn failed(request: &Request, fault: Fault, reason: String) -> S3Error {
    S3Error { operation: request.operation, key: request.key.clone(), fault, reason }
}

/// A request that could not be sent, or was not answered to the end.
fn broken(request: &Request, error: reqwest::Error) -> S3Error {
    let fault = if error.is_builder() { Fault::Settings } else { Fault::Storage };
    let error = error.without_url();
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        reason = format!("{reason}: {error}");
        cause = error.source();
    }
    failed(request, fault, reason)
}

fn answered(
    request: &Request,
    status: StatusCode,
    headers: &HeaderMap,
    error: &ErrorAnswer,
) -> S3Error {
    let region = headers.get("x-amz-bucket-region").and_then(|region| region.to_str().ok());
    failed(request, Fault::of(status, &error.code), reason(status, error, region))
}

fn is_loopback(endpoint: &str) -> bool {
    let url = Url::parse(endpoint).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_needs_no_proxy() {
        for near in ["http://127.0.0.1:9000", "http://[::1]:9000", "https://localhost/base"] {
            assert!(is_loopback(near), "{near}");
        }
        for far in ["https://s3.amazonaws.com", "http://10.0.0.1:9000", "127.0.0.1"] {
            assert!(!is_loopback(far), "{far}");
        }
    }
}
