//! Locations of the S3 family.

use super::*;
use crate::config::{Location, S3, S3Uploads, SignatureVersion};

fn s3(location: &str) -> S3 {
    let loaded = with(&format!("DISTRIBUTED_STORAGE_CONFIG: {{a: {location}}}"));
    let loaded = loaded.unwrap_or_else(|error| panic!("{location}: {error}"));
    match &loaded.config.storage.locations["a"] {
        Location::S3(s3) => *s3.clone(),
        other => panic!("{location}: {other:?}"),
    }
}

#[test]
fn endpoints_and_signatures_are_those_of_quay() {
    use SignatureVersion::{V2, V4};
    let aws = "s3_bucket: quay, s3_access_key: k, s3_secret_key: s";
    let own = "bucket_name: quay, access_key: k, secret_key: s, is_secure: true";
    for (location, endpoint, region, version) in [
        (
            format!("[S3Storage, {{{aws}, s3_region: eu-west-1, host: ignored}}]"),
            "https://s3.eu-west-1.amazonaws.com",
            "eu-west-1",
            V4,
        ),
        (
            format!("[S3Storage, {{{aws}, s3_region: cn-north-1}}]"),
            "https://s3.cn-north-1.amazonaws.com.cn",
            "cn-north-1",
            V4,
        ),
        (
            format!("[S3Storage, {{{aws}, host: minio.example, port: 9000}}]"),
            "https://minio.example:9000",
            "us-east-1",
            V4,
        ),
        (
            format!("[S3Storage, {{{aws}, endpoint_url: 'http://minio.example:9000/'}}]"),
            "http://minio.example:9000",
            "us-east-1",
            V4,
        ),
        (
            format!("[RadosGWStorage, {{{own}, hostname: rgw.example, port: '8443'}}]"),
            "https://rgw.example:8443",
            "us-east-1",
            V2,
        ),
        (
            format!(
                "[RHOCSStorage, {{{own}, hostname: 'http://rgw.example:80', port: 81, region_name: ceph}}]"
            ),
            "http://rgw.example:80",
            "ceph",
            V4,
        ),
        (
            format!("[IBMCloudStorage, {{{own}, hostname: ibm.example, signature_version: s3v4}}]"),
            "https://ibm.example",
            "us-east-1",
            V4,
        ),
        (
            "[RadosGWStorage, {bucket_name: quay, access_key: k, secret_key: s, is_secure: false, hostname: rgw.example}]".to_owned(),
            "http://rgw.example",
            "us-east-1",
            V2,
        ),
    ] {
        let found = s3(&location);
        assert_eq!(found.endpoint, endpoint, "{location}");
        assert_eq!((found.region.as_str(), found.version), (region, version), "{location}");
        assert!(!found.virtual_host, "{location}");
        // Only downloads carry the old signature without having been told to.
        assert_eq!(found.request_version, V4, "{location}");
    }
    let old = s3(&format!("[RadosGWStorage, {{{own}, hostname: a, signature_version: s3}}]"));
    assert_eq!((old.version, old.request_version), (V2, V2));
    assert!(s3(&format!("[S3Storage, {{{aws}}}]")).virtual_host);
    let prefix = |path: &str| s3(&format!("[S3Storage, {{{aws}, storage_path: {path}}}]")).prefix;
    assert_eq!(prefix("/datastorage/registry"), "datastorage/registry");
    assert_eq!(prefix("//x"), "/x");
    assert_eq!(prefix("''"), "");
}

#[test]
fn chunk_sizes() {
    const MIB: u64 = 1024 * 1024;
    let aws = "s3_bucket: quay, s3_access_key: k, s3_secret_key: s";
    let own = "bucket_name: quay, access_key: k, secret_key: s, hostname: rgw.example";
    for (location, encrypted, minimum, maximum, assembled) in [
        (format!("[S3Storage, {{{aws}}}]"), true, 5, 5120, true),
        (
            format!("[S3Storage, {{{aws}, minimum_chunk_size_mb: 1, maximum_chunk_size_gb: 1}}]"),
            true,
            5,
            1024,
            true,
        ),
        (
            format!(
                "[RHOCSStorage, {{{own}, server_side_assembly: false, maximum_chunk_size_mb: 7}}]"
            ),
            false,
            5,
            10,
            false,
        ),
        (format!("[RadosGWStorage, {{{own}, minimum_chunk_size_mb: 60}}]"), false, 60, 120, true),
        (format!("[IBMCloudStorage, {{{own}, minimum_chunk_size_mb: 60}}]"), false, 5, 100, true),
    ] {
        let expected = S3Uploads {
            encrypted,
            minimum_chunk_size: minimum * MIB,
            maximum_chunk_size: maximum * MIB,
            server_side_assembly: assembled,
        };
        assert_eq!(s3(&location).uploads, expected, "{location}");
    }
}

#[test]
fn what_only_python_can_do_stays_there() {
    let aws = "s3_bucket: quay, s3_region: eu-west-1";
    for location in [
        format!("[S3Storage, {{{aws}}}]"),
        format!(
            "[S3Storage, {{{aws}, s3_access_key: k, s3_secret_key: s, signature_version: v5}}]"
        ),
        format!(
            "[S3Storage, {{{aws}, s3_access_key: k, s3_secret_key: s, minimum_chunk_size_mb: 0}}]"
        ),
        "[GoogleCloudStorage, {}]".to_owned(),
        "[STSS3Storage, {}]".to_owned(),
    ] {
        let loaded = with(&format!("DISTRIBUTED_STORAGE_CONFIG: {{a: {location}}}")).unwrap();
        let found = &loaded.config.storage.locations["a"];
        assert!(matches!(found, Location::Unsupported { .. }), "{location}: {found:?}");
    }
}
