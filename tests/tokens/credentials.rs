//! Every kind of login (contract §2.2).

use aws_lc_rs::cipher::{AES_256, PaddedBlockEncryptingKey, UnboundCipherKey};
use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};

use super::{actions, ask, bearer, claims, login, refusal};
use crate::support::images::OCI_MANIFEST;
use crate::support::keys::{encrypt_field, hash_password, random_secret};
use crate::support::{HOSTNAME, Registryd, World, http};

const SCOPE: [&str; 1] = ["repository:demo/private:pull"];

impl World {
    fn encrypted(&self, plain: &str) -> String {
        encrypt_field(self.settings["DATABASE_SECRET_KEY"].as_str().unwrap(), plain)
    }

    /// Of ada, with an expiration in SQL. What to log in with.
    fn app_token(&self, expiration: &str) -> String {
        let (name, secret) = (random_secret(60), random_secret(60));
        self.database.sql(&format!(
            "INSERT INTO appspecificauthtoken \
                 (user_id, uuid, title, created, expiration, token_name, token_secret) \
             VALUES ({}, 'app-uuid-{name:.8}', 'laptop', now(), {expiration}, '{name}', '{}')",
            self.ada.id,
            self.encrypted(&secret)
        ));
        name + &secret
    }

    /// Granted by ada, who rules demo.
    pub fn oauth_token(&self, scope: &str, expires: &str) -> String {
        let (name, code) = (random_secret(20), random_secret(20));
        self.database.sql(&format!(
            "INSERT INTO oauthapplication (client_id, redirect_uri, application_uri, \
                 organization_id, name, description) \
             SELECT 'client', '', '', id, 'ci', '' FROM \"user\" WHERE username = 'demo'; \
             INSERT INTO oauthaccesstoken (uuid, application_id, authorized_user_id, scope, \
                 token_type, expires_at, data, token_code, token_name) \
             SELECT 'oauth-uuid', max(id), {}, '{scope}', 'Bearer', {expires}, '', '{}', '{name}' \
                 FROM oauthapplication",
            self.ada.id,
            hash_password(&code)
        ));
        name + &code
    }

    fn access_token(&self, role: &str) -> String {
        let (name, code) = (random_secret(32), random_secret(32));
        self.database.sql(&format!(
            "INSERT INTO accesstoken \
                 (repository_id, created, role_id, temporary, token_code, token_name) \
             SELECT {}, now(), id, false, '{}', '{name}' FROM role WHERE name = '{role}'",
            self.private.repo_id,
            self.encrypted(&code)
        ));
        name + &code
    }
}

/// A literal of local time, for expirations.
fn hours_from_now(hours: i64) -> String {
    format!("'{}'", chrono::Local::now().naive_local() + chrono::TimeDelta::hours(hours))
}

async fn statements(registryd: &Registryd, who: Option<(&str, &str)>) -> f64 {
    let count = || {
        registryd.metric("db_statements_total{route=\"token\"}")
            + registryd.metric("db_statements_total{route=\"last_accessed\"}")
    };
    // Lookup tables are read once a process.
    ask(registryd, None, &SCOPE).await;
    let before = count();
    claims(ask(registryd, who, &SCOPE).await).await;
    count() - before
}

#[tokio::test]
async fn an_application_token() {
    let world = World::new();
    let registryd = world.registryd();
    let (good, old) = (world.app_token("NULL"), world.app_token(&hours_from_now(-1)));
    let token = claims(ask(&registryd, Some(("$app", &good)), &SCOPE).await).await;
    assert_eq!(token["sub"], "ada");
    assert_eq!(token["access"][0]["actions"], json!(["pull"]));
    let context = &token["context"];
    assert_eq!(context["entity_kind"], "appspecifictoken");
    assert_eq!(context["entity_reference"], format!("app-uuid-{:.8}", good));
    assert_eq!((&context["kind"], &context["user"]), (&json!("user"), &json!("ada")));
    let touched = "SELECT count(*) FROM appspecificauthtoken WHERE last_accessed IS NOT NULL";
    assert_eq!(world.database.sql(touched), "1");
    // Used a moment ago: not noted again.
    assert_eq!(statements(&registryd, Some(("$app", &good))).await, 2.0);

    let wrong = format!("{}x", &good[..good.len() - 1]);
    for bad in [&old, &wrong, &good[..60].to_owned(), &"é".repeat(80), &"\0".repeat(80)] {
        let (status, message) = refusal(ask(&registryd, Some(("$app", bad)), &SCOPE).await).await;
        assert_eq!((status, message.as_str()), (401, "Invalid token"), "{bad}");
    }
    world.database.sql("UPDATE \"user\" SET enabled = false WHERE username = 'ada'");
    let (status, message) = refusal(ask(&registryd, Some(("$app", &good)), &SCOPE).await).await;
    assert_eq!(status, 401);
    assert_eq!(message, "This user has been disabled. Please contact your administrator.");
    // The whole log has no secret.
    assert!(!registryd.logs().contains(&good[60..]), "{}", registryd.logs());
}

