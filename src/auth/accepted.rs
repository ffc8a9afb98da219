//! Tokens that were accepted. A client shows the same one with every request of a pull.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::Bearer;
use super::keys::{Key, VerificationKeys};

/// Tokens that are remembered: some hundred bytes each.
const REMEMBERED: usize = 10_000;

/// What genuine tokens say, by their fingerprints.
#[derive(Debug, Default)]
pub(super) struct Accepted(Mutex<HashMap<[u8; 32], Known>>);

#[derive(Debug)]
struct Known {
    kid: String,
    key: Arc<Key>,
    /// Seconds since 1970, the leeway included.
    ends: i64,
    bearer: Arc<Bearer>,
}

impl Accepted {
    /// What the token says, if it has been accepted, the key that it was signed with is still the
    /// same one, and `now` is before its end.
    pub(super) fn get(
        &self,
        keys: &VerificationKeys,
        token: &str,
        now: i64,
    ) -> Option<Arc<Bearer>> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = tokens.get(&fingerprint(token)).filter(|known| now < known.ends)?;
        let same = keys.current(&known.kid).is_some_and(|key| Arc::ptr_eq(&key, &known.key));
        same.then(|| known.bearer.clone())
    }

    /// Remembers a token that `key`, called `kid`, has verified.
    pub(super) fn insert(
        &self,
        token: &str,
        (kid, key): (String, Arc<Key>),
        ends: i64,
        bearer: Arc<Bearer>,
    ) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= REMEMBERED {
            tokens.clear();
        }
        tokens.insert(fingerprint(token), Known { kid, key, ends, bearer });
    }
}

fn fingerprint(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Entity;
    use crate::telemetry::Metrics;

    #[test]
    fn a_token_ends_with_its_time_and_with_its_key() {
        let keys = VerificationKeys::new("quay", Arc::new(Metrics::default()));
        let (accepted, key) = (Accepted::default(), Arc::new(Key::generate()));
        let bearer = Bearer { grants: Vec::new(), entity: Entity::Anonymous, subject: "".into() };
        keys.replace("kid", key.clone());
        accepted.insert("a.b.c", ("kid".into(), key.clone()), 100, Arc::new(bearer));
        let known = |token, now| accepted.get(&keys, token, now).is_some();
        assert!(known("a.b.c", 99));
        assert!(!known("a.b.c", 100) && !known("a.b.d", 99) && !known("a.b.c ", 99));
        // Another key under the same name, or the same one read again: verified again.
        keys.replace("kid", Arc::new(Key::generate()));
        assert!(!known("a.b.c", 99));
        keys.replace("other", key);
        assert!(!known("a.b.c", 99));
    }

    #[test]
    fn not_more_than_so_many_are_remembered() {
        let (accepted, key) = (Accepted::default(), Arc::new(Key::generate()));
        let bearer = Bearer { grants: Vec::new(), entity: Entity::Anonymous, subject: "".into() };
        let bearer = Arc::new(bearer);
        for number in 0..=REMEMBERED {
            let signer = ("kid".to_owned(), key.clone());
            accepted.insert(&number.to_string(), signer, 100, bearer.clone());
        }
        assert_eq!(accepted.0.lock().unwrap().len(), 1);
    }
}
