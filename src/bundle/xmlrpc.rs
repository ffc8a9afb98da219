//! Starting and stopping programs through supervisord's own socket (contract §5), as supervisorctl
//! does: XML-RPC over HTTP over a Unix socket, whose only guard is that its user is ours.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regex::Regex;

/// Answers are short; what is longer is none of supervisord's.
const LONGEST_ANSWER: u64 = 1024 * 1024;

/// A program as supervisord has it at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its name.
    pub name: String,
    /// `RUNNING`, `STOPPED`, `FATAL`, ….
    pub state: String,
    /// 0 where there is no process.
    pub pid: u32,
    /// How long ago its last process ended, in whole seconds.
    pub ended_s: u64,
    /// Of its last process.
    pub exit_status: i64,
    /// Why it could not be started; empty where it could.
    pub spawn_error: String,
}

/// supervisord starts what has ended again within a second, where it does at all.
const AT_REST_S: u64 = 3;

impl Process {
    /// Whether its process is gone, and none comes unless somebody asks for it.
    pub fn is_at_rest(&self) -> bool {
        let at_rest = match self.state.as_str() {
            "STOPPED" | "FATAL" => true,
            // `autorestart` may be just about to.
            "EXITED" => self.ended_s >= AT_REST_S,
            _ => false,
        };
        at_rest && self.pid == 0
    }

    /// Whether it can be told to stop: it runs, or supervisord tries to make it.
    pub fn can_be_stopped(&self) -> bool {
        ["RUNNING", "STARTING", "BACKOFF"].contains(&self.state.as_str())
    }

    /// Whether it runs, and has for as long as its `startsecs` ask.
    pub fn is_running(&self) -> bool {
        self.state == "RUNNING"
    }
}

/// A supervisord.
#[derive(Debug, Clone)]
pub struct Supervisor {
    socket: PathBuf,
    timeout: Duration,
}

/// Why supervisord did not do it.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// It cannot be reached.
    #[error("supervisord at {socket}: {source}")]
    Unreachable {
        /// Its socket.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It refuses.
    #[error("supervisord: {text} ({code})")]
    Fault {
        /// A number of its own list.
        code: i64,
        /// In words.
        text: String,
    },
    /// It answers something else.
    #[error("supervisord answered {0:?}")]
    Answer(String),
    /// A name that is none of a program.
    #[error("{0:?} is no name of a program")]
    Name(String),
}

/// supervisord's list of faults (supervisor 4.2, `xmlrpc.py`).
const ALREADY_STARTED: i64 = 60;
const NOT_RUNNING: i64 = 70;

impl Supervisor {
    /// The one at a socket, for calls that may each take so long. Calls block.
    pub fn at(socket: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self { socket: socket.into(), timeout }
    }

    /// The state of a program: `RUNNING`, `STOPPED`, `FATAL`, ….
    ///
    /// # Errors
    /// When supervisord cannot be asked, or has no such program.
    pub fn state(&self, program: &str) -> Result<String, SupervisorError> {
        let answer = self.call("getProcessInfo", &named(program)?)?;
        member(&answer, "statename").ok_or(SupervisorError::Answer(answer))
    }

    /// Every program.
    ///
    /// # Errors
    /// When supervisord cannot be asked.
    pub fn processes(&self) -> Result<Vec<Process>, SupervisorError> {
        let answer = self.call("getAllProcessInfo", "")?;
        let processes: Option<Vec<Process>> =
            answer.split("<struct>").skip(1).map(process).collect();
        processes.ok_or(SupervisorError::Answer(answer))
    }

    /// Starts a program and waits until supervisord says that it runs; one that runs is left alone.
    ///
    /// # Errors
    /// When it does not stay up.
    pub fn start(&self, program: &str) -> Result<(), SupervisorError> {
        self.expect("startProcess", program, true, ALREADY_STARTED)
    }

    /// Starts a program and waits for nothing; one that runs is left alone.
    ///
    /// # Errors
    /// When there is nothing to start.
    pub fn begin_start(&self, program: &str) -> Result<(), SupervisorError> {
        self.expect("startProcess", program, false, ALREADY_STARTED)
    }

