//! Signatures of requests to a bucket, in the header `authorization`.

use std::collections::BTreeMap;
use std::fmt::Write;

use aws_lc_rs::hmac::{self, HMAC_SHA1_FOR_LEGACY_USE_ONLY, HMAC_SHA256, Key};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

use super::request::Request;
use crate::config::{S3, SignatureVersion};

/// All but RFC 3986's unreserved characters.
pub(super) const VALUE: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The same, with slashes as they are.
pub(super) const PATH: &AsciiSet = &VALUE.remove(b'/');

/// How the new signature writes the time.
pub(super) const V4_TIME: &str = "%Y%m%dT%H%M%SZ";

/// Where a request goes, and every header it needs.
pub(super) struct Signed {
    pub url: String,
    /// Names in lower case.
    pub headers: BTreeMap<&'static str, String>,
}

/// The request as it may be sent for some minutes from `now`.
pub(super) fn signed(storage: &S3, request: &Request, now: DateTime<Utc>) -> Signed {
    let (scheme, host, path) = address(storage, &request.key);
    let mut url = format!("{scheme}://{host}{path}");
    for (position, (name, value)) in request.query.iter().enumerate() {
        url.push(if position == 0 { '?' } else { '&' });
        url.push_str(name);
        if let Some(value) = value {
            let _ = write!(url, "={}", utf8_percent_encode(value, VALUE));
        }
    }
    let mut headers: BTreeMap<_, _> = request.headers.iter().cloned().collect();
    let authorization = match storage.request_version {
        SignatureVersion::V4 => {
            let time = now.format(V4_TIME).to_string();
            headers.insert("x-amz-content-sha256", request.body.sha256.clone());
            headers.insert("x-amz-date", time.clone());
            if let Some(token) = &storage.session_token {
                headers.insert("x-amz-security-token", token.expose().to_owned());
            }
            v4(storage, request, &headers, (&host_header(&scheme, &host), &path), &time)
        }
        SignatureVersion::V2 => {
            headers.insert("date", now.format("%a, %d %b %Y %H:%M:%S GMT").to_string());
            v2(storage, request, &headers)
        }
    };
    headers.insert("authorization", authorization);
    Signed { url, headers }
}

/// AWS Signature Version 4, of all `headers` and the host.
fn v4(
    storage: &S3,
    request: &Request,
    headers: &BTreeMap<&'static str, String>,
    (host, path): (&str, &str),
    time: &str,
) -> String {
    let mut query: Vec<String> = request
        .query
        .iter()
        .map(|(name, value)| {
            format!("{name}={}", utf8_percent_encode(value.as_deref().unwrap_or_default(), VALUE))
        })
        .collect();
    query.sort_unstable();
    let mut covered: BTreeMap<&str, &str> =
        headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    covered.insert("host", host);
    let names = covered.keys().copied().collect::<Vec<_>>().join(";");
    let lines = covered.iter().fold(String::new(), |mut lines, (name, value)| {
        let _ = writeln!(lines, "{name}:{}", value.trim());
        lines
    });
    let canonical = format!(
        "{}\n{path}\n{}\n{lines}\n{names}\n{}",
        request.method,
        query.join("&"),
        request.body.sha256
    );
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={names}, Signature={}",
        storage.access_key,
        v4_scope(storage, time),
        v4_signature(storage, time, &canonical)
    )
}

/// The signature from before that: of a few headers, and of those parts of the query that name
/// something else than the object itself.
fn v2(storage: &S3, request: &Request, headers: &BTreeMap<&'static str, String>) -> String {
    let header = |name| headers.get(name).map(String::as_str).unwrap_or_default();
    let mut text =
        format!("{}\n\n{}\n{}\n", request.method, header("content-type"), header("date"));
    for (name, value) in headers.iter().filter(|(name, _)| name.starts_with("x-amz-")) {
        let _ = writeln!(text, "{name}:{}", value.trim());
    }
    let mut query = request.query.clone();
    query.sort_unstable();
    let _ = write!(text, "/{}/{}", storage.bucket, utf8_percent_encode(&request.key, PATH));
    for (position, (name, value)) in query.iter().enumerate() {
        let _ = write!(text, "{}{name}", if position == 0 { '?' } else { '&' });
        if let Some(value) = value {
            let _ = write!(text, "={value}");
        }
    }
    format!("AWS {}:{}", storage.access_key, v2_signature(storage, &text))
}

