//! What an operator can check before, and after, putting us into a Quay.

use std::fmt;
use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::apply::Bundle;
use super::certificate;
use super::facts::Facts;
use super::gate::nginx_test;
use super::ini::Ini;
use super::run_folder::{RunFolder, RunFolderError};
use super::splice::splice;
use super::sqlite_file;
use super::supervisord::{self, MIRROR_WORKER, PYTHONS_MIRROR_WORKER};
use super::tree::{Pristine, Tree};
use super::xmlrpc::{Supervisor, SupervisorError};

/// How long a registryd elsewhere may take to answer.
const SERVICE_LIMIT: Duration = Duration::from_secs(2);

/// How long supervisord may take.
const SUPERVISOR_LIMIT: Duration = Duration::from_secs(2);

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// What was found, or what to do.
    pub result: Result<String, String>,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.result {
            Ok(found) => write!(f, "ok      {}: {found}", self.name),
            Err(remedy) => write!(f, "PROBLEM {}: {remedy}", self.name),
        }
    }
}

impl Bundle {
    /// Looks at everything that this room knows of; changes nothing. Configuration and tables are
    /// the business of other commands.
    pub fn doctor(&self) -> Vec<Check> {
        let mut checks = vec![
            check("Quay", self.quay()),
            check("nginx program", self.nginx_program()),
            check("run folder", self.run_folder()),
            check("Python's socket", self.python_socket()),
            check("registryd's socket", self.our_socket()),
            check("supervisord", self.supervisor()),
        ];
        checks.extend(self.mirror_worker().map(|found| check("mirror worker", found)));
        match Pristine::read(&self.tree) {
            Err(error) => checks.push(check("generated files", Err(error.to_string()))),
            Ok(quay) => {
                checks.push(check("nginx anchors", anchors(&quay)));
                checks.push(check("supervisord programs", self.programs(&quay)));
                if let (Some(_), Ok(programs)) = (&self.database, Ini::parse(&quay.supervisord)) {
                    checks.push(check("mirroring", Ok(sqlite_file::mirroring(&programs))));
                }
            }
        }
        let rendered = self.render(&"0".repeat(32));
        checks.push(check(
            "our files",
            match rendered {
                Ok(rendered) if rendered.notices.is_empty() => Ok("can be rendered".to_owned()),
                Ok(rendered) => Ok(format!("can be rendered; {}", rendered.notices.join("; "))),
                Err(error) => Err(error.to_string()),
            },
        ));
        checks.push(check("writable", self.writable()));
        let certificate = self.programs.config.join("ssl.cert");
        let holds = certificate::holds(&certificate, SystemTime::now());
        checks.extend(holds.map(|holds| check("certificate", holds)));
        for (index, root) in &self.blob_roots {
            checks.push(check("storage", storage(*index, root)));
        }
        if let Some(path) = &self.database {
            let writable = match self.tree.foreign_user() {
                Some(user) => Err(another_user(user)),
                None => sqlite_file::writable(path),
            };
            checks.push(check("database", sqlite_file::header(path)));
            checks.push(check("database, writable", writable));
            checks.push(check("database, file system", sqlite_file::file_system(path)));
            checks.push(check("switches", sqlite_file::switches(&self.programs.config)));
        }
        checks
    }

    fn quay(&self) -> Result<String, String> {
        let conf = self.tree.nginx_conf();
        if !conf.is_file() {
            return Err(format!(
                "{} is missing: this is no Quay with nginx, or it was never started; \
                 set QUAYDIR and QUAYCONF",
                conf.display()
            ));
        }
        Ok(self.tree.version().unwrap_or_else(|| "of unknown version".to_owned()))
    }

    fn nginx_program(&self) -> Result<String, String> {
        if let Some(user) = self.tree.foreign_user() {
            return Err(another_user(user));
        }
        nginx_test(&self.nginx, &self.tree.nginx_conf(), self.nginx_limit)
            .map(|()| "accepts the files as they are".to_owned())
            .map_err(|error| error.to_string())
    }