/// Where the feature is off, `$app` is a user name like any other.
#[tokio::test]
async fn application_tokens_can_be_switched_off() {
    let mut world = World::new();
    let good = world.app_token("NULL");
    world.configure("FEATURE_APP_SPECIFIC_TOKENS", false.into());
    let registryd = world.registryd();
    let (status, message) = refusal(ask(&registryd, Some(("$app", &good)), &SCOPE).await).await;
    assert_eq!((status, message.as_str()), (401, "Invalid Username or Password"));
}

#[tokio::test]
async fn an_oauth_token_is_limited_by_its_scopes() {
    let world = World::new();
    let registryd = world.registryd();
    let later = &hours_from_now(24);
    let all = ["repository:demo/private:*,push,pull"];
    for (scope, expected) in [
        ("repo:read", json!(["pull"])),
        ("repo:read repo:write", json!(["push", "pull"])),
        ("repo:admin,org:admin", json!(["push", "pull", "*"])),
        ("org:admin", json!([])),
        ("repo:admin nonsense", json!([])),
    ] {
        world.database.sql("DELETE FROM oauthaccesstoken");
        let secret = world.oauth_token(scope, later);
        let token = claims(ask(&registryd, Some(("$oauthtoken", &secret)), &all).await).await;
        assert_eq!(token["access"][0]["actions"], expected, "{scope}");
        assert_eq!(token["sub"], "ada");
        let context = &token["context"];
        assert_eq!(context["entity_kind"], "oauthtoken");
        assert_eq!((&context["kind"], &context["oauth"]), (&json!("oauth"), &json!("oauth-uuid")));
    }
    world.database.sql("DELETE FROM oauthaccesstoken");
    let old = world.oauth_token("repo:read", &hours_from_now(-24));
    for (secret, expected) in [
        (old.as_str(), "OAuth access token has expired"),
        (&old[..30], "OAuth access token could not be validated"),
        ("unknown-unknown-unknown-unknown", "OAuth access token could not be validated"),
    ] {
        let refused = refusal(ask(&registryd, Some(("$oauthtoken", secret)), &SCOPE).await).await;
        assert_eq!(refused, (401, expected.to_owned()));
    }
    let touched = "SELECT count(*) FROM oauthaccesstoken WHERE last_accessed IS NOT NULL";
    assert_eq!(world.database.sql(touched), "0");
}

#[tokio::test]
async fn an_access_token_is_for_one_repository() {
    let world = World::new();
    let registryd = world.registryd();
    let secret = world.access_token("write");
    let who = Some(("$token", secret.as_str()));
    let both = ["repository:demo/private:push,pull,*", "repository:demo/nested/deep/repo:pull"];
    let token = claims(ask(&registryd, who, &both).await).await;
    assert_eq!(token["sub"], "(anonymous)");
    assert_eq!(token["access"][0]["actions"], json!(["push", "pull"]));
    assert_eq!(token["access"][1]["actions"], json!([]));
    let context = &token["context"];
    assert_eq!((&context["entity_kind"], &context["token"]), (&json!("token"), &json!(secret)));
    assert_eq!(statements(&registryd, who).await, 2.0);
    // It makes nothing: no repository, and no row of a login.
    let new = claims(ask(&registryd, who, &["repository:demo/new:push"]).await).await;
    assert_eq!(new["access"][0]["actions"], json!([]));
    claims(ask(&registryd, who, &[]).await).await;
    assert_eq!(world.database.sql("SELECT count(*) FROM logentry3"), "0");
    // It pulls, and the log names it; of the secret, nobody is told.
    world.database.sql("UPDATE accesstoken SET friendly_name = 'ci'");
    let token = bearer(ask(&registryd, who, &SCOPE).await).await;
    let pulled = http().get(registryd.url("/v2/demo/private/manifests/latest"));
    let pulled = pulled.bearer_auth(token).header("Accept", OCI_MANIFEST).send().await.unwrap();
    assert_eq!(pulled.status(), 200);
    let row = world.database.sql("SELECT performer_id, metadata_json FROM logentry3");
    assert!(row.starts_with('|') && row.contains("\"token\": \"ci\"}"), "{row}");
    assert!(!registryd.logs().contains(&secret[32..]));
    for bad in ["x", &secret[..40], &secret[..32]] {
        let refused = refusal(ask(&registryd, Some(("$token", bad)), &SCOPE).await).await;
        assert_eq!(refused, (401, "Invalid access token".to_owned()));
    }
}

