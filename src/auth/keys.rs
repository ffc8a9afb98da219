//! The public keys that tokens are verified with.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{NaiveDateTime, Utc};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use crate::catalog::{Catalog, CatalogError, ServiceKey};
use crate::telemetry::Metrics;

/// At most this often are the keys read because of a token that names an unknown one.
const RELOAD_INTERVAL: Duration = Duration::from_millis(100);

/// Signatures that are remembered for each key: 32 bytes each.
const REMEMBERED: usize = 10_000;

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

#[derive(Debug)]
struct Key {
    public: ParsedPublicKey,
    expires: Option<NaiveDateTime>,
    /// Fingerprints of what was signed with it.
    genuine: std::sync::Mutex<HashSet<[u8; 32]>>,
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

    /// Verifies an RS256 signature by the key `kid`: `false` for a wrong one.
    pub async fn verify(
        &self,
        catalog: &Catalog,
        kid: &str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<bool, KeyError> {
        Ok(self.key(catalog, kid).await?.verify(message, signature))
    }

    /// Whether tokens signed with `kid` are accepted.
    pub async fn knows(&self, catalog: &Catalog, kid: &str) -> Result<bool, CatalogError> {
        match self.key(catalog, kid).await {
            Ok(_) => Ok(true),
            Err(KeyError::Unknown) => Ok(false),
            Err(KeyError::Catalog(error)) => Err(error),
        }
    }

    async fn key(&self, catalog: &Catalog, kid: &str) -> Result<Arc<Key>, KeyError> {
        if let Some(key) = self.cached(kid) {
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
        self.cached(kid).ok_or(KeyError::Unknown)
    }

    fn cached(&self, kid: &str) -> Option<Arc<Key>> {
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
                    keys.insert(row.kid, Arc::new(Key::new(public, row.expires)));
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
    fn new(public: ParsedPublicKey, expires: Option<NaiveDateTime>) -> Self {
        Self { public, expires, genuine: Default::default() }
    }

    /// A client shows the same token with every request of a pull, so a signature that was right
    /// is remembered; it is forgotten with the key.
    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let mut fingerprint = Sha256::new();
        // With its length, so that nothing can be moved from the one to the other.
        fingerprint.update((message.len() as u64).to_le_bytes());
        fingerprint.update(message);
        fingerprint.update(signature);
        let fingerprint: [u8; 32] = fingerprint.finalize().into();
        let genuine = || self.genuine.lock().unwrap_or_else(PoisonError::into_inner);
        if genuine().contains(&fingerprint) {
            return true;
        }
        let right = self.public.verify_sig(message, signature).is_ok();
        if right {
            let mut genuine = genuine();
            if genuine.len() >= REMEMBERED {
                genuine.clear();
            }
            genuine.insert(fingerprint);
        }
        right
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
mod tests {
    use super::*;
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};

    #[test]
    fn only_what_was_signed_is_remembered() {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let public = pair.public_key().as_der().unwrap();
        let public = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public.as_ref()).unwrap();
        let key = Key::new(public, None);
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), b"message", &mut signature).unwrap();
        for _ in 0..2 {
            assert!(key.verify(b"message", &signature));
            assert!(!key.verify(b"massage", &signature));
            assert!(!key.verify(b"message", &signature[1..]));
            let moved = [b"e".as_slice(), &signature].concat();
            assert!(!key.verify(b"messag", &moved));
            assert_eq!(key.genuine.lock().unwrap().len(), 1);
        }
    }
}
