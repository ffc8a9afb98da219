//! Columns that Quay encrypts with `DATABASE_SECRET_KEY` (contract §2.4).

use aes::Aes256;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ccm::Ccm;
use ccm::aead::{Aead, KeyInit};
use ccm::consts::{U13, U16};
use uuid::Uuid;

type Aes256Ccm = Ccm<Aes256, U16, U13>;

const NONCE: usize = 13;

/// A value that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// Written by a newer Quay: Python can read it.
    #[error("the value is of an unknown encryption version")]
    UnknownVersion,
    /// Damaged, or encrypted with another key.
    #[error("the value does not decrypt with DATABASE_SECRET_KEY")]
    Undecryptable,
}

/// The key of an installation's encrypted columns.
#[derive(Clone)]
pub struct FieldKey(Aes256Ccm);

impl FieldKey {
    /// Derives the key as Quay does: a number, else a UUID, else the characters, repeated to
    /// 32 bytes. `None` for a key that Quay could not use either: an empty one, or characters
    /// above U+00FF.
    pub fn derive(secret: &str) -> Option<Self> {
        let key = convert_secret_key(secret)?;
        Aes256Ccm::new_from_slice(&key).ok().map(Self)
    }

    /// Decrypts a stored value, `v0$$` and base64 of nonce, ciphertext and tag.
    pub fn decrypt(&self, stored: &str) -> Result<String, FieldError> {
        let (version, payload) = stored.split_once("$$").ok_or(FieldError::Undecryptable)?;
        if version != "v0" {
            return Err(FieldError::UnknownVersion);
        }
        let payload = STANDARD.decode(payload).map_err(|_| FieldError::Undecryptable)?;
        let (nonce, ciphertext) =
            payload.split_first_chunk::<NONCE>().ok_or(FieldError::Undecryptable)?;
        let plain =
            self.0.decrypt(&(*nonce).into(), ciphertext).map_err(|_| FieldError::Undecryptable)?;
        String::from_utf8(plain).map_err(|_| FieldError::Undecryptable)
    }
}

/// The bytes that Quay makes of a key in its configuration.
pub(super) fn convert_secret_key(secret: &str) -> Option<[u8; 32]> {
    let bytes = number(secret).or_else(|| uuid(secret)).or_else(|| characters(secret))?;
    let mut key = [0; 32];
    key.iter_mut().zip(bytes.iter().cycle()).for_each(|(to, from)| *to = *from);
    Some(key)
}

/// Python's `int()`, then its lower-case hexadecimal digits as bytes: an odd number of them is no
/// number to Quay.
fn number(secret: &str) -> Option<Vec<u8>> {
    let digits = secret.trim();
    let digits = digits.strip_prefix('+').unwrap_or(digits);
    let plain = !digits.is_empty()
        && !digits.starts_with('_')
        && !digits.ends_with('_')
        && !digits.contains("__")
        && digits.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    if !plain {
        return None;
    }
    let bytes = decimal_to_bytes(digits.bytes().filter(u8::is_ascii_digit));
    let odd = bytes.first().is_some_and(|first| *first < 16);
    match bytes.is_empty() {
        // Numbers below 16 are padded to two digits.
        true => Some(vec![0]),
        false if odd && bytes.len() > 1 => None,
        false => Some(bytes),
    }
}

/// A decimal number of any length, most significant byte first, no leading zeros.
fn decimal_to_bytes(digits: impl Iterator<Item = u8>) -> Vec<u8> {
    let mut little_endian: Vec<u8> = Vec::new();
    for digit in digits {
        let mut carry = u32::from(digit - b'0');
        for byte in &mut little_endian {
            let value = u32::from(*byte) * 10 + carry;
            *byte = (value & 0xff) as u8;
            carry = value >> 8;
        }
        if carry > 0 {
            little_endian.push(carry as u8);
        }
    }
    little_endian.reverse();
    little_endian
}

fn uuid(secret: &str) -> Option<Vec<u8>> {
    // Python drops "urn:", "uuid:", braces and dashes wherever they are.
    let hex = secret.replace("urn:", "").replace("uuid:", "");
    let hex = hex.trim_matches(['{', '}']).replace('-', "");
    let exact = hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    exact.then(|| Uuid::try_parse(&hex).ok().map(|uuid| uuid.as_bytes().to_vec())).flatten()
}

fn characters(secret: &str) -> Option<Vec<u8>> {
    let bytes: Option<Vec<u8>> = secret.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
    bytes.filter(|bytes| !bytes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(secret: &str) -> Vec<u8> {
        number(secret).or_else(|| uuid(secret)).or_else(|| characters(secret)).unwrap()
    }

    #[test]
    fn keys_are_derived_as_in_quay() {
        assert_eq!(bytes("test1234"), b"test1234");
        assert_eq!(bytes("255"), [0xff]);
        assert_eq!(bytes(" 2_55 "), [0xff]);
        assert_eq!(bytes("256"), b"256");
        // 0x1000 has an even number of digits.
        assert_eq!(bytes("4096"), [0x10, 0x00]);
        assert_eq!(bytes("0"), [0]);
        assert_eq!(bytes("5"), [5]);
        assert_eq!(bytes("65535"), [0xff, 0xff]);
        let uuid = "123e4567-e89b-12d3-a456-426614174000";
        assert_eq!(bytes(uuid)[..2], [0x12, 0x3e]);
        assert_eq!(bytes(&format!("{{{uuid}}}")), bytes(uuid));
        assert_eq!(bytes(&format!("urn:uuid:{uuid}")), bytes(uuid));
        assert!(FieldKey::derive("").is_none());
        assert!(FieldKey::derive("€").is_none());
    }

    #[test]
    fn quays_own_values_decrypt() {
        let key = FieldKey::derive("test1234").unwrap();
        for (stored, plain) in [
            ("v0$$XTxqlz/Kw8s9WKw+GaSvXFEKgpO/a2cGNhvnozzkaUh4C+FgHqZqnA==", "hello world"),
            ("v0$$iE+87Qefu/2i+5zC87nlUtOskypk8MUUDS/QZPs=", ""),
            ("v0$$AAECAwQFBgcICQoLDDnyXx9eGpClHCbrafwht0ir8NWMxGpbaE+XEg==", "hello world"),
        ] {
            assert_eq!(key.decrypt(stored).as_deref(), Ok(plain));
        }
        let other = FieldKey::derive("test1235").unwrap();
        let stored = "v0$$iE+87Qefu/2i+5zC87nlUtOskypk8MUUDS/QZPs=";
        assert_eq!(other.decrypt(stored), Err(FieldError::Undecryptable));
        assert_eq!(key.decrypt("v1$$AAEC"), Err(FieldError::UnknownVersion));
        for bad in ["", "plain", "v0$$", "v0$$!!", "v0$$AAEC"] {
            assert_eq!(key.decrypt(bad), Err(FieldError::Undecryptable), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(secret in ".{0,80}", stored in "(v0\\$\\$)?.{0,80}") {
            if let Some(key) = FieldKey::derive(&secret) {
                let _ = key.decrypt(&stored);
            }
        }
    }
}
