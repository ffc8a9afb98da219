//! The public keys that tokens are verified with.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{NaiveDateTime, Utc};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::catalog::{Catalog, CatalogError, ServiceKey};
use crate::telemetry::Metrics;

/// At most this often are the keys read because of a token that names an unknown one.
const RELOAD_INTERVAL: Duration = Duration::from_millis(100);

/// A key that a token names and that is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No approved, unexpired key has this id.
    #[error("unknown service key")]
    Unknown,
    /// The keys could not be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Every approved key of Quay's instances, by key id. An unknown id reads them all again, as in
/// Quay; requests that come meanwhile share that reading.
#[derive(Debug)]
pub struct VerificationKeys {
    service: String,
    keys: ArcSwap<HashMap<String, Arc<Key>>>,
    last_reload: Mutex<Option<Reload>>,
    metrics: Arc<Metrics>,
}

/// A reading of the table that came to an end.
#[derive(Clone, Copy, Debug)]
struct Reload {
    began: Instant,
    failed: bool,
}

/// A public key as it was read: after every reading it is another one.
#[derive(Debug)]
pub(super) struct Key {
    public: ParsedPublicKey,
    expires: Option<NaiveDateTime>,
}

impl VerificationKeys {
    /// The keys of `service`, Quay's `INSTANCE_SERVICE_KEY_SERVICE`; none is read yet.
    pub fn new(service: &str, metrics: Arc<Metrics>) -> Self {
        Self {
            service: service.to_owned(),
            keys: ArcSwap::default(),
            last_reload: Mutex::new(None),
            metrics,
        }
    }

    /// Whether tokens signed with `kid` are accepted.
    pub async fn knows(&self, catalog: &Catalog, kid: &str) -> Result<bool, CatalogError> {
        match self.key(catalog, kid).await {
            Ok(_) => Ok(true),
            Err(KeyError::Unknown) => Ok(false),
            Err(KeyError::Catalog(error)) => Err(error),
        }
    }

    /// The key `kid`, read again where it is not known.
    pub(super) async fn key(&self, catalog: &Catalog, kid: &str) -> Result<Arc<Key>, KeyError> {
        if let Some(key) = self.current(kid) {
            return Ok(key);
        }
        let asked = Instant::now();
        let mut last_reload = self.last_reload.lock().await;
        match *last_reload {
            // A reading that began after we asked has our answer in it.
            Some(last) if last.began >= asked && last.failed => {
                let reason = "the service keys could not be read".to_owned();
                return Err(CatalogError::Unavailable(reason).into());
            }
            Some(last) if last.began >= asked => {}
            last => {
                if let Some(last) = last {
                    tokio::time::sleep(RELOAD_INTERVAL.saturating_sub(last.began.elapsed())).await;
                }
                let began = Instant::now();
                let result = self.reload(catalog).await;
                *last_reload = Some(Reload { began, failed: result.is_err() });
                result?;
            }
        }
        self.current(kid).ok_or(KeyError::Unknown)
    }

    /// The key `kid`, if it was read and has not expired.
    pub(super) fn current(&self, kid: &str) -> Option<Arc<Key>> {
        let key = self.keys.load().get(kid)?.clone();
        let fresh = key.expires.is_none_or(|expires| expires > Utc::now().naive_utc());
        fresh.then_some(key)
    }

    async fn reload(&self, catalog: &Catalog) -> Result<(), CatalogError> {
        let rows = catalog.session("service_keys").service_keys(&self.service).await?;
        let mut keys = HashMap::new();
        for row in rows {
            match parse(&row) {
                Some(public) => {
                    keys.insert(row.kid, Arc::new(Key { public, expires: row.expires }));
                }
                None => tracing::warn!(kid = row.kid, "service key is no RSA public key, ignored"),
            }
        }
        self.metrics.verification_keys.set(keys.len() as i64);
        self.keys.store(Arc::new(keys));
        Ok(())
    }
}

impl Key {
    /// Whether `signature` (RS256) of `message` is right.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.public.verify_sig(message, signature).is_ok()
    }
}

/// The members of an RSA JWK (RFC 7518 §6.3.1).
#[derive(Deserialize)]
struct RsaJwk {
    n: String,
    e: String,
}

fn parse(key: &ServiceKey) -> Option<ParsedPublicKey> {
    let jwk: RsaJwk = serde_json::from_str(&key.jwk).ok()?;
    let n = URL_SAFE_NO_PAD.decode(jwk.n).ok()?;
    let e = URL_SAFE_NO_PAD.decode(jwk.e).ok()?;
    RsaPublicKeyComponents { n, e }.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).ok()
}

#[cfg(test)]
impl Key {
    pub(super) fn generate() -> Self {
        use aws_lc_rs::encoding::AsDer as _;
        use aws_lc_rs::rsa::{KeyPair, KeySize};
        use aws_lc_rs::signature::KeyPair as _;
        let public = KeyPair::generate(KeySize::Rsa2048).unwrap().public_key().as_der().unwrap();
        let public = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public.as_ref()).unwrap();
        Self { public, expires: None }
    }
}

#[cfg(test)]
impl VerificationKeys {
    pub(super) fn replace(&self, kid: &str, key: Arc<Key>) {
        self.keys.store(Arc::new(HashMap::from([(kid.to_owned(), key)])));
    }
}
