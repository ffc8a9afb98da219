//! Lists of repositories that no registry should send.

use quay_sidecar::upstream::{Directory, DirectoryApi, Fault, RegistryUrl, UpstreamError};

use super::origin::options;
use crate::support::fault_proxy::{Fault as Broken, FaultProxy};
use crate::support::free_port;

/// What comes of a list that is answered like this, every time, and how often it was asked for.
async fn listed(
    api: DirectoryApi,
    status: &'static str,
    headers: &str,
    body: &str,
) -> (Result<Vec<String>, UpstreamError>, usize) {
    // Nobody is behind it.
    let proxy = FaultProxy::to(free_port()).await;
    let user = "GET /api/v1/organization/team";
    proxy.fail(user, usize::MAX, Broken::Answer("200 OK", "", "{}"));
    let answer = Broken::Say(status, headers.to_owned(), body.to_owned());
    proxy.fail("repositor", usize::MAX, answer);
    let registry = RegistryUrl::parse(&format!("http://127.0.0.1:{}", proxy.port)).unwrap();
    let options = options(&format!("127.0.0.1:{}/team/app", proxy.port));
    let directory = Directory::open(api, registry, "team", options).unwrap();
    let listed = directory.repositories().await;
    assert_eq!(directory.counts().requests(), proxy.seen("GET /api/") as u64);
    (listed, proxy.seen("repositor"))
}

#[tokio::test]
async fn lists_that_have_no_end() {
    let page = r#"{"repositories": [{"name": "app"}], "next_page": "again"}"#;
    let (listed, asked) = listed(DirectoryApi::Quay, "200 OK", "", page).await;
    let error = listed.unwrap_err();
    assert_eq!((error.fault(), asked), (Fault::Source, 2), "{error}");
    assert!(error.to_string().contains("in circles"), "{error}");
}

#[tokio::test]
async fn lists_that_are_none() {
    for (api, body) in [
        (DirectoryApi::Quay, "{}"),
        (DirectoryApi::Quay, "[]"),
        (DirectoryApi::Quay, "<html>"),
        (DirectoryApi::Harbor, "{}"),
        (DirectoryApi::Harbor, r#"[{"id": 1}]"#),
    ] {
        let (listed, asked) = listed(api, "200 OK", "", body).await;
        let error = listed.unwrap_err();
        assert_eq!((error.fault(), asked), (Fault::Source, 1), "{body}: {error}");
        assert!(error.to_string().contains("no such list"), "{error}");
    }
    let (listed, _) = listed(DirectoryApi::Harbor, "200 OK", "", "null").await;
    assert_eq!(listed.unwrap(), Vec::<String>::new());
}

/// A list that is too long is not read.
#[tokio::test]
async fn lists_that_are_too_long() {
    let names = vec![r#"{"name": "app"}"#; 600_000].join(",");
    let body = format!(r#"{{"repositories": [{names}]}}"#);
    let (listed, asked) = listed(DirectoryApi::Quay, "200 OK", "", &body).await;
    let error = listed.unwrap_err();
    assert_eq!((error.fault(), asked), (Fault::Source, 1), "{error}");
    assert!(error.to_string().contains("more than the 8388608 bytes"), "{error}");
}

/// Some failures pass, and are waited for; others do not.
#[tokio::test]
async fn failures_that_pass_and_those_that_do_not() {
    for (status, headers, fault, tries) in [
        ("500 Internal Server Error", "", Fault::Source, 5),
        ("429 Too Many Requests", "retry-after: 0\r\n", Fault::RateLimited, 5),
        ("429 Too Many Requests", "retry-after: 3600\r\n", Fault::RateLimited, 1),
        ("404 Not Found", "", Fault::NotFound, 1),
        ("403 Forbidden", "", Fault::Credentials, 1),
        ("301 Moved Permanently", "location: http://registry.example/\r\n", Fault::Source, 1),
    ] {
        let (listed, asked) = listed(DirectoryApi::Harbor, status, headers, "{}").await;
        let error = listed.unwrap_err();
        assert_eq!((error.fault(), asked), (fault, tries), "{status}: {error}");
    }
}
