//! Signed URLs of object storages: whoever has one may download one blob for ten minutes
//! (contract §5.5). Made without asking anybody.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use percent_encoding::utf8_percent_encode;

use super::key;
use super::sign::{
    PATH, V4_TIME, VALUE, address, host_header, v2_signature, v4_scope, v4_signature,
};
use crate::blobs::BlobPath;
use crate::config::{S3, SignatureVersion};

/// As in Quay.
const LIFETIME_S: i64 = 600;

/// Where a blob can be downloaded for the next ten minutes.
pub fn presigned(storage: &S3, path: &BlobPath, now: DateTime<Utc>) -> String {
    let key = key(&storage.prefix, path.as_str());
    match storage.version {
        SignatureVersion::V4 => v4(storage, &key, now),
        SignatureVersion::V2 => v2(storage, &key, now),
    }
}

/// AWS Signature Version 4, in the query.
fn v4(storage: &S3, key: &str, now: DateTime<Utc>) -> String {
    let (scheme, host, path) = address(storage, key);
    let time = now.format(V4_TIME).to_string();
    let credential = format!("{}/{}", storage.access_key, v4_scope(storage, &time));
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
    let named = host_header(&scheme, &host);
    let request = format!("GET\n{path}\n{query}\nhost:{named}\n\nhost\nUNSIGNED-PAYLOAD");
    let signature = v4_signature(storage, &time, &request);
    format!("{scheme}://{host}{path}?{query}&X-Amz-Signature={signature}")
}

/// The signature from before that.
fn v2(storage: &S3, key: &str, now: DateTime<Utc>) -> String {
    let (scheme, host, path) = address(storage, key);
    let expires = now.timestamp() + LIFETIME_S;
    let resource = format!("/{}/{}", storage.bucket, utf8_percent_encode(key, PATH));
    let signed = format!("GET\n\n\n{expires}\n{resource}");
    let signature = v2_signature(storage, &signed);
    format!(
        "{scheme}://{host}{path}?AWSAccessKeyId={}&Signature={}&Expires={expires}",
        utf8_percent_encode(&storage.access_key, VALUE),
        utf8_percent_encode(&signature, VALUE)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::s3::sign::tests::storage;
    use crate::config::Secret;

    const KEY: &str = "registry/sha256/ab/abcdef";

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
}
