//! One request and its answer, with every redirect in between judged like a first request.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chrono::Utc;
use hyper::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::dns::Resolve;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue,
    LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Method, Response, StatusCode, Url, redirect};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

use super::counts::{Counters, Kind};
use super::error::causes;
use super::gate::Permit;
use super::guard::{Guard, System, Whose};
use super::patience::{self, Patience, Tries};
use super::ssrf::Refusal;
use super::{AllowedHosts, Fault, Hosts, Options, Proxy, UpstreamError, auth, roots, ssrf};

/// Redirects of one request that are followed.
const MOST_REDIRECTS: usize = 5;

/// Bytes of an error that are read for its reason.
const LONGEST_ERROR: usize = 16 * 1024;

/// What to do about a host that is not public.
const ALLOW: &str = "if it is meant to be mirrored, add it to SSRF_ALLOWED_HOSTS";

/// What is asked, wherever it has to be asked.
pub(super) struct Ask {
    pub kind: Kind,
    pub method: Method,
    /// For errors: `tags of library/busybox`.
    pub what: String,
    pub accept: Option<String>,
    /// The first byte that is wanted; all of them without a `Range`.
    pub from: u64,
    /// Redirects are not followed.
    pub stays: bool,
}

impl Ask {
    pub fn new(kind: Kind, method: Method, what: String) -> Self {
        Self { kind, method, what, accept: None, from: 0, stays: false }
    }

    pub fn accept(mut self, types: &[&str]) -> Self {
        self.accept = Some(types.join(", "));
        self
    }

    fn request(&self) -> String {
        format!("{} {}", self.method, self.what)
    }
}

/// An answer whose body is still to be read.
pub(super) struct Answer {
    response: Response,
    host: String,
    request: String,
    /// No redirect led away from where it was asked.
    pub at_home: bool,
}

impl Answer {
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    pub fn header(&self, name: impl reqwest::header::AsHeaderName) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// Bytes of the body, where the answer says; also in an answer to HEAD.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// Something is wrong with this answer.
    pub fn error(&self, fault: Fault, reason: impl AsRef<str>) -> UpstreamError {
        UpstreamError::new(fault, &self.host, &self.request, reason)
            .answered(self.status().as_u16())
    }
}

/// Sends requests and knows nothing of repositories.
pub(super) struct Client {
    direct: reqwest::Client,
    /// For what goes through a proxy, and which that is.
    proxied: Option<(Matcher, reqwest::Client)>,
    allowed: AllowedHosts,
    verify_tls: bool,
    hosts: Hosts,
    pub patience: Patience,
    pub counters: Counters,
}

impl Client {
    pub fn new(options: &Options) -> Result<Self, UpstreamError> {
        Self::with_lookup(options, Arc::new(System))
    }

    /// One whose names are looked up elsewhere.
    pub fn with_lookup(options: &Options, lookup: Arc<dyn Resolve>) -> Result<Self, UpstreamError> {
        let allowed = &options.allowed_hosts;
        let builder = || builder(options);
        let wrong = |error: reqwest::Error| configuration(options, &reasons(&error));
        let guard = Guard::new(lookup.clone(), allowed, Whose::Sources);
        let direct = builder()?.no_proxy().dns_resolver(guard).build().map_err(wrong)?;
        let mut proxied = None;
        if options.proxy.http.is_some() || options.proxy.https.is_some() {
            let guard = Guard::new(lookup, allowed, Whose::Proxies);
            let builder = through(builder()?.dns_resolver(guard), options)?;
            proxied = Some((matcher(&options.proxy), builder.build().map_err(wrong)?));
        }
        Ok(Self {
            direct,
            proxied,
            allowed: allowed.clone(),
            verify_tls: options.verify_tls,
            hosts: options.hosts.clone(),
            patience: options.patience,
            counters: Counters::default(),
        })
    }

