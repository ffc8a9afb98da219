//! `GET /v2/auth`: who gets which token.

mod creates;
mod credentials;
mod organizations;
mod revoked;
mod scopes;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::Utc;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::support::keys::InstanceKey;
use crate::support::{HOSTNAME, Login, Registryd, World, eventually, http};

async fn ask(registryd: &Registryd, who: Option<(&str, &str)>, scopes: &[&str]) -> Response {
    ask_for(registryd, HOSTNAME, who, scopes).await
}

async fn ask_for(
    registryd: &Registryd,
    service: &str,
    who: Option<(&str, &str)>,
    scopes: &[&str],
) -> Response {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("service", service);
    for scope in scopes {
        query.append_pair("scope", scope);
    }
    let url = registryd.url(&format!("/v2/auth?{}", query.finish()));
    let mut request = http().get(url);
    if let Some((username, password)) = who {
        request = request.basic_auth(username, Some(password));
    }
    request.send().await.unwrap()
}

fn login(login: &Login) -> Option<(&str, &str)> {
    Some((&login.username, &login.password))
}

async fn bearer(response: Response) -> String {
    assert_eq!(response.status(), StatusCode::OK);
    let body: Value = response.json().await.unwrap();
    body["token"].as_str().unwrap().to_owned()
}

async fn claims(response: Response) -> Value {
    let token = bearer(response).await;
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

async fn actions(registryd: &Registryd, who: Option<(&str, &str)>, repo: &str) -> Value {
    let scope = format!("repository:{repo}:pull");
    claims(ask(registryd, who, &[&scope]).await).await["access"][0]["actions"].clone()
}

async fn refusal(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, body["errors"][0]["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn who_may_pull_what() {
    let world = World::new();
    let registryd = world.registryd();
    let (none, pull) = (json!([]), json!(["pull"]));
    for (who, repo, expected) in [
        (None, "demo/public", &pull),
        (None, "demo/private", &none),
        (None, "demo/nope", &none),
        (None, "nobody/nope", &none),
        (login(&world.ada), "demo/private", &pull),
        // An owner of the organization may pull what is not there yet.
        (login(&world.ada), "demo/nope", &pull),
        (login(&world.ada), "ada/nope", &pull),
        (login(&world.ada), "nobody/nope", &none),
        (login(&world.bob), "demo/private", &none),
        (login(&world.bob), "demo/public", &pull),
        (login(&world.puller), "demo/private", &pull),
        (login(&world.puller), "demo/nope", &none),
    ] {
        assert_eq!(actions(&registryd, who, repo).await, *expected, "{who:?} {repo}");
    }
}

#[tokio::test]
async fn tokens_say_what_quays_do() {
    let world = World::new();
    let registryd = world.registryd();
    let scopes = ["repository:demo/private:pull", "repository:registry.example/demo/nope:pull"];
    let token = claims(ask(&registryd, login(&world.puller), &scopes).await).await;
    assert_eq!(token["iss"], "quay");
    assert_eq!(token["aud"], HOSTNAME);
    assert_eq!(token["sub"], "demo+puller");
    assert_eq!(token["exp"].as_i64().unwrap() - token["iat"].as_i64().unwrap(), 3600);
    assert_eq!(
        token["access"],
        json!([
            {"type": "repository", "name": "demo/private", "actions": ["pull"]},
            {"type": "repository", "name": "registry.example/demo/nope", "actions": []},
        ])
    );
    assert_eq!(
        token["context"],
        json!({
            "version": 2, "entity_kind": "robot", "entity_reference": "demo+puller",
            "kind": "user", "user": "demo+puller",
            "com.apostille.roots": {"demo/private": "$disabled", "demo/nope": "$disabled"},
            "com.apostille.root": "$disabled",
        })
    );
    let anonymous =
        claims(ask(&registryd, None, &["repository:demo/public:pull,push"]).await).await;
    assert_eq!(anonymous["sub"], "(anonymous)");
    assert_eq!(anonymous["access"][0]["actions"], json!(["pull"]));
}

#[tokio::test]
async fn a_token_opens_what_it_says() {
    let world = World::new();
    let registryd = world.registryd();
    let scope = "repository:demo/private:pull";
    let response = ask(&registryd, login(&world.ada), &[scope]).await;
    assert_eq!(response.headers()["cache-control"], "no-cache, no-store, must-revalidate");
    let body: Value = response.json().await.unwrap();
    let get = |path: &str| {
        http().get(registryd.url(path)).bearer_auth(body["token"].as_str().unwrap()).send()
    };
    assert_eq!(get("/v2/").await.unwrap().status(), StatusCode::OK);
    assert_eq!(get("/v2/demo/private/tags/list").await.unwrap().status(), StatusCode::OK);
    let readonly = format!("/v2/{}/tags/list", world.readonly.repo);
    assert_eq!(get(&readonly).await.unwrap().status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn refused_logins_say_why() {
    let world = World::new();
    let registryd = world.registryd();
    let scope = ["repository:demo/private:pull"];
    let zoe = (world.zoe.username.as_str(), world.zoe.password.as_str());
    for (who, expected) in [
        (("nobody", "x"), "Invalid Username or Password"),
        (("demo", "x"), "Invalid Username or Password"),
        (("größe", "x"), "Invalid Username or Password"),
        (zoe, "This user has been disabled. Please contact your administrator."),
        (("demo+nobody", "x"), "Could not find robot with specified username"),
        (
            ("demo+puller", "x"),
            "Could not find robot with username: demo+puller and supplied password.",
        ),
    ] {
        let answer = refusal(ask(&registryd, Some(who), &scope).await).await;
        assert_eq!(answer, (401, expected.to_owned()), "{who:?}");
    }
    world.database.sql("UPDATE \"user\" SET enabled = false WHERE username = 'demo+puller'");
    let answer = refusal(ask(&registryd, login(&world.puller), &scope).await).await;
    assert_eq!(answer, (401, "Specified credentials are invalid".to_owned()));
    world.database.sql("UPDATE \"user\" SET enabled = false WHERE username = 'demo'");
    let answer = refusal(ask(&registryd, login(&world.puller), &scope).await).await;
    assert_eq!(answer, (401, "Robot demo+puller owner demo is disabled".to_owned()));
    let answer = refusal(ask(&registryd, None, &scope).await).await;
    let disabled = "Namespace demo has been disabled. Please contact a system administrator.";
    assert_eq!(answer, (405, disabled.to_owned()));
}

#[tokio::test]
async fn wrong_passwords_lock_for_a_while() {
    let world = World::new();
    let registryd = world.registryd();
    let scope = ["repository:demo/private:pull"];
    let attempts = || {
        let row = "SELECT invalid_login_attempts FROM \"user\" WHERE username = 'ada'";
        world.database.sql(row).trim().to_owned()
    };
    // Far into the back-off, so that the window is still open whatever this machine is doing.
    let locked = format!(
        "UPDATE \"user\" SET invalid_login_attempts = 12, last_invalid_login = '{}' \
         WHERE username = 'ada'",
        Utc::now().naive_utc()
    );
    world.database.sql(&locked);
    let response = ask(&registryd, login(&world.ada), &scope).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait: i64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((2000..=2047).contains(&wait), "{wait}");
    assert_eq!(attempts(), "12");

    let open = "UPDATE \"user\" SET last_invalid_login = '2001-01-01' WHERE username = 'ada'";
    world.database.sql(open);
    let answer = refusal(ask(&registryd, Some(("ada", "wrong")), &scope).await).await;
    assert_eq!(answer, (401, "Invalid Username or Password".to_owned()));
    assert_eq!(attempts(), "13");

    world.database.sql(open);
    assert_eq!(ask(&registryd, login(&world.ada), &scope).await.status(), StatusCode::OK);
    assert_eq!(attempts(), "0");
}

#[tokio::test]
async fn scopes_that_cannot_be_read() {
    let world = World::new();
    let registryd = world.registryd();
    let many = vec!["repository:demo/public:pull"; 1000];
    for (scopes, status, code) in [
        (vec!["foo"], 400, "INVALID_REQUEST"),
        (vec!["repository:demo/UPPER:pull"], 400, "NAME_INVALID"),
        (vec![""], 401, "UNAUTHORIZED"),
        (vec![], 401, "UNAUTHORIZED"),
        (many, 400, "INVALID_REQUEST"),
    ] {
        let response = ask(&registryd, None, &scopes).await;
        assert_eq!(response.status().as_u16(), status, "{scopes:?}");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["errors"][0]["code"], code, "{scopes:?}");
    }
}

/// CVE-2026-123710: Quay signs for whatever audience a client names.
#[tokio::test]
async fn no_token_for_another_service() {
    let world = World::new();
    let registryd = world.registryd();
    let scopes = ["repository:demo/public:pull"];
    let (status, message) = refusal(ask_for(&registryd, "quay", None, &scopes).await).await;
    assert_eq!(status, 400);
    assert!(message.contains(HOSTNAME), "{message}");
    let url = registryd.url("/v2/auth?scope=repository:demo/public:pull");
    let token = claims(http().get(url).send().await.unwrap()).await;
    assert_eq!(token["aud"], HOSTNAME);
}

#[tokio::test]
async fn what_python_must_decide_is_handed_back() {
    let world = World::new();
    let registryd = world.registryd_with(&["--behind-nginx"]);
    let sso = format!("{}.b.c", URL_SAFE_NO_PAD.encode(r#"{"typ":"at+jwt"}"#));
    let metric = "quay_declined_total{capability=\"V2_AUTH\",reason=\"sso_token_login\"}";
    let who = Some(("$oauthtoken", sso.as_str()));
    let response = ask(&registryd, who, &["repository:demo/private:pull"]).await;
    assert_eq!(response.headers()["x-accel-redirect"], "@quay_python");
    assert_eq!(registryd.metric(metric), 1.0);
}

/// Python does not look at a password after us, so it is counted here: once.
#[tokio::test]
async fn a_wrong_password_is_counted_once() {
    let world = World::new();
    let registryd = world.registryd();
    let wrong = Some(("ada", "wrong"));
    let (status, _) =
        refusal(ask(&registryd, wrong, &["repository:demo/new:push", "repository:a/b:pull"]).await)
            .await;
    assert_eq!(status, 401);
    let attempts = "SELECT sum(invalid_login_attempts) FROM \"user\"";
    assert_eq!(world.database.sql(attempts).trim(), "1");
}

#[tokio::test]
async fn a_login_without_a_scope_is_logged() {
    let world = World::new();
    let registryd = world.registryd();
    let who = login(&world.ada);
    assert_eq!(claims(ask(&registryd, who, &[]).await).await["access"], json!([]));
    claims(ask(&registryd, login(&world.puller), &[]).await).await;
    let rows = world.database.sql(
        "SELECT k.name, n.username, p.username, l.repository_id, l.metadata_json FROM logentry3 l \
         JOIN logentrykind k ON k.id = l.kind_id JOIN \"user\" n ON n.id = l.account_id \
         JOIN \"user\" p ON p.id = l.performer_id ORDER BY l.id",
    );
    assert_eq!(
        rows.trim().lines().collect::<Vec<_>>(),
        [
            "login_success|ada|ada||{\"kind\": \"user\", \"type\": \"v2auth\", \"useragent\": \"\"}",
            "login_success|demo|demo+puller||{\"kind\": \"robot\", \"robot\": \"demo+puller\", \
             \"type\": \"v2auth\", \"useragent\": \"\"}",
        ]
    );
}

#[tokio::test]
async fn a_robot_is_noted_as_used_once_a_minute() {
    let world = World::new();
    let registryd = world.registryd();
    let touched = || registryd.metric("db_statements_total{route=\"last_accessed\"}");
    for _ in 0..3 {
        ask(&registryd, login(&world.puller), &["repository:demo/private:pull"]).await;
    }
    assert_eq!(touched(), 1.0);
}

#[tokio::test]
async fn a_new_instance_key_signs_at_once() {
    let world = World::new();
    let registryd = world.registryd();
    let kid = |response: Response| async move {
        let body: Value = response.json().await.unwrap();
        let head = body["token"].as_str().unwrap().split('.').next().unwrap().to_owned();
        let head: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).unwrap()).unwrap();
        head["kid"].as_str().unwrap().to_owned()
    };
    let scope = ["repository:demo/public:pull"];
    assert_eq!(kid(ask(&registryd, None, &scope).await).await, world.key.kid);
    let new = InstanceKey::generate();
    std::fs::write(world.conf.join("quay.kid"), &new.kid).unwrap();
    std::fs::write(world.conf.join("quay.pem"), &new.pem).unwrap();
    assert_eq!(kid(ask(&registryd, None, &scope).await).await, new.kid);
    // No row of servicekey has it: nobody would accept its tokens.
    eventually(
        || registryd.admin_get("/readyz").is_some_and(|(status, _)| status == 503).then_some(()),
        || "a key that is in no table is not reported".to_owned(),
    );
    std::fs::remove_file(world.conf.join("quay.pem")).unwrap();
    assert_eq!(kid(ask(&registryd, None, &scope).await).await, new.kid);
}
