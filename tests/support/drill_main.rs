//! Flips, kills and stalls under a constant load: the real nginx, supervisord, registryd and watcher
//! in a stand-in Quay, with a stand-in for Python. `drill --quay PATH --minutes 10 --flips 60`, or
//! `--quick` for the short story of scripts/quickstart. The last line is `N requests, F failed`.

#![allow(dead_code, unused_imports, reason = "shared with the tests, which use more of it")]
#![allow(unreachable_pub, missing_docs, reason = "public to this program alone")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a drill fails by panicking")]

#[path = "../bundle"]
mod bundle {
    pub mod backend;
    pub mod http;
    pub mod quay;
}
#[path = "."]
mod support {
    pub mod history;
    pub mod images;
    pub mod keys;
    pub mod postgres;
    pub mod process;
    pub mod push_load;
    pub mod registry_fixture;
    pub mod registryd;
    mod rows;
    pub mod stack;
    pub use postgres::{Cluster, Database, free_port};
    pub use process::{Folder, eventually};
    pub use registryd::Registryd;
}

use std::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bundle::http::Client;
use bundle::quay::Quay;
use clap::Parser;
use support::Registryd;
use support::history;
use support::postgres::psql;
use support::process::lock;
use support::push_load::{PushLoad, owners_at};
use support::registry_fixture::Fixture;
use support::stack::{ACCEPT, Stack, TAG};

#[derive(Parser)]
#[command(name = "drill", about = "Flips, kills and stalls under load")]
struct Arguments {
    /// The program under test
    #[arg(long, value_name = "PATH")]
    quay: PathBuf,
    /// How long the flips take together
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    #[arg(long, default_value_t = 60)]
    flips: u32,
    /// Requests in a second, all clients together
    #[arg(long, default_value_t = 400.0)]
    rate: f64,
    /// 4 flips and one kill, told as a story
    #[arg(long)]
    quick: bool,
    /// Flips of pushes instead of pulls, one after another; QUAY_BIN names the program again
    #[arg(long, conflicts_with = "quick")]
    pushes: bool,
}

/// An owner, from the time that it was written as a switch.
struct Turn {
    owner: &'static str,
    written: Instant,
    applied: Instant,
    /// From written to applied, as `quay switch set` measured it.
    seconds: f64,
}

impl Turn {
    fn flip(stack: &Stack, owner: &'static str) -> Turn {
        let written = Instant::now();
        let seconds = stack.switch(owner);
        Turn { owner, written, applied: Instant::now(), seconds }
    }
}

fn pause(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "the drill's own rhythm")]
    std::thread::sleep(time);
}

struct Sample {
    began: Instant,
    took: Duration,
    /// Who answered, or what went wrong.
    owner: Result<String, String>,
}

