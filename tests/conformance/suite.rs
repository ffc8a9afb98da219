//! One run of the suite, and what it says about it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;

use crate::place::{Place, REPO, SOURCE};
use crate::support::process::AtExit;

/// What all of its names begin with.
const ROOT: &str = "OCI Conformance Test/";

/// A run takes seconds. The suite itself waits for an answer for ever.
const SECONDS: &str = "600";

/// What is asked unless the environment says otherwise: uploads are cancelled, which is off in the
/// suite's defaults for version 1.1 of the specification; and nothing is named by its SHA-512, for
/// Quay knows content by its SHA-256 alone, and so do we.
const DEFAULTS: [(&str, &str); 2] =
    [("OCI_API_BLOBS_UPLOAD_CANCEL", "true"), ("OCI_DATA_SHA512", "false")];

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    All,
    /// Only uploads, mounts, reads and deletions of blobs
    Blobs,
}

impl Part {
    /// The suite can be told to make only some checks, but then writes no report.
    fn has(self, check: &str) -> bool {
        match self {
            Self::All => true,
            Self::Blobs => ["sha256 blobs/", "sha512 blobs/"].iter().any(|p| check.starts_with(p)),
        }
    }
}

/// All of the suite is counted as the suite counts, a part by its test cases: those that make two
/// requests may be two checks for the suite.
#[derive(Default)]
pub struct Outcome {
    pub passed: usize,
    pub failed: usize,
    /// Those included that the suite was told not to make.
    pub skipped: usize,
    pub failures: Checks,
    pub skips: Checks,
}

/// Names and reasons of test cases, and how often.
pub type Checks = BTreeMap<(String, String), usize>;

pub struct Suite {
    pub program: PathBuf,
    pub part: Part,
}

impl Suite {
    /// Runs it against a place. Leaves the suite's reports in `out`, where older ones are removed.
    pub fn run(&self, place: &Place, out: &Path) -> Outcome {
        let _ = fs::remove_dir_all(out);
        fs::create_dir_all(out).unwrap_or_else(|e| panic!("{}: {e}", out.display()));
        let log = out.join("suite.log");
        self.command(place, out, &log);
        // It ends well also when it could not begin.
        let junit = fs::read_to_string(out.join("junit.xml"));
        let junit = junit.unwrap_or_else(|e| panic!("no report: {e}, see {}", log.display()));
        let outcome = Outcome::read(&junit, self.part);
        assert!(outcome.passed + outcome.failed > 0, "nothing was checked, see {}", log.display());
        outcome
    }

    fn command(&self, place: &Place, out: &Path, log: &Path) {
        let file = File::create(log).unwrap_or_else(|e| panic!("{}: {e}", log.display()));
        let again = file.try_clone().expect("a second handle");
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", SECONDS]).arg(&self.program).current_dir(out);
        command.stdin(Stdio::null()).stdout(file).stderr(again);
        command
            .env("OCI_REGISTRY", &place.address)
            .env("OCI_TLS", "disabled")
            .env("OCI_REPO1", format!("demo/{REPO}"))
            .env("OCI_REPO2", format!("demo/{SOURCE}"))
            .env_remove("OCI_FILTER_TEST")
            .env("OCI_RESULTS_DIR", out);
        command.envs(DEFAULTS.iter().filter(|(name, _)| std::env::var_os(name).is_none()).copied());
        if let Some(login) = &place.login {
            command.env("OCI_USERNAME", &login.username).env("OCI_PASSWORD", &login.password);
        }
        let mut child = command.spawn().expect("timeout runs: it is one of the coreutils");
        let _at_exit = AtExit::run(format!("kill {} 2>/dev/null", child.id()));
        let status = child.wait().expect("our own child");
        // 1 is a failed check.
        let ended = matches!(status.code(), Some(0 | 1));
        assert!(ended, "the suite ended with {status}, see {}", log.display());
    }
}

impl Outcome {
    /// From a report in JUnit's format. It has all text escaped, so a `<` begins a tag.
    fn read(junit: &str, part: Part) -> Outcome {
        let mut outcome = Outcome::default();
        for case in tags(junit, "testcase") {
            let name = attribute(case, "name").expect("a check has a name");
            let name = name.strip_prefix(ROOT).unwrap_or(&name);
            if part.has(name) {
                outcome.add(name, case);
            }
        }
        if part == Part::All {
            let suite = tags(junit, "testsuite")[0];
            let count = |name| attribute(suite, name).map_or(0, |n| n.parse().expect("a number"));
            outcome.failed = count("failures") + count("errors");
            outcome.skipped = count("skipped") + count("disabled");
            outcome.passed = count("tests") - outcome.failed - outcome.skipped;
        }
        outcome
    }

    fn add(&mut self, name: &str, case: &str) {
        let status = attribute(case, "status").expect("a check has a status");
        let (count, checks) = match status.as_str() {
            "passed" => {
                self.passed += 1;
                return;
            }
            "skipped" => (&mut self.skipped, &mut self.skips),
            _ => (&mut self.failed, &mut self.failures),
        };
        *count += 1;
        let said = case.split_once("<system-out>").map(|(_, said)| unescape(upto(said, "<")));
        let reason = said.as_deref().and_then(|said| said.lines().next());
        let reason = reason.unwrap_or("switched off in the suite's settings").to_owned();
        *checks.entry((name.to_owned(), reason)).or_default() += 1;
    }
}

/// Elements of this name, each from its attributes to where the next one begins.
fn tags<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    xml.split(&format!("<{name} ")).skip(1).collect()
}

fn attribute(element: &str, name: &str) -> Option<String> {
    let (_, value) = upto(element, ">").split_once(&format!("{name}=\""))?;
    Some(unescape(upto(value, "\"")))
}

fn upto<'a>(text: &'a str, end: &str) -> &'a str {
    text.split_once(end).map_or(text, |(before, _)| before)
}

fn unescape(text: &str) -> String {
    let mut text = text.to_owned();
    for (escape, character) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&#x9;", "\t"),
        ("&#xA;", "\n"),
        ("&#xD;", "\r"),
        // Last, for it may have made one of those.
        ("&amp;", "&"),
    ] {
        text = text.replace(escape, character);
    }
    text
}
