//! Page tokens of the recordings: encrypted, with a time, so they are compared by what they hold.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE;
use quay_sidecar::auth::PageTokens;

use super::tokens::now;

/// Quay's default `PAGE_TOKEN_KEY`.
const KEY: &str = "0OYrc16oBuksR8T3JGB-xxYSlZ2-7I_zzqrLzggBJ58=";
const PARAMETER: &str = "next_page=";

/// The same target or link with its token replaced by `replace` of what it holds.
fn replaced(text: &str, replace: impl Fn(i32) -> String) -> String {
    let Some((before, rest)) = text.split_once(PARAMETER) else { return text.to_owned() };
    let end = rest.find(['&', '>']).unwrap_or(rest.len());
    let token = rest[..end].replace("%3D", "=");
    let made = BASE64_URL_SAFE.decode(&token).ok();
    let made = made.and_then(|bytes| Some(u64::from_be_bytes(bytes.get(1..9)?.try_into().ok()?)));
    let start = made.and_then(|made| PageTokens::new(KEY)?.open(&token, made));
    let token = start.map_or(token, replace);
    format!("{before}{PARAMETER}{token}{}", &rest[end..])
}

/// A target whose token was made now.
pub fn renewed(target: &str) -> String {
    let tokens = PageTokens::new(KEY).expect("a key");
    let now = u64::try_from(now()).expect("after 1970");
    replaced(target, |start| tokens.seal(start, now).expect("a token").replace('=', "%3D"))
}

/// A link that shows what its token holds.
pub fn opened(link: &str) -> String {
    replaced(link, |start| format!("(page from {start})"))
}
