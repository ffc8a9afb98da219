//! Configurations and command lines that cannot work: exit code, and what is said about it.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use super::*;
use crate::support::Folder;

fn quay(args: &[&str]) -> Output {
    let program =
        std::env::var("QUAY_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_quay").to_owned());
    Command::new(program).args(args).output().expect("it runs")
}

/// That it ends like this, and says all of these on standard error.
#[track_caller]
fn assert_ends(args: &[&str], code: i32, said: &[&str]) {
    let output = quay(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    for words in said {
        assert!(stderr.contains(words), "{args:?}: no {words:?} in {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
}

/// That both commands refuse the folder in the same words.
#[track_caller]
fn assert_unusable(conf: &Path, said: &[&str]) {
    let conf = conf.to_str().expect("UTF-8");
    let said = [said, &["error: ", "  reason: ", "  remedy: "]].concat();
    assert_ends(&["config", "check", "--config", conf], 64, &said);
    assert_ends(&["serve", "registryd", "--config", conf, "--port", "0"], 64, &said);
}

#[test]
fn folders_without_a_usable_file() {
    let folder = Folder::new();
    let file = folder.path().join("config.yaml");
    let place = file.to_str().unwrap().to_owned();
    assert_unusable(&folder.path().join("missing"), &["config.yaml", "cannot be read"]);
    assert_unusable(folder.path(), &["config.yaml", &place, "cannot be read"]);
    std::fs::create_dir(&file).unwrap();
    assert_unusable(folder.path(), &["config.yaml", &place, "cannot be read"]);
    std::fs::remove_dir(&file).unwrap();

    let deep = format!("a: {}", "[".repeat(100_000));
    let huge = vec![b'#'; (4 << 20) + 1];
    for (content, reason) in [
        (&b""[..], "missing"),
        (b"- a\n- b\n", "not a map of settings"),
        (b"just words", "not a map of settings"),
        (b"a: [", "not valid YAML"),
        (b"a: b: c: d", "not valid YAML"),
        (b"\xff\xfe\x00\x01", "not UTF-8"),
        (b"a: *nothing", "not valid YAML"),
        (deep.as_bytes(), "not valid YAML"),
        (&huge, "larger than 4 MiB"),
    ] {
        std::fs::write(&file, content).unwrap();
        assert_unusable(folder.path(), &["config.yaml", &place, reason]);
    }
}

#[test]
fn settings_that_cannot_be_used() {
    let mut world = World::new();
    let before = world.settings.clone();
    for (key, value) in [
        ("SERVER_HOSTNAME", Value::Null),
        ("SERVER_HOSTNAME", 7.into()),
        ("SERVER_HOSTNAME", "https://quay.example/".into()),
        ("DB_URI", Value::Null),
        ("DB_URI", "mysql://u:hunter2hunter2@h/d".into()),
        ("DB_URI", vec!["a"].into()),
        ("DATABASE_SECRET_KEY", Value::Null),
        ("DISTRIBUTED_STORAGE_CONFIG", Value::Null),
        ("DISTRIBUTED_STORAGE_CONFIG", "LocalStorage".into()),
        ("V2_PAGINATION_SIZE", "many".into()),
        ("QUAY_SIDECAR", "fast".into()),
        ("FEATURE_ANONYMOUS_ACCESS", vec!["perhaps"].into()),
    ] {
        world.configure(key, value);
        let place = world.conf.join("config.yaml");
        // A missing key has no line of its own.
        let place = if world.settings.contains_key(key) { place.to_str().unwrap() } else { "" };
        assert_unusable(&world.conf, &[&format!("error: {key}"), place]);
        let conf = world.conf.to_str().unwrap();
        let output = quay(&["config", "check", "--config", conf]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let secrets = ["hunter2hunter2", before["SECRET_KEY"].as_str().unwrap()];
        assert!(!secrets.iter().any(|secret| said.contains(secret)), "{said}");
        world.configure(key, before.get(key).cloned().unwrap_or_default());
    }
    let conf = world.conf.to_str().unwrap();
    let output = quay(&["config", "check", "--config", conf]);
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && report.contains("SERVER_HOSTNAME"), "{report}");
    for key in ["SECRET_KEY", "DATABASE_SECRET_KEY"] {
        assert!(!report.contains(before[key].as_str().unwrap()), "{report}");
    }
}

#[test]
fn addresses_in_use() {
    let world = World::new();
    let conf = world.conf.to_str().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = taken.local_addr().unwrap().to_string();
    let folder = Folder::new();
    let path = folder.path().join("q.sock");
    let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let unix = format!("unix:{}", path.display());
    let serve = ["serve", "registryd", "--config", conf];
    for (args, said) in [
        (["--listen", &tcp, "--admin-listen", "127.0.0.1:0"], [&tcp, "in use"]),
        (["--port", "0", "--admin-listen", &tcp], [&tcp, "in use"]),
        (["--listen", &unix, "--admin-listen", "127.0.0.1:0"], [&unix, "another process"]),
    ] {
        let said = [&said[..], &["cannot listen on"]].concat();
        assert_ends(&[&serve[..], &args[..]].concat(), 1, &said);
    }
    let missing = format!("unix:{}", folder.path().join("none/q.sock").display());
    let args = ["--listen", &missing, "--admin-listen", "127.0.0.1:0"];
    assert_ends(&[&serve[..], &args[..]].concat(), 1, &["cannot listen on", &missing]);
}

#[test]
fn command_lines_that_mean_nothing() {
    let (config, serve) = (["config", "check"], ["serve", "registryd"]);
    for (command, args, said) in [
        (&config[..], &["--verbose"][..], "--verbose"),
        (&config, &[], "--config"),
        (&serve, &[], "--config"),
        (&serve, &["--config", "x", "--prot", "1"], "--prot"),
        (&serve, &["--config", "x", "--port", "99999"], "99999"),
        (&serve, &["--config", "x", "--port", "-1"], "-1"),
        (&serve, &["--config", "x", "--listen", "everywhere"], "everywhere"),
        (&serve, &["--config", "x", "--admin-listen", "unix:/x"], "unix:/x"),
        (&serve, &["--config", "x", "--listen", "0.0.0.0:0"], "0.0.0.0:0,public"),
        (&serve, &["--config", "x", "--listen", "[::]:0,public,nginx"], "unix:/path"),
        (&serve, &["--config", "x", "--admin-listen", "0.0.0.0:0"], "0.0.0.0:0,public"),
        (&["switch", "watch"], &["--admin-listen", "[::]:0"], "[::]:0,public"),
        (&["serve"], &["everything"], "everything"),
        (&["sevre"], &[], "sevre"),
        (&[], &[], "Usage"),
    ] {
        assert_ends(&[command, args].concat(), 64, &[said]);
    }
    for args in [&["--version"][..], &["--help"], &["version"], &["serve", "registryd", "--help"]] {
        assert_ends(args, 0, &[]);
    }
}
