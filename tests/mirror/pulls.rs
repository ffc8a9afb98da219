//! Pulling over HTTPS, as clients do.

use std::process::Stdio;

use super::*;

fn skopeo(own: &Own, trusts: &Path, login: Option<&str>, repository: &str, to: &str) -> Output {
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--quiet", "--src-cert-dir"]).arg(trusts);
    match login {
        Some(login) => skopeo.args(["--src-creds", login]),
        None => skopeo.arg("--src-no-creds"),
    };
    let target = own._folder.path().join(to);
    skopeo.arg(format!("docker://{}/{repository}", own.hostname()));
    run(skopeo.arg(format!("dir:{}", target.display())))
}

fn trusting(own: &Own) -> PathBuf {
    let folder = own._folder.path().join("certs");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("ca.crt"), own.certificate()).unwrap();
    folder
}

#[test]
fn skopeo_pulls_what_it_may() {
    let own = Own::new();
    let registryd = own.start(&["--anonymous-pull"]);
    let (public, private) = (image("public\n"), image("private\n"));
    own.push(&registryd, "admin/public", "latest", &public);
    own.push(&registryd, "admin/private", "latest", &private);
    let hide = "UPDATE repository SET visibility_id = \
        (SELECT id FROM visibility WHERE name = 'private') WHERE name = 'private'";
    own.execute(hide);
    let (trusts, login) = (trusting(&own), format!("admin:{}", password(&registryd)));
    for (login, repository, expected) in [
        (None, "admin/public:latest", Some(&public)),
        (Some(login.as_str()), "admin/private:latest", Some(&private)),
        (None, "admin/private:latest", None),
        (Some("admin:wrong"), "admin/private:latest", None),
    ] {
        let to = format!("pulled-{}", repository.replace(['/', ':'], "-"));
        let said = skopeo(&own, &trusts, login, repository, &to);
        let complaint = String::from_utf8_lossy(&said.stderr).into_owned();
        assert_eq!(said.status.success(), expected.is_some(), "{repository}: {complaint}");
        if let Some(image) = expected {
            let folder = own._folder.path().join(to);
            assert_eq!(fs::read(folder.join("manifest.json")).unwrap(), image.bytes);
            let layer = &image.layers()[0];
            let file = folder.join(layer.digest.strip_prefix("sha256:").unwrap());
            assert_eq!(fs::read(file).unwrap(), layer.bytes);
        }
    }
    let nobody = own._folder.path().join("no-certs");
    fs::create_dir(&nobody).unwrap();
    let said = skopeo(&own, &nobody, None, "admin/public:latest", "untrusted");
    let complaint = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(!said.status.success() && complaint.contains("certificate"), "{complaint}");
}

#[test]
fn pulling_without_a_login_is_a_choice() {
    for (args, anonymous) in [(&[][..], false), (&["--anonymous-pull"], true)] {
        let own = Own::new();
        let registryd = own.start(args);
        let image = image("public\n");
        own.push(&registryd, "admin/public", "latest", &image);
        let token = own.token(None, "admin/public");
        assert_eq!(token.is_ok(), anonymous, "{token:?}");
        let accept = [("Accept", image.media_type)];
        let answer = own.get("/v2/admin/public/manifests/latest", &accept);
        assert_eq!(answer.status, if anonymous { 200 } else { 401 }, "{answer:?}");
    }
}

/// Nobody is behind us who could.
#[test]
fn what_is_not_served_is_unsupported() {
    let own = Own::new();
    let registryd = own.start(&[]);
    let secret = password(&registryd);
    let answer = run(Command::new("curl")
        .args(["-s", "-X", "DELETE", "--noproxy", "*", "--cacert"])
        .arg(own.path("tls.crt"))
        .args(["-u", &format!("admin:{secret}")])
        .arg(format!("https://{}/v1/repositories/a/b/", own.hostname())));
    let body = String::from_utf8(answer.stdout).unwrap();
    assert!(body.contains("UNSUPPORTED"), "{body}");
}

/// More connections than are allowed wait until others have ended, and are answered then.
#[test]
fn connections_beyond_the_limit_wait() {
    const MOST: usize = 16;
    let own = Own::new();
    let image = image("public\n");
    own.push(&own.start(&["--anonymous-pull"]), "admin/public", "latest", &image);
    let mut config = fs::read_to_string(own.path("config.yaml")).unwrap();
    let limits = format!("{{workers: 2, max_connections: {MOST}, audit_timeout_ms: 30000}}");
    config += &format!("QUAY_SIDECAR: {limits}\n");
    fs::write(own.path("config.yaml"), config).unwrap();
    let registryd = own.start(&[]);

    // A pull waits for its row, and this one holds them all up.
    let lock = rusqlite::Connection::open(own.path("quay.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let url = format!("https://{}/v2/admin/public/manifests/latest", own.hostname());
    let mut curl = Command::new("curl");
    curl.args(["-s", "-Z", "--parallel-max", "60", "--noproxy", "*", "--cacert"]);
    curl.arg(own.path("tls.crt")).args(["-H", &format!("Accept: {}", image.media_type)]);
    curl.args(["-H", "Connection: close", "-w", "\\n%{http_code}\\n"]);
    curl.args(vec![url; 60]).stdout(Stdio::piped()).stderr(Stdio::null());
    let curl = curl.spawn().unwrap();
    let in_flight = || registryd.metric("http_requests_in_flight");
    eventually(|| (in_flight() >= MOST as f64).then_some(()), || registryd.logs());
    for _ in 0..20 {
        assert_eq!(in_flight(), MOST as f64);
    }
    lock.execute_batch("COMMIT").unwrap();
    let said = String::from_utf8(curl.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(said.lines().filter(|line| *line == "200").count(), 60, "{said}");
}