/// Scheme, host, and the path of a key, encoded.
pub(super) fn address(storage: &S3, key: &str) -> (String, String, String) {
    let (scheme, rest) = storage.endpoint.split_once("://").unwrap_or(("https", &storage.endpoint));
    let (host, base) = rest.split_once('/').unwrap_or((rest, ""));
    let base = if base.is_empty() { String::new() } else { format!("/{base}") };
    let key = utf8_percent_encode(key, PATH);
    match storage.virtual_host {
        true => (scheme.to_owned(), format!("{}.{host}", storage.bucket), format!("{base}/{key}")),
        false => (scheme.to_owned(), host.to_owned(), format!("{base}/{}/{key}", storage.bucket)),
    }
}

/// The header `host`: a port is part of it unless it is the scheme's own.
pub(super) fn host_header(scheme: &str, host: &str) -> String {
    let own = if scheme == "https" { ":443" } else { ":80" };
    host.strip_suffix(own).unwrap_or(host).to_owned()
}

/// For what a signature of that day is good.
pub(super) fn v4_scope(storage: &S3, time: &str) -> String {
    format!("{}/{}/s3/aws4_request", day(time), storage.region)
}

fn day(time: &str) -> &str {
    time.split('T').next().unwrap_or_default()
}

/// The new signature, of a request in its canonical form.
pub(super) fn v4_signature(storage: &S3, time: &str, canonical: &str) -> String {
    let scope = v4_scope(storage, time);
    let digest = hex(&Sha256::digest(canonical));
    let signed = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}");
    let mut signing = format!("AWS4{}", storage.secret_key.expose()).into_bytes();
    for part in [day(time), &storage.region, "s3", "aws4_request", &signed] {
        signing = hmac::sign(&Key::new(HMAC_SHA256, &signing), part.as_bytes()).as_ref().to_vec();
    }
    hex(&signing)
}

