//! Signed URLs of object storages: whoever has one may download one blob for ten minutes
//! (contract §5.5). Made without asking anybody.

use std::fmt::Write;

use aws_lc_rs::hmac::{self, HMAC_SHA1_FOR_LEGACY_USE_ONLY, HMAC_SHA256, Key};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

use super::BlobPath;
use crate::config::{S3, SignatureVersion};

/// As in Quay.
const LIFETIME_S: i64 = 600;

/// All but RFC 3986's unreserved characters.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The same, with slashes as they are.
const PATH: &AsciiSet = &VALUE.remove(b'/');

/// Where a blob can be downloaded for the next ten minutes.
pub fn presigned(storage: &S3, path: &BlobPath, now: DateTime<Utc>) -> String {
    let key = key(&storage.prefix, path.as_str());
    match storage.version {
        SignatureVersion::V4 => v4(storage, &key, now),
        SignatureVersion::V2 => v2(storage, &key, now),
    }
}

/// Python's `os.path.join`: an empty prefix adds no slash.
fn key(prefix: &str, path: &str) -> String {
    match prefix {
        "" => path.to_owned(),
        prefix if prefix.ends_with('/') => format!("{prefix}{path}"),
        prefix => format!("{prefix}/{path}"),
    }
}

/// Scheme, host, and the path of a key, encoded.
fn address(storage: &S3, key: &str) -> (String, String, String) {
    let (scheme, rest) = storage.endpoint.split_once("://").unwrap_or(("https", &storage.endpoint));
    let (host, base) = rest.split_once('/').unwrap_or((rest, ""));
    let base = if base.is_empty() { String::new() } else { format!("/{base}") };
    let key = utf8_percent_encode(key, PATH);
    match storage.virtual_host {
        true => (scheme.to_owned(), format!("{}.{host}", storage.bucket), format!("{base}/{key}")),
        false => (scheme.to_owned(), host.to_owned(), format!("{base}/{}/{key}", storage.bucket)),
    }
}

/// AWS Signature Version 4, in the query.
fn v4(storage: &S3, key: &str, now: DateTime<Utc>) -> String {
    let (scheme, host, path) = address(storage, key);
    let (time, date) = (now.format("%Y%m%dT%H%M%SZ").to_string(), now.format("%Y%m%d").to_string());
    let scope = format!("{date}/{}/s3/aws4_request", storage.region);
    let credential = format!("{}/{scope}", storage.access_key);
    let encoded = |text: &str| utf8_percent_encode(text, VALUE).to_string();
    let mut query = format!(
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}&X-Amz-Date={time}\
         &X-Amz-Expires={LIFETIME_S}",
        encoded(&credential)
    );
    // Sorted, as what is signed has to be.
    let token = storage.session_token.as_ref().map(|token| encoded(token.expose()));
    if let Some(token) = &token {
        let _ = write!(query, "&X-Amz-Security-Token={token}");
    }
    query.push_str("&X-Amz-SignedHeaders=host");
    // A port is part of the host unless it is the scheme's own.
    let own = if scheme == "https" { ":443" } else { ":80" };
    let named = host.strip_suffix(own).unwrap_or(&host);
    let request = format!("GET\n{path}\n{query}\nhost:{named}\n\nhost\nUNSIGNED-PAYLOAD");
    let digest = hex(&Sha256::digest(request));
    let signed = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}");
    let secret = format!("AWS4{}", storage.secret_key.expose());
    let mut signing = secret.into_bytes();
    for part in [date.as_str(), &storage.region, "s3", "aws4_request", &signed] {
        signing = hmac::sign(&Key::new(HMAC_SHA256, &signing), part.as_bytes()).as_ref().to_vec();
    }
    format!("{scheme}://{host}{path}?{query}&X-Amz-Signature={}", hex(&signing))
}

