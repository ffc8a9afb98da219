//! The action log after a pull holds the row that Quay wrote for the same pull.

use serde_json::{Value, json};

use super::installation::Installation;
use super::recording::{Exchange, exchanges, read};
use super::tokens::{now, shifted};
use super::{compare, wire};
use crate::support::Registryd;

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const V1: &str = "/v2/acme/app/manifests/v1";
const V1_DIGEST: &str = "/v2/acme/app/manifests/\
    sha256:bc883bccb541eaafcdfcd9615b99f5d645840b9693fc56fb179b74b64dc8c383";
const V1_CONFIG: &str = "/v2/acme/app/blobs/\
    sha256:7f2e162bdfb5b8225d6f55083cf2e3374176c34c99736f5bd1fe2c6f086463e9";
const PUBLIC: &str = "/v2/acme/public/manifests/latest";
const AUTH: &str = "/v2/auth?service=localhost:18080";
const AUTH_APP: &str = "/v2/auth?service=localhost:18080&scope=repository:acme/app:pull";

/// Each operation by its name in the record of what Quay wrote.
#[test]
fn action_log_rows_are_quays() {
    let Some(installation) = Installation::restore() else { return };
    let effects = read(&installation.data.join("db-effects.md"));
    let recorded = exchanges(&installation.data);
    let registryd = installation.registryd(&[], None);

    let admin = basic(&installation, "admin");
    let user = token(&registryd, &admin, "acme/app", "pull");
    let robot = token(&registryd, &basic(&installation, "acme+ci"), "acme/app", "pull");
    let robot_multi = token(&registryd, &basic(&installation, "acme+ci"), "acme/multi", "pull");
    let stranger = token(&registryd, &basic(&installation, "stranger"), "acme/app", "pull");
    let anonymous = token(&registryd, "", "acme/public", "pull");
    // Logins of these kinds are Python's, their tokens are served here.
    let app = renewed(&installation, &recorded, 31);
    let oauth = renewed(&installation, &recorded, 32);

    let operations = [
        ("auth anonymous pull public", "GET", AUTH_APP, "", 200),
        ("auth user login no scope", "GET", AUTH, admin.as_str(), 200),
        ("auth user pull", "GET", AUTH_APP, &admin, 200),
        ("pull by tag robot cold", "GET", V1, &robot, 200),
        ("pull by tag robot warm", "GET", V1, &robot, 200),
        ("pull by tag user", "GET", V1, &user, 200),
        ("pull by tag app token", "GET", V1, &app, 200),
        ("pull by tag oauth token", "GET", V1, &oauth, 200),
        ("pull by tag anonymous public", "GET", PUBLIC, "", 200),
        ("pull by tag anonymous with token", "GET", PUBLIC, &anonymous, 200),
        ("HEAD by tag robot", "HEAD", V1, &robot, 200),
        ("pull by digest robot cold", "GET", V1_DIGEST, &robot, 200),
        ("HEAD by digest robot warm", "HEAD", V1_DIGEST, &robot, 200),
        ("pull index by tag", "GET", "/v2/acme/multi/manifests/idx", &robot_multi, 200),
        ("pull missing tag", "GET", "/v2/acme/app/manifests/missing", &robot, 404),
        ("pull no permission", "GET", V1, &stranger, 401),
        ("blob GET cold", "GET", V1_CONFIG, &robot, 200),
        ("blob HEAD cold", "HEAD", V1_CONFIG, &robot, 200),
        ("tags list cold", "GET", "/v2/acme/app/tags/list", &robot, 200),
        ("v2 ping with token", "GET", "/v2/", &robot, 200),
    ];
    let mut expected_rows = 0;
    for (operation, method, path, authorization, status) in operations {
        let before = &installation.database.sql("SELECT coalesce(max(id), 0) FROM logentry3");
        let login = path.starts_with("/v2/auth");
        let agent =
            if login { "docker/24.0" } else { "containers/5.29 (github.com/containers/image)" };
        let accept = format!("{OCI}, {INDEX}");
        let mut headers = vec![("Host", "localhost"), ("User-Agent", agent), ("Accept", &accept)];
        if !authorization.is_empty() {
            headers.push(("Authorization", authorization));
        }
        let answer = wire::send(registryd.base(), method, path, headers, b"");
        assert_eq!(answer.status, status, "{operation}: {}", answer.text());

        let theirs = row_of_quay(&effects, operation);
        let ours = rows_after(&installation, before);
        expected_rows += theirs.iter().count();
        assert_eq!(ours, Vec::from_iter(theirs), "{operation}");
    }
    assert_eq!(expected_rows, 12, "the record has been read");
}

