//! What pulling, pushing and mirroring cost, beside Debian's docker-registry, nginx, OpenSSL and
//! skopeo in the same run, and what storms of pulls meet: `bench --quay PATH --out DIR`. scripts/bench
//! builds and runs it.
//!
//! Everything runs on this machine, load generator and PostgreSQL included, so only ratios within a
//! run mean anything.

#![allow(dead_code, unused_imports, reason = "shares the tests' support, which has more")]
#![allow(unreachable_pub, missing_docs, reason = "public to this program alone")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a benchmark fails by panicking")]

#[path = "../bundle"]
mod bundle {
    pub mod backend;
    pub mod http;
    pub mod quay;
}
#[path = "../support"]
mod support {
    pub mod docker_registry;
    pub mod images;
    pub mod keys;
    pub mod mirror_rows;
    pub mod postgres;
    pub mod process;
    pub mod registry_fixture;
    pub mod registryd;
    pub mod rows;
    pub mod sqlite;
    pub mod stack;
    pub use postgres::{Cluster, Database, free_port};
    pub use process::{Folder, eventually};
    pub use registryd::Registryd;
}
mod delay;
mod load;
mod mirrors;
mod peers;
mod report;
mod storm;
mod uploads;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use load::{Load, Target};
use report::Report;
use support::docker_registry::DockerRegistry;
use support::stack::Stack;
use support::{Folder, Registryd, free_port};
use workload::Workload;

#[derive(Parser)]
#[command(name = "bench", about = "What pulling, pushing and mirroring cost, beside others")]
struct Arguments {
    /// The program under test
    #[arg(long, value_name = "PATH")]
    quay: PathBuf,
    /// Where report.md, report.json and report.svg go
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Of each measurement
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Measurements of each kind, in turn; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Of the load generator
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Only requests whose name contains this, and no storms
    #[arg(long, value_name = "TEXT", conflicts_with = "storms")]
    only: Option<String>,
    /// Only the storms
    #[arg(long)]
    storms: bool,
    /// Only pushes; with a text, those whose name contains it
    #[arg(long, value_name = "TEXT", num_args = 0..=1, default_missing_value = "",
          conflicts_with_all = ["only", "storms"])]
    pushes: Option<String>,
    /// Also 2 GiB from 16 clients at once, for which 40 GiB have to be free
    #[arg(long, conflicts_with_all = ["only", "storms", "mirrors"])]
    large: bool,
    /// Only mirrors
    #[arg(long, conflicts_with_all = ["only", "storms", "pushes"])]
    mirrors: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let binary = arguments.quay.canonicalize().expect("--quay is a program");
    let mut workload = None;
    let (files, carried) = (free_port(), Folder::new());
    let sqlite = carried.path().join("quay.db");
    let stack = Stack::boot(binary, &peers::file_server(files), |fixture| {
        workload = Some(Workload::seed(fixture));
        let from = fixture.settings["DB_URI"].as_str().expect("a URI");
        support::sqlite::carry_over(from, &sqlite);
    });
    let workload = workload.expect("seeded");
    stack.set("ROUTE_OWNER_CAP_V2_AUTH=rust");
    stack.switch("rust");
    let mut report = Report::new(arguments.connections, arguments.seconds, arguments.rounds);
    if let Some(only) = &arguments.pushes {
        pushes(&arguments, &stack, only, &mut report);
        return report.write(&arguments.out);
    }
    if arguments.mirrors {
        mirrors::all(&stack).into_iter().for_each(|mirrored| report.mirrored(mirrored));
        return report.write(&arguments.out);
    }
    if !arguments.storms {
        let sqlite = peers::OnSqlite::start(&stack.fixture, &sqlite);
        steady(&arguments, &stack, files, &sqlite, &workload, &mut report);
    }
    if arguments.only.is_none() {
        for storm in storm::all(&stack, &workload) {
            report.storm(storm);
        }
        if !arguments.storms {
            pushes(&arguments, &stack, "", &mut report);
            mirrors::all(&stack).into_iter().for_each(|mirrored| report.mirrored(mirrored));
        }
    }
    report.write(&arguments.out);
}

/// Every kind of push, to a registryd of its own and to docker-registry.
fn pushes(arguments: &Arguments, stack: &Stack, only: &str, report: &mut Report) {
    let folder = Folder::new();
    let socket = &folder.path().join("registryd.sock");
    let listen = format!("unix:{}", socket.display());
    let listen = ["--listen", "127.0.0.1:0", "--listen", &listen];
    let registryd = &Registryd::start(&stack.fixture.conf, &listen);
    let (fixture, docker) = (&stack.fixture, DockerRegistry::start());
    let peers = uploads::Peers { registryd, socket, fixture, docker };
    for case in uploads::cases(arguments.large).iter().filter(|case| case.is(only)) {
        report.pushed(case.measure(&peers, arguments.rounds));
    }
}

/// Every kind of request, to everybody who can answer it, turn and turn about.
fn steady(
    arguments: &Arguments,
    stack: &Stack,
    files: u16,
    sqlite: &peers::OnSqlite,
    workload: &Workload,
    report: &mut Report,
) {
    let registryd = Registryd::start(&stack.fixture.conf, &[]);
    let docker = peers::docker_registry(workload);
    let docker = format!("http://127.0.0.1:{}", docker.port);
    let load = Load {
        seconds: Duration::from_secs(arguments.seconds.into()),
        connections: arguments.connections,
    };
    let direct = registryd.base().to_owned();
    let nginx = format!("http://127.0.0.1:{}", stack.quay.port);
    let files = format!("http://127.0.0.1:{files}");
    let only = arguments.only.as_deref().unwrap_or_default();
    let rows = workload.rows(&stack.fixture, &registryd);
    for row in rows.iter().filter(|row| row.name.contains(only)) {
        let mut targets = vec![Target::new("registryd", &direct, &row.path, &row.headers)];
        if row.on_sqlite {
            let base = sqlite.registryd.base();
            targets.push(Target::new("registryd, SQLite", base, &row.path, &row.headers));
        }
        if row.through_nginx {
            targets.push(Target::new("registryd, nginx", &nginx, &row.path, &row.headers));
        }
        if let Some(path) = &row.docker {
            targets.push(Target::new("docker-registry", &docker, path, &row.headers[..1]));
        }
        if let Some(path) = &row.file {
            targets.push(Target::new("nginx, its own file", &files, path, &[]));
        }
        let mut rounds = vec![Vec::new(); targets.len()];
        for round in 1..=arguments.rounds {
            eprintln!("==> {}, round {round} of {}", row.name, arguments.rounds);
            for (target, runs) in targets.iter().zip(&mut rounds) {
                let asked = match target.who {
                    "registryd, SQLite" => &sqlite.registryd,
                    _ => &registryd,
                };
                let before = asked.metric("db_statements_total");
                let mut run = load.run(target, row.connections);
                let statements = asked.metric("db_statements_total") - before;
                // Only of those that are asked directly.
                run.statements = match target.who {
                    "registryd" | "registryd, SQLite" => statements / run.requests,
                    _ => f64::NAN,
                };
                runs.push(run);
            }
        }
        for (target, runs) in targets.iter().zip(rounds) {
            report.row(&row.name, target.who, runs);
        }
    }
    report.signatures(peers::openssl_signatures());
    report.registryd(&registryd, &stack.cluster);
}
