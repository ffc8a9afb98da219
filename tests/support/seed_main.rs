//! Seeds an empty database, a storage folder and a configuration folder with a small registry:
//! `seed --db-uri URI --storage DIR --config DIR --hostname HOST:PORT`. Prints the credentials and
//! digests as `key=value` lines. Or puts an image into a registry of its own: `seed --data DIR`.

#![allow(dead_code, reason = "shared with the tests, which use more of it")]
#![allow(unreachable_pub, missing_docs, reason = "public to this program alone")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "seeding fails by panicking")]

mod images;
mod keys;
mod own_rows;
mod registry_fixture;
mod rows;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use images::{Blob, Manifest, OCI_LAYER};
use registry_fixture::Fixture;
use tokio_postgres::NoTls;

#[derive(Parser)]
#[command(name = "seed", about = "Fills an empty database with a small registry")]
struct Arguments {
    /// Instead, the data folder of a registry of its own: it gets a public image
    #[arg(long, value_name = "DIR", exclusive = true)]
    data: Option<PathBuf>,
    #[command(flatten)]
    quay: Option<Quay>,
}

#[derive(clap::Args)]
struct Quay {
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
    let arguments = Arguments::parse();
    let result = match (arguments.data, arguments.quay) {
        (Some(data), _) => seed_own(&data),
        (None, Some(quay)) => seed_quay(&quay),
        (None, None) => Err("--help says what it needs".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("seed: {message}");
            ExitCode::FAILURE
        }
    }
}

/// What `admin` could have pushed.
fn seed_own(data: &Path) -> Result<(), String> {
    const REPOSITORY: &str = "admin/hello";
    if !data.join("quay.db").is_file() {
        return Err(format!("{} is no registry of its own", data.display()));
    }
    let layers = [
        &[("etc/os-release", "NAME=\"Example Linux\"\n"), ("etc/motd", "Welcome.\n")][..],
        &[("hello", "Hello from a registry of its own.\n")],
    ];
    let layers = layers.map(|files| Blob::layer(OCI_LAYER, files));
    let image = Manifest::oci("amd64", layers.into());
    own_rows::put_image(data, REPOSITORY, "public", "latest", &image);
    println!("image={REPOSITORY}:latest");
    println!("digest={}", image.digest);
    Ok(())
}

fn seed_quay(arguments: &Quay) -> Result<(), String> {
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
