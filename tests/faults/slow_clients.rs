//! Clients that never finish what they began (slowloris).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Instant;

use super::*;
use crate::support::World;
use crate::support::registryd::program;

#[test]
fn there_may_be_as_many_files_as_the_system_allows() {
    let world = World::new();
    let mut command = Command::new("prlimit");
    command.args(["--nofile=200:3000", &program(), "serve", "registryd", "--port", "0"]);
    command.args(["--admin-listen", "127.0.0.1:0", "--config"]).arg(&world.conf);
    let registryd = Registryd::try_run(command).unwrap_or_else(|(_, log)| panic!("{log}"));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", registryd.pid())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("3000"), "{files}");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_request_holds_up_nobody() {
    const SLOW: usize = 500;
    let world = World::new();
    let registryd = world.registryd();
    let address = registryd.base().strip_prefix("http://").unwrap();
    let (client, image) = (Client::of(&registryd), &world.public);
    let begin = |number: usize| {
        let mut stream = TcpStream::connect(address).unwrap();
        let half = ["", "G", "GET /v2/ HTTP/1.1\r\n", "GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: "];
        stream.write_all(half[number % half.len()].as_bytes()).unwrap();
        stream
    };
    let began = Instant::now();
    let slow: Vec<TcpStream> = (0..SLOW).map(begin).collect();

    for path in [by_tag(image), config(image), tags(image)] {
        for answer in client.storm(20, &path).await {
            assert_eq!(answer.status, 200, "{path}");
        }
    }
    assert!(began.elapsed() < RECOVERY, "others waited for {:?}", began.elapsed());
    assert_eq!(registryd.metric("http_requests_in_flight"), 0.0);
    let (_, peak) = registryd.memory();
    assert!(peak < 64 << 20, "{peak} bytes");

    // And they are not kept for long.
    for mut stream in slow {
        stream.set_read_timeout(Some(HANGS)).unwrap();
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        assert!(ended.is_ok(), "{ended:?} after {:?}", began.elapsed());
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
}