    /// Asks, and asks again wherever the answer sends us. What comes is an answer of whatever
    /// status that sends us nowhere; nothing is tried twice. `authorization` is for where it is
    /// asked first: on the way to another origin it is left behind for good.
    pub async fn exchange(
        &self,
        ask: &Ask,
        url: Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, UpstreamError> {
        let (home, mut url, mut authorization) = (url.origin(), url, authorization);
        let mut at_home = true;
        self.counters.request(ask.kind);
        for _ in 0..=MOST_REDIRECTS {
            let response = self.send(ask, &url, authorization).await?;
            let answer =
                Answer { response, host: authority(&url), request: ask.request(), at_home };
            if !is_redirect(answer.status()) {
                return self.plain(answer);
            }
            if ask.stays {
                let reason = format!("{}, a redirect, which is not followed", answer.status());
                return Err(answer.error(Fault::Source, reason));
            }
            url = self.target(&url, &answer)?;
            if url.origin() != home {
                (at_home, authorization) = (false, None);
            }
            self.counters.redirect();
        }
        let reason = format!("more than {MOST_REDIRECTS} redirects");
        Err(UpstreamError::new(Fault::Source, &authority(&url), &ask.request(), reason))
    }

    /// Tries until it succeeds, cannot, or was tried often enough, for as long as `limit` at most.
    pub async fn retrying<T, F>(
        &self,
        limit: Duration,
        attempt: impl Fn() -> F,
    ) -> Result<T, UpstreamError>
    where
        F: Future<Output = Result<T, UpstreamError>>,
    {
        let deadline = Instant::now() + limit;
        let mut tries = Tries::new(self.patience);
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let Some(pause) = tries.again(&error, deadline) else { return Err(error) };
            self.counters.retry();
            tracing::debug!(%error, "another try");
            sleep(pause).await;
        }
    }

    /// The next bytes of a body.
    pub async fn next(&self, answer: &mut Answer) -> Result<Option<Bytes>, UpstreamError> {
        match timeout(self.patience.answer, answer.response.chunk()).await {
            Ok(Ok(bytes)) => {
                self.counters.bytes(bytes.as_ref().map_or(0, Bytes::len));
                Ok(bytes)
            }
            Ok(Err(error)) => Err(broken(&answer.host, &answer.request, &error)),
            Err(_) => Err(answer.error(Fault::Timeout, self.silence("its answer stopped"))),
        }
    }

