//! Registries that want to know who asks.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quay_sidecar::upstream::{Credentials, Fault as Whose, Options, Source};
use reqwest::header::{AUTHORIZATION, HeaderMap};

use super::origin::{REPO, fetch, image, options, push, tag};
use crate::support::docker_registry::DockerRegistry;
use crate::support::fault_proxy::{Fault, FaultProxy};
use crate::support::{Folder, Login, Registryd, World};

pub const PASSWORD: &str = "correct horse";

/// Debian's docker-registry with the image, which asks for name and password, behind a proxy; and
/// the same image in one that asks for nothing.
pub struct Guarded {
    pub proxy: FaultProxy,
    pub open: DockerRegistry,
    _registry: DockerRegistry,
    _folder: Folder,
}

impl Guarded {
    pub async fn new() -> Guarded {
        let folder = Folder::new();
        let file = folder.path().join("htpasswd");
        let hash = bcrypt::hash(PASSWORD, 4).unwrap();
        std::fs::write(&file, format!("ada:{hash}\n")).unwrap();
        let registry = DockerRegistry::start_with("", &guarded(&file));
        let open = DockerRegistry::start();
        let basic = format!("Basic {}", STANDARD.encode(format!("ada:{PASSWORD}")));
        let headers = HeaderMap::from_iter([(AUTHORIZATION, basic.parse().unwrap())]);
        let client = reqwest::Client::builder().no_proxy().default_headers(headers);
        let client = client.tls_certs_only([]).build().unwrap();
        for port in [registry.port, open.port] {
            push(&client, &format!("http://127.0.0.1:{port}"), "latest", &image()).await;
        }
        let proxy = FaultProxy::to(registry.port).await;
        Guarded { proxy, open, _registry: registry, _folder: folder }
    }

    pub fn options(&self) -> Options {
        let credentials = Credentials { username: "ada".into(), password: PASSWORD.into() };
        let options = options(&format!("127.0.0.1:{}/{REPO}", self.proxy.port));
        Options { credentials: Some(credentials), ..options }
    }
}

fn guarded(htpasswd: &Path) -> String {
    format!("auth: {{htpasswd: {{realm: x, path: {}}}}}", htpasswd.display())
}

#[tokio::test]
async fn by_name_and_password() {
    let it = Guarded::new().await;
    let source = Source::open(it.options()).unwrap();
    assert_eq!(source.tags().await.unwrap(), ["latest"]);
    source.head(&tag("latest")).await.unwrap();
    // Asked once without, and from then on with them.
    assert_eq!((it.proxy.seen(""), it.proxy.seen("authorization: Basic ")), (3, 2));
    // Many that learn it at once.
    let source = Source::open(it.options()).unwrap();
    let asked = (0..8).map(|_| source.tags());
    for tags in futures_util::future::join_all(asked).await {
        assert_eq!(tags.unwrap(), ["latest"]);
    }
    for (credentials, says) in [(None, "wants"), (Some("wrong password"), "refused")] {
        let credentials = credentials.map(|password: &str| Credentials {
            username: "ada".to_owned(),
            password: password.to_owned(),
        });
        let before = it.proxy.seen("");
        let options = Options { credentials, ..it.options() };
        let error = Source::open(options).unwrap().tags().await.unwrap_err();
        assert_eq!((error.fault(), error.can_retry()), (Whose::Credentials, false), "{error}");
        let text = error.to_string();
        assert!(!text.contains("wrong password"), "{text}");
        assert!(text.contains("user name and password"), "{text}");
        assert!(text.contains(says) || text.contains("401"), "{text}");
        assert!(it.proxy.seen("") - before <= 2);
    }
}

/// registryd with its own tokens: `demo/private` behind a proxy.
struct Tokens {
    world: World,
    registryd: Registryd,
    proxy: FaultProxy,
}

impl Tokens {
    async fn new() -> Tokens {
        let (world, arguments) = World::reachable();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let registryd = world.registryd_with(&arguments);
        let port = world.hostname.rsplit_once(':').unwrap().1.parse().unwrap();
        let proxy = FaultProxy::to(port).await;
        Tokens { world, registryd, proxy }
    }

