//! What is expected of each exchange, decided from the recording alone.

use std::collections::BTreeSet;
use std::path::Path;

use super::recording::{Exchange, read};

/// Answered by Quay's web application, which shares a host with the registry: nginx does not send
/// these to registryd. Of the last two the body was not recorded, so they cannot be asked again.
pub const NOT_THE_REGISTRY: &[u16] = &[613, 614, 615, 397, 669];

/// About what was pushed, made or deleted between the exchanges, in requests that nobody recorded, or
/// in one that is declined.
const NEEDS_WRITES: &[(&str, &[u16])] = &[
    ("a blob that was uploaded between them", &[644]),
    ("the tags of acme/scratch, `big` of 397 among them", &[398, 405, 413, 656, 731, 732]),
    ("manifests that were pushed between them", &[647, 648, 649, 651, 667, 737]),
    ("repositories that were made between them", &[741, 743, 829]),
];

pub fn needs_writes(exchange: &Exchange) -> bool {
    NEEDS_WRITES.iter().any(|(_, numbers)| numbers.contains(&exchange.seq))
}

/// Exchange 055 met the login throttle after 047; 424 is the same request without that.
pub const SPOILT: (u16, u16) = (55, 424);

/// The message of our decline, if registryd is not to serve this itself: `reason (capability)`.
/// Deciding this without registryd is what keeps it from declining more than it should.
pub fn decline(exchange: &Exchange) -> Option<&'static str> {
    let (request, response) = (&exchange.request, &exchange.response);
    let by_framework = |body: &String| body.starts_with("<!doctype html>");
    if response.body.text.as_ref().is_some_and(by_framework) {
        return None;
    }
    let (path, _) = request.target();
    let reads = ["GET", "HEAD", "OPTIONS"].contains(&request.method.as_str());
    let schema1 = "application/vnd.docker.distribution.manifest.v1+json";
    match path.as_str() {
        path if path.starts_with("/v1/") => Some("not_built (V1)"),
        // Who may not begin an upload is logged by Python, where that is to be logged.
        path if path.contains("/blobs/") => {
            let logged = exchange.settings().is_some_and(|s| s.contains("AUDIT_PUSH_FAILURES"));
            (logged && response.status == 401).then_some("audit_push_failures (V2_PUSH)")
        }
        // The first protocol's manifests.
        _ if request.method == "PUT" && is_schema1(exchange) && response.status != 401 => {
            Some("schema1 (V2_PUSH)")
        }
        _ if !reads && response.status == 401 => {
            let logged = |key| exchange.settings().is_some_and(|s| s.contains(key));
            match request.method.as_str() {
                "PUT" if logged("AUDIT_PUSH_FAILURES") => Some("audit_push_failures (V2_PUSH)"),
                "DELETE" if logged("AUDIT_DELETE_FAILURES") => {
                    Some("audit_delete_failures (V2_PUSH)")
                }
                _ => None,
            }
        }
        _ if response.header("Content-Type") == Some(schema1) => {
            Some("manifest_conversion (V2_PULL)")
        }
        _ => None,
    }
}

/// Schema 1 is what no `Content-Type` stands for.
fn is_schema1(exchange: &Exchange) -> bool {
    let content_type = exchange.request.headers.get("Content-Type");
    content_type.is_none_or(|value| {
        value == "application/json" || value.contains("distribution.manifest.v1+")
    })
}

/// The exchanges that README.md says are answered otherwise than by Quay: the first column of the
/// table under `## Deviations`.
pub fn deviations() -> BTreeSet<u16> {
    let readme = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    let mut lines = readme.lines();
    assert!(lines.any(|line| line == "## Deviations"), "README.md has no such section");
    let section = lines.take_while(|line| !line.starts_with("## "));
    let rows = section.filter_map(|line| line.trim().strip_prefix('|'));
    // The first two are the head and the line under it.
    let cells = rows.skip(2).filter_map(|row| row.split('|').next());
    let mut numbers = BTreeSet::new();
    for cell in cells {
        for number in cell.split(',').map(str::trim).filter(|text| *text != "none") {
            let parsed = number.trim_matches('`').parse();
            let parsed = parsed.unwrap_or_else(|_| panic!("README.md: {number:?} is no exchange"));
            assert!(numbers.insert(parsed), "README.md lists exchange {number} twice");
        }
    }
    numbers
}
