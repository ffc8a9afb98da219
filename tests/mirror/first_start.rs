//! What the first start makes, and the second leaves alone.

use super::*;

#[test]
fn the_first_start_makes_everything_and_the_second_changes_nothing() {
    let own = Own::new();
    let mut registryd = own.start(&[]);
    let printed = registryd.printed();
    let secret = password(&registryd);
    for expected in [
        format!("docker login --username admin {}\n", own.hostname()),
        format!("registryd listening on https://{}\n", own.listen),
        "admin listening on http://127.0.0.1:".to_owned(),
        " ms after the start\n".to_owned(),
    ] {
        assert!(printed.contains(&expected), "{expected} in {printed}");
    }
    let check = |command: &str| {
        let output =
            run(Command::new(program()).args([command, "check", "--config"]).arg(&own.data));
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
        (output.status.success(), said.concat())
    };
    let (good, said) = check("db");
    assert!(good && said.contains("V2_PULL: ok\n"), "{said}");
    let (good, said) = check("config");
    assert!(good && !said.contains("warning"), "{said}");
    assert!(own.token(Some(("admin", &secret)), "admin/none").is_ok());
    assert!(registryd.terminate().success());
    assert!(!registryd.logs().contains(&secret));

    let made = own.files();
    let names: Vec<_> = made.keys().map(|path| path.strip_prefix(&own.data).unwrap()).collect();
    let expected = [
        "config.yaml",
        "mirror.lock",
        "quay.db",
        "quay.kid",
        "quay.pem",
        "storage",
        "tls.crt",
        "tls.key",
    ];
    assert_eq!(names, expected.map(Path::new));
    for (path, (mode, _)) in &made {
        assert_eq!(*mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    }
    assert_eq!(fs::metadata(&own.data).unwrap().permissions().mode() & 0o777, 0o700);
    let kept = |files: &BTreeMap<PathBuf, (u32, Vec<u8>)>| {
        files.values().any(|(_, bytes)| bytes.windows(secret.len()).any(|w| w == secret.as_bytes()))
    };
    assert!(!kept(&made), "the password is in a file");

    let mut registryd = own.start(&["--hostname", &own.hostname(), "--admin", "other"]);
    assert!(!registryd.printed().contains("password"), "{}", registryd.printed());
    assert_eq!(own.get("/v2/", &[]).status, 401);
    assert!(registryd.terminate().success());
    let now = own.files();
    assert_eq!(now.len(), made.len());
    for (path, before) in &made {
        assert!(now.get(path) == Some(before), "{} was changed", path.display());
    }
}

#[test]
fn the_administrator_logs_in_and_nobody_else() {
    let own = Own::new();
    let registryd = own.start(&["--admin", "ada"]);
    let secret = password(&registryd);
    // As `docker login` asks.
    let token = own.token(Some(("ada", &secret)), "").unwrap();
    let bearer = format!("Bearer {token}");
    assert_eq!(own.get("/v2/", &[("Authorization", &bearer)]).status, 200);
    assert_eq!(own.token(Some(("ada", "wrong")), "ada/none"), Err(401));
    assert_eq!(own.token(Some(("admin", &secret)), "ada/none"), Err(401));
    let realm = format!("realm=\"https://{}/v2/auth\"", own.hostname());
    let answer = own.get("/v2/", &[]);
    assert!(answer.status == 401 && answer.head.contains(&realm), "{answer:?}");
    let logged = "SELECT k.name FROM logentry3 l JOIN logentrykind k ON k.id = l.kind_id";
    assert_eq!(own.sql(logged), "login_success");
}

/// By ALPN, as containers' clients have it.
#[test]
fn clients_that_know_http_2_are_answered_by_http_1_1() {
    let own = Own::new();
    let registryd = own.start(&[]);
    let secret = password(&registryd);
    let url = format!("https://{}/v2/auth?service={}", own.hostname(), own.hostname());
    for version in ["--http2", "--http1.1"] {
        let mut curl = Command::new("curl");
        curl.args(["-s", version, "-o", "/dev/null", "-w", "%{http_version} %{http_code}"]);
        curl.args(["--noproxy", "*", "-u", &format!("admin:{secret}"), "--cacert"]);
        let said = run(curl.arg(own.path("tls.crt")).arg(&url)).stdout;
        assert_eq!(String::from_utf8(said).unwrap(), "1.1 200", "{version}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_its_remedy() {
    let own = Own::new();
    fs::create_dir(&own.data).unwrap();
    fs::write(own.path("notes.txt"), "mine").unwrap();
    let (code, said) = own.refusal(&[]);
    assert!(code == 64 && said.contains("is not empty"), "{code}: {said}");
    assert_eq!(own.files().len(), 1, "something was left there");
    fs::remove_file(own.path("notes.txt")).unwrap();

    for (args, expected) in [
        (&["--hostname", "https://x"][..], "is no NAME[:PORT]"),
        (&["--admin", "No One"], "is no user name"),
        (&["--listen", "0.0.0.0:0"], "0.0.0.0:0,public if it is meant to be"),
    ] {
        let (code, said) = own.refusal(args);
        assert!(code == 64 && said.contains(expected), "{code}: {said}");
    }
    let everywhere = Command::new(program())
        .args(["serve", "--mode", "mirror", "--listen", "0.0.0.0:0,public", "--data"])
        .arg(&own.data)
        .output()
        .unwrap();
    let said = String::from_utf8(everywhere.stderr).unwrap();
    assert!(said.contains("--hostname NAME[:PORT] is needed"), "{said}");

    own.start(&[]);
    for (args, expected) in [
        (&["--hostname", "else.example"][..], "--hostname does not agree with SERVER_HOSTNAME"),
        (&["--anonymous-pull"], "--anonymous-pull does not agree with FEATURE_ANONYMOUS_ACCESS"),
    ] {
        let (code, said) = own.refusal(args);
        assert!(code == 64 && said.contains(expected), "{code}: {said}");
    }
    for name in ["config.yaml", "quay.pem", "quay.db", "tls.key"] {
        let mode =
            |mode| fs::set_permissions(own.path(name), PermissionsExt::from_mode(mode)).unwrap();
        mode(0o644);
        let (code, said) = own.refusal(&[]);
        assert!(
            code == 64 && said.contains(&format!("chmod 600 {}", own.path(name).display())),
            "{said}"
        );
        mode(0o600);
    }
    for name in ["config.yaml", "quay.db"] {
        let away = own._folder.path().join("away");
        fs::rename(own.path(name), &away).unwrap();
        let (code, said) = own.refusal(&[]);
        assert!(code == 64 && said.contains(name) && said.contains("put it back"), "{said}");
        fs::rename(&away, own.path(name)).unwrap();
    }
    own.start(&[]);
}
