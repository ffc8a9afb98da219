//! Locations of the S3 family, as Quay's drivers read their parameters (contract 5.2).

use config::{Map, Value, ValueKind};

use super::secret::Secret;

/// A bucket, and how its downloads are signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3 {
    /// Scheme, host, port where one is written, and path, without a slash at the end.
    pub endpoint: String,
    /// Whether the bucket is part of the host name instead of the path.
    pub virtual_host: bool,
    /// `s3_bucket` or `bucket_name`
    pub bucket: String,
    /// What every key begins with: `storage_path`, without a slash before it.
    pub prefix: String,
    /// The region that signatures name.
    pub region: String,
    /// Which signature the URLs of downloads carry.
    pub version: SignatureVersion,
    /// Which signature requests carry that are sent from here: the new one unless
    /// `signature_version` asks for the old. (boto's default differs between the two.)
    pub request_version: SignatureVersion,
    /// `s3_access_key` or `access_key`
    pub access_key: String,
    /// `s3_secret_key` or `secret_key`
    pub secret_key: Secret,
    /// `aws_session_token`
    pub session_token: Option<Secret>,
    /// How uploads are written.
    pub uploads: S3Uploads,
}

/// How a bucket's uploads are written and put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct S3Uploads {
    /// Whether new objects ask for `AES256` encryption by the storage's own keys.
    pub encrypted: bool,
    /// Bytes of a part of an upload: `minimum_chunk_size_mb`, at least the 5 MiB that object
    /// storages ask of every part but the last.
    pub minimum_chunk_size: u64,
    /// Bytes the storage may be asked to copy at a time: `maximum_chunk_size_gb` or `_mb`, at least
    /// twice the minimum, so that half of it is a part too.
    pub maximum_chunk_size: u64,
    /// `server_side_assembly`: whether the storage can copy from one object into a part of another.
    pub server_side_assembly: bool,
}

/// `signature_version`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureVersion {
    /// `s3`: HMAC-SHA1, for old object storages.
    V2,
    /// `s3v4`
    V4,
}

/// Where AWS itself still takes the old signature: botocore signs with it there, and for storages
/// without a region, unless told otherwise (contract 5.2; found by asking it).
const OLD_REGIONS: [&str; 9] = [
    "ap-northeast-1",
    "ap-southeast-1",
    "ap-southeast-2",
    "eu-west-1",
    "sa-east-1",
    "us-east-1",
    "us-gov-west-1",
    "us-west-1",
    "us-west-2",
];

const DEFAULT_REGION: &str = "us-east-1";

/// The drivers that [`read`] knows.
pub(super) const DRIVERS: [&str; 4] =
    ["S3Storage", "RadosGWStorage", "RHOCSStorage", "IBMCloudStorage"];

/// Why a location stays with Python, or cannot be used by anybody.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotRead {
    /// Python can do it.
    Python(&'static str),
    /// A parameter is missing or of another kind.
    Wrong(String),
}

/// The parameters of one location.
pub(super) fn read(driver: &str, params: &Map<String, Value>) -> Result<S3, NotRead> {
    let params = Params(params);
    let aws = driver == "S3Storage";
    let (bucket, access, secret) = match aws {
        true => ("s3_bucket", "s3_access_key", "s3_secret_key"),
        false => ("bucket_name", "access_key", "secret_key"),
    };
    let bucket = params.required(bucket)?;
    let prefix = params.text("storage_path")?.unwrap_or_default();
    let (access_key, secret_key) = match (params.text(access)?, params.text(secret)?) {
        (Some(access), Some(secret)) => (access, Secret::new(secret)),
        _ => return Err(NotRead::Python("credentials of the machine are not looked up")),
    };
    let region = params.text(if aws { "s3_region" } else { "region_name" })?;
    let endpoint = if aws { aws_endpoint(&params, region.as_deref())? } else { own(&params)? };
    let version = match params.text("signature_version")?.as_deref() {
        Some("s3v4") => SignatureVersion::V4,
        Some("s3") => SignatureVersion::V2,
        None if aws => SignatureVersion::V4,
        None if region.as_deref().is_none_or(|name| OLD_REGIONS.contains(&name)) => {
            SignatureVersion::V2
        }
        None => SignatureVersion::V4,
        Some(_) => return Err(NotRead::Python("its signature_version is not built")),
    };
    let request_version = match params.text("signature_version")? {
        Some(_) => version,
        None => SignatureVersion::V4,
    };
    let session_token = params.text("aws_session_token")?.map(Secret::new);
    if version == SignatureVersion::V2 && session_token.is_some() {
        return Err(NotRead::Python("old signatures with a session token are not built"));
    }
    // With an endpoint of its own, boto puts the bucket into the path.
    let virtual_host = endpoint.is_none() && !bucket.contains(['.', '_']) && is_lower(&bucket);
    Ok(S3 {
        endpoint: endpoint.unwrap_or_else(|| "https://s3.amazonaws.com".to_owned()),
        virtual_host,
        bucket,
        prefix: prefix.strip_prefix('/').unwrap_or(&prefix).to_owned(),
        region: region.unwrap_or_else(|| DEFAULT_REGION.to_owned()),
        version,
        request_version,
        access_key,
        secret_key,
        session_token,
        uploads: uploads(driver, &params)?,
    })
}

