//! Secrets of a registry made for a test: passwords, encrypted fields, the instance key.

use std::sync::{Arc, OnceLock};

use aes::Aes256;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ccm::Ccm;
use ccm::aead::{Aead, KeyInit};
use ccm::consts::{U13, U16};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The key that a Quay container signs its tokens with.
#[derive(Clone, Debug)]
pub struct InstanceKey {
    /// PKCS#1, as Quay writes it.
    pub pem: String,
    /// The key's RFC 7638 thumbprint.
    pub kid: String,
    /// The public half, as in `servicekey.jwk`.
    pub jwk: Value,
    pair: Arc<KeyPair>,
}

impl InstanceKey {
    /// Generated once a process: it takes a while.
    pub fn get() -> &'static InstanceKey {
        static KEY: OnceLock<InstanceKey> = OnceLock::new();
        KEY.get_or_init(InstanceKey::generate)
    }

    pub fn generate() -> InstanceKey {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("a key");
        let pkcs8: Pkcs8V1Der = pair.as_der().expect("an encoding");
        // A PKCS#8 wrapper of an RSA-2048 key is 26 bytes of header, then the PKCS#1 key itself.
        let pem = pem(&pkcs8.as_ref()[26..]);
        // The public key's encoding has its modulus and its exponent (65537) at fixed places.
        let public = pair.public_key().as_ref();
        let [n, e] = [&public[9..265], &public[267..]].map(|n| BASE64_URL_SAFE_NO_PAD.encode(n));
        let thumbprint = Sha256::digest(format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#));
        let kid = BASE64_URL_SAFE_NO_PAD.encode(thumbprint);
        let jwk = json!({"n": n, "e": e, "kty": "RSA", "kid": kid});
        InstanceKey { pem, kid, jwk, pair: Arc::new(pair) }
    }

    /// A token of this key with these claims, whatever they are.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_with(&json!({"alg": "RS256", "kid": self.kid, "typ": "JWT"}), claims)
    }

    /// The same under any header.
    pub fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let parts = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
        let signed = parts.join(".");
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .expect("a signature");
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

/// A field as Quay encrypts it: AES-256-CCM, `v0$$`, base64 of nonce, ciphertext and tag. The
/// secret must be one that Quay takes as plain characters (neither a number nor a UUID), and long
/// enough to fill the key.
pub fn encrypt_field(secret: &str, plaintext: &str) -> String {
    let key = &secret.as_bytes()[..32];
    let cipher = Ccm::<Aes256, U16, U13>::new_from_slice(key).expect("32 bytes");
    let mut sealed = vec![0; 13];
    aws_lc_rs::rand::fill(&mut sealed).expect("randomness");
    let nonce = sealed.as_slice().try_into().expect("13 bytes");
    let ciphertext = cipher.encrypt(nonce, plaintext.as_bytes()).expect("a short text");
    sealed.extend(ciphertext);
    format!("v0$${}", BASE64_STANDARD.encode(sealed))
}

/// As `user.password_hash` has it. In a debug build at the lowest cost, for speed.
pub fn hash_password(password: &str) -> String {
    let cost = if cfg!(debug_assertions) { 4 } else { 12 };
    bcrypt::hash(password, cost).expect("a short password")
}

/// Random text of the characters that Quay makes robot tokens of, never a number.
pub fn random_secret(length: usize) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut bytes = vec![0; length];
    aws_lc_rs::rand::fill(&mut bytes).expect("randomness");
    bytes[0] = 0;
    bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()
}

fn pem(der: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> =
        (0..body.len()).step_by(64).map(|at| &body[at..body.len().min(at + 64)]).collect();
    let kind = "RSA PRIVATE KEY";
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
}
