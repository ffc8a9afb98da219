//! Keys and passwords made on the spot, for a registry that has none yet.

use aws_lc_rs::error::Unspecified;
use base64::Engine as _;
use base64::prelude::{BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::config::Secret;

/// As Quay hashes passwords.
const BCRYPT_COST: u32 = 12;

/// Nothing could be made.
#[derive(Debug, thiserror::Error)]
pub enum FreshError {
    /// The system gives no randomness.
    #[error("no random bytes: {0}")]
    Random(#[from] Unspecified),
    /// No RSA key.
    #[error("no RSA key: {0}")]
    Key(#[from] rcgen::Error),
    /// No hash.
    #[error("the password cannot be hashed: {0}")]
    Hash(#[from] bcrypt::BcryptError),
}

/// An instance key that nobody knows yet.
pub struct FreshKey {
    /// The private key: what `quay.pem` holds, PKCS#8.
    pub pem: Secret,
    /// Its id, the RFC 7638 thumbprint: what `quay.kid` holds.
    pub kid: String,
    /// The public key as `servicekey.jwk` has it.
    pub jwk: String,
}

impl FreshKey {
    /// An RSA key of 2048 bits. Takes some tenths of a second.
    pub fn generate() -> Result<Self, FreshError> {
        let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
        let (n, e) = numbers(pair.public_key_raw()).ok_or(Unspecified)?;
        let [n, e] = [n, e].map(|number| BASE64_URL_SAFE_NO_PAD.encode(number));
        let thumbprint = Sha256::digest(format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#));
        let kid = BASE64_URL_SAFE_NO_PAD.encode(thumbprint);
        let jwk = json!({"n": n, "e": e, "kty": "RSA", "kid": kid}).to_string();
        Ok(Self { pem: Secret::new(pair.serialize_pem()), kid, jwk })
    }
}

/// Modulus and exponent of an `RSAPublicKey` (RFC 8017, A.1.1): a sequence of two integers. Of keys
/// of this size, every length is written in the same way.
fn numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    const MODULUS: usize = 256;
    let integers = der.strip_prefix(&[0x30, 0x82, 0x01, 0x0a])?;
    let (modulus, rest) =
        integers.strip_prefix(&[0x02, 0x82, 0x01, 0x01, 0x00])?.split_at_checked(MODULUS)?;
    Some((modulus, rest.strip_prefix(&[0x02, 0x03])?))
}

/// Random letters and digits that are not taken for each other, five bits each; never a number.
pub fn random_text(length: usize) -> Result<Secret, FreshError> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = vec![0; length];
    aws_lc_rs::rand::fill(&mut bytes)?;
    if let Some(first) = bytes.first_mut() {
        *first %= 24;
    }
    let text: String = bytes.iter().map(|b| char::from(LETTERS[usize::from(b % 32)])).collect();
    Ok(Secret::new(text))
}

/// 32 random bytes in urlsafe base64: a `PAGE_TOKEN_KEY`.
pub fn page_token_key() -> Result<Secret, FreshError> {
    let mut key = [0; 32];
    aws_lc_rs::rand::fill(&mut key)?;
    Ok(Secret::new(BASE64_URL_SAFE.encode(key)))
}

/// What `user.password_hash` holds. Takes some tenths of a second.
pub fn hash_password(password: &Secret) -> Result<String, FreshError> {
    Ok(bcrypt::hash(password.expose(), BCRYPT_COST)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{FieldKey, InstanceKey, PageTokens};

    #[test]
    fn a_key_is_what_the_instance_key_reads_and_signs_with() {
        let folder = tempfile::tempdir().unwrap();
        let [kid, pem] = ["quay.kid", "quay.pem"].map(|name| folder.path().join(name));
        let fresh = FreshKey::generate().unwrap();
        std::fs::write(&kid, &fresh.kid).unwrap();
        std::fs::write(&pem, fresh.pem.expose()).unwrap();
        let (message, signature) =
            InstanceKey::new(&kid, &pem).sign(|kid| format!("signed with {kid}")).unwrap();
        let jwk: serde_json::Value = serde_json::from_str(&fresh.jwk).unwrap();
        assert_eq!(message, format!("signed with {}", jwk["kid"].as_str().unwrap()));
        let [n, e] = ["n", "e"]
            .map(|name| BASE64_URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap());
        aws_lc_rs::rsa::PublicKeyComponents { n: &n, e: &e }
            .verify(
                &aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256,
                message.as_bytes(),
                &signature,
            )
            .unwrap();
    }

    #[test]
    fn texts_are_long_and_usable_as_every_key() {
        let [one, other] = [(); 2].map(|()| random_text(64).unwrap());
        assert!(one != other && one.expose().len() == 64);
        assert!(one.expose().starts_with(|c: char| c.is_ascii_lowercase()));
        assert!(FieldKey::derive(one.expose()).is_some());
        assert!(PageTokens::new(page_token_key().unwrap().expose()).is_some());
        let hash = hash_password(&one).unwrap();
        assert!(hash.starts_with("$2b$12$") && bcrypt::verify(one.expose(), &hash).unwrap());
    }
}
