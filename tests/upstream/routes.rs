//! How a registry is reached: TLS, authorities, proxies.

use std::fs;

use quay_sidecar::upstream::{AllowedHosts, Fault as Whose, Options, Proxy, Source};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::origin::{Origin, REPO, image, options, push, tag};
use crate::support::Folder;
use crate::support::docker_registry::DockerRegistry;
use crate::support::fault_proxy::FaultProxy;

/// Debian's docker-registry with TLS: for 127.0.0.1 and registry.example.
struct Secure {
    registry: DockerRegistry,
    folder: Folder,
}

impl Secure {
    async fn new() -> Secure {
        let folder = Folder::new();
        let names = ["127.0.0.1".to_owned(), "registry.example".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let certs = folder.path().join("certs.d");
        fs::create_dir(&certs).unwrap();
        let (certificate, key) = (certs.join("ca.crt"), folder.path().join("key.pem"));
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let tls =
            format!("tls: {{certificate: {}, key: {}}}", certificate.display(), key.display());
        let registry = DockerRegistry::start_with(&tls, "");
        let client = reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true);
        let base = format!("https://127.0.0.1:{}", registry.port);
        push(&client.build().unwrap(), &base, "latest", &image()).await;
        Secure { registry, folder }
    }

    fn options(&self, host: &str) -> Options {
        let options = options(&format!("{host}:{}/{REPO}", self.registry.port));
        Options { plain_http: false, ..options }
    }

    fn trusted(&self, host: &str) -> Options {
        Options { extra_roots: vec![self.folder.path().join("certs.d")], ..self.options(host) }
    }
}

#[tokio::test]
async fn certificates_are_verified() {
    let it = Secure::new().await;
    let error = Source::open(it.options("127.0.0.1")).unwrap().tags().await.unwrap_err();
    assert_eq!((error.fault(), error.can_retry()), (Whose::Tls, false), "{error}");
    assert!(error.to_string().contains("extra_ca_certs"), "{error}");
    let source = Source::open(it.trusted("127.0.0.1")).unwrap();
    assert_eq!(source.tags().await.unwrap(), ["latest"]);
    let unverified = Options { verify_tls: false, ..it.options("127.0.0.1") };
    let source = Source::open(unverified).unwrap();
    assert_eq!(source.tags().await.unwrap(), ["latest"]);
    assert_eq!(source.counts().pings, 1);
    // One that has no TLS at all.
    let it = Origin::new().await;
    let plain = options(&format!("127.0.0.1:{}/{REPO}", it.registry.port));
    let secure = Options { plain_http: false, ..plain };
    let error = Source::open(secure).unwrap().tags().await.unwrap_err();
    assert_eq!(error.fault(), Whose::Tls, "{error}");
}

#[tokio::test]
async fn authorities_that_cannot_be_read() {
    let it = Secure::new().await;
    let file = it.folder.path().join("broken.crt");
    fs::write(&file, "not a certificate").unwrap();
    let options = Options { extra_roots: vec![file], ..it.options("127.0.0.1") };
    let error = Source::open(options).err().unwrap();
    assert_eq!((error.fault(), error.can_retry()), (Whose::Configuration, false));
    assert!(error.to_string().contains("broken.crt"), "{error}");
}

/// As skopeo does: without verify_tls, HTTP is better than nothing.
#[tokio::test]
async fn http_where_there_is_no_https() {
    let it = Origin::new().await;
    let plain = options(&format!("127.0.0.1:{}/{REPO}", it.registry.port));
    let options = Options { plain_http: false, verify_tls: false, ..plain };
    let source = Source::open(options).unwrap();
    assert_eq!(source.tags().await.unwrap(), ["latest"]);
    source.head(&tag("latest")).await.unwrap();
    assert_eq!(source.counts().pings, 2, "asked once");
}

/// A proxy knows names that we do not, and what is refused by name stays refused.
#[tokio::test]
async fn through_a_proxy() {
    let it = Origin::new().await;
    let proxy = Proxy {
        http: Some(format!("http://us:secret@127.0.0.1:{}", it.proxy.port)),
        exceptions: Some("127.0.0.1,direct.example".to_owned()),
        ..Proxy::default()
    };
    let through = |reference: &str| Options { proxy: proxy.clone(), ..options(reference) };
    let source = Source::open(through(&format!("registry.example/{REPO}"))).unwrap();
    assert_eq!(source.tags().await.unwrap(), ["latest"]);
    assert_eq!(it.proxy.seen("GET http://registry.example/v2/team/app/tags/list"), 1);
    assert_eq!(it.proxy.seen("proxy-authorization: Basic"), 1);
    for refused in ["registry.internal", "169.254.169.254", "localhost", "[::1]"] {
        let source = Source::open(through(&format!("{refused}/{REPO}"))).unwrap();
        let error = source.tags().await.unwrap_err();
        assert_eq!(error.fault(), Whose::Refused, "{error}");
    }
    // Past it.
    let own = format!("127.0.0.1:{}/{REPO}", it.registry.port);
    assert_eq!(Source::open(through(&own)).unwrap().tags().await.unwrap(), ["latest"]);
    assert_eq!(it.proxy.seen(""), 1);
}

#[tokio::test]
async fn through_a_tunnel() {
    let it = Secure::new().await;
    let (port, asked) = tunnel(it.registry.port).await;
    let proxy = Proxy { https: Some(format!("127.0.0.1:{port}")), ..Proxy::default() };
    let source = Source::open(Options { proxy, ..it.trusted("registry.example") }).unwrap();
    assert_eq!(source.tags().await.unwrap(), ["latest"]);
    let asked = asked.await.unwrap();
    assert!(asked.starts_with("CONNECT registry.example:"), "{asked}");
}

/// A proxy that makes one tunnel, wherever to, to a port of this machine.
async fn tunnel(to: u16) -> (u16, tokio::sync::oneshot::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, asked) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let mut client = BufReader::new(client);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            client.read_line(&mut head).await.unwrap();
        }
        tell.send(head).unwrap();
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let mut server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
        copy_bidirectional(&mut client, &mut server).await.ok();
    });
    (port, asked)
}

#[tokio::test]
async fn proxies_that_are_none() {
    let it = Origin::new().await;
    let forbidden = FaultProxy::at("127.0.0.2", it.registry.port).await;
    let opened = |proxy: String, allowed: &str| {
        let proxy = Proxy { http: Some(proxy), ..Proxy::default() };
        let allowed_hosts = AllowedHosts::parse([allowed]);
        Source::open(Options { proxy, allowed_hosts, ..options("registry.example/team/app") })
    };
    for proxy in ["socks5://127.0.0.1:1", "http://", "http://us:secret@[x"] {
        let error = opened(proxy.to_owned(), "127.0.0.1").err().unwrap();
        assert_eq!(error.fault(), Whose::Configuration, "{error}");
        assert!(error.to_string().contains("http_proxy"), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    // Whoever edits a mirror does not reach this machine by calling it a proxy.
    let near = format!("http://127.0.0.2:{}", forbidden.port);
    assert_eq!(opened(near, "127.0.0.1").err().unwrap().fault(), Whose::Configuration);
    let near = format!("http://localhost:{}", forbidden.port);
    let error = opened(near, "127.0.0.9").unwrap().tags().await.unwrap_err();
    assert_eq!(error.fault(), Whose::Refused, "{error}");
    assert_eq!(forbidden.seen(""), 0);
}