/// Two kept connections, and two threads that connect anew for each request, at a constant rate.
struct Load {
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(stack: &Stack, rate: f64) -> Load {
        let manifest = &stack.fixture.public.manifest;
        let layer = &manifest.layers()[0];
        let wanted = [
            (TAG.to_owned(), manifest.bytes.clone()),
            (format!("/v2/demo/public/manifests/{}", manifest.digest), manifest.bytes.clone()),
            (format!("/v2/demo/public/blobs/{}", layer.digest), layer.bytes.clone()),
        ];
        let (stop, samples) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let clients = [true, true, false, false];
        let interval = Duration::from_secs_f64(clients.len() as f64 / rate);
        let threads = clients.map(|keep| {
            let (stop, samples, wanted) = (stop.clone(), samples.clone(), wanted.clone());
            let port = stack.quay.port;
            std::thread::spawn(move || {
                let mut client = Client::new(port);
                let mut due = Instant::now();
                for (path, content) in wanted.iter().cycle() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    if !keep {
                        client = Client::new(port);
                    }
                    let began = Instant::now();
                    let owner = match client.send("GET", path, &ACCEPT, None) {
                        Ok(answer) if answer.status == 200 => match answer.owner() {
                            "rust" if answer.body == *content => Ok("rust".to_owned()),
                            "python" if answer.by() == "python" => Ok("python".to_owned()),
                            _ => Err(format!("{path}: not its answer: {:?}", answer.headers)),
                        },
                        Ok(answer) => Err(format!("{path}: {} {}", answer.status, answer.text())),
                        Err(error) => Err(format!("{path}: {error}")),
                    };
                    lock(&samples).push(Sample { began, took: began.elapsed(), owner });
                    // What was late is not made up for: that would be a burst.
                    due = (due + interval).max(Instant::now());
                    pause(due.saturating_duration_since(Instant::now()));
                }
            })
        });
        Load { stop, samples, threads: threads.into() }
    }

    /// What a kill or a stall cost those who pulled meanwhile.
    fn cost(&self, what: &str, disturb: impl FnOnce()) {
        let began = Instant::now();
        disturb();
        let lasted = began.elapsed();
        // Let those end that wait.
        pause(Duration::from_secs(1));
        let samples = lock(&self.samples);
        let met: Vec<&Sample> = samples.iter().filter(|s| s.began + s.took >= began).collect();
        let longest = met.iter().map(|sample| sample.took).max().unwrap_or_default();
        let failed = met.iter().filter(|sample| sample.owner.is_err()).count();
        println!(
            "{what:<24} rust again after {:.1} s, longest wait {:.0} ms, {} requests, {failed} failed",
            lasted.as_secs_f64(),
            ms(longest),
            met.len()
        );
    }

    /// Prints the sums; true when none has failed, and none was answered out of its turn.
    fn report(self, turns: &[Turn]) -> bool {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let samples = lock(&self.samples);
        let mut owners = BTreeMap::<&str, usize>::new();
        let mut failed = Vec::new();
        for sample in samples.iter() {
            match &sample.owner {
                Ok(owner) => *owners.entry(owner).or_default() += 1,
                Err(error) => failed.push(error),
            }
        }
        let owners: Vec<String> = owners.iter().map(|(who, n)| format!("{who} {n}")).collect();
        let mut took: Vec<Duration> = samples.iter().map(|sample| sample.took).collect();
        took.sort();
        let at = |part: usize| ms(took[(took.len() - 1) * part / 100]);
        println!("answered by              {}", owners.join(", "));
        println!(
            "latency                  p50 {:.1} ms, p99 {:.1} ms, max {:.0} ms",
            at(50),
            at(99),
            at(100)
        );
        let (checked, wrong) = out_of_turn(&samples, turns);
        if !turns.is_empty() {
            println!("owner at the time        {checked} checked, {} wrong", wrong.len());
        }
        for wrong in wrong.iter().take(3).chain(wrong.last()) {
            println!("wrong: {wrong}");
        }
        for error in failed.iter().take(5) {
            println!("failed: {error}");
        }
        println!("{} requests, {} failed", samples.len(), failed.len());
        failed.is_empty() && wrong.is_empty()
    }
}