    fn run_folder(&self) -> Result<String, String> {
        let path = &self.programs.run;
        match RunFolder::open(path) {
            Ok(run) => Ok(format!("{} is ours", run.path().display())),
            Err(RunFolderError::Io { .. }) if !path.exists() => {
                Ok(format!("{} will be made", path.display()))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn python_socket(&self) -> Result<String, String> {
        let quay = Pristine::read(&self.tree).map_err(|error| error.to_string())?;
        let facts = Facts::read(quay.nginx()).map_err(|error| error.to_string())?;
        let server = facts.python_servers.first().ok_or("there is none")?;
        let address = server.split_whitespace().next().unwrap_or_default();
        match address.strip_prefix("unix:") {
            None => Ok(format!("{address}, not a socket: not tried")),
            Some(path) => answers(Path::new(path)).map_err(|error| {
                format!("{error}: start Quay, or look at gunicorn-registry's log")
            }),
        }
    }

    fn our_socket(&self) -> Result<String, String> {
        if let Some(address) = self.programs.service {
            return TcpStream::connect_timeout(&address, SERVICE_LIMIT)
                .map(|_| format!("a service, {address} answers"))
                .map_err(|error| format!("{address}: {error}: Python answers until it is there"));
        }
        answers(&self.programs.run.join("registryd.sock"))
            .map_err(|error| format!("{error}: Python answers until registryd is started"))
    }

    /// Where supervisord answers. Both at once harm no repository, but no switch leads to it.
    fn mirror_worker(&self) -> Option<Result<String, String>> {
        let supervisor = Supervisor::at(self.tree.supervisor_socket(), SUPERVISOR_LIMIT);
        let processes = supervisor.processes().ok()?;
        let find = |name: &str| processes.iter().find(|process| process.name == name);
        let (Some(ours), python) = (find(MIRROR_WORKER), find(PYTHONS_MIRROR_WORKER)) else {
            let problem = format!("supervisord has no {MIRROR_WORKER} yet: restart the container");
            return Some(Err(problem));
        };
        let Some(python) = python else {
            return Some(Ok(format!("ours is {}; this Quay has none", ours.state)));
        };
        let states = format!("Python's is {}, ours is {}", python.state, ours.state);
        Some(match ours.can_be_stopped() && python.can_be_stopped() {
            true => Err(format!(
                "{states}: set WORKER_OWNER_REPOMIRRORWORKER, and take both out of \
                 QUAY_OVERRIDE_SERVICES"
            )),
            false => Ok(states),
        })
    }

    fn supervisor(&self) -> Result<String, String> {
        let supervisor = Supervisor::at(self.tree.supervisor_socket(), SUPERVISOR_LIMIT);
        match supervisor.state("owner-switch") {
            Ok(state) => Ok(format!("owner-switch is {state}")),
            Err(SupervisorError::Fault { text, .. }) => {
                Err(format!("has no owner-switch yet ({text}): restart the container"))
            }
            Err(error) => Err(format!("{error}: run this as the user of the container")),
        }
    }

    fn programs(&self, quay: &Pristine) -> Result<String, String> {
        let programs = Ini::parse(&quay.supervisord).map_err(|error| error.to_string())?;
        let count = programs.programs().count();
        let map = supervisord::service_map(&self.tree.quay_conf);
        let stale = supervisord::stale(&fs::read_to_string(map).unwrap_or_default(), &programs);
        Ok(match stale.as_slice() {
            [] => format!("{count} of Quay's"),
            // Harmless, and Quay's business: said, not complained about.
            stale => format!("{count} of Quay's; stale in its service map: {}", stale.join(", ")),
        })
    }

    /// Asked of the system, not tried: nothing is changed here.
    fn writable(&self) -> Result<String, String> {
        let folders = [self.tree.quay_conf.clone(), self.tree.nginx_folder()];
        for folder in folders {
            let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
            rustix::fs::access(&folder, access)
                .map_err(|error| format!("{}: {error}; mount it writable", folder.display()))?;
        }
        Ok("the generated files can be replaced".to_owned())
    }
}

impl Tree {
    /// Whether our edits fit into the files that Quay generated.
    ///
    /// # Errors
    /// With what does not, in words.
    pub fn anchors(&self) -> Result<String, String> {
        let quay = Pristine::read(self).map_err(|error| error.to_string())?;
        let found = anchors(&quay)?;
        let programs =
            Ini::parse(&quay.supervisord).map_err(|error| format!("supervisord.conf: {error}"))?;
        let count = programs.programs().count();
        match programs.program("nginx", "command") {
            Some(_) => Ok(format!("{found}; {count} programs")),
            None => Err("supervisord.conf has no program nginx".to_owned()),
        }
    }
}

fn check(name: &'static str, result: Result<String, String>) -> Check {
    Check { name, result }
}

fn another_user(user: u32) -> String {
    format!("not asked: run this as the user of the container, uid {user}")
}

fn anchors(quay: &Pristine) -> Result<String, String> {
    let facts = Facts::read(quay.nginx()).map_err(|error| error.to_string())?;
    let spliced = splice(quay.nginx()).map_err(|error| error.to_string())?;
    let servers = facts.servers;
    Ok(match spliced.notices.as_slice() {
        [] => format!("all match; {servers} servers"),
        notices => format!("the needed ones match; {servers} servers; {}", notices.join("; ")),
    })
}

fn answers(socket: &Path) -> Result<String, String> {
    match UnixStream::connect(socket) {
        Ok(_) => Ok(format!("{} answers", socket.display())),
        Err(error) => Err(format!("{}: {error}", socket.display())),
    }
}

fn storage(index: usize, root: &Path) -> Result<String, String> {
    let access = rustix::fs::Access::READ_OK | rustix::fs::Access::EXEC_OK;
    match rustix::fs::access(root, access) {
        Ok(()) => Ok(format!("{index} is {}", root.display())),
        Err(error) => Err(format!("{index} is {}: {error}", root.display())),
    }
}
