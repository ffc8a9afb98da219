//! A client that pushes, a request at a time.

use bytes::Bytes;
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;

use super::images::{ACCEPT, Manifest, digest_of};
use super::registryd::Registryd;
use super::{Login, World, http};

/// Somebody who may push to one repository.
pub struct Pusher<'a> {
    pub registryd: &'a Registryd,
    pub token: String,
    pub repo: String,
    pub client: reqwest::Client,
}

impl<'a> Pusher<'a> {
    pub fn new(registryd: &'a Registryd, world: &World) -> Self {
        Self::of(registryd, world, &world.ada, "demo/private")
    }

    pub fn of(registryd: &'a Registryd, world: &World, who: &Login, repo: &str) -> Self {
        let token = world.token(Some(who), repo, &["pull", "push"]);
        Self { registryd, token, repo: repo.to_owned(), client: http() }
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Response {
        self.try_send(method, path, headers, body).await.unwrap()
    }

    /// For requests under which registryd may end.
    pub async fn try_send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> reqwest::Result<Response> {
        let url = self.registryd.url(&format!("/v2/{}/{path}", self.repo));
        let mut request = self.client.request(method, url).bearer_auth(&self.token).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await
    }

    /// Begins an upload and returns its uuid.
    pub async fn start(&self) -> String {
        let answer = self.send(Method::POST, "blobs/uploads/", &[], "").await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        header(&answer, "docker-upload-uuid").to_owned()
    }

    pub async fn patch(&self, uuid: &str, body: impl Into<reqwest::Body>) -> Response {
        self.send(Method::PATCH, &format!("blobs/uploads/{uuid}"), &[], body).await
    }

    pub async fn patch_range(&self, uuid: &str, range: &str, body: &'static [u8]) -> Response {
        let headers = [("Content-Range", range)];
        self.send(Method::PATCH, &format!("blobs/uploads/{uuid}"), &headers, body).await
    }

    pub async fn finish(
        &self,
        uuid: &str,
        digest: &str,
        body: impl Into<reqwest::Body>,
    ) -> Response {
        let path = format!("blobs/uploads/{uuid}?digest={digest}");
        self.send(Method::PUT, &path, &[], body).await
    }

    pub async fn status(&self, uuid: &str) -> Response {
        self.send(Method::GET, &format!("blobs/uploads/{uuid}"), &[], "").await
    }

    /// The blob as it is pulled; its status where there is none.
    pub async fn pull(&self, digest: &str) -> Result<Vec<u8>, StatusCode> {
        let answer = self.send(Method::GET, &format!("blobs/{digest}"), &[], "").await;
        match answer.status() {
            StatusCode::OK => Ok(answer.bytes().await.unwrap().to_vec()),
            status => Err(status),
        }
    }

    /// A whole push of one blob, in two requests with bytes.
    pub async fn in_halves(&self, blob: &[u8]) -> StatusCode {
        let (uuid, half) = (self.start().await, blob.len() / 2);
        let answer = self.patch(&uuid, blob[..half].to_vec()).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        self.finish(&uuid, &digest_of(blob), blob[half..].to_vec()).await.status()
    }

    /// Stores a blob, in one request.
    pub async fn blob(&self, bytes: impl Into<Vec<u8>>) -> String {
        let bytes = bytes.into();
        let digest = digest_of(&bytes);
        let path = format!("blobs/uploads/?digest={digest}");
        let answer = self.send(Method::POST, &path, &[], bytes).await;
        assert_eq!(answer.status(), StatusCode::CREATED);
        digest
    }

    pub async fn put_manifest(
        &self,
        reference: &str,
        media_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> Response {
        let path = format!("manifests/{reference}");
        self.send(Method::PUT, &path, &[("Content-Type", media_type)], body).await
    }

    /// Stores everything that a manifest names, as clients do: blobs, then children by digest.
    pub async fn prepare(&self, manifest: &Manifest) {
        for blob in &manifest.blobs {
            self.blob(blob.bytes.to_vec()).await;
        }
        for child in &manifest.children {
            Box::pin(self.prepare(child)).await;
            let answer = self.put(&child.digest, child).await;
            assert_eq!(answer.status(), StatusCode::CREATED);
        }
    }

    /// Puts the manifest alone.
    pub async fn put(&self, reference: &str, manifest: &Manifest) -> Response {
        self.put_manifest(reference, manifest.media_type, manifest.bytes.clone()).await
    }

    /// Pushes all of an image.
    pub async fn push(&self, tag: &str, manifest: &Manifest) {
        self.prepare(manifest).await;
        let answer = self.put(tag, manifest).await;
        let status = answer.status();
        assert_eq!(status, StatusCode::CREATED, "{}", answer.text().await.unwrap());
    }

    pub async fn delete(&self, reference: &str) -> Response {
        self.send(Method::DELETE, &format!("manifests/{reference}"), &[], "").await
    }

    /// Media type and bytes of a manifest; the status where there is none.
    pub async fn manifest(&self, reference: &str) -> Result<(String, Bytes), u16> {
        let path = format!("manifests/{reference}");
        let answer = self.send(Method::GET, &path, &[("Accept", ACCEPT)], "").await;
        match answer.status() {
            StatusCode::OK => {
                let media_type = header(&answer, "content-type").to_owned();
                Ok((media_type, answer.bytes().await.unwrap()))
            }
            status => Err(status.as_u16()),
        }
    }
}

pub fn header<'r>(response: &'r Response, name: &str) -> &'r str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// Status, code and message of an error.
pub async fn refusal(response: Response) -> (u16, String, String) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    let error = &body["errors"][0];
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    (status, text("code"), text("message"))
}
