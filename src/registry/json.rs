//! JSON as Quay's framework writes it: keys sorted, no spaces, ASCII only, a newline at the end.

use std::fmt::Write;

use actix_web::http::header;
use actix_web::{HttpResponse, HttpResponseBuilder};
use serde_json::Value;

/// Answers with `value`.
pub fn respond(response: &mut HttpResponseBuilder, value: &Value) -> HttpResponse {
    let mut body = to_ascii(value);
    body.push('\n');
    response.insert_header((header::CONTENT_TYPE, "application/json")).body(body)
}

/// `value` with everything outside ASCII escaped. serde_json's maps are sorted already.
pub fn to_ascii(value: &Value) -> String {
    let json = value.to_string();
    if json.is_ascii() {
        return json;
    }
    let mut ascii = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if c.is_ascii() {
            ascii.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string cannot fail.
            let _ = write!(ascii, "\\u{unit:04x}");
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sorted_compact_ascii() {
        let value = json!({"tags": ["größe😀"], "name": "a/b"});
        let expected = r#"{"name":"a/b","tags":["gr\u00f6\u00dfe\ud83d\ude00"]}"#;
        assert_eq!(to_ascii(&value), expected);
    }
}
