//! The OCI's conformance suite against registryd, each way that clients reach it on each database,
//! and against Debian's docker-registry for comparison: `conformance --quay PATH --suite PATH --out
//! DIR`. scripts/conformance installs the suite, builds and runs this.
//!
//! The suite's own settings, such as `OCI_DATA_SHA512=true`, are those of the environment.

#![allow(dead_code, unused_imports, reason = "shares the tests' support, which has more")]
#![allow(unreachable_pub, missing_docs, reason = "public to this program alone")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "it fails by panicking")]

#[path = "../bundle"]
mod bundle {
    pub mod backend;
    pub mod http;
    pub mod quay;
}
#[path = "../support"]
mod support {
    pub mod database;
    pub mod docker_registry;
    pub mod images;
    pub mod keys;
    pub mod postgres;
    pub mod process;
    pub mod registry_fixture;
    pub mod registryd;
    pub mod rows;
    mod sqlite;
    pub mod stack;
    pub use database::Database;
    pub use postgres::{Cluster, free_port};
    pub use process::{Folder, eventually};
    pub use registryd::Registryd;
}
mod place;
mod suite;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use place::Place;
use suite::{Outcome, Part, Suite};

#[derive(Parser)]
#[command(name = "conformance", about = "The OCI's conformance suite, in every combination")]
struct Arguments {
    /// The program under test
    #[arg(long, value_name = "PATH")]
    quay: PathBuf,
    /// The program of the suite
    #[arg(long, value_name = "PATH")]
    suite: PathBuf,
    /// Where the reports go, in a folder for each combination
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Only these combinations; all unless told otherwise
    #[arg(long, value_delimiter = ',', value_name = "COMBINATION")]
    only: Vec<Combination>,
    /// Only these checks
    #[arg(long, value_enum, default_value_t = Part::All)]
    part: Part,
}

/// What the suite is run against.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Combination {
    PostgresDirect,
    PostgresNginx,
    SqliteDirect,
    SqliteNginx,
    DockerRegistry,
}

impl Combination {
    fn name(self) -> String {
        self.to_possible_value().expect("none is hidden").get_name().to_owned()
    }

    /// Whether its failures are failures of this program.
    fn is_ours(self) -> bool {
        self != Self::DockerRegistry
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let quay = arguments.quay.canonicalize().expect("--quay is a program");
    let program = arguments.suite.canonicalize().expect("--suite is a program");
    let suite = Suite { program, part: arguments.part };
    let reports = std::path::absolute(&arguments.out).expect("--out is a path");
    let mut chosen = arguments.only;
    if chosen.is_empty() {
        chosen = Combination::value_variants().to_vec();
    }
    let mut outcomes = Vec::new();
    for combination in chosen {
        let name = combination.name();
        eprintln!("==> {name}");
        let out = reports.join(&name);
        let place = Place::start(combination, &quay);
        let outcome = suite.run(&place, &out);
        let log = out.join("registry.log");
        std::fs::write(&log, place.log()).unwrap_or_else(|e| panic!("{}: {e}", log.display()));
        let handed_on = place.handed_on();
        if handed_on > 0 {
            println!("{name}: {handed_on} requests were answered by the stand-in for Python");
        }
        outcomes.push((combination, outcome));
    }
    for (combination, outcome) in &outcomes {
        if combination.is_ours() {
            tell(&combination.name(), outcome);
        }
    }
    table(&outcomes);
    println!("reports of the suite: {}/*/report.html", reports.display());
    let failed = outcomes.iter().any(|(who, outcome)| who.is_ours() && outcome.failed > 0);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Which checks did not pass, those of the same name and reason together.
fn tell(name: &str, outcome: &Outcome) {
    for (what, checks) in [("skipped", &outcome.skips), ("failed", &outcome.failures)] {
        for ((check, reason), times) in checks {
            let times = if *times > 1 { format!(" ({times} times)") } else { String::new() };
            println!("{name} {what}: {check}{times}: {reason}");
        }
    }
}

fn table(outcomes: &[(Combination, Outcome)]) {
    println!("\n{:<18} | passed | failed | skipped", "combination");
    println!("{}", "-".repeat(48));
    for (combination, outcome) in outcomes {
        let Outcome { passed, failed, skipped, .. } = outcome;
        println!("{:<18} | {passed:>6} | {failed:>6} | {skipped:>7}", combination.name());
    }
    println!();
}
