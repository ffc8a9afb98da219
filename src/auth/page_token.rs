//! Where a page of the catalog ends, as Quay hides it from clients: Fernet with `PAGE_TOKEN_KEY`
//! (contract §1.7). Either runtime continues the pages of the other.

use aws_lc_rs::cipher::{
    AES_128, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey,
    UnboundCipherKey,
};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::Value;

/// How long a page can be continued, in seconds.
const LIFETIME_S: u64 = 172_800;

/// How far in the future a token may be, as Fernet has it.
const SKEW_S: u64 = 60;

const VERSION: u8 = 0x80;
const HEAD: usize = 1 + 8 + 16;
const MAC: usize = 32;

/// The key of page tokens.
#[derive(Clone)]
pub struct PageTokens {
    signing: hmac::Key,
    encryption: [u8; 16],
}

impl PageTokens {
    /// `key` is `PAGE_TOKEN_KEY`: 32 bytes in urlsafe base64. `None` for anything else.
    pub fn new(key: &str) -> Option<Self> {
        let key: [u8; 32] = URL_SAFE.decode(key).ok()?.try_into().ok()?;
        let (signing, encryption) = key.split_at(16);
        Some(Self {
            signing: hmac::Key::new(hmac::HMAC_SHA256, signing),
            encryption: encryption.try_into().ok()?,
        })
    }

    /// A token for the page that begins with the repository of this id. `None` never happens with
    /// a working source of random numbers.
    pub fn seal(&self, start_id: i32, now_s: u64) -> Option<String> {
        let mut message = format!("{{\"start_id\": {start_id}}}").into_bytes();
        let key = UnboundCipherKey::new(&AES_128, &self.encryption).ok()?;
        let key = PaddedBlockEncryptingKey::cbc_pkcs7(key).ok()?;
        let context = key.encrypt(&mut message).ok()?;
        let iv: &[u8] = (&context).try_into().ok()?;
        let mut token = [&[VERSION][..], &now_s.to_be_bytes(), iv, &message].concat();
        let mac = hmac::sign(&self.signing, &token);
        token.extend_from_slice(mac.as_ref());
        Some(URL_SAFE.encode(token))
    }

    /// The id that a page begins with. `None` for a token that is not ours, or too old: the first
    /// page is meant then.
    pub fn open(&self, token: &str, now_s: u64) -> Option<i32> {
        let mut token = URL_SAFE.decode(token).ok()?;
        let end = token.len().checked_sub(MAC).filter(|end| *end > HEAD)?;
        let (signed, mac) = token.split_at_mut(end);
        hmac::verify(&self.signing, signed, mac).ok()?;
        let time = u64::from_be_bytes(signed.get(1..9)?.try_into().ok()?);
        let fresh = time.saturating_add(LIFETIME_S) >= now_s && time <= now_s + SKEW_S;
        if signed[0] != VERSION || !fresh {
            return None;
        }
        let iv: [u8; 16] = signed.get(9..HEAD)?.try_into().ok()?;
        let key = UnboundCipherKey::new(&AES_128, &self.encryption).ok()?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).ok()?;
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        let message = key.decrypt(signed.get_mut(HEAD..)?, context).ok()?;
        let message: Value = serde_json::from_slice(message).ok()?;
        i32::try_from(message.get("start_id")?.as_i64()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Quay's default key, and a token that Quay's library made with it (contract §1.7).
    const KEY: &str = "0OYrc16oBuksR8T3JGB-xxYSlZ2-7I_zzqrLzggBJ58=";
    const MADE_S: u64 = 1_700_000_000;
    const TOKEN: &str = "gAAAAABlU_EAAAECAwQFBgcICQoLDA0OD_8BpsbKoBGzMqQxTa1Y0xXqpeZiikokQGmL8RIw9AkRP53cJdG8lMCBfQhVUEbOEw==";

    #[test]
    fn tokens_of_python_are_read_and_ours_are_like_them() {
        let tokens = PageTokens::new(KEY).unwrap();
        assert_eq!(tokens.open(TOKEN, MADE_S), Some(5));
        assert_eq!(tokens.open(TOKEN, MADE_S + LIFETIME_S), Some(5));
        assert_eq!(tokens.open(TOKEN, MADE_S + LIFETIME_S + 1), None);
        assert_eq!(tokens.open(TOKEN, MADE_S - SKEW_S - 1), None);
        let ours = tokens.seal(5, MADE_S).unwrap();
        assert_eq!(tokens.open(&ours, MADE_S), Some(5));
        assert_eq!(ours.len(), TOKEN.len());
        let other = PageTokens::new(&URL_SAFE.encode([7; 32])).unwrap();
        assert_eq!(other.open(TOKEN, MADE_S), None);
        assert!(PageTokens::new("short").is_none());
    }

    proptest! {
        #[test]
        fn what_was_bent_is_no_token(index in 0_usize..100, bit in 0_u8..8, text in ".{0,60}") {
            let tokens = PageTokens::new(KEY).unwrap();
            let mut bytes = URL_SAFE.decode(TOKEN).unwrap();
            let index = index % bytes.len();
            bytes[index] ^= 1 << bit;
            prop_assert_eq!(tokens.open(&URL_SAFE.encode(bytes), MADE_S), None);
            prop_assert_eq!(tokens.open(&text, MADE_S), None);
        }
    }
}
