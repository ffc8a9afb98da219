//! The few requests that blobs need.

use std::ops::Range;

use percent_encoding::utf8_percent_encode;
use reqwest::{Method, Response};

use super::answer::{Answer, Part, manifest};
use super::client::{Client, Whole, failed};
use super::error::{Fault, S3Error};
use super::key;
use super::request::{Payload, Request};
use super::sign::PATH;

/// What a new object is made of, on which depends what is said of it, as in Quay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The body of a request: octets, to be encrypted where the driver says so.
    Chunk,
    /// Several chunks: just to be encrypted.
    Joined,
    /// One chunk: nothing is said, the bucket's own rules hold.
    Copied,
}

impl Client {
    /// The key of a path below the storage's root.
    pub fn key(&self, path: &str) -> String {
        key(&self.storage().prefix, path)
    }

    pub async fn put(&self, key: &str, kind: Kind, body: Payload) -> Result<(), S3Error> {
        let request = self.created(Request::new("put", Method::PUT, key), kind).body(body);
        self.send(&request).await.map(drop)
    }

    /// Begins a multipart upload and returns its id.
    pub async fn begin(&self, key: &str, kind: Kind) -> Result<String, S3Error> {
        let request = Request::new("begin a multipart upload of", Method::POST, key);
        let request = self.created(request.query("uploads", None), kind);
        let answer = self.send(&request).await?;
        match Answer::parse(&answer.text) {
            Ok(Answer::InitiateMultipartUploadResult(begun)) => Ok(begun.upload_id),
            _ => Err(unexpected(&request)),
        }
    }

    /// Stores a part, from 1 to 10,000.
    pub async fn put_part(
        &self,
        key: &str,
        upload: &str,
        part_number: usize,
        body: Payload,
    ) -> Result<Part, S3Error> {
        let request = Request::new("put a part of", Method::PUT, key).body(body);
        let request = of_part(request, upload, part_number);
        let answer = self.send(&request).await?;
        let etag = answer.headers.get("etag").and_then(|etag| etag.to_str().ok());
        match etag {
            Some(etag) => Ok(Part { part_number, etag: etag.to_owned() }),
            None => Err(unexpected(&request)),
        }
    }

    /// Makes a part of bytes that are stored already.
    pub async fn copy_part(
        &self,
        key: &str,
        upload: &str,
        part_number: usize,
        (source, bytes): (&str, Range<u64>),
    ) -> Result<Part, S3Error> {
        let range = format!("bytes={}-{}", bytes.start, bytes.end - 1);
        let request = Request::new("copy a part to", Method::PUT, key)
            .header("x-amz-copy-source", self.source(source))
            .header("x-amz-copy-source-range", range)
            .work(bytes.end - bytes.start);
        let request = of_part(request, upload, part_number);
        let answer = self.send(&request).await?;
        match Answer::parse(&answer.text) {
            Ok(Answer::CopyPartResult(copied)) => Ok(Part { part_number, etag: copied.etag }),
            _ => Err(unexpected(&request)),
        }
    }

    /// Makes an object of all parts. It appears whole or not at all.
    pub async fn end(&self, key: &str, upload: &str, parts: &[Part]) -> Result<(), S3Error> {
        let request =
            Request::new("complete", Method::POST, key).query("uploadId", Some(upload.to_owned()));
        let body = manifest(parts)
            .map_err(|error| failed(&request, Fault::Settings, error.to_string()))?;
        let request = request.body(Payload::new(body));
        let answer = self.send(&request).await?;
        match Answer::parse(&answer.text) {
            Ok(Answer::CompleteMultipartUploadResult(_)) => Ok(()),
            _ => Err(unexpected(&request)),
        }
    }

    /// Forgets a multipart upload and its parts; also one that is gone already.
    pub async fn abort(&self, key: &str, upload: &str) -> Result<(), S3Error> {
        let request = Request::new("abort a multipart upload of", Method::DELETE, key)
            .query("uploadId", Some(upload.to_owned()));
        gone(self.send(&request).await)
    }

    /// Copies an object of that many bytes, what it says of them included.
    pub async fn copy(&self, source: &str, key: &str, length: u64) -> Result<(), S3Error> {
        let request = Request::new("copy to", Method::PUT, key)
            .header("x-amz-copy-source", self.source(source))
            .work(length);
        let answer = self.send(&request).await?;
        match Answer::parse(&answer.text) {
            Ok(Answer::CopyObjectResult(_)) => Ok(()),
            _ => Err(unexpected(&request)),
        }
    }

    /// The length of an object, if it is there.
    pub async fn length(&self, key: &str) -> Result<Option<u64>, S3Error> {
        let request = Request::new("look for", Method::HEAD, key);
        let answer = match self.send(&request).await {
            Err(error) if error.fault == Fault::Missing => return Ok(None),
            answer => answer?,
        };
        let length = answer.headers.get("content-length").and_then(|length| length.to_str().ok());
        match length.and_then(|length| length.parse().ok()) {
            Some(length) => Ok(Some(length)),
            None => Err(unexpected(&request)),
        }
    }

    /// Deletes an object; also one that is gone already.
    pub async fn delete(&self, key: &str) -> Result<(), S3Error> {
        gone(self.send(&Request::new("delete", Method::DELETE, key)).await)
    }

    /// The request for bytes of an object.
    pub fn get(key: &str, bytes: &Range<u64>) -> Request {
        let range = format!("bytes={}-{}", bytes.start, bytes.end - 1);
        Request::new("get", Method::GET, key).header("range", range)
    }

    /// The answer to [`get`](Self::get), which has exactly those bytes.
    pub async fn opened(&self, request: &Request, bytes: &Range<u64>) -> Result<Response, S3Error> {
        let response = self.open(request).await?;
        match response.content_length() {
            Some(length) if length == bytes.end - bytes.start => Ok(response),
            Some(length) if length < bytes.end - bytes.start => {
                Err(failed(request, Fault::Length, format!("it ends before {}", bytes.end)))
            }
            _ => Err(failed(request, Fault::Settings, "it sends no part of an object".to_owned())),
        }
    }

    /// A request that makes a new object.
    fn created(&self, request: Request, kind: Kind) -> Request {
        let request = match kind {
            Kind::Chunk => request.header("content-type", "application/octet-stream"),
            Kind::Joined | Kind::Copied => request,
        };
        match self.storage().uploads.encrypted && kind != Kind::Copied {
            true => request.header("x-amz-server-side-encryption", "AES256"),
            false => request,
        }
    }

    fn source(&self, key: &str) -> String {
        format!("{}/{}", self.storage().bucket, utf8_percent_encode(key, PATH))
    }
}

fn of_part(request: Request, upload: &str, part_number: usize) -> Request {
    let request = request.query("partNumber", Some(part_number.to_string()));
    request.query("uploadId", Some(upload.to_owned()))
}

fn gone(outcome: Result<Whole, S3Error>) -> Result<(), S3Error> {
    match outcome {
        Err(error) if matches!(error.fault, Fault::Missing | Fault::NoUpload) => Ok(()),
        outcome => outcome.map(drop),
    }
}

fn unexpected(request: &Request) -> S3Error {
    failed(request, Fault::Storage, "an answer that is not one of S3's".to_owned())
}
