//! The real binary, as an operator would run it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::process::{AtExit, PATIENCE, eventually, lock, signal, wait};

pub struct Registryd {
    child: Child,
    /// What it printed about where it listens.
    listening: String,
    admin: String,
    printed: Output,
    log: Output,
    _at_exit: AtExit,
}

impl Registryd {
    /// Starts it and waits until it says that it is ready. It listens on free ports of 127.0.0.1,
    /// unless the arguments say otherwise.
    pub fn start(conf: &Path, args: &[&str]) -> Registryd {
        Registryd::start_with(conf, args, &[])
    }

    /// The same with variables of its own in the environment.
    pub fn start_with(conf: &Path, args: &[&str], environment: &[(&str, &str)]) -> Registryd {
        let launched = Registryd::try_launch_with(conf, args, environment);
        let registryd = launched.unwrap_or_else(|(status, log)| {
            panic!("registryd ended before it listened, {status}:\n{log}")
        });
        registryd.wait_until_ready();
        registryd
    }

    /// Waits until it says that it is ready.
    pub fn wait_until_ready(&self) {
        let is_ready =
            || self.admin_get("/readyz").filter(|(status, _)| *status == 200).map(|_| ());
        eventually(is_ready, || {
            format!("registryd is not ready: {:?}\n{}", self.admin_get("/readyz"), self.logs())
        });
    }

    /// Starts it and waits until it listens, ready or not.
    pub fn launch(conf: &Path, args: &[&str]) -> Registryd {
        Registryd::try_launch(conf, args).unwrap_or_else(|(status, log)| {
            panic!("registryd ended before it listened, {status}:\n{log}")
        })
    }

    /// The same for configurations that it ought to refuse: how it ended, and what it logged.
    pub fn try_launch(conf: &Path, args: &[&str]) -> Result<Registryd, (ExitStatus, String)> {
        Registryd::try_launch_with(conf, args, &[])
    }

    fn try_launch_with(
        conf: &Path,
        args: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Registryd, (ExitStatus, String)> {
        let mut command = Command::new(program());
        command.args(["serve", "registryd", "--config"]).arg(conf);
        command.envs(environment.iter().copied());
        for (option, default) in [("--port", "0"), ("--admin-listen", "127.0.0.1:0")] {
            let takes_place =
                |arg: &&str| *arg == option || (option == "--port" && *arg == "--listen");
            if !args.iter().any(takes_place) {
                command.args([option, default]);
            }
        }
        command.args(args);
        Registryd::try_run(command)
    }

    /// The same for a command that serves in whatever way.
    pub fn try_run(mut command: Command) -> Result<Registryd, (ExitStatus, String)> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let spawned = command.spawn();
        let mut child = spawned.unwrap_or_else(|e| panic!("{}: {e}", program()));
        let _at_exit = AtExit::run(format!("kill -KILL {}", child.id()));
        let printed = Output::of(child.stdout.take().expect("piped"));
        let mut log = Output::of(child.stderr.take().expect("piped"));

        let outcome = eventually(
            || {
                let printed = printed.so_far();
                match (
                    said(&printed, "registryd listening on "),
                    said(&printed, "admin listening on "),
                ) {
                    (Some(listening), Some(admin)) => Some(Ok((listening, admin))),
                    _ => child.try_wait().expect("our own child").map(Err),
                }
            },
            || {
                format!(
                    "registryd does not listen; it printed\n{}\nand logged\n{}",
                    printed.so_far(),
                    log.so_far()
                )
            },
        );
        match outcome {
            Ok((listening, admin)) => {
                Ok(Registryd { child, listening, admin, printed, log, _at_exit })
            }
            Err(status) => Err((status, log.finish())),
        }
    }

    /// `http://127.0.0.1:PORT`, where the registry is.
    pub fn base(&self) -> &str {
        assert!(self.listening.starts_with("http"), "it listens on {}", self.listening);
        &self.listening
    }

    /// `http://127.0.0.1:PORT`, where metrics and probes are.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base())
    }

    /// Everything it printed so far, which is not its log.
    pub fn printed(&self) -> String {
        self.printed.so_far()
    }

    /// Everything it logged so far.
    pub fn logs(&self) -> String {
        self.log.so_far()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A counter or gauge of /metrics, such as `requests_total{route="manifest"}`: the sum of every
    /// series that has at least these labels, 0 when there is none.
    pub fn metric(&self, wanted: &str) -> f64 {
        let (status, body) = self.admin_get("/metrics").expect("the admin listener answers");
        assert_eq!(status, 200, "{body}");
        let (name, labels) = series(wanted);
        body.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(found, _)| {
                let (found, having) = series(found);
                found == name && labels.iter().all(|label| having.contains(label))
            })
            .map(|(_, value)| value.parse::<f64>().expect("a number"))
            // Not `sum`, which is -0 for none.
            .fold(0.0, |sum, value| sum + value)
    }

    /// Resident memory in bytes, now and at its highest.
    pub fn memory(&self) -> (u64, u64) {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let kilobytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok())
                .expect(key)
        };
        (kilobytes("VmRSS:") * 1024, kilobytes("VmHWM:") * 1024)
    }

    /// Sends a signal by name: `HUP`, `STOP`, `CONT`, `TERM`.
    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Asks it to stop, and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        let status = wait(&mut self.child, "registryd");
        self.log.finish();
        status
    }

    /// An answer of the admin listener: status and body. None when there was no answer.
    pub fn admin_get(&self, path: &str) -> Option<(u16, String)> {
        get(self.admin.strip_prefix("http://")?, path).ok()
    }
}

impl Drop for Registryd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("registryd's log:\n{}", self.logs());
        }
        // Harmless when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary of this build; QUAY_BIN names another one, such as a release build.
pub fn program() -> String {
    let built = option_env!("CARGO_BIN_EXE_quay").map(str::to_owned);
    std::env::var("QUAY_BIN").ok().or(built).expect("a test knows it, else QUAY_BIN names it")
}

/// What a process writes to a pipe, read in the background.
struct Output {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Output {
    fn of(pipe: impl Read + Send + 'static) -> Output {
        let text = Arc::new(Mutex::new(String::new()));
        let target = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut lines = BufReader::new(pipe);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                lock(&target).push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Output { text, reader: Some(reader) }
    }

    fn so_far(&self) -> String {
        lock(&self.text).clone()
    }

    /// All of it, when the process has ended.
    fn finish(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("reading does not panic");
        }
        self.so_far()
    }
}

/// The rest of a complete line that starts like this.
fn said(printed: &str, start: &str) -> Option<String> {
    let complete = &printed[..=printed.rfind('\n')?];
    complete.lines().find_map(|line| line.strip_prefix(start)).map(str::to_owned)
}

/// `name{a="1",b="2"}` as a name and its labels.
fn series(text: &str) -> (&str, Vec<&str>) {
    let (name, rest) = text.split_once('{').unwrap_or((text, ""));
    let labels = rest.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
    (name, labels.collect())
}

/// The simplest of HTTP clients, for code that is not async. HTTP/1.0, so never chunked.
fn get(address: &str, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(std::io::ErrorKind::InvalidData)?, body.to_owned()))
}
