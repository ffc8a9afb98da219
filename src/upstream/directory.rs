//! The repositories of a namespace. The distribution protocol cannot list them, so the registry is
//! asked by an API of its own: Quay's, version 1, or Harbor's, version 2.0 (contract §7.5).

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{HeaderValue, LINK};
use reqwest::{Method, Url};
use serde::Deserialize;

use super::counts::Kind;
use super::error::one_line;
use super::exchange::{Answer, Ask, Client};
use super::{Counts, Fault, Options, SourceName, UpstreamError, link};

/// Repositories of a page, of Harbor: its most.
const PAGE: usize = 100;
const MOST_PAGES: usize = 2000;
const MOST_REPOSITORIES: usize = 100_000;
/// Bytes of one page.
const LONGEST_PAGE: usize = 8 * 1024 * 1024;

/// What a repository's name has to fit in, in Quay's table.
const LONGEST_NAME: usize = 255;

/// What the registry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryApi {
    /// Its token is the password; the user name is not looked at. Nobody in particular sees what is
    /// public.
    Quay,
    /// By user name and password.
    Harbor,
}

/// Where a registry is: `https://host[:port]`, or `http`.
#[derive(Clone, Debug)]
pub struct RegistryUrl {
    url: Url,
    /// As it was written.
    authority: String,
}

impl RegistryUrl {
    /// Reads a URL. The error is one of configuration.
    pub fn parse(text: &str) -> Result<Self, UpstreamError> {
        let text = text.trim().trim_end_matches('/');
        let wrong = |problem: &str| {
            let shown = one_line(text.rsplit_once('@').map_or(text, |(_, place)| place));
            UpstreamError::new(Fault::Configuration, &shown, "the registry's URL", problem)
                .remedy("it has to be `https://host[:port]`")
        };
        let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        let plain = url.query().is_none() && url.fragment().is_none();
        match url.scheme() {
            "http" | "https" if url.has_host() && plain => {}
            "http" | "https" => return Err(wrong("it has more or less than a place")),
            _ => return Err(wrong("it is not for HTTP")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("it has a user name in it"));
        }
        let (_, place) = text.split_once("://").ok_or_else(|| wrong("it has no place"))?;
        let authority = place.split('/').next().unwrap_or_default().to_owned();
        Ok(Self { url, authority })
    }

    /// A repository there, or a namespace. The error is one of configuration.
    pub fn source(&self, path: &str) -> Result<SourceName, UpstreamError> {
        let within = self.url.path().trim_matches('/');
        let joint = if within.is_empty() { "" } else { "/" };
        SourceName::in_registry(&self.authority, &format!("{within}{joint}{path}"))
    }

    /// Whether it is spoken to without TLS.
    pub fn is_plain(&self) -> bool {
        self.url.scheme() == "http"
    }

    fn at(&self, segments: &[&str]) -> Result<Url, UpstreamError> {
        let mut url = self.url.clone();
        match url.path_segments_mut() {
            Ok(mut path) => path.pop_if_empty().extend(segments),
            Err(()) => return Err(UpstreamError::reference(&self.authority, "no URL of a place")),
        };
        Ok(url)
    }
}

/// A namespace of another registry.
pub struct Directory {
    client: Client,
    options: Options,
    registry: RegistryUrl,
    api: DirectoryApi,
    namespace: String,
}

/// `GET /api/v1/repository`
#[derive(Deserialize)]
struct QuayPage {
    repositories: Vec<Named>,
    next_page: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// The names of a page, and what leads to the next one.
type Page = (Vec<String>, Option<String>);

impl Directory {
    /// Gets ready to ask; asks nothing yet. The error is one of configuration.
    pub fn open(
        api: DirectoryApi,
        registry: RegistryUrl,
        namespace: &str,
        options: Options,
    ) -> Result<Self, UpstreamError> {
        let options = Options { plain_http: registry.is_plain(), ..options };
        let client = Client::new(&options)?;
        Ok(Self { client, options, registry, api, namespace: namespace.to_owned() })
    }

    /// What was asked so far.
    pub fn counts(&self) -> Counts {
        self.client.counters.read()
    }

