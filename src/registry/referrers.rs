//! `GET /v2/<name>/referrers/<digest>` (contract §1.6.3).

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::hash::Hash;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::Utc;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::access::Access;
use super::error::{ApiError, name_unknown};
use super::{App, Route, query};
use crate::audit::push_python_string;
use crate::catalog::{Referrer, Session, TooLarge};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Quay has no pages here. A subject with more referrers is Python's to list.
const MOST: usize = 1000;

/// And one whose referrers are larger than this together: all of them are read at once.
const MOST_BYTES: i64 = 16 << 20;

pub async fn list(request: HttpRequest, app: web::Data<App>) -> Result<HttpResponse, ApiError> {
    if !app.shared.config.features.referrers_api {
        return Err(ApiError::Abort {
            status: StatusCode::NOT_FOUND,
            message: "Not Found".to_owned(),
            allow: Route::Referrers.allow(),
            challenge: None,
        });
    }
    let access = Access::check(&app, &request).await?;
    let wanted = query::value(request.query_string(), "artifactType");
    let db = app.catalog.session(access.route.name());
    let subject = request.match_info().query("digest");
    let filter = wanted.as_deref();
    if filter.is_some_and(|filter| filter.contains('\0')) {
        return Err(super::error::invalid_request("artifactType has a NUL".to_owned()));
    }
    // The fallback, and one more than is taken.
    let most = (MOST as i64 + 2, MOST_BYTES);
    let many = || app.decline(access.capability, "many_referrers");
    let now_ms = Utc::now().timestamp_millis();
    let found = db.referrers(&access.name, subject, filter, now_ms, most).await?;
    access.permit(&app, found.as_ref().map(|found| &found.repository))?;
    let found = found.ok_or_else(name_unknown)?;
    let manifests = found.manifests.map_err(|TooLarge| many())?;
    if manifests.len() > MOST {
        return Err(many());
    }
    let mut entries: Vec<Entry> = manifests.iter().map(Entry::of).collect();
    if let Some(fallback) = found.fallback.filter(|fallback| fallback.media_type == INDEX) {
        let more = listed_by_tag(db, found.repository.id, &fallback, &entries).await?;
        let more = more.map_err(|TooLarge| many())?;
        let matches = |entry: &Entry| filter.is_none_or(|f| entry.artifact_type() == f);
        entries.extend(more.into_iter().filter(matches));
    }
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CONTENT_TYPE, INDEX));
    if filter.is_some() {
        response.insert_header(("OCI-Filters-Applied", "artifactType"));
    }
    Ok(response.body(index(&entries)))
}

/// What the index under the fallback tag names and is not listed yet, in its order.
async fn listed_by_tag(
    db: Session<'_>,
    repository_id: i32,
    fallback: &Referrer,
    known: &[Entry],
) -> Result<Result<Vec<Entry>, TooLarge>, ApiError> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Descriptor>,
    }
    #[derive(Deserialize)]
    struct Descriptor {
        digest: String,
    }
    let Ok(index) = serde_json::from_str::<Index>(&fallback.bytes) else {
        return Ok(Ok(Vec::new()));
    };
    let known: HashSet<&str> = known.iter().map(|entry| entry.digest.as_str()).collect();
    let fresh = |digest: &&str| !known.contains(digest);
    let named = index.manifests.iter().map(|descriptor| descriptor.digest.as_str());
    let digests: Vec<&str> = named.filter(fresh).take(MOST).collect();
    if digests.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    let stored = match db.manifests_by_digest(repository_id, &digests, MOST_BYTES).await? {
        Ok(stored) => stored,
        Err(too_large) => return Ok(Err(too_large)),
    };
    let of = |digest: &&str| stored.iter().find(|manifest| manifest.digest == **digest);
    Ok(Ok(digests.iter().filter_map(of).map(Entry::of).collect()))
}

/// A descriptor of the answer.
struct Entry {
    media_type: String,
    digest: String,
    size: usize,
    body: Body,
}

/// What a descriptor repeats of a manifest.
#[derive(Default, Deserialize)]
struct Body {
    #[serde(rename = "artifactType", default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Config>,
    #[serde(default)]
    annotations: Annotations,
}

/// Its type stands in for one of the image.
#[derive(Deserialize)]
struct Config {
    #[serde(rename = "mediaType", default)]
    media_type: String,
}

/// In the order of the manifest.
#[derive(Default)]
struct Annotations(Vec<(String, String)>);

/// As in Python: a key keeps its place, the later value wins. There may be millions of them.
fn overlaid<S: Clone + Eq + Hash>(pairs: impl IntoIterator<Item = (S, S)>) -> Vec<(S, S)> {
    let mut overlaid: Vec<(S, S)> = Vec::new();
    let mut places: HashMap<S, usize> = HashMap::new();
    for (key, value) in pairs {
        let place = *places.entry(key.clone()).or_insert(overlaid.len());
        match overlaid.get_mut(place) {
            Some((_, known)) => *known = value,
            None => overlaid.push((key, value)),
        }
    }
    overlaid
}

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Annotations;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of strings")
            }

            fn visit_unit<E>(self) -> Result<Annotations, E> {
                Ok(Annotations::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Annotations, A::Error> {
                let mut pairs: Vec<(String, String)> = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Annotations(overlaid(pairs)))
            }
        }
        deserializer.deserialize_any(InOrder)
    }
}

