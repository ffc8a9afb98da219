//! nginx's own opinion about percentages.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use quay_sidecar::switches::{bucket, is_within};

use super::S;

/// A real nginx, of which only `split_clients` is asked.
struct Nginx {
    process: Child,
    dir: tempfile::TempDir,
}

impl Nginx {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path().display();
        let mut splits = String::new();
        let mut answer = String::new();
        for percent in 1..100 {
            writeln!(splits, "split_clients $arg_k $p{percent} {{ {percent}% 1; * 0; }}").unwrap();
            write!(answer, "$p{percent}").unwrap();
        }
        let conf = format!(
            "daemon off; master_process off; pid {here}/pid; error_log {here}/error.log;\n\
             events {{}}\nhttp {{ access_log off; variables_hash_max_size 4096;\n\
             client_body_temp_path {here}/a; proxy_temp_path {here}/b; fastcgi_temp_path {here}/c;\n\
             uwsgi_temp_path {here}/d; scgi_temp_path {here}/e;\n{splits}\
             server {{ listen unix:{here}/s; return 200 \"{answer}\"; }} }}\n"
        );
        std::fs::write(dir.path().join("conf"), conf).unwrap();
        let process = Command::new("nginx")
            .args(["-e", "error.log", "-p"])
            .arg(dir.path())
            .arg("-c")
            .arg(dir.path().join("conf"))
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is installed: see scripts/test");
        Self { process, dir }
    }

    /// For each percentage from 1, whether `name` is within it.
    fn within(&self, name: &str) -> Vec<bool> {
        let socket = self.dir.path().join("s");
        let deadline = std::time::Instant::now() + S(10);
        let mut stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(std::time::Instant::now() < deadline, "nginx: {error}"),
            }
            std::thread::yield_now();
        };
        write!(stream, "GET /?k={name} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, digits) = answer.split_once("\r\n\r\n").unwrap();
        digits.chars().map(|digit| digit == '1').collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn nginx_agrees_about_percentages() {
    let nginx = Nginx::start();
    for i in 0..200 {
        let name = format!("org{}/{}", i % 7, "r".repeat(i % 13 + 1) + &i.to_string());
        let ours: Vec<bool> = (1..100).map(|percent| is_within(bucket(&name), percent)).collect();
        assert_eq!(nginx.within(&name), ours, "{name}");
    }
}
