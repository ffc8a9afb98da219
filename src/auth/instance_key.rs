//! The private key that this container signs tokens with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

/// How long after one of the two files the other may follow.
const REWRITE: Duration = Duration::from_secs(5);

/// No key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum InstanceKeyError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{0} is no unencrypted RSA private key in PEM")]
    NotAKey(PathBuf),
    /// The file with the key's id is empty.
    #[error("{0} is empty")]
    NoId(PathBuf),
    /// The key would not sign.
    #[error("signing failed")]
    Signing,
}

/// Quay's instance key on disk. Parsed once, and again when the files change: the container
/// rewrites both when it starts.
#[derive(Debug)]
pub struct InstanceKey {
    kid_path: PathBuf,
    key_path: PathBuf,
    loaded: ArcSwapOption<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    kid: String,
    pair: RsaKeyPair,
    version: Version,
}

/// What tells one content of the two files from another without reading them.
type Version = [(SystemTime, u64); 2];

impl InstanceKey {
    /// The key at these places; nothing is read yet.
    pub fn new(kid_path: &Path, key_path: &Path) -> Self {
        Self {
            kid_path: kid_path.to_owned(),
            key_path: key_path.to_owned(),
            loaded: ArcSwapOption::empty(),
        }
    }

    /// The id of the current key.
    pub fn kid(&self) -> Result<String, InstanceKeyError> {
        Ok(self.current()?.kid.clone())
    }

    /// Signs with RS256; `message` gets the key's id.
    pub fn sign(
        &self,
        message: impl FnOnce(&str) -> String,
    ) -> Result<(String, Vec<u8>), InstanceKeyError> {
        let key = self.current()?;
        let message = message(&key.kid);
        let mut signature = vec![0; key.pair.public_modulus_len()];
        key.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .map_err(|_| InstanceKeyError::Signing)?;
        Ok((message, signature))
    }

    /// The key on disk; the last good one while it is being rewritten.
    fn current(&self) -> Result<Arc<Loaded>, InstanceKeyError> {
        let loaded = self.loaded.load_full();
        let fresh = self.version().and_then(|version| match &loaded {
            Some(loaded) if !is_due(&loaded.version, &version) => Ok(loaded.clone()),
            _ => self.load(version),
        });
        match (fresh, loaded) {
            (Ok(fresh), _) => Ok(fresh),
            (Err(error), Some(loaded)) => {
                tracing::warn!(%error, kid = loaded.kid, "instance key unreadable, keeping the last");
                Ok(loaded)
            }
            (Err(error), None) => Err(error),
        }
    }

    fn version(&self) -> Result<Version, InstanceKeyError> {
        let stat = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).map_err(|source| file(path, source))?;
            let modified = metadata.modified().map_err(|source| file(path, source))?;
            Ok((modified, metadata.len()))
        };
        Ok([stat(&self.kid_path)?, stat(&self.key_path)?])
    }

    fn load(&self, version: Version) -> Result<Arc<Loaded>, InstanceKeyError> {
        let read = |path| std::fs::read(path).map_err(|source| file(path, source));
        let not_a_key = || InstanceKeyError::NotAKey(self.key_path.clone());
        let kid = String::from_utf8(read(&self.kid_path)?)
            .map_err(|_| InstanceKeyError::NotAKey(self.kid_path.clone()))?;
        if kid.is_empty() {
            return Err(InstanceKeyError::NoId(self.kid_path.clone()));
        }
        let pem = read(&self.key_path)?;
        let pair = match PrivateKeyDer::from_pem_slice(&pem).map_err(|_| not_a_key())? {
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
            _ => return Err(not_a_key()),
        };
        let pair = pair.map_err(|_| not_a_key())?;
        tracing::info!(kid, "instance key loaded");
        let loaded = Arc::new(Loaded { kid, pair, version });
        self.loaded.store(Some(loaded.clone()));
        Ok(loaded)
    }
}

/// Whether the files have to be read again. Not while one of them waits for the other: a key and
/// another key's id would make tokens that nobody accepts.
fn is_due(loaded: &Version, found: &Version) -> bool {
    let [kid, key] = [0, 1].map(|file| loaded[file] != found[file]);
    let newest = found[0].0.max(found[1].0);
    let half = kid != key && newest.elapsed().is_ok_and(|age| age < REWRITE);
    (kid || key) && !half
}

fn file(path: &Path, source: std::io::Error) -> InstanceKeyError {
    InstanceKeyError::File { path: path.to_owned(), source }
}
