//! Bearer tokens: those of the recordings have expired, so they are signed again.

use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    KeyPair, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::recording::read;

/// The key of the recorded Quay.
pub struct Signer(RsaKeyPair);

impl Signer {
    /// A key in PEM (PKCS#1), base64 once more.
    pub fn read(path: &Path) -> Signer {
        let pem = decoded(&read(path).split_whitespace().collect::<String>());
        let pem = String::from_utf8(pem).expect("PEM");
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        Signer(RsaKeyPair::from_der(&decoded(&body)).expect("an RSA key"))
    }

    /// Somebody else's key.
    pub fn generate() -> Signer {
        Signer(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"))
    }

    /// Header and claims of a token, when its signature is this key's.
    pub fn verify(&self, token: &str) -> Option<(Value, Value)> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, self.0.public_key())
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        let part = |text| serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok();
        Some((part(header)?, part(claims)?))
    }

    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |json: &Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .expect("a signature");
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    /// The `Authorization` header of a request that was made at `date`, as of now. What this key
    /// has not signed stays as it is.
    pub fn renew(&self, authorization: &str, date: Option<&str>) -> String {
        let token = authorization.strip_prefix("Bearer ");
        let Some((header, claims)) = token.and_then(|token| self.verify(token)) else {
            return authorization.to_owned();
        };
        let date = date.map(|date| chrono::DateTime::parse_from_rfc2822(date).expect("a date"));
        // Where the date of the answer is not known, as if it had been made with the token.
        let recorded = date.map_or_else(|| claims["iat"].as_i64(), |date| Some(date.timestamp()));
        let shift = now() - recorded.expect("a token with a time");
        format!("Bearer {}", self.sign(&header, &shifted(&claims, shift)))
    }
}

/// Claims at another time.
pub fn shifted(claims: &Value, seconds: i64) -> Value {
    let mut claims = claims.clone();
    for name in ["iat", "nbf", "exp"] {
        if let Some(time) = claims[name].as_i64() {
            claims[name] = json!(time + seconds);
        }
    }
    claims
}

pub fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

fn decoded(base64: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(base64).expect("base64")
}
