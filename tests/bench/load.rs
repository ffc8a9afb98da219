//! wrk against one URL, and what the machine spent on it.

use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

use serde::Serialize;

/// Prints what wrk's own summary leaves out.
const SCRIPT: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("measured %d %f %f %f %f %d\n", summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency:percentile(99.9) / 1e3, e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

pub struct Load {
    pub seconds: Duration,
    pub connections: u32,
}

pub struct Target {
    pub who: &'static str,
    url: String,
    headers: Vec<String>,
}

impl Target {
    pub fn new(who: &'static str, base: &str, path: &str, headers: &[String]) -> Target {
        Target { who, url: format!("{base}{path}"), headers: headers.to_vec() }
    }
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub requests: f64,
    /// Requests a second.
    pub rate: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    /// Everything on this machine but wrk, kernel included.
    pub cpu_us: f64,
    /// Sent to PostgreSQL, for each request.
    pub statements: f64,
}

impl Load {
    /// Panics when any answer was not a success: a refusal is quick, but not a figure.
    pub fn run(&self, target: &Target, connections: Option<u32>) -> Run {
        let script = std::env::temp_dir().join(format!("quay-bench-{}.lua", std::process::id()));
        fs::write(&script, SCRIPT).expect("a temporary file");
        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", "--timeout", "10s"])
            .arg(format!("-c{}", connections.unwrap_or(self.connections)));
        wrk.arg(format!("-d{}s", self.seconds.as_secs())).arg("-s").arg(&script);
        for header in &target.headers {
            wrk.args(["-H", header]);
        }
        let before = (busy_ticks(), childrens_ticks());
        let output = wrk.arg(&target.url).output().expect("wrk runs: scripts/bench installs it");
        let spent = (busy_ticks() - before.0) - (childrens_ticks() - before.1);
        let _ = fs::remove_file(&script);
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find_map(|line| line.strip_prefix("measured "));
        let line = line.unwrap_or_else(|| panic!("wrk measured nothing: {output:?}"));
        let numbers: Vec<f64> = line.split(' ').map(|word| word.parse().expect(line)).collect();
        let [requests, seconds, p50_ms, p99_ms, p999_ms, errors] = numbers[..] else {
            panic!("wrk said {line}");
        };
        assert!(errors == 0.0 && requests > 0.0, "{}: {errors} errors: {text}", target.url);
        // A tick is 10 ms on every Linux that reports them here (proc(5), USER_HZ).
        let cpu_us = spent * 10_000.0 / requests;
        Run { requests, rate: requests / seconds, p50_ms, p99_ms, p999_ms, cpu_us, statements: 0.0 }
    }
}

/// Everything that was not idle, on all cores.
fn busy_ticks() -> f64 {
    let stat = fs::read_to_string("/proc/stat").expect("Linux");
    let cpu: Vec<f64> = stat
        .lines()
        .next()
        .expect("cpu")
        .split_whitespace()
        .skip(1)
        .map(|word| word.parse().expect("ticks"))
        .collect();
    // user, nice, system, irq, softirq
    [0, 1, 2, 5, 6].iter().map(|index| cpu[*index]).sum()
}

/// Of children that have ended.
fn childrens_ticks() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit(") ").next().expect("fields");
    let field = |n: usize| after_name.split(' ').nth(n - 3).and_then(|word| word.parse().ok());
    let (user, system): (Option<f64>, Option<f64>) = (field(16), field(17));
    user.zip(system).map(|(user, system)| user + system).expect("ticks")
}
