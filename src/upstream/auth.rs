//! How a source is shown who asks: not at all until it wants to see it, then by the tokens of its
//! own service, or by name and password.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::challenge::{self, Challenge};
use super::counts::Kind;
use super::exchange::{Ask, Client};
use super::{Credentials, Fault, UpstreamError, realm};

/// Bytes of the answer of a token service.
const LONGEST_ANSWER: usize = 256 * 1024;

/// How long a token is good whose service does not say (distribution's token specification).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);

/// What a source wants to see, shared by all who ask it.
#[derive(Default)]
pub(super) struct Auth(Mutex<State>);

#[derive(Default)]
enum State {
    /// Nothing so far.
    #[default]
    Nothing,
    Basic,
    Bearer {
        /// The service's URL, with all but the scope.
        service: Url,
        token: Option<Token>,
    },
}

struct Token {
    header: HeaderValue,
    /// From here on another is fetched.
    until: Instant,
}

/// Who asks whom for what: all that a token depends on.
pub(super) struct Asker<'a> {
    pub client: &'a Client,
    pub credentials: Option<&'a Credentials>,
    /// `https://host`
    pub registry: &'a Url,
    /// The repository that is to be pulled from.
    pub repository: &'a str,
}

impl Auth {
    /// What to send along; a token that is about to expire is replaced first. Whoever comes
    /// meanwhile waits for the same one.
    pub async fn header(&self, asker: &Asker<'_>) -> Result<Option<HeaderValue>, UpstreamError> {
        let mut state = self.0.lock().await;
        match &mut *state {
            State::Nothing => Ok(None),
            State::Basic => Ok(asker.basic()),
            State::Bearer { token: Some(token), .. } if token.until > Instant::now() => {
                Ok(Some(token.header.clone()))
            }
            State::Bearer { service, token } => {
                let fresh = asker.token(service).await?;
                Ok(Some(token.insert(fresh).header.clone()))
            }
        }
    }

    /// The registry did not take what it was sent, if anything. After this there is something else
    /// to send; the error says why there is not.
    pub async fn challenged(
        &self,
        asker: &Asker<'_>,
        answer: &HeaderMap,
        sent: Option<&HeaderValue>,
    ) -> Result<(), UpstreamError> {
        let mut state = self.0.lock().await;
        let known = match &*state {
            State::Nothing => None,
            State::Basic => asker.basic(),
            State::Bearer { token, .. } => token.as_ref().map(|token| token.header.clone()),
        };
        if known.is_some() && known.as_ref() != sent {
            // Somebody else was quicker.
            return Ok(());
        }
        let lines = answer.get_all(WWW_AUTHENTICATE);
        let challenges = challenge::parse(lines.iter().filter_map(|line| line.to_str().ok()));
        *state = asker.chosen(&challenges, matches!(*state, State::Basic))?;
        Ok(())
    }
}

impl Asker<'_> {
    /// Bearer goes before Basic: it does not tell the registry a password.
    fn chosen(&self, challenges: &[Challenge], basic_failed: bool) -> Result<State, UpstreamError> {
        let bearer = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer { realm, service } => Some((realm, service)),
            _ => None,
        });
        if let Some((realm, service)) = bearer {
            let service = self.service(realm, service.as_deref())?;
            return Ok(State::Bearer { service, token: None });
        }
        if challenges.contains(&Challenge::Basic) {
            return match self.credentials {
                Some(_) if !basic_failed => Ok(State::Basic),
                Some(_) => Err(self.refused("refused the user name and password", CHECK)),
                None => Err(self.refused("wants a user name and password", SET)),
            };
        }
        let names: Vec<&str> = challenges.iter().filter_map(Challenge::name).collect();
        let known =
            if names.is_empty() { "nothing it would take".to_owned() } else { names.join(", ") };
        let reason = format!("401, and names neither Bearer nor Basic but {known}");
        Err(self.error(Fault::Source, &reason))
    }

    fn service(&self, realm: &str, service: Option<&str>) -> Result<Url, UpstreamError> {
        let judged = realm::judge(self.registry, realm, self.credentials.is_some());
        let mut url = judged.map_err(|problem| {
            let reason = format!("its token service {realm} {problem}");
            self.error(Fault::Refused, &reason).remedy(
                "a registry's token service has to be HTTPS of the same site: check the external \
                 reference, or mirror without credentials",
            )
        })?;
        let mut query = url.query_pairs_mut();
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        query.append_pair("scope", &format!("repository:{}:pull", self.repository));
        if let Some(credentials) = self.credentials {
            query.append_pair("account", &credentials.username);
        }
        drop(query);
        Ok(url)
    }

    async fn token(&self, service: &Url) -> Result<Token, UpstreamError> {
        let ask = Ask::new(Kind::Token, Method::GET, format!("token to pull {}", self.repository));
        let basic = self.basic();
        let began = Instant::now();
        let mut answer = self.client.exchange(&ask, service.clone(), basic.as_ref()).await?;
        if !answer.status().is_success() {
            return Err(self.client.failure(answer).await);
        }
        let body = self.client.body(&mut answer, LONGEST_ANSWER).await?;
        let malformed = |problem: &str| answer.error(Fault::Source, problem);
        let read: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|_| malformed("no token, nor any JSON of one"))?;
        let text =
            [read.token, read.access_token].into_iter().flatten().find(|text| !text.is_empty());
        let text = text.ok_or_else(|| malformed("no token in its answer"))?;
        let mut header = HeaderValue::from_str(&format!("Bearer {text}"))
            .map_err(|_| malformed("a token that no header can hold"))?;
        header.set_sensitive(true);
        let lifetime = read.expires_in.as_ref().and_then(Value::as_u64);
        let lifetime = lifetime.map_or(DEFAULT_LIFETIME, Duration::from_secs);
        // A tenth is kept in hand for requests that take their time to arrive.
        let usable = lifetime.min(Duration::from_secs(86_400)).mul_f64(0.9);
        Ok(Token { header, until: began + usable })
    }

    fn basic(&self) -> Option<HeaderValue> {
        let encoded = self.credentials?.encoded();
        let mut header = HeaderValue::from_str(&format!("Basic {encoded}")).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    fn refused(&self, reason: &str, remedy: &'static str) -> UpstreamError {
        self.error(Fault::Credentials, &format!("401, it {reason}")).remedy(remedy).answered(401)
    }

    fn error(&self, fault: Fault, reason: &str) -> UpstreamError {
        let host = super::exchange::authority(self.registry);
        UpstreamError::new(fault, &host, &format!("access to {}", self.repository), reason)
    }
}

/// Remedies for credentials that are wrong, or missing.
pub(super) const CHECK: &str = "check the mirror's user name and password, and that they may pull";
pub(super) const SET: &str = "set the mirror's user name and password";

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    /// Seconds; whatever else is here is no reason to refuse the token.
    expires_in: Option<Value>,
}