    /// All of a body that may have so many bytes.
    pub async fn body(&self, answer: &mut Answer, most: usize) -> Result<Bytes, UpstreamError> {
        let too_long = |answer: &Answer| {
            answer.error(Fault::Source, format!("more than the {most} bytes it may have"))
        };
        if answer.length().is_some_and(|length| length > most as u64) {
            return Err(too_long(answer));
        }
        let mut body = BytesMut::new();
        while let Some(bytes) = self.next(answer).await? {
            if body.len() + bytes.len() > most {
                return Err(too_long(answer));
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body.freeze())
    }

    /// The error that an answer without success is.
    pub async fn failure(&self, mut answer: Answer) -> UpstreamError {
        let status = answer.status();
        let mut said = String::new();
        while said.len() < LONGEST_ERROR
            && let Ok(Some(bytes)) = self.next(&mut answer).await
        {
            said.push_str(&String::from_utf8_lossy(&bytes));
        }
        let delay = delay(answer.headers());
        let reason = format!("{status}{}", explanation(&said));
        let error = |fault| answer.error(fault, &reason);
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => error(Fault::NotFound),
            // A redirect's target was told nothing, so nothing that it was told is wrong.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if answer.at_home => {
                error(Fault::Credentials).remedy(auth::CHECK)
            }
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => error(Fault::Configuration)
                .remedy("check the user name and password in the mirror's proxy"),
            StatusCode::TOO_MANY_REQUESTS => error(Fault::RateLimited)
                .after(delay)
                .remedy("mirror less often, or with credentials that may pull more"),
            StatusCode::REQUEST_TIMEOUT => error(Fault::Timeout),
            StatusCode::NOT_IMPLEMENTED => error(Fault::Source),
            status if status.is_server_error() || !answer.at_home => {
                error(Fault::Source).retryable().after(delay)
            }
            _ => error(Fault::Source),
        }
    }

    /// Tells the host's gate how it went. A pause that is too long is for the caller to hear of.
    fn report(&self, permit: Option<Permit>, response: &Response) {
        let Some(permit) = permit else { return };
        match response.status() {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let pause = delay(response.headers());
                permit.complained(pause.filter(|pause| *pause <= self.patience.longest_delay));
            }
            _ => permit.answered(),
        }
    }

    async fn send(
        &self,
        ask: &Ask,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, UpstreamError> {
        let host = authority(url);
        let failed = |fault, reason: &str| UpstreamError::new(fault, &host, &ask.request(), reason);
        let client = self
            .way(url)
            .map_err(|refusal| failed(Fault::Refused, &refusal.to_string()).remedy(ALLOW))?;
        let mut request = client.request(ask.method.clone(), url.clone());
        for (name, value) in headers(ask, authorization) {
            request = request.header(name, value);
        }
        let permit = self.hosts.gate(&host).enter().await;
        let patience = self.patience.connect + self.patience.answer;
        match timeout(patience, request.send()).await {
            Ok(Ok(response)) => {
                self.report(permit, &response);
                Ok(response)
            }
            Ok(Err(error)) => Err(broken(&host, &ask.request(), &error)),
            Err(_) => Err(failed(Fault::Timeout, &self.silence("no answer"))),
        }
    }

    /// The client that goes to a URL, once its host is judged as far as it can be by its name.
    fn way(&self, url: &Url) -> Result<&reqwest::Client, Refusal> {
        let host = url.host_str().unwrap_or_default();
        let uri = url.as_str().parse::<Uri>().ok();
        if let Some((matcher, client)) = &self.proxied
            && uri.is_some_and(|uri| matcher.intercept(&uri).is_some())
        {
            self.allowed.judge_host(host)?;
            return Ok(client);
        }
        // Names are judged by the resolver, together with what they resolve to.
        if ssrf::address(host).is_some() {
            self.allowed.judge_host(host)?;
        }
        Ok(&self.direct)
    }

    /// Where an answer sends us.
    fn target(&self, from: &Url, answer: &Answer) -> Result<Url, UpstreamError> {
        let nowhere = |reason: String| answer.error(Fault::Source, reason);
        let location = answer.header(LOCATION).unwrap_or_default();
        let mut url = from
            .join(location)
            .ok()
            .filter(|url| !location.is_empty() && url.has_host())
            .ok_or_else(|| nowhere(format!("{}, and not where to", answer.status())))?;
        url.set_fragment(None);
        match url.scheme() {
            "https" => {}
            "http" if from.scheme() == "http" || !self.verify_tls => {}
            _ => {
                let reason = format!("redirected to {}, which is not HTTPS", authority(&url));
                return Err(answer.error(Fault::Refused, reason));
            }
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(nowhere("redirected to a URL with a user name in it".to_owned()));
        }
        Ok(url)
    }

    /// Nothing is asked for in another encoding, so nothing is decoded.
    fn plain(&self, answer: Answer) -> Result<Answer, UpstreamError> {
        match answer.header(CONTENT_ENCODING) {
            None | Some("" | "identity") => Ok(answer),
            Some(encoding) => {
                let reason = format!("encoded as {encoding}, which was not asked for");
                Err(answer.error(Fault::Source, reason))
            }
        }
    }

    fn silence(&self, what: &str) -> String {
        format!("{what} for {} seconds", self.patience.answer.as_secs_f32())
    }
}

