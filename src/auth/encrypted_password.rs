//! Passwords that Quay's user interface encrypts with `SECRET_KEY`, so that the real one need not
//! stand in a client's configuration (contract §2.2.2).

use aws_lc_rs::cipher::{AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::encryption::convert_secret_key;

const IV: usize = 16;
const BLOCK: usize = 16;

/// The key of encrypted passwords.
#[derive(Clone)]
pub struct PasswordKey([u8; 32]);

/// What a password turns out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Unlocked {
    /// It was encrypted: this is the real one.
    Inner(String),
    /// It is the password itself.
    Plain,
}

impl PasswordKey {
    /// `None` for a key that Quay could not use either.
    pub fn derive(secret: &str) -> Option<Self> {
        convert_secret_key(secret).map(Self)
    }

    /// Base64 of an IV and AES-256-CBC, with PKCS#7 padding, of `{"password": …}`. Whatever does
    /// not decrypt to that is a plain password.
    pub fn unlock(&self, password: &str) -> Unlocked {
        self.decrypt(password).map_or(Unlocked::Plain, |plain| match plain.get("password") {
            Some(Value::String(inner)) => Unlocked::Inner(inner.clone()),
            _ => Unlocked::Inner(password.to_owned()),
        })
    }

    fn decrypt(&self, password: &str) -> Option<serde_json::Map<String, Value>> {
        let mut bytes = decoded(password)?;
        let (iv, message) = bytes.split_at_mut(IV);
        let iv: [u8; IV] = (&*iv).try_into().ok()?;
        let key = UnboundCipherKey::new(&AES_256, &self.0).ok()?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).ok()?;
        let plain = key.decrypt(message, DecryptionContext::Iv128(FixedLength::from(iv))).ok()?;
        serde_json::from_slice(plain).ok()
    }
}

/// Whether a password could be an encrypted one.
pub fn may_be_encrypted(password: &str) -> bool {
    decoded(password).is_some()
}

fn decoded(password: &str) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(password).ok()?;
    (bytes.len() >= IV + BLOCK && bytes.len().is_multiple_of(BLOCK)).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::cipher::{EncryptionContext, PaddedBlockEncryptingKey};

    fn locked(key: &PasswordKey, message: &str) -> String {
        let cipher = UnboundCipherKey::new(&AES_256, &key.0).unwrap();
        let cipher = PaddedBlockEncryptingKey::cbc_pkcs7(cipher).unwrap();
        let mut bytes = message.as_bytes().to_vec();
        let iv = EncryptionContext::Iv128(FixedLength::from([7; IV]));
        cipher.less_safe_encrypt(&mut bytes, iv).unwrap();
        STANDARD.encode([&[7; IV][..], &bytes].concat())
    }

    #[test]
    fn what_quay_locked_is_unlocked() {
        let key = PasswordKey::derive("a secret").unwrap();
        let unlock = |message| key.unlock(&locked(&key, message));
        assert_eq!(unlock(r#"{"password": "p:w"}"#), Unlocked::Inner("p:w".into()));
        assert_eq!(unlock("not JSON"), Unlocked::Plain);
        let other = PasswordKey::derive("another secret").unwrap();
        let of_other = locked(&other, r#"{"password": "p"}"#);
        assert_eq!(key.unlock(&of_other), Unlocked::Plain);
        assert!(may_be_encrypted(&of_other));
        for plain in ["", "password", "correct horse battery staple", &STANDARD.encode([7; 24])] {
            assert_eq!(key.unlock(plain), Unlocked::Plain, "{plain}");
            assert!(!may_be_encrypted(plain), "{plain}");
        }
    }
}