    fn options(&self, who: Option<&Login>) -> Options {
        let credentials = who.map(|login| Credentials {
            username: login.username.clone(),
            password: login.password.clone(),
        });
        let options = options(&format!("127.0.0.1:{}/demo/private", self.proxy.port));
        Options { credentials, ..options }
    }

    fn source(&self) -> Source {
        Source::open(self.options(Some(&self.world.puller))).unwrap()
    }

    /// Where its tokens are from.
    fn challenge(&self, realm: &str) -> String {
        let service = &self.world.hostname;
        format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"{service}\"\r\n")
    }

    fn realm(&self) -> String {
        self.registryd.url("/v2/auth")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_a_token() {
    let it = Tokens::new().await;
    let source = it.source();
    let image = &it.world.private;
    let head = source.head(&tag(&image.tag)).await.unwrap();
    assert_eq!(head.digest.as_str(), image.manifest.digest);
    for blob in &image.manifest.blobs {
        assert_eq!(fetch(&source, blob).await.unwrap(), blob.bytes);
    }
    // One token for all of it, and the password for nobody but the token service.
    let counts = source.counts();
    assert_eq!((counts.tokens, counts.heads), (1, 2));
    let with_token = it.proxy.seen("authorization: Bearer ");
    assert_eq!(with_token, 1 + image.manifest.blobs.len());
    assert_eq!(it.proxy.seen("authorization: Basic"), 0);
    // Many at once share the first one, too.
    let source = it.source();
    let asked = (0..8).map(|_| {
        let source = source.clone();
        let latest = tag(&image.tag);
        tokio::spawn(async move { source.head(&latest).await })
    });
    for head in asked.collect::<Vec<_>>() {
        assert!(head.await.unwrap().is_ok());
    }
    assert_eq!(source.counts().tokens, 1);
}

#[tokio::test]
async fn a_token_that_is_no_longer_good() {
    let it = Tokens::new().await;
    let source = it.source();
    source.tags().await.unwrap();
    let expired = it.challenge(&it.realm());
    it.proxy.fail(
        "authorization: Bearer",
        1,
        Fault::Say("401 Unauthorized", expired.clone(), String::new()),
    );
    source.tags().await.unwrap();
    assert_eq!((source.counts().tokens, source.counts().retries), (2, 0));
    // A fresh one that is not good either is no reason to go on.
    let refused = Fault::Say("401 Unauthorized", expired, String::new());
    it.proxy.fail("authorization: Bearer", usize::MAX, refused);
    let error = source.tags().await.unwrap_err();
    assert_eq!((error.fault(), error.can_retry()), (Whose::Credentials, false), "{error}");
    assert_eq!(source.counts().tokens, 3);
}

#[tokio::test]
async fn nobody_and_somebody_else() {
    let it = Tokens::new().await;
    let other = Login { password: "not the password".to_owned(), ..it.world.puller.clone() };
    for who in [None, Some(&other)] {
        let source = Source::open(it.options(who)).unwrap();
        let error = source.head(&tag("latest")).await.unwrap_err();
        assert_eq!((error.fault(), error.can_retry()), (Whose::Credentials, false), "{error}");
        assert!(!format!("{error:?}").contains("not the password"), "{error:?}");
    }
}

/// Credentials are not told to whatever a registry calls its token service.
#[tokio::test]
async fn a_realm_on_another_host() {
    let it = Tokens::new().await;
    let port = it.world.hostname.rsplit_once(':').unwrap().1.parse().unwrap();
    let stranger = FaultProxy::at("127.0.0.2", port).await;
    let realms = [
        format!("http://127.0.0.2:{}/v2/auth", stranger.port),
        format!("http://localhost:{}/v2/auth", stranger.port),
        format!("https://127.0.0.2:{}/v2/auth", stranger.port),
        "https://evil.example/token".to_owned(),
    ];
    for realm in realms {
        let asks = it.challenge(&realm);
        it.proxy.fail("/v2/", 1, Fault::Say("401 Unauthorized", asks, String::new()));
        let error = it.source().head(&tag("latest")).await.unwrap_err();
        assert_eq!((error.fault(), error.can_retry()), (Whose::Refused, false), "{error}");
        assert!(error.to_string().contains(&realm), "{error}");
    }
    assert_eq!(stranger.seen(""), 0);
    // Nor are they carried on by a token service that sends us elsewhere.
    let stranger = FaultProxy::to(port).await;
    let service = FaultProxy::to(port).await;
    let asks = it.challenge(&format!("http://127.0.0.1:{}/v2/auth", service.port));
    it.proxy.fail("/v2/", 1, Fault::Say("401 Unauthorized", asks, String::new()));
    let away = format!("Location: http://127.0.0.1:{}/v2/auth\r\n", stranger.port);
    service.fail("", 1, Fault::Say("307 Temporary Redirect", away, String::new()));
    // It fails there, and is tried again.
    assert!(it.source().head(&tag("latest")).await.is_ok());
    assert_eq!((service.seen("authorization: Basic"), stranger.seen("")), (2, 1));
    assert_eq!(stranger.seen("authorization"), 0);
}

/// An answer may repeat what it was told; what we say of it does not.
#[tokio::test]
async fn secrets_that_come_back() {
    let it = Guarded::new().await;
    let options = it.options();
    let body = format!(r#"{{"errors": [{{"code": "DENIED", "message": "not {PASSWORD}\r\nx"}}]}}"#);
    it.proxy.fail(
        "authorization",
        1,
        Fault::Say("403 Forbidden", String::new(), body.replace('\r', "\\r").replace('\n', "\\n")),
    );
    let error = Source::open(options).unwrap().tags().await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("DENIED, not ***"), "{text}");
    assert!(!text.contains(PASSWORD) && !text.contains('\n'), "{text}");
    // Nor the header in which a token service got it.
    let it = Tokens::new().await;
    let service = FaultProxy::to(1).await;
    let asks = it.challenge(&format!("http://127.0.0.1:{}/v2/auth", service.port));
    it.proxy.fail("/v2/", 1, Fault::Say("401 Unauthorized", asks, String::new()));
    let Login { username, password, .. } = &it.world.puller;
    let encoded = STANDARD.encode(format!("{username}:{password}"));
    let body = format!(r#"{{"errors": [{{"code": "DENIED", "message": "Basic {encoded}"}}]}}"#);
    service.fail(&encoded, 1, Fault::Say("403 Forbidden", String::new(), body));
    let text = it.source().head(&tag("latest")).await.unwrap_err().to_string();
    assert!(text.contains("DENIED, Basic ***"), "{text}");
}

#[tokio::test]
async fn answers_of_a_token_service_that_are_none() {
    let it = Tokens::new().await;
    let service = FaultProxy::to(1).await;
    let realm = format!("http://127.0.0.1:{}/v2/auth", service.port);
    for (status, body, fault) in [
        ("200 OK", "<html>", Whose::Source),
        ("200 OK", "{}", Whose::Source),
        ("200 OK", r#"{"token": ""}"#, Whose::Source),
        ("200 OK", r#"{"token": "a\nb"}"#, Whose::Source),
        ("403 Forbidden", "{}", Whose::Credentials),
        ("404 Not Found", "{}", Whose::NotFound),
    ] {
        let asks = it.challenge(&realm);
        it.proxy.fail("/v2/", 1, Fault::Say("401 Unauthorized", asks, String::new()));
        service.fail("", 1, Fault::Answer(status, "", body));
        let error = it.source().head(&tag("latest")).await.unwrap_err();
        assert_eq!(error.fault(), fault, "{body}: {error}");
        assert!(error.to_string().contains("GET token to pull demo/private"), "{error}");
    }
    // One that is about to expire is not used twice, one that does not say it is.
    for (expires_in, tokens) in [("0", 2), ("\"soon\"", 1)] {
        let body = format!(r#"{{"access_token": "x", "expires_in": {expires_in}}}"#);
        service.fail("", tokens, Fault::Say("200 OK", String::new(), body));
        let asks = it.challenge(&realm);
        it.proxy.fail("/v2/", 1, Fault::Say("401 Unauthorized", asks, String::new()));
        it.proxy.fail("Bearer x", 2, Fault::Answer("200 OK", "", r#"{"tags": []}"#));
        let source = it.source();
        source.tags().await.unwrap();
        source.tags().await.unwrap();
        assert_eq!(source.counts().tokens, tokens as u64);
    }
}