/// How many answers lie between two turns' changes, and those of them that are not by the owner
/// whose turn it was. While a switch is on its way, either owner is right.
fn out_of_turn(samples: &[Sample], turns: &[Turn]) -> (usize, Vec<String>) {
    let (mut checked, mut wrong) = (0, Vec::new());
    for sample in samples {
        let Ok(owner) = &sample.owner else { continue };
        let end = sample.began + sample.took;
        let within = |pair: &[Turn]| pair[0].applied <= sample.began && end <= pair[1].written;
        let Some(turn) = turns.windows(2).position(within) else { continue };
        checked += 1;
        if owner != turns[turn].owner {
            let after = ms(sample.began - turns[turn].applied);
            let number = turn + 1;
            wrong.push(format!("flip {number}: {owner} {after:.0} ms after it was applied"));
        }
    }
    (checked, wrong)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Who answers before and after each step.
fn story(stack: &Stack) {
    let tell = |when: &str| println!("{when:<36} {}", stack.owner());
    tell("before");
    for round in ["", " again"] {
        Turn::flip(stack, "rust");
        tell(&format!("after the flip{round}"));
        if round.is_empty() {
            stack.supervisor.signal("registryd", "KILL").unwrap();
            stack.until("python");
            println!("{:<36} python", "after kill -9 of registryd");
            stack.until("rust");
            tell("when it has started again");
        }
        Turn::flip(stack, "python");
        tell(&format!("after flipping back{round}"));
    }
}

fn drill(stack: &Stack, load: &Load, minutes: f64, flips: u32) -> Vec<Turn> {
    println!("{flips} flips in {minutes} minutes, on 2 kept and 2 new connections");
    let began = Instant::now();
    let mut turns = Vec::new();
    for flip in 0..flips {
        let due = Duration::from_secs_f64(minutes * 60.0 * f64::from(flip) / f64::from(flips));
        pause(due.saturating_sub(began.elapsed()));
        turns.push(Turn::flip(stack, if flip % 2 == 0 { "rust" } else { "python" }));
    }
    // Nothing is checked after the last turn: kills and stalls move owners too.
    turns.push(Turn::flip(stack, "rust"));
    let mut took: Vec<f64> = turns.iter().map(|turn| turn.seconds).collect();
    took.sort_by(f64::total_cmp);
    if let [least, .., most] = took[..] {
        let median = took[took.len() / 2];
        println!(
            "propagation              {} times, min {least:.1} s, median {median:.1} s, max {most:.1} s",
            took.len()
        );
    }
    let both = ["registryd", "owner-switch"];
    load.cost("kill -9 of registryd", || stack.disturb(&both[..1], "KILL"));
    load.cost("SIGSTOP of registryd", || stack.disturb(&both[..1], "STOP"));
    load.cost("kill -9 of the watcher", || stack.disturb(&both[1..], "KILL"));
    load.cost("kill -9 of both", || stack.disturb(&both, "KILL"));
    turns
}

/// Who can go on with an upload: a second registryd on the same database and storage.
fn second_registryd(quay: &Quay, fixture: &Fixture) -> Box<dyn Any> {
    let socket = format!("unix:{}", quay.python_socket().display());
    Box::new(Registryd::start(&fixture.conf, &["--listen", &socket]))
}

/// Pushes flip as pulls do, and deletions with them or without, in a stack of their own, while images
/// are pushed, pulled and deleted without a pause.
fn pushes(binary: &Path, flips: u32) -> bool {
    println!("\n{flips} flips of pushes and deletions, under 3 that push, pull and delete images");
    let stack = Stack::boot_beside(second_registryd, binary.to_owned(), "", |_| ());
    let load = PushLoad::start(stack.quay.port, &stack.fixture);
    let mut took: Vec<f64> = (0..flips)
        .map(|flip| {
            let seconds = stack.set(&owners_at(flip));
            load.wait_for_more(3);
            seconds
        })
        .collect();
    let pushed = load.stop();
    took.sort_by(f64::total_cmp);
    if let [.., most] = took[..] {
        println!("propagation              median {:.1} s, max {most:.1} s", took[took.len() / 2]);
    }
    for error in pushed.failed.iter().take(5) {
        println!("failed: {error}");
    }
    let sql = |statement: &str| psql(&stack.cluster.uri("drill"), statement);
    let (broken, halves) = (history::broken(sql), history::halves(sql));
    println!("histories of tags        {}", if broken.is_empty() { "linear" } else { &broken });
    println!("manifests by halves      {}", if halves.is_empty() { "none" } else { &halves });
    println!(
        "{} images pushed, {} of them by both owners, {} deleted; {} requests, {} failed",
        pushed.images,
        pushed.crossed,
        pushed.deleted,
        pushed.requests,
        pushed.failed.len()
    );
    pushed.failed.is_empty() && pushed.crossed > 0 && broken.is_empty() && halves.is_empty()
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let binary = arguments.quay.canonicalize().expect("--quay is a program");
    if arguments.pushes {
        let good = pushes(&binary, arguments.flips);
        return if good { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let stack = Stack::boot(binary, "", |_| ());
    let load = Load::start(&stack, arguments.rate);
    let turns = if arguments.quick {
        story(&stack);
        Vec::new()
    } else {
        drill(&stack, &load, arguments.minutes, arguments.flips)
    };
    let good = load.report(&turns);
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