    /// Stops a program and waits for its end; one that does not run is left alone.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&self, program: &str) -> Result<(), SupervisorError> {
        self.expect("stopProcess", program, true, NOT_RUNNING)
    }

    /// Tells a program to stop and waits for nothing; one that does not run is left alone.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn begin_stop(&self, program: &str) -> Result<(), SupervisorError> {
        self.expect("stopProcess", program, false, NOT_RUNNING)
    }

    /// Sends a signal to a program, by its name without `SIG`; the master process gets it.
    ///
    /// # Errors
    /// When supervisord cannot be asked, or the program does not run.
    pub fn signal(&self, program: &str, signal: &str) -> Result<(), SupervisorError> {
        let signal = format!("<param><value><string>{signal}</string></value></param>");
        self.call("signalProcess", &(named(program)? + &signal)).map(|_| ())
    }

    fn expect(
        &self,
        method: &str,
        program: &str,
        wait: bool,
        fine: i64,
    ) -> Result<(), SupervisorError> {
        let wait = u8::from(wait);
        let wait = format!("<param><value><boolean>{wait}</boolean></value></param>");
        match self.call(method, &(named(program)? + &wait)) {
            Err(SupervisorError::Fault { code, .. }) if code == fine => Ok(()),
            called => called.map(|_| ()),
        }
    }

    fn call(&self, method: &str, params: &str) -> Result<String, SupervisorError> {
        let body = format!(
            "<?xml version='1.0'?><methodCall><methodName>supervisor.{method}</methodName>\
             <params>{params}</params></methodCall>"
        );
        let answer = self.post(&body).map_err(|source| SupervisorError::Unreachable {
            socket: self.socket.clone(),
            source,
        })?;
        if !answer.contains("<methodResponse>") {
            return Err(SupervisorError::Answer(answer.chars().take(200).collect()));
        }
        if !answer.contains("<fault>") {
            return Ok(answer);
        }
        let code = member(&answer, "faultCode").and_then(|code| code.parse().ok());
        let text = member(&answer, "faultString");
        match code.zip(text) {
            Some((code, text)) => Err(SupervisorError::Fault { code, text }),
            None => Err(SupervisorError::Answer(answer)),
        }
    }

    fn post(&self, body: &str) -> io::Result<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        // HTTP/1.0: the answer ends with the connection.
        write!(
            stream,
            "POST /RPC2 HTTP/1.0\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.take(LONGEST_ANSWER).read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

/// A name as a parameter: nothing in it could be taken for anything else.
fn named(program: &str) -> Result<String, SupervisorError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_:.".contains(c);
    if program.is_empty() || !program.chars().all(plain) {
        return Err(SupervisorError::Name(program.to_owned()));
    }
    Ok(format!("<param><value><string>{program}</string></value></param>"))
}

/// What stands between one `<struct>` and the next.
fn process(text: &str) -> Option<Process> {
    let number = |name: &str| member(text, name)?.parse::<i64>().ok();
    let (now, stop) = (number("now")?, number("stop")?);
    Some(Process {
        name: member(text, "name")?,
        state: member(text, "statename")?,
        pid: u32::try_from(number("pid")?).ok()?,
        // A clock that went back is no reason to wait for ever, nor to go on at once.
        ended_s: now.saturating_sub(stop).unsigned_abs(),
        exit_status: number("exitstatus")?,
        spawn_error: member(text, "spawnerr").unwrap_or_default(),
    })
}

/// A member of an answer's struct, whatever its type.
fn member(answer: &str, name: &str) -> Option<String> {
    let pattern = format!(r"<name>{name}</name>\s*<value>\s*<(?:string|int|i4)>([^<]*)</");
    let found = Regex::new(&pattern).ok()?.captures(answer)?;
    found.get(1).map(|value| value.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members() {
        let answer = "<struct>\n<member>\n<name>statename</name>\n<value><string>RUNNING</string>\
                      </value>\n</member><member><name>faultCode</name><value><int>10</int>";
        assert_eq!(member(answer, "statename").as_deref(), Some("RUNNING"));
        assert_eq!(member(answer, "faultCode").as_deref(), Some("10"));
        assert_eq!(member(answer, "other"), None);
    }

    #[test]
    fn what_is_at_rest_stays_so() {
        let process = |state: &str, pid: u32, ended_s: u64| Process {
            name: "a".to_owned(),
            state: state.to_owned(),
            pid,
            ended_s,
            exit_status: 0,
            spawn_error: String::new(),
        };
        for state in ["STOPPED", "FATAL"] {
            assert!(process(state, 0, 0).is_at_rest(), "{state}");
        }
        assert!(process("EXITED", 0, AT_REST_S).is_at_rest());
        // It may be started again in this very second.
        assert!(!process("EXITED", 0, 1).is_at_rest());
        assert!(!process("STOPPED", 7, 0).is_at_rest());
        for state in ["RUNNING", "STARTING", "BACKOFF", "STOPPING", "UNKNOWN", "NEW"] {
            assert!(!process(state, 0, 99).is_at_rest(), "{state}");
        }
    }

    #[test]
    fn only_names_are_sent() {
        let supervisor = Supervisor::at("/nowhere", Duration::from_secs(1));
        assert!(matches!(supervisor.state("a<b"), Err(SupervisorError::Name(_))));
        assert!(matches!(supervisor.state("a"), Err(SupervisorError::Unreachable { .. })));
    }
}