/// Federated robots log in with a token that Quay itself has signed for them.
#[tokio::test]
async fn a_robot_with_a_signed_token() {
    let world = World::new();
    let registryd = world.registryd();
    let robot = world.puller.username.as_str();
    let good = world.claims(Some(&world.puller), "x/y", &[]);
    let bent = |key: &str, value: Value| {
        let mut claims = good.clone();
        claims[key] = value;
        world.key.sign(&claims)
    };
    let token = world.key.sign(&good);
    assert_eq!(actions(&registryd, Some((robot, &token)), "demo/private").await, json!(["pull"]));
    for (token, expected) in [
        (bent("sub", "demo+other".into()), "Token does not match robot"),
        (bent("aud", "elsewhere".into()), "Audience doesn't match"),
        (bent("exp", 1.into()), "Signature has expired"),
    ] {
        let refused = refusal(ask(&registryd, Some((robot, &token)), &SCOPE).await).await;
        assert_eq!(refused, (401, expected.to_owned()));
    }
}

#[tokio::test]
async fn an_encrypted_password() {
    let mut world = World::new();
    world.configure("SECRET_KEY", "a secret of the user interface".into());
    let ada = world.ada.clone();
    let registryd = world.registryd();
    let pulls = json!(["pull"]);
    let locked = lock("a secret of the user interface", &json!({"password": ada.password}));
    let who = Some((ada.username.as_str(), locked.as_str()));
    assert_eq!(actions(&registryd, who, "demo/private").await, pulls);
    assert_eq!(actions(&registryd, login(&ada), "demo/private").await, pulls);
    let email = format!("{}@example.com", ada.username);
    let by_email = ask(&registryd, Some((&email, &ada.password)), &SCOPE).await;
    assert_eq!(claims(by_email).await["sub"], "ada");
    drop(registryd);

    world.configure("FEATURE_REQUIRE_ENCRYPTED_BASIC_AUTH", true.into());
    let registryd = world.registryd();
    assert_eq!(actions(&registryd, who, "demo/private").await, pulls);
    let (status, message) = refusal(ask(&registryd, login(&ada), &SCOPE).await).await;
    assert_eq!(status, 401);
    assert!(message.starts_with("Client login with unencrypted passwords is disabled."));
    // Robots have nothing to do with that.
    assert_eq!(actions(&registryd, login(&world.puller), "demo/private").await, pulls);
}

/// As Quay's user interface does: the key's characters repeated, a random IV, CBC.
fn lock(secret: &str, message: &Value) -> String {
    let key: Vec<u8> = secret.bytes().cycle().take(32).collect();
    let key = UnboundCipherKey::new(&AES_256, &key).unwrap();
    let key = PaddedBlockEncryptingKey::cbc_pkcs7(key).unwrap();
    let mut bytes = message.to_string().into_bytes();
    let context = key.encrypt(&mut bytes).unwrap();
    let iv: &[u8] = (&context).try_into().unwrap();
    BASE64_STANDARD.encode([iv, &bytes].concat())
}

/// Only application tokens log users in there; robots as ever.
#[tokio::test]
async fn where_passwords_are_no_logins() {
    let mut world = World::new();
    world.configure("AUTHENTICATION_TYPE", "AppToken".into());
    world.configure("FEATURE_DIRECT_LOGIN", false.into());
    let registryd = world.registryd();
    let refused = refusal(ask(&registryd, login(&world.ada), &SCOPE).await).await;
    let expected = "An application specific token is required to login";
    assert_eq!(refused, (401, expected.to_owned()));
    assert_eq!(actions(&registryd, login(&world.puller), "demo/private").await, json!(["pull"]));
}

