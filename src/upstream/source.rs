//! A repository of another registry: opens it, and sends what is asked of it until it is answered,
//! for a bounded number of times and a bounded time.

use std::sync::{Arc, Mutex, PoisonError};

use reqwest::header::HeaderValue;
use reqwest::{Method, StatusCode, Url};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::auth::{Asker, Auth};
use super::counts::Kind;
use super::exchange::{Answer, Ask, Client};
use super::{Counts, Fault, Options, SourceName, UpstreamError};

/// A repository of another registry. Cheap to clone; clones share connections, tokens and counts.
#[derive(Clone)]
pub struct Source(Arc<Inner>);

struct Inner {
    options: Options,
    pub client: Client,
    auth: Auth,
    /// `https://host/`, or `http`, once it is known.
    registry: OnceCell<Url>,
}

impl Source {
    /// Gets ready to ask; asks nothing yet. The error is one of configuration: the proxy, or
    /// certificates that cannot be read.
    pub fn open(options: Options) -> Result<Self, UpstreamError> {
        let client = Client::new(&options)?;
        Ok(Self::with_client(options, client))
    }

    pub(super) fn with_client(options: Options, client: Client) -> Self {
        let (auth, registry) = (Auth::default(), OnceCell::new());
        Self(Arc::new(Inner { options, client, auth, registry }))
    }

    /// What this source is called.
    pub fn name(&self) -> &SourceName {
        &self.0.options.source
    }

    /// What was asked so far, by all clones.
    pub fn counts(&self) -> Counts {
        self.client().counters.read()
    }

    pub(super) fn client(&self) -> &Client {
        &self.0.client
    }

    pub(super) fn options(&self) -> &Options {
        &self.0.options
    }

    /// `/v2/<repository>/<rest>`
    pub(super) fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.name().path())
    }

    /// What is asked about `thing` in this repository.
    pub(super) fn ask(&self, kind: Kind, method: Method, thing: &str) -> Ask {
        Ask::new(kind, method, format!("{thing} of {}", self.name().path()))
    }

    /// Tries until it succeeds, cannot, or was tried often and long enough.
    pub(super) async fn retrying<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, UpstreamError>
    where
        F: Future<Output = Result<T, UpstreamError>>,
    {
        // Told where the time ends in the middle of another try.
        let last = Mutex::new(None);
        let noting = || {
            let attempt = attempt();
            async {
                let tried = attempt.await;
                if let Err(error) = &tried {
                    *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
                }
                tried
            }
        };
        let limit = self.options().operation_timeout;
        let tried = timeout(limit, self.client().retrying(limit, noting)).await;
        tried.unwrap_or_else(|_| {
            let last = last.into_inner().unwrap_or_else(PoisonError::into_inner);
            Err(self.too_slow(last.as_deref()))
        })
    }

    /// Something of several requests, in the time for one operation.
    pub(super) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        let outcome = timeout(self.options().operation_timeout, work).await;
        outcome.unwrap_or_else(|_| Err(self.too_slow(None)))
    }

    /// Notes that something is tried again.
    pub(super) fn retry(&self, error: &UpstreamError) {
        self.client().counters.retry();
        tracing::debug!(%error, "another try");
    }

    /// The time for an operation is over. `last` is how the try before ended, if there was one.
    pub(super) fn too_slow(&self, last: Option<&str>) -> UpstreamError {
        let seconds = self.options().operation_timeout.as_secs_f32();
        let name = self.name();
        let mut reason = format!("not done within {seconds} seconds, all tries together");
        if let Some(last) = last {
            reason = format!("{reason}; before that: {last}");
        }
        UpstreamError::new(Fault::Timeout, name.authority(), name.path(), reason)
            .remedy("allow the mirror more time (skopeo_timeout)")
    }

    /// A successful answer to one request: sent once, or twice where the registry first has to be
    /// shown who asks.
    pub(super) async fn answer(&self, ask: &Ask, path: &str) -> Result<Answer, UpstreamError> {
        let registry = self.registry().await?;
        let url = in_registry(registry, path);
        let asker = Asker {
            client: self.client(),
            credentials: self.options().credentials.as_ref(),
            registry,
            repository: self.name().path(),
        };
        let mut sent = self.authorization(&asker).await?;
        let mut answer = self.client().exchange(ask, url.clone(), sent.as_ref()).await?;
        if answer.status() == StatusCode::UNAUTHORIZED && answer.at_home {
            let challenged = self.0.auth.challenged(&asker, answer.headers(), sent.as_ref());
            challenged.await.map_err(|error| self.discreet(error, sent.as_ref()))?;
            sent = self.authorization(&asker).await?;
            answer = self.client().exchange(ask, url, sent.as_ref()).await?;
        }
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(self.discreet(self.client().failure(answer).await, sent.as_ref()))
    }

    async fn authorization(&self, asker: &Asker<'_>) -> Result<Option<HeaderValue>, UpstreamError> {
        let header = self.0.auth.header(asker).await;
        header.map_err(|error| self.discreet(error, None))
    }

    /// An error without what a registry may have repeated in it.
    fn discreet(&self, error: UpstreamError, sent: Option<&HeaderValue>) -> UpstreamError {
        let sent = sent.and_then(|header| header.to_str().ok()?.split(' ').nth(1));
        let error = sent.into_iter().fold(error, UpstreamError::without);
        let Some(known) = &self.options().credentials else { return error };
        error.without(&known.encoded()).without(&known.password)
    }

    /// Where the registry is. Without `verify_tls` it is asked once whether it speaks HTTPS.
    async fn registry(&self) -> Result<&Url, UpstreamError> {
        let options = self.options();
        let found = self.0.registry.get_or_try_init(|| async {
            if options.plain_http {
                return self.at("http");
            }
            let https = self.at("https")?;
            if options.verify_tls {
                return Ok(https);
            }
            let unreachable = match self.ping(https.clone()).await {
                Ok(()) => return Ok(https),
                Err(error) => error,
            };
            let http = self.at("http")?;
            let is_there =
                unreachable.fault() != Fault::Refused && self.ping(http.clone()).await.is_ok();
            if is_there { Ok(http) } else { Err(unreachable) }
        });
        found.await
    }

    fn at(&self, scheme: &str) -> Result<Url, UpstreamError> {
        let authority = self.name().authority();
        Url::parse(&format!("{scheme}://{authority}/")).map_err(|error| {
            UpstreamError::reference(&self.name().to_string(), &format!("no URL: {error}"))
        })
    }

    async fn ping(&self, registry: Url) -> Result<(), UpstreamError> {
        let mut url = registry;
        url.set_path("/v2/");
        let ask = Ask::new(Kind::Ping, Method::GET, "/v2/".to_owned());
        self.client().exchange(&ask, url, None).await.map(drop)
    }
}

/// A path, with its query, in this registry and no other: joined to its URL, a path that begins
/// with `//` would name another host, which would be shown our credentials.
pub(super) fn in_registry(registry: &Url, path: &str) -> Url {
    let (path, query) = match path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path, None),
    };
    let mut url = registry.clone();
    url.set_path(path);
    url.set_query(query);
    url
}