/// kind, account, performer, repository, address, and metadata without `resolved_ip`, which needs
/// data files of Quay's.
type Row = [String; 6];

fn rows_after(installation: &Installation, id: &str) -> Vec<Row> {
    let rows = installation.rows(&format!(
        "SELECT kind_id, account_id, coalesce(CAST(performer_id AS text), 'null'),
            coalesce(CAST(repository_id AS text), 'null'), ip, metadata_json
         FROM logentry3 WHERE id > {id} ORDER BY id"
    ));
    let row = |columns: Vec<String>| {
        let mut row: Row = columns.try_into().expect("six columns");
        row[5] = without_resolved_ip(&row[5]);
        row
    };
    rows.into_iter().map(row).collect()
}

/// What is recorded of an operation.
pub fn section(effects: &str, operation: &str) -> String {
    let start = format!("## {operation}\n");
    let section = effects.split_once(&start).unwrap_or_else(|| panic!("no {start:?}")).1;
    section.split("\n## ").next().expect("at least one part").to_owned()
}

/// The log row that Quay inserted, if it inserted one.
fn row_of_quay(effects: &str, operation: &str) -> Option<Row> {
    let section = section(effects, operation);
    let row = section.lines().find_map(|line| line.strip_prefix("- INSERT `logentry3`: "))?;
    let (columns, metadata) = row.split_once(", metadata_json=").expect("metadata");
    let column = |name: &str| {
        let value =
            columns.split(", ").find_map(|column| column.strip_prefix(name)?.strip_prefix('='));
        // A kind has its name behind its number.
        value.expect(name).split(' ').next().expect("a value").to_owned()
    };
    let names = ["kind_id", "account_id", "performer_id", "repository_id", "ip"];
    let [kind, account, performer, repository, ip] = names.map(column);
    Some([kind, account, performer, repository, ip, without_resolved_ip(metadata)])
}

/// The record cuts long metadata off, but never before `resolved_ip`, which comes last.
pub fn without_resolved_ip(metadata: &str) -> String {
    let end = metadata.find(", \"resolved_ip\"");
    match end {
        Some(end) => format!("{}}}", &metadata[..end]),
        None => metadata.to_owned(),
    }
}

pub fn basic(installation: &Installation, login: &str) -> String {
    use base64::Engine as _;
    let pair = format!("{login}:{}", installation.secret(login));
    format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(pair))
}

pub fn token(
    registryd: &Registryd,
    authorization: &str,
    repository: &str,
    actions: &str,
) -> String {
    let path = format!("{AUTH}&scope=repository:{repository}:{actions}");
    let authorization = [("Authorization", authorization)];
    let headers = authorization.into_iter().filter(|(_, value)| !value.is_empty());
    let headers = headers.chain([("Host", "localhost")]);
    let answer = wire::send(registryd.base(), "GET", &path, headers, b"");
    let token = compare::token(&answer.body).unwrap_or_else(|| panic!("{}", answer.text()));
    format!("Bearer {token}")
}

/// The token of a recorded answer, made now.
fn renewed(installation: &Installation, recorded: &[Exchange], seq: u16) -> String {
    let (header, claims) = recorded_token(recorded, seq);
    format!("Bearer {}", installation.signer.sign(&header, &claims))
}

/// The same for another repository, which may be pushed to.
pub fn renewed_to_push(
    installation: &Installation,
    recorded: &[Exchange],
    seq: u16,
    repository: &str,
) -> String {
    let (header, mut claims) = recorded_token(recorded, seq);
    let access = json!({"type": "repository", "name": repository, "actions": ["pull", "push"]});
    claims["access"] = json!([access]);
    format!("Bearer {}", installation.signer.sign(&header, &claims))
}

/// Header and claims, those with times of today.
fn recorded_token(recorded: &[Exchange], seq: u16) -> (Value, Value) {
    let exchange = recorded.iter().find(|exchange| exchange.seq == seq).expect("a recording");
    let jwt = exchange.jwt.as_ref().expect("a token");
    let age = now() - jwt["claims"]["iat"].as_i64().expect("a time");
    (jwt["header"].clone(), shifted(&jwt["claims"], age))
}
