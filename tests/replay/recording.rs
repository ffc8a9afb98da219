//! The recordings: where they are, and what is in one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::Value;

/// A request, and what a real Quay answered.
#[derive(Clone, Debug, Deserialize)]
pub struct Exchange {
    pub seq: u16,
    pub name: String,
    pub request: Request,
    pub response: Response,
    /// The token of the answer, decoded.
    pub jwt: Option<Value>,
    note: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Option<Body>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Body,
}

/// Very long ones were not kept.
#[derive(Clone, Debug, Deserialize)]
pub struct Body {
    pub sha256: String,
    pub text: Option<String>,
    pub b64: Option<String>,
}

impl Exchange {
    /// The settings that Quay ran with on top of config.yaml, in JSON.
    pub fn settings(&self) -> Option<&str> {
        self.note.as_deref()?.strip_prefix("config override: ")
    }
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Path and query, with encoded slashes as slashes.
    pub fn target(&self) -> (String, &str) {
        let (path, query) = self.path.split_once('?').unwrap_or((&self.path, ""));
        (path.replace("%2F", "/"), query)
    }

    /// Who logs in with Basic authentication.
    pub fn login(&self) -> Option<String> {
        let encoded = self.header("Authorization").strip_prefix("Basic ")?;
        let pair = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
        Some(pair.split_once(':')?.0.to_owned())
    }
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

impl Body {
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match (&self.text, &self.b64) {
            (Some(text), _) => Some(text.clone().into_bytes()),
            (_, Some(b64)) => Some(BASE64_STANDARD.decode(b64).expect("base64")),
            (None, None) => None,
        }
    }
}

/// The folder of the recordings, if it is there. It is no part of this repository.
pub fn folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/quay-data");
    if !folder.is_dir() {
        crate::support::left_out("no recorded exchanges");
        return None;
    }
    Some(folder)
}

/// Every exchange, in the order in which they happened.
pub fn exchanges(folder: &Path) -> Vec<Exchange> {
    let files = fs::read_dir(folder.join("exchanges")).expect("a folder of exchanges");
    let paths = files.map(|file| file.expect("a file").path());
    let json = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let mut exchanges: Vec<Exchange> = json
        .map(|path| {
            serde_json::from_str(&read(&path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        })
        .collect();
    exchanges.sort_by_key(|exchange| exchange.seq);
    exchanges
}

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