    /// The names of all repositories, without the namespace, each once, in the registry's order.
    pub async fn repositories(&self) -> Result<Vec<String>, UpstreamError> {
        if self.api == DirectoryApi::Quay {
            self.look_around().await?;
        }
        let (mut names, mut seen, mut asked) = (Vec::new(), HashSet::new(), HashSet::new());
        let mut from = None;
        loop {
            let (page, next) = self.page(from.as_deref()).await?;
            for name in page {
                if name.is_empty() || name.len() > LONGEST_NAME {
                    tracing::warn!(name = one_line(&name), "a repository with no name to keep");
                } else if seen.insert(name.clone()) {
                    names.push(name);
                }
            }
            let Some(next) = next else { return Ok(names) };
            if names.len() > MOST_REPOSITORIES
                || asked.len() >= MOST_PAGES
                || !asked.insert(next.clone())
            {
                return Err(self.error(
                    Fault::Source,
                    format!(
                        "more than {MOST_REPOSITORIES} repositories or {MOST_PAGES} pages, or in \
                         circles"
                    ),
                ));
            }
            from = Some(next);
        }
    }

    async fn page(&self, from: Option<&str>) -> Result<Page, UpstreamError> {
        match self.api {
            DirectoryApi::Quay => self.page_of_quay(from).await,
            DirectoryApi::Harbor => self.page_of_harbor(from).await,
        }
    }

    /// Quay lists what is public to whoever comes with a token that it does not know, and nothing
    /// where there is no such namespace. Neither means that repositories are gone.
    async fn look_around(&self) -> Result<(), UpstreamError> {
        if self.options.credentials.is_some() {
            self.get(self.registry.at(&["api", "v1", "user", ""])?, empty).await?;
        }
        let organization = self.registry.at(&["api", "v1", "organization", &self.namespace])?;
        match self.get(organization, empty).await {
            Err(error) if error.fault() == Fault::NotFound => {
                let user = self.registry.at(&["api", "v1", "users", &self.namespace])?;
                self.get(user, empty).await
            }
            done => done,
        }
    }

    async fn page_of_quay(&self, from: Option<&str>) -> Result<Page, UpstreamError> {
        let mut url = self.registry.at(&["api", "v1", "repository"])?;
        url.query_pairs_mut().append_pair("namespace", &self.namespace);
        if self.options.credentials.is_none() {
            url.query_pairs_mut().append_pair("public", "true");
        }
        if let Some(from) = from {
            url.query_pairs_mut().append_pair("next_page", from);
        }
        self.get(url, |_, body| {
            let page: QuayPage = serde_json::from_slice(body)?;
            let names = page.repositories.into_iter().map(|named| named.name).collect();
            Ok((names, page.next_page.filter(|next| !next.is_empty())))
        })
        .await
    }

    async fn page_of_harbor(&self, from: Option<&str>) -> Result<Page, UpstreamError> {
        let number: usize = from.and_then(|from| from.parse().ok()).unwrap_or(1);
        let mut url =
            self.registry.at(&["api", "v2.0", "projects", &self.namespace, "repositories"])?;
        url.query_pairs_mut()
            .append_pair("page", &number.to_string())
            .append_pair("page_size", &PAGE.to_string());
        self.get(url, |answer, body| {
            let page: Option<Vec<Named>> = serde_json::from_slice(body)?;
            let page = page.unwrap_or_default();
            let lines = answer.headers().get_all(LINK).iter();
            let linked = link::next(lines.filter_map(|line| line.to_str().ok())).is_some();
            // A proxy in front may lose the link.
            let more = !page.is_empty() && (linked || page.len() == PAGE);
            let name = |named: Named| match named.name.split_once('/') {
                Some((_project, name)) => name.to_owned(),
                None => named.name,
            };
            let names = page.into_iter().map(name).collect();
            Ok((names, more.then(|| (number + 1).to_string())))
        })
        .await
    }

