//! One report: a table to read, JSON to compare, a chart to show.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::load::Run;
use crate::mirrors::{Mirrored, Spent};
use crate::storm::Storm;
use crate::support::{Cluster, Registryd};
use crate::uploads::Measured;

const COLUMNS: [&str; 5] = [
    "registryd",
    "registryd, SQLite",
    "registryd, nginx",
    "docker-registry",
    "nginx, its own file",
];

pub struct Report {
    conditions: String,
    /// Kinds of request in order, each with the median run of everybody who answered it.
    rows: Vec<(String, BTreeMap<&'static str, Run>)>,
    signatures: Option<f64>,
    registryd: Option<(f64, f64, f64, f64)>,
    storms: Vec<Storm>,
    pushes: Vec<Measured>,
    mirrors: Vec<Mirrored>,
}

impl Report {
    pub fn new(connections: u32, seconds: u32, rounds: usize) -> Report {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let conditions = format!(
            "{cores} cores ({}) that servers, PostgreSQL and wrk share; {connections} connections, \
             median of {rounds} runs of {seconds} s",
            model.map_or("unknown", |(_, model)| model)
        );
        Report {
            conditions,
            rows: Vec::new(),
            signatures: None,
            registryd: None,
            storms: Vec::new(),
            pushes: Vec::new(),
            mirrors: Vec::new(),
        }
    }

    pub fn row(&mut self, name: &str, who: &'static str, mut runs: Vec<Run>) {
        runs.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        let median = runs.swap_remove(runs.len() / 2);
        match self.rows.last_mut() {
            Some((last, runs)) if last == name => drop(runs.insert(who, median)),
            _ => self.rows.push((name.to_owned(), BTreeMap::from([(who, median)]))),
        }
    }

    pub fn signatures(&mut self, rate: f64) {
        self.signatures = Some(rate);
    }

    /// What the registryd of the table has used at most.
    pub fn registryd(&mut self, registryd: &Registryd, cluster: &Cluster) {
        let connections = cluster.connections("quay-sidecar");
        let memory = registryd.metric("process_resident_memory_peak_bytes") / 1048576.0;
        let rows = registryd.metric("audit_rows_total{outcome=\"ok\"}");
        let commits = registryd.metric("audit_batches_total{outcome=\"ok\"}");
        self.registryd = Some((memory, connections, rows, commits));
    }

    pub fn storm(&mut self, storm: Storm) {
        self.storms.push(storm);
    }

    pub fn pushed(&mut self, measured: Measured) {
        self.pushes.push(measured);
    }

    pub fn mirrored(&mut self, mirrored: Mirrored) {
        self.mirrors.push(mirrored);
    }

