//! Seeds an empty database, a storage folder and a configuration folder with a small registry:
//! `seed --db-uri URI --storage DIR --config DIR --hostname HOST:PORT`. Prints the credentials and
//! digests as `key=value` lines.

#![allow(dead_code, reason = "shared with the tests, which use more of it")]
#![allow(unreachable_pub, missing_docs, reason = "public to this program alone")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "seeding fails by panicking")]

mod images;
mod keys;
mod registry_fixture;
mod rows;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use registry_fixture::Fixture;
use tokio_postgres::NoTls;

#[derive(Parser)]
#[command(name = "seed", about = "Fills an empty database with a small registry")]
struct Arguments {
    #[arg(long, value_name = "URI")]
    db_uri: String,
    /// Where the blobs go
    #[arg(long, value_name = "DIR")]
    storage: PathBuf,
    /// Where config.yaml and the instance key go
    #[arg(long, value_name = "DIR")]
    config: PathBuf,
    /// SERVER_HOSTNAME: the address that clients use
    #[arg(long, value_name = "HOST:PORT")]
    hostname: String,
}

fn main() -> ExitCode {
    match seed(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("seed: {message}");
            ExitCode::FAILURE
        }
    }
}

fn seed(arguments: &Arguments) -> Result<(), String> {
    require_empty(&arguments.db_uri)?;
    let mut folders = Vec::new();
    for folder in [&arguments.storage, &arguments.config] {
        let absolute = std::fs::create_dir_all(folder).and_then(|()| folder.canonicalize());
        folders.push(absolute.map_err(|e| format!("{}: {e}", folder.display()))?);
    }
    let fixture = Fixture::seed(&arguments.db_uri, &folders[0], &folders[1], &arguments.hostname);
    for login in [&fixture.ada, &fixture.bob, &fixture.puller] {
        let name = login.username.rsplit('+').next().unwrap_or_default();
        println!("{name}_username={}", login.username);
        println!("{name}_password={}", login.password);
    }
    for (name, image) in [
        ("public", &fixture.public),
        ("private", &fixture.private),
        ("docker", &fixture.docker),
        ("multi", &fixture.index),
    ] {
        println!("{name}_image={}:{}", image.repo, image.tag);
        println!("{name}_digest={}", image.manifest.digest);
    }
    Ok(())
}

/// Never a database in use: neither a real Quay's nor one that was seeded before.
#[tokio::main(flavor = "current_thread")]
async fn require_empty(db_uri: &str) -> Result<(), String> {
    let failed = |e: tokio_postgres::Error| match std::error::Error::source(&e) {
        Some(cause) => format!("the database: {cause}"),
        None => format!("the database: {e}"),
    };
    let (client, connection) = tokio_postgres::connect(db_uri, NoTls).await.map_err(failed)?;
    tokio::spawn(connection);
    let count = "SELECT count(*) FROM information_schema.tables
                 WHERE table_schema NOT IN ('pg_catalog', 'information_schema')";
    match client.query_one(count, &[]).await.map_err(failed)?.get(0) {
        0i64 => Ok(()),
        tables => Err(format!("the database has {tables} tables; it must be empty")),
    }
}