/// What all clients have in common.
fn builder(options: &Options) -> Result<reqwest::ClientBuilder, UpstreamError> {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("quay-sidecar/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(options.patience.connect)
        .pool_idle_timeout(Duration::from_secs(30));
    if !options.verify_tls {
        return Ok(builder.tls_danger_accept_invalid_certs(true));
    }
    if options.plain_http && options.proxy == Proxy::default() {
        // Redirects to HTTPS fail then; reading all of the system's certificates is saved.
        return Ok(builder.tls_certs_only([]));
    }
    let roots = roots::read(&options.extra_roots).map_err(|problem| {
        configuration(options, &format!("the certificates in {problem}"))
            .remedy("a file has to hold certificates in PEM that can be read")
    })?;
    Ok(builder.tls_certs_merge(roots))
}

/// Sends everything through the proxies; which requests are, [`Client::way`] decides.
fn through(
    mut builder: reqwest::ClientBuilder,
    options: &Options,
) -> Result<reqwest::ClientBuilder, UpstreamError> {
    type Make = fn(Url) -> reqwest::Result<reqwest::Proxy>;
    let proxies = [
        ("http_proxy", &options.proxy.http, reqwest::Proxy::http as Make),
        ("https_proxy", &options.proxy.https, reqwest::Proxy::https as Make),
    ];
    for (setting, proxy, make) in proxies {
        let Some(text) = proxy.as_deref().filter(|text| !text.is_empty()) else { continue };
        // Never printed: it may hold a password.
        let wrong = |problem: &str| {
            configuration(options, &format!("{setting} {problem}"))
                .remedy("it has to be a URL such as http://proxy.example:3128")
        };
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&text).map_err(|error| wrong(&format!("is no URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong(&format!("is for {}", url.scheme())));
        }
        let host = url.host_str().unwrap_or_default();
        let addresses: Vec<_> = ssrf::address(host).into_iter().collect();
        options.allowed_hosts.judge_proxy(host, &addresses).map_err(|refusal| {
            let error = configuration(options, &format!("{setting}: {refusal}"));
            error.remedy("if it is the proxy to use, add it to SSRF_ALLOWED_HOSTS")
        })?;
        builder = builder.proxy(make(url).map_err(|error| wrong(&reasons(&error)))?);
    }
    Ok(builder)
}

fn matcher(proxy: &Proxy) -> Matcher {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Matcher::builder()
        .http(text(&proxy.http))
        .https(text(&proxy.https))
        .no(text(&proxy.exceptions))
        .build()
}

fn configuration(options: &Options, reason: &str) -> UpstreamError {
    let host = options.source.authority();
    UpstreamError::new(Fault::Configuration, host, "settings of the mirror", reason)
}

fn headers(
    ask: &Ask,
    authorization: Option<&HeaderValue>,
) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    let accept = ask.accept.as_deref().unwrap_or("*/*");
    let range = (ask.from > 0).then(|| format!("bytes={}-", ask.from));
    let text = |text: &str| HeaderValue::from_str(text).ok();
    [
        (ACCEPT, text(accept)),
        (ACCEPT_ENCODING, text("identity")),
        (RANGE, range.as_deref().and_then(text)),
        (AUTHORIZATION, authorization.cloned()),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn delay(headers: &HeaderMap) -> Option<Duration> {
    patience::retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, Utc::now())
}

/// A request that could not be sent, or was not answered to its end.
fn broken(host: &str, request: &str, error: &reqwest::Error) -> UpstreamError {
    let failed = |fault, reason: &str| UpstreamError::new(fault, host, request, reason);
    if let Some(refusal) = causes(error).find_map(|cause| cause.downcast_ref::<Refusal>()) {
        return failed(Fault::Refused, &refusal.to_string()).remedy(ALLOW);
    }
    let reason = reasons(error);
    if causes(error).any(<dyn Error>::is::<rustls::Error>) {
        return failed(Fault::Tls, &reason).remedy(
            "add its authority to Quay's extra_ca_certs, or unset verify_tls if nothing can be \
             verified",
        );
    }
    let is_late = error.is_timeout();
    let fault = match () {
        () if error.is_builder() => Fault::Configuration,
        () if is_late => Fault::Timeout,
        () => Fault::Network,
    };
    failed(fault, &reason)
}

/// An error and its causes, without the URL: a redirect's is signed.
fn reasons(error: &reqwest::Error) -> String {
    let mut reasons: Vec<String> = Vec::new();
    if let Some(kind) = [
        (error.is_connect(), "could not connect"),
        (error.is_timeout(), "timed out"),
        (error.is_body() || error.is_decode(), "its answer broke off"),
        (error.is_builder(), "no such request can be made"),
    ]
    .into_iter()
    .find_map(|(is, what)| is.then_some(what))
    {
        reasons.push(kind.to_owned());
    }
    for cause in causes(error).skip(1) {
        let text = cause.to_string();
        if !reasons.iter().any(|known| known.contains(&text)) {
            reasons.push(text);
        }
    }
    reasons.join(": ")
}

/// `host[:port]` of a URL.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// What a registry says in the body of an error: `: CODE, message`.
fn explanation(body: &str) -> String {
    #[derive(Deserialize)]
    struct Body {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        code: Option<String>,
        message: Option<String>,
    }
    let entry =
        serde_json::from_str::<Body>(body).ok().and_then(|body| body.errors.into_iter().next());
    let Some(Entry { code, message }) = entry else { return String::new() };
    let said: Vec<String> =
        [code, message].into_iter().flatten().filter(|text| !text.is_empty()).collect();
    if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) }
}