    pub fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let text = self.text();
        for (name, content) in [
            ("report.md", text.clone()),
            ("report.json", format!("{:#}\n", self.json())),
            ("report.svg", self.chart()),
        ] {
            fs::write(folder.join(name), content).expect("our own folder");
        }
        print!("{text}");
        let wrong: usize = self.storms.iter().map(|storm| storm.wrong.len()).sum();
        assert!(wrong == 0, "{wrong} wrong answers");
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n", self.conditions);
        if !self.rows.is_empty() {
            text += &self.rates();
            text += &self.costs();
        }
        if let Some((memory, connections, rows, commits)) = self.registryd {
            let _ = writeln!(
                text,
                "\nregistryd of both tables: {memory:.1} MiB at its peak, {connections} connections, \
                 {rows} rows of the action log in {commits} commits."
            );
        }
        if let Some(rate) = self.signatures {
            let _ = writeln!(text, "OpenSSL signs {rate:.0} times a second on one core.");
        }
        if !self.pushes.is_empty() {
            text += &self.pushes();
        }
        if !self.mirrors.is_empty() {
            text += &self.mirrors();
        }
        if self.storms.is_empty() {
            return text;
        }
        text += "\n| 500 nodes in a second | requests | wrong | asked again | seconds | p50 | p99 | \
                 p99.9 | statements | memory |\n|---|---|---|---|---|---|---|---|---|---|\n";
        for storm in &self.storms {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {:.1} | {:.1} ms | {:.0} ms | {:.0} ms | {} | {:.1} MiB |",
                storm.name,
                storm.requests,
                storm.wrong.len(),
                storm.retried,
                storm.seconds,
                storm.p50_ms,
                storm.p99_ms,
                storm.p999_ms,
                per_request(storm.statements),
                storm.memory_mib
            );
        }
        for wrong in self.storms.iter().flat_map(|storm| storm.wrong.iter().take(3)) {
            let _ = writeln!(text, "wrong: {wrong}");
        }
        text
    }

    /// Pushes; in brackets, how many times that is what docker-registry does.
    fn pushes(&self) -> String {
        let mut text = "\n| push | registryd MB/s | docker-registry | CPU s/GiB, registryd | \
                        docker-registry | the least | hash alone | over the hash | peak MiB, registryd | docker-registry |\n\
                        |---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
        for pushed in &self.pushes {
            let (ours, docker) = (&pushed.registryd, &pushed.docker_registry);
            let _ = writeln!(
                text,
                "| {} | {:.1} ({:.2}x) | {:.1} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} | {:.1} |",
                pushed.case,
                ours.mb_per_s,
                ours.mb_per_s / docker.mb_per_s,
                docker.mb_per_s,
                ours.cpu_s_per_gib,
                docker.cpu_s_per_gib,
                pushed.least_s_per_gib,
                pushed.hash_s_per_gib,
                pushed.over_hash_s_per_gib,
                ours.peak_memory_mib,
                docker.peak_memory_mib,
            );
        }
        text
    }

    /// Mirrors; in brackets, how many times as quick as skopeo.
    fn mirrors(&self) -> String {
        let mut text = "\n| mirror, 20 ms away | | seconds | manifest requests | blob requests | \
                        of these again | others | connections | MB | peak MiB |\n\
                        |---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
        for Mirrored { case, quay, skopeo } in &self.mirrors {
            let times = format!(" ({:.1}x)", skopeo.seconds / quay.seconds);
            for (who, spent, times) in [("quay", quay, times), ("skopeo", skopeo, String::new())] {
                let Spent { seconds, megabytes, peak_memory_mib, .. } = spent;
                let _ = writeln!(
                    text,
                    "| {case} | {who} | {seconds:.2}{times} | {} | {} | {} | {} | {} | \
                     {megabytes:.2} | {peak_memory_mib:.1} |",
                    spent.manifest_requests,
                    spent.blob_requests,
                    spent.blobs_again,
                    spent.other_requests,
                    spent.connections,
                );
            }
        }
        text
    }

    /// Requests a second; in brackets, how many times that is what the peer does.
    fn rates(&self) -> String {
        let mut text = format!("\n| requests a second | {} |\n|---|", COLUMNS.join(" | "));
        text += &"---|".repeat(COLUMNS.len());
        text.push('\n');
        for (name, runs) in &self.rows {
            let _ = write!(text, "| {name} |");
            for who in COLUMNS {
                let peer = match who {
                    "registryd" | "registryd, SQLite" => runs.get("docker-registry"),
                    "registryd, nginx" => runs.get("nginx, its own file"),
                    _ => None,
                };
                let _ = match (runs.get(who), peer) {
                    (Some(run), Some(peer)) => {
                        write!(text, " {:.0} ({:.2}x) |", run.rate, run.rate / peer.rate)
                    }
                    (Some(run), None) => write!(text, " {:.0} |", run.rate),
                    (None, _) => write!(text, " |"),
                };
            }
            text.push('\n');
        }
        text
    }

    fn costs(&self) -> String {
        let mut text = "\n| | p50 | p99 | p99.9 | CPU of all servers | statements |\n\
                        |---|---|---|---|---|---|\n"
            .to_owned();
        for (name, runs) in &self.rows {
            for (who, run) in COLUMNS.iter().filter_map(|who| Some((who, runs.get(who)?))) {
                let _ = writeln!(
                    text,
                    "| {name}, {who} | {:.1} ms | {:.1} ms | {:.1} ms | {:.0} µs | {} |",
                    run.p50_ms,
                    run.p99_ms,
                    run.p999_ms,
                    run.cpu_us,
                    per_request(run.statements)
                );
            }
        }
        text
    }

    fn json(&self) -> Value {
        let rows: Vec<Value> =
            self.rows.iter().map(|(name, runs)| json!({"request": name, "by": runs})).collect();
        json!({
            "conditions": self.conditions,
            "rows": rows,
            "openssl_signatures_per_second": self.signatures,
            "registryd": self.registryd.map(|(memory, connections, rows, commits)| json!({
                "peak_memory_mib": memory, "connections": connections,
                "action_log_rows": rows, "action_log_commits": commits,
            })),
            "storms": self.storms,
            "pushes": self.pushes,
            "mirrors": self.mirrors,
        })
    }

    /// Bars of requests a second, each kind of request against its own longest.
    fn chart(&self) -> String {
        const COLOURS: [&str; 5] = ["#b7410e", "#8c6d1f", "#e0955f", "#5b7db1", "#9aa7b8"];
        let (mut bars, mut y) = (String::new(), 40.0);
        for (name, runs) in &self.rows {
            let _ = writeln!(bars, "<text x=\"10\" y=\"{}\">{name}</text>", y + 12.0);
            let most = runs.values().map(|run| run.rate).fold(1.0, f64::max);
            for (who, colour) in COLUMNS.iter().zip(COLOURS) {
                let Some(run) = runs.get(who) else { continue };
                let width = 360.0 * run.rate / most;
                let _ = writeln!(
                    bars,
                    "<rect x=\"190\" y=\"{y}\" width=\"{width:.0}\" height=\"14\" fill=\"{colour}\"/>\
                     <text x=\"{:.0}\" y=\"{}\">{:.0} {who}</text>",
                    196.0 + width,
                    y + 12.0,
                    run.rate
                );
                y += 18.0;
            }
            y += 10.0;
        }
        if !self.pushes.is_empty() {
            let _ = writeln!(
                bars,
                "<text x=\"10\" y=\"{}\" font-weight=\"bold\">Pushes: MB a second</text>",
                y + 14.0
            );
            y += 30.0;
        }
        for pushed in &self.pushes {
            let _ = writeln!(bars, "<text x=\"10\" y=\"{}\">{}</text>", y + 12.0, pushed.case);
            let rates = [pushed.registryd.mb_per_s, pushed.docker_registry.mb_per_s];
            let most = rates[0].max(rates[1]);
            for (column, rate) in [0, 2].into_iter().zip(rates) {
                let (who, colour, width) = (COLUMNS[column], COLOURS[column], 360.0 * rate / most);
                let _ = writeln!(
                    bars,
                    "<rect x=\"190\" y=\"{y}\" width=\"{width:.0}\" height=\"14\" fill=\"{colour}\"/>\
                     <text x=\"{:.0}\" y=\"{}\">{rate:.1} {who}</text>",
                    196.0 + width,
                    y + 12.0,
                );
                y += 18.0;
            }
            y += 10.0;
        }
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{y}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"10\" y=\"20\" font-weight=\"bold\">Requests a second</text>\n{bars}</svg>\n"
        )
    }
}

fn per_request(statements: f64) -> String {
    if statements.is_nan() { "".to_owned() } else { format!("{statements:.2}") }
}