/// The old signature, of a text.
pub(super) fn v2_signature(storage: &S3, text: &str) -> String {
    let secret = Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, storage.secret_key.expose().as_bytes());
    STANDARD.encode(hmac::sign(&secret, text.as_bytes()))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::blobs::s3::request::Payload;
    use crate::config::{S3Uploads, Secret};
    use reqwest::Method;

    /// The settings that botocore was asked with.
    pub fn storage(endpoint: &str, region: &str, version: SignatureVersion) -> S3 {
        S3 {
            endpoint: endpoint.to_owned(),
            virtual_host: false,
            bucket: "quay".to_owned(),
            prefix: "registry".to_owned(),
            region: region.to_owned(),
            version,
            request_version: version,
            access_key: "AKIDEXAMPLE".to_owned(),
            secret_key: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            session_token: None,
            uploads: S3Uploads {
                encrypted: true,
                minimum_chunk_size: 5 << 20,
                maximum_chunk_size: 5 << 30,
                server_side_assembly: true,
            },
        }
    }

    /// What botocore 1.35.81, the one of Quay, makes of the same requests at that time: with
    /// path-style addresses, with a bucket as host and a session token, and in the old way.
    #[test]
    fn signatures_are_those_of_boto() {
        use SignatureVersion::{V2, V4};
        let now = DateTime::parse_from_rfc3339("2026-11-24T12:00:00Z").unwrap().to_utc();
        let new = storage("https://rgw.example:8443", "us-east-1", V4);
        let old = storage("https://rgw.example:8443", "us-east-1", V2);
        let token = S3 {
            virtual_host: true,
            session_token: Some(Secret::new("TOKEN/+=x")),
            ..storage("https://s3.amazonaws.com", "eu-west-1", V4)
        };
        let request = |method| Request::new("", method, "registry/uploads/x y");
        let upload = |request: Request| request.query("uploadId", Some("a+b/=".to_owned()));
        let part = |request: Request| upload(request.query("partNumber", Some("2".to_owned())));
        let octets = |request: Request| {
            request
                .header("content-type", "application/octet-stream")
                .header("x-amz-server-side-encryption", "AES256")
        };
        let copy =
            |request: Request| request.header("x-amz-copy-source", "quay/registry/uploads/x%20y");
        let hello = || Payload::new("hello");
        for (request, path_style, with_token, before) in [
            (
                octets(request(Method::PUT)).body(hello()),
                "3318794d7e90f073db21327923095d3ef2daaa9b31348e45535a2a52766cb490",
                "ed8c36edfbf38614e539be998ed26895aec66a6fd8a9a761d455782bc8af0c06",
                "MYCMT2wX5nruquPAaiS/jaNNGZc=",
            ),
            (
                octets(request(Method::POST)).query("uploads", None),
                "63f35221412f7b1a072ae3bef478539ab900ca6c6ae735ba7c81895c88a4d2c2",
                "c291488ca1ca8b7ec8455d150d2e48f89e77ef435e4adef8e1a9a646035d08c3",
                "+ZimwnNHA1/PElsBCO5d1FV7amo=",
            ),
            (
                part(request(Method::PUT)).body(hello()),
                "45e18fdfefc2af86fec40f49f2a97844998228c70f6408978188c8c1e719a4cf",
                "3af99589f04a2f5f2a011fdbda30eb2d6603b1da927b89209a2647382b5f46d3",
                "EUY6eYR67XmOrlV5yKYU59w18DQ=",
            ),
            (
                copy(part(request(Method::PUT))).header("x-amz-copy-source-range", "bytes=0-9"),
                "6d6da8647ccf1a45356f7e0ea8b9bec79e7d27bf3a5a74345884ac3bd826906e",
                "248144deaa013a133ae39e278a565676429ff07188bf0ea81a1c94390dc7f3c4",
                "hkP3+RvOPEevdr5VAnLrd9LC/dw=",
            ),
            (
                copy(request(Method::PUT)),
                "78e21f504a38bb7d41d4c74d4d29b4bb260186ec97b8b2ac4bc8d9b36326234f",
                "a35a8f7ed7265dab6142fa0fdfbf6380e1428dcd931e799895ad725151116295",
                "D3Hhu2oaQzqTX/FiH4WMkNrvIr8=",
            ),
            (
                upload(request(Method::POST)).body(Payload::new("<x/>")),
                "1795567bb406739db6fed15e4b54b07ec3c7ccd462e94dc8f45faecdb073db47",
                "03192725d11656f5a5dc5ebcdbd2e5d61b5bb26f763c4d4a326261cbc4582b7d",
                "NgT3r5KUFa9aechAQsCEcYeEFqA=",
            ),
            (
                upload(request(Method::DELETE)),
                "f43b749713dfe2f99695bf655a7b1e43e85d679e80905ff416ccd0c712cd2552",
                "5940cece9ecda51cc00173986ecf2ad7deb81d857137a234a33ecde802a574be",
                "UDtavBfNtqD5LgpS672hU3WblNU=",
            ),
            (
                request(Method::GET).header("range", "bytes=0-9"),
                "9374c3abefec81645720abdd5ae8e59fc1ddb411c0ffc9fac78945fc80d54538",
                "fc01f2acf0d5dca28d40b043f7914d593a28c1cddc7743a0d15aada0eb9a8fca",
                "m1in/1kv2Wbr6bghmfE5Os5wE2E=",
            ),
            (
                request(Method::HEAD),
                "14a9cecb82083fb60fc45b1f168d9aac363ededc49d90e5fb28fdbf159aa2f9b",
                "640cc8137886c777d21a34bfdd0e6ec9a1101809702006e614d5cb301cc05077",
                "SXDsl8VcUdZxOApH9l5TuID7HhY=",
            ),
        ] {
            for (storage, signature) in [(&new, path_style), (&token, with_token), (&old, before)] {
                let signed = signed(storage, &request, now);
                let authorization = &signed.headers["authorization"];
                assert!(authorization.ends_with(signature), "{} {request:?}", signed.url);
            }
        }
    }

    #[test]
    fn a_value_of_the_query_is_encoded_once() {
        let storage = storage("http://minio.example:80", "us-east-1", SignatureVersion::V4);
        let request = Request::new("", Method::PUT, "a/ü b")
            .query("uploadId", Some("%+/=".to_owned()))
            .query("uploads", None);
        let signed = signed(&storage, &request, Utc::now());
        let expected = "http://minio.example:80/quay/a/%C3%BC%20b?uploadId=%25%2B%2F%3D&uploads";
        assert_eq!(signed.url, expected);
    }
}