impl Entry {
    fn of(manifest: &Referrer) -> Self {
        Self {
            media_type: manifest.media_type.clone(),
            digest: manifest.digest.clone(),
            size: manifest.bytes.len(),
            body: serde_json::from_str(&manifest.bytes).unwrap_or_default(),
        }
    }

    fn artifact_type(&self) -> &str {
        let own = self.body.artifact_type.as_deref().filter(|own| !own.is_empty());
        let config = self.body.config.as_ref().map(|config| config.media_type.as_str());
        own.or(config).unwrap_or_default()
    }
}

/// Indented by three, as Quay writes it; the annotations of all are those of the index too.
fn index(entries: &[Entry]) -> String {
    let mut list = String::new();
    for entry in entries {
        list.push_str(if list.is_empty() { "\n      {" } else { ",\n      {" });
        write_text(&mut list, 9, "mediaType", &entry.media_type);
        list.push(',');
        write_text(&mut list, 9, "digest", &entry.digest);
        // Writing to a string cannot fail.
        let _ = write!(list, ",\n{:9}\"size\": {}", "", entry.size);
        if !entry.artifact_type().is_empty() {
            list.push(',');
            write_text(&mut list, 9, "artifactType", entry.artifact_type());
        }
        write_annotations(&mut list, 9, &entry.body.annotations.0);
        list.push_str("\n      }");
    }
    if !list.is_empty() {
        list.push_str("\n   ");
    }
    let mut json = format!(
        "{{\n   \"schemaVersion\": 2,\n   \"mediaType\": \"{INDEX}\",\n   \"manifests\": [{list}]"
    );
    let all = entries.iter().flat_map(|entry| &entry.body.annotations.0);
    let all = overlaid(all.map(|(key, value)| (key.as_str(), value.as_str())));
    write_annotations(&mut json, 3, &all);
    json.push_str("\n}");
    json
}

fn write_text(json: &mut String, indent: usize, key: &str, value: &str) {
    let _ = write!(json, "\n{:indent$}", "");
    push_python_string(json, key);
    json.push_str(": ");
    push_python_string(json, value);
}

fn write_annotations<S: AsRef<str>>(json: &mut String, indent: usize, annotations: &[(S, S)]) {
    if annotations.is_empty() {
        return;
    }
    let _ = write!(json, ",\n{:indent$}\"annotations\": {{", "");
    for (index, (key, value)) in annotations.iter().enumerate() {
        json.push_str(if index > 0 { "," } else { "" });
        write_text(json, indent + 3, key.as_ref(), value.as_ref());
    }
    let _ = write!(json, "\n{:indent$}}}", "");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(bytes: &str) -> Entry {
        let bytes = bytes.to_owned();
        Entry::of(&Referrer { digest: "sha256:0a".into(), media_type: "a/b".into(), bytes })
    }

    #[test]
    fn an_index_in_pythons_spelling() {
        let empty = "{\n   \"schemaVersion\": 2,\n   \"mediaType\": \
                     \"application/vnd.oci.image.index.v1+json\",\n   \"manifests\": []\n}";
        assert_eq!(index(&[]), empty);
        let one = entry(r#"{"artifactType": "x/y", "annotations": {"z": "ü", "a": "1"}}"#);
        let two = entry(r#"{"annotations": {"a": "2"}}"#);
        let json = index(&[one, two]);
        assert!(json.ends_with(
            "\"annotations\": {\n            \"a\": \"2\"\n         }\n      }\n   ],\n   \
             \"annotations\": {\n      \"z\": \"\\u00fc\",\n      \"a\": \"2\"\n   }\n}"
        ));
        assert!(json.contains("\"size\": 61,\n         \"artifactType\": \"x/y\","), "{json}");
        let image = r#"{"artifactType": "", "config": {"mediaType": "c/d", "size": 1}}"#;
        assert_eq!(entry(image).artifact_type(), "c/d");
        // What is no manifest that we know is listed all the same.
        for odd in ["", "[]", r#"{"annotations": null}"#, r#"{"annotations": {"a": 1}}"#] {
            assert_eq!(entry(odd).artifact_type(), "", "{odd}");
        }
    }

    fn annotated<'a>(keys: impl Iterator<Item = &'a String>, value: &str) -> Entry {
        let pairs: Vec<String> = keys.map(|key| format!(r#""{key}": "{value}""#)).collect();
        entry(&format!(r#"{{"annotations": {{{}}}}}"#, pairs.join(", ")))
    }

    /// It would take minutes if each were looked for among all before it.
    #[test]
    fn many_annotations_keep_their_places() {
        let twice = entry(r#"{"annotations": {"a": "1", "b": "2", "a": "3"}}"#);
        let expected = [("a", "3"), ("b", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(twice.body.annotations.0, expected);

        let keys: Vec<String> = (0..300_000).map(|number| format!("k{number}")).collect();
        let one = annotated(keys.iter(), "1");
        assert!(one.body.annotations.0.iter().map(|(key, _)| key).eq(&keys));
        // The later value of all keys but the first.
        let two = annotated(keys.iter().skip(1).rev(), "2");
        let value = |key: &str| if key == "k0" { "1" } else { "2" };
        let lines: Vec<String> =
            keys.iter().map(|key| format!("      \"{key}\": \"{}\"", value(key))).collect();
        let end = format!("\n   \"annotations\": {{\n{}\n   }}\n}}", lines.join(",\n"));
        assert!(index(&[one, two]).ends_with(&end));
    }
}