/// A login and one scope: who it is, what it may do. Quay's own count is 22 for nobody.
#[tokio::test]
async fn statements_of_a_token() {
    let world = World::new();
    let registryd = world.registryd();
    let puller = login(&world.puller);
    claims(ask(&registryd, puller, &SCOPE).await).await;
    for (who, expected) in [(None, 1.0), (login(&world.ada), 2.0), (puller, 2.0)] {
        assert_eq!(statements(&registryd, who).await, expected, "{who:?}");
    }
    assert_eq!(claims(ask(&registryd, None, &SCOPE).await).await["aud"], HOSTNAME);
}

/// Failed logins are logged where the operator wants that: whose log, who, and Quay's words.
#[tokio::test]
async fn failed_logins_are_logged_as_quay_logs_them() {
    let mut world = World::new();
    world.configure("ACTION_LOG_AUDIT_LOGIN_FAILURES", true.into());
    let (token, ada) = (world.app_token("NULL"), world.ada.username.clone());
    let robot = world.puller.username.clone();
    let registryd = world.registryd();
    // A user that is there, but disabled by the time its token is used, comes last.
    for who in [(&*ada, "wrong"), ("nobody", "x"), (&robot, "wrong"), ("demo+none", "x")] {
        assert_eq!(ask(&registryd, Some(who), &SCOPE).await.status(), 401, "{who:?}");
    }
    for who in [("bob+none", "x"), ("$app", "x"), ("$oauthtoken", "x"), ("$token", "x")] {
        assert_eq!(ask(&registryd, Some(who), &SCOPE).await.status(), 401, "{who:?}");
    }
    world.database.sql("UPDATE \"user\" SET enabled = false WHERE username = 'ada'");
    assert_eq!(ask(&registryd, Some(("$app", &token)), &SCOPE).await.status(), 401);
    let rows = world.database.sql(
        "SELECT n.username, p.username, l.repository_id, l.metadata_json \
         FROM logentry3 l JOIN logentrykind k ON k.id = l.kind_id AND k.name = 'login_failure' \
         JOIN \"user\" n ON n.id = l.account_id LEFT JOIN \"user\" p ON p.id = l.performer_id \
         ORDER BY l.id",
    );
    let first = world.database.sql("SELECT username FROM \"user\" ORDER BY id LIMIT 1");
    let row = |account: &str, performer: &str, kind: &str, rest: &str| {
        let of = if kind == "oauth" { "quayauth" } else { "v2auth" };
        format!("{account}|{performer}||{{\"type\": \"{of}\", \"kind\": \"{kind}\", {rest}\"}}")
    };
    let wrong = "\"useragent\": \"\", \"message\": \"Invalid Username or Password";
    let unknown =
        "\"useragent\": \"\", \"message\": \"Could not find robot with specified username";
    let of_robot = |robot: &str| {
        let owner = robot.split('+').next().unwrap();
        format!("\"robot\": \"{robot}\", \"username\": \"{owner}\", ")
    };
    let expected = [
        row(&first, "", "user", &format!("\"username\": \"ada\", {wrong}")),
        row(&first, "", "user", &format!("\"username\": \"nobody\", {wrong}")),
        row(
            "demo",
            &robot,
            "robot",
            &format!(
                "{}\"useragent\": \"\", \"message\": \"Could not find robot with username: {robot} \
                 and supplied password.",
                of_robot(&robot)
            ),
        ),
        // An organization is no user.
        row(&first, "", "robot", &format!("{}{unknown}", of_robot("demo+none"))),
        row("bob", "", "robot", &format!("{}{unknown}", of_robot("bob+none"))),
        row(&first, "", "app_specific_token", "\"useragent\": \"\", \"message\": \"Invalid token"),
        row(
            &first,
            "",
            "oauth",
            "\"useragent\": \"\", \"message\": \"OAuth access token could not be validated",
        ),
        row(
            "ada",
            "ada",
            "app_specific_token",
            "\"app_specific_token_title\": \"laptop\", \"username\": \"ada\", \"useragent\": \"\", \
             \"message\": \"This user has been disabled. Please contact your administrator.",
        ),
    ];
    assert_eq!(rows.trim().lines().collect::<Vec<_>>(), expected);
    drop(registryd);
    let bob = world.bob.id;
    world.configure("SERVICE_LOG_ACCOUNT_ID", bob.into());
    let registryd = world.registryd();
    ask(&registryd, Some(("nobody", "x")), &SCOPE).await;
    let of_bob = format!("SELECT count(*) FROM logentry3 WHERE account_id = {bob}");
    assert_eq!(world.database.sql(&of_bob), "2");
}