    /// Asks until it is answered, and reads the answer.
    async fn get<T>(
        &self,
        url: Url,
        read: impl Fn(&Answer, &[u8]) -> serde_json::Result<T>,
    ) -> Result<T, UpstreamError> {
        let what = format!("{} for the repositories of {}", url.path(), self.namespace);
        let ask = Ask::new(Kind::Repositories, Method::GET, what).accept(&["application/json"]);
        let ask = Ask { stays: true, ..ask };
        let authorization = self.authorization()?;
        let asking = self.client.retrying(self.options.operation_timeout, || async {
            let exchange = self.client.exchange(&ask, url.clone(), authorization.as_ref());
            let mut answer = exchange.await?;
            if !answer.status().is_success() {
                return Err(self.client.failure(answer).await);
            }
            let body = self.client.body(&mut answer, LONGEST_PAGE).await?;
            read(&answer, &body)
                .map_err(|error| answer.error(Fault::Source, format!("no such list: {error}")))
        });
        let limit = self.options.operation_timeout;
        let answered = tokio::time::timeout(limit, asking).await.unwrap_or_else(|_| {
            let reason = format!("not done within {} seconds", limit.as_secs_f32());
            Err(self.error(Fault::Timeout, reason))
        });
        answered.map_err(|error| self.explained(error))
    }

    /// For whom it is asked. Harbor's need a name too.
    fn authorization(&self) -> Result<Option<HeaderValue>, UpstreamError> {
        let Some(known) = &self.options.credentials else { return Ok(None) };
        let text = match self.api {
            DirectoryApi::Quay => format!("Bearer {}", known.password),
            DirectoryApi::Harbor => {
                let pair = format!("{}:{}", known.username, known.password);
                format!("Basic {}", STANDARD.encode(pair))
            }
        };
        let mut header = HeaderValue::try_from(text).map_err(|_| {
            self.error(Fault::Configuration, "the password cannot be sent: it is no token")
        })?;
        header.set_sensitive(true);
        Ok(Some(header))
    }

    fn explained(&self, error: UpstreamError) -> UpstreamError {
        let error = match &self.options.credentials {
            Some(known) => error.without(&known.password),
            None => error,
        };
        match (error.fault(), self.api) {
            (Fault::Credentials, DirectoryApi::Quay) => error.remedy(
                "the mirror's password has to be a token for Quay's API that may read the user and \
                 the namespace's repositories",
            ),
            (Fault::NotFound, _) => error.remedy("check the external namespace"),
            _ => error,
        }
    }

    fn error(&self, fault: Fault, reason: impl AsRef<str>) -> UpstreamError {
        let request = format!("GET repositories of {}", self.namespace);
        UpstreamError::new(fault, self.options.source.authority(), &request, reason)
    }
}

fn empty(_: &Answer, _: &[u8]) -> serde_json::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_registries() {
        for (text, source, api) in [
            ("https://quay.io", "quay.io/team/app", "https://quay.io/api/v1"),
            ("https://quay.io/", "quay.io/team/app", "https://quay.io/api/v1"),
            ("http://127.0.0.1:5000", "127.0.0.1:5000/team/app", "http://127.0.0.1:5000/api/v1"),
            ("https://registry", "registry/team/app", "https://registry/api/v1"),
            ("https://host/harbor/", "host/harbor/team/app", "https://host/harbor/api/v1"),
        ] {
            let url = RegistryUrl::parse(text).unwrap();
            assert_eq!(url.source("team/app").unwrap().to_string(), source, "{text}");
            assert_eq!(url.at(&["api", "v1"]).unwrap().as_str(), api, "{text}");
            assert_eq!(url.is_plain(), text.starts_with("http:"));
        }
        let named = RegistryUrl::parse("https://quay.io").unwrap();
        assert_eq!(named.at(&["a", "../b c"]).unwrap().as_str(), "https://quay.io/a/..%2Fb%20c");
        assert_eq!(named.at(&["user", ""]).unwrap().as_str(), "https://quay.io/user/");
    }

    #[test]
    fn what_is_no_url_of_a_registry() {
        for text in [
            "",
            "quay.io",
            "ftp://quay.io",
            "https://",
            "https://quay.io?a=b",
            "https://quay.io#a",
            "https://ada:hunter2@quay.io",
        ] {
            let error = RegistryUrl::parse(text).unwrap_err();
            assert_eq!(error.fault(), Fault::Configuration, "{text}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