/// The signature from before that.
fn v2(storage: &S3, key: &str, now: DateTime<Utc>) -> String {
    let (scheme, host, path) = address(storage, key);
    let expires = now.timestamp() + LIFETIME_S;
    let resource = format!("/{}/{}", storage.bucket, utf8_percent_encode(key, PATH));
    let signed = format!("GET\n\n\n{expires}\n{resource}");
    let secret = Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, storage.secret_key.expose().as_bytes());
    let signature = STANDARD.encode(hmac::sign(&secret, signed.as_bytes()));
    format!(
        "{scheme}://{host}{path}?AWSAccessKeyId={}&Signature={}&Expires={expires}",
        utf8_percent_encode(&storage.access_key, VALUE),
        utf8_percent_encode(&signature, VALUE)
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    const KEY: &str = "registry/sha256/ab/abcdef";

    fn storage(endpoint: &str, region: &str, version: SignatureVersion) -> S3 {
        S3 {
            endpoint: endpoint.to_owned(),
            virtual_host: false,
            bucket: "quay".to_owned(),
            prefix: "registry".to_owned(),
            region: region.to_owned(),
            version,
            access_key: "AKIDEXAMPLE".to_owned(),
            secret_key: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            session_token: None,
        }
    }

    fn url(storage: &S3, key: &str) -> String {
        let now = DateTime::parse_from_rfc3339("2026-11-24T12:00:00Z").unwrap().to_utc();
        match storage.version {
            SignatureVersion::V4 => v4(storage, key, now),
            SignatureVersion::V2 => v2(storage, key, now),
        }
    }

    /// What botocore 1.35.81, the one of Quay, makes at that time of the same settings.
    #[test]
    fn signatures_are_those_of_boto() {
        use SignatureVersion::{V2, V4};
        let signature =
            |storage: &S3, key| url(storage, key).rsplit_once('=').unwrap().1.to_owned();
        let virtual_host =
            S3 { virtual_host: true, ..storage("https://s3.amazonaws.com", "us-east-1", V4) };
        let token = S3 {
            session_token: Some(Secret::new("TOKEN/+=x")),
            ..storage("https://s3.eu-west-1.amazonaws.com", "eu-west-1", V4)
        };
        for (storage, key, expected) in [
            (
                storage("https://s3.us-east-1.amazonaws.com", "us-east-1", V4),
                KEY,
                "6e3056c5f79393bf126364b4f81ec2bfedfa4292d089a067cf618584d284aaa0",
            ),
            (
                storage("https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1", V4),
                KEY,
                "2b19fbc02640ed1f0322bf93c1a00aeea4643880c5951bf22150d0d381d9c785",
            ),
            (token, KEY, "0b4bdc15d0fb809c4220c42b57ffc23f9d6168e6def998df29a5ddb8628569dc"),
            (virtual_host, KEY, "40a4783d781e7ebea51257e1ebbdeeb47a99afd027b5f411b9e64a1aa6b8a6f5"),
            (
                storage("http://minio.example:9000", "us-east-1", V4),
                KEY,
                "4a58a7cde852c5d94eef96e76b852c8bc0c3bf9939ff8bc0dd905748564d2a49",
            ),
            (
                storage("https://minio.example:443", "us-east-1", V4),
                KEY,
                "7ea1522474299649b1297a2725c54374347273206233d6fa6bc2a237ed92e9f5",
            ),
            (
                storage("https://minio.example/base", "us-east-1", V4),
                KEY,
                "4621ee372cca5837b2483e2695ad7521b8ab5968593542321e1b42044df6ad5f",
            ),
            (
                storage("https://minio.example", "us-east-1", V4),
                "a b/ü+&=/~x//y",
                "9816e04c347f48415083e483727d6ca8cc77ca2b6690a5292ad301967c67cba6",
            ),
            (
                storage("https://rgw.example:8443", "eu-central-1", V4),
                KEY,
                "70dc7f8bb6e2d69d477a5f7a19851004d3a7c3f147081e420df10a69decd19fb",
            ),
        ] {
            assert_eq!(signature(&storage, key), expected, "{}", url(&storage, key));
        }
        assert_eq!(
            url(&storage("https://rgw.example:8443", "us-east-1", V2), KEY),
            "https://rgw.example:8443/quay/registry/sha256/ab/abcdef?AWSAccessKeyId=AKIDEXAMPLE\
             &Signature=oI1HxmtqwjDPonTis9lG8XeuWkM%3D&Expires=1795522200"
        );
        let odd = url(&storage("https://rgw.example", "us-east-1", V2), "a b/ü+&=/~x//y");
        assert!(odd.contains("&Signature=pPR2odokn0sj4%2FhNGgfiLUWB5nU%3D&"), "{odd}");
    }

    #[test]
    fn keys_are_joined_as_python_does() {
        for (prefix, expected) in
            [("", "sha256/a"), ("x", "x/sha256/a"), ("x/y/", "x/y/sha256/a"), ("/", "/sha256/a")]
        {
            assert_eq!(key(prefix, "sha256/a"), expected);
        }
    }
}
