//! One request to a bucket, before it is signed.

use bytes::Bytes;
use reqwest::Method;
use sha2::{Digest as _, Sha256};

use super::sign::hex;
use crate::oci;

/// A request for one object.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// What it does, for errors: `put`, `copy`.
    pub operation: &'static str,
    pub method: Method,
    pub key: String,
    /// Names, and values where a name has one.
    pub query: Vec<(&'static str, Option<String>)>,
    /// Names in lower case.
    pub headers: Vec<(&'static str, String)>,
    pub body: Payload,
    /// Bytes that the storage moves before it answers.
    pub work: u64,
}

/// A body with its SHA-256, which the signature covers: the storage refuses a damaged one.
#[derive(Debug, Clone)]
pub(super) struct Payload {
    pub bytes: Bytes,
    pub sha256: String,
}

impl Payload {
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let sha256 = hex(&Sha256::digest(&bytes));
        Self { bytes, sha256 }
    }

    /// With the hash of what was hashed while it arrived.
    pub fn hashed(bytes: Bytes, hash: oci::Sha256) -> Self {
        Self { bytes, sha256: hex(&hash.finish()) }
    }
}

impl Request {
    pub fn new(operation: &'static str, method: Method, key: &str) -> Self {
        Self {
            operation,
            method,
            key: key.to_owned(),
            query: Vec::new(),
            headers: Vec::new(),
            body: Payload::new(Bytes::new()),
            work: 0,
        }
    }

    pub fn query(mut self, name: &'static str, value: Option<String>) -> Self {
        self.query.push((name, value));
        self
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn body(mut self, body: Payload) -> Self {
        self.work = body.bytes.len() as u64;
        self.body = body;
        self
    }

    pub fn work(mut self, bytes: u64) -> Self {
        self.work = bytes;
        self
    }
}