const MIB: u64 = 1024 * 1024;

/// The most that a part of an upload may hold, whatever is configured.
const LARGEST_PART: u64 = 5 * 1024 * MIB;

fn uploads(driver: &str, params: &Params<'_>) -> Result<S3Uploads, NotRead> {
    let minimum = match driver {
        "IBMCloudStorage" => 5,
        _ => params.size("minimum_chunk_size_mb")?.unwrap_or(5),
    };
    let maximum = match driver {
        "S3Storage" => params.size("maximum_chunk_size_gb")?.unwrap_or(5).saturating_mul(1024),
        _ => params.size("maximum_chunk_size_mb")?.unwrap_or(100),
    };
    let minimum_chunk_size = minimum.saturating_mul(MIB).clamp(5 * MIB, LARGEST_PART / 2);
    let server_side_assembly = match params.0.get("server_side_assembly").map(|value| &value.kind) {
        None => true,
        Some(ValueKind::Boolean(wanted)) => *wanted,
        Some(_) => return Err(NotRead::Python("its server_side_assembly is not true or false")),
    };
    Ok(S3Uploads {
        encrypted: driver == "S3Storage",
        minimum_chunk_size,
        maximum_chunk_size: maximum.saturating_mul(MIB).clamp(2 * minimum_chunk_size, LARGEST_PART),
        server_side_assembly,
    })
}

fn is_lower(bucket: &str) -> bool {
    bucket.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// A region wins over everything; then `endpoint_url`, then `host` and `port`.
fn aws_endpoint(params: &Params<'_>, region: Option<&str>) -> Result<Option<String>, NotRead> {
    if let Some(region) = region {
        let china = if region.starts_with("cn-") { ".cn" } else { "" };
        return Ok(Some(format!("https://s3.{region}.amazonaws.com{china}")));
    }
    if let Some(url) = params.text("endpoint_url")? {
        return checked(url).map(Some);
    }
    let host = params.text("host")?;
    host.map(|host| built(host, params.port()?, true)).transpose()
}

/// Of the drivers that name a host of their own.
fn own(params: &Params<'_>) -> Result<Option<String>, NotRead> {
    let secure =
        !matches!(params.0.get("is_secure").map(|v| &v.kind), Some(ValueKind::Boolean(false)));
    built(params.required("hostname")?, params.port()?, secure).map(Some)
}

/// Scheme and port are added where they are not written.
fn built(host: String, port: Option<String>, secure: bool) -> Result<String, NotRead> {
    let scheme = match () {
        () if host.starts_with("http://") || host.starts_with("https://") => "",
        () if secure => "https://",
        () => "http://",
    };
    let last = host.rsplit(':').next().unwrap_or_default().trim_matches([' ', '/']);
    let has_port = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
    checked(match port.filter(|_| !has_port) {
        Some(port) => format!("{scheme}{host}:{port}"),
        None => format!("{scheme}{host}"),
    })
}

fn checked(url: String) -> Result<String, NotRead> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_:/[]".contains(&b);
    match rest {
        Some(rest) if !rest.is_empty() && rest.bytes().all(plain) => {
            Ok(url.trim_end_matches('/').to_owned())
        }
        _ => Err(NotRead::Wrong("its endpoint is not an http or https URL".to_owned())),
    }
}

struct Params<'a>(&'a Map<String, Value>);

impl Params<'_> {
    /// Empty and null count as absent, as in Python.
    fn text(&self, name: &str) -> Result<Option<String>, NotRead> {
        match self.0.get(name).map(|value| &value.kind) {
            None | Some(ValueKind::Nil) => Ok(None),
            Some(ValueKind::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            Some(_) => Err(NotRead::Wrong(format!("{name} is not a text"))),
        }
    }

    fn required(&self, name: &str) -> Result<String, NotRead> {
        self.text(name)?.ok_or_else(|| NotRead::Wrong(format!("it has no {name}")))
    }

    /// A number of mega- or gigabytes.
    fn size(&self, name: &str) -> Result<Option<u64>, NotRead> {
        let number = match self.0.get(name).map(|value| &value.kind) {
            None | Some(ValueKind::Nil) => return Ok(None),
            Some(ValueKind::I64(number)) => u64::try_from(*number).ok(),
            Some(ValueKind::U64(number)) => Some(*number),
            Some(_) => None,
        };
        match number {
            Some(number) if number > 0 => Ok(Some(number)),
            _ => Err(NotRead::Python("its chunk sizes are not whole numbers from 1")),
        }
    }

    /// A number, as such or as a text.
    fn port(&self) -> Result<Option<String>, NotRead> {
        let text = match self.0.get("port").map(|value| &value.kind) {
            None | Some(ValueKind::Nil) => return Ok(None),
            Some(value) => value.to_string(),
        };
        match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(Some(port.to_string())),
            _ => Err(NotRead::Wrong("port is not a number from 1 to 65535".to_owned())),
        }
    }
}
