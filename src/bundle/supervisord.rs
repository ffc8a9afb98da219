//! Our programs in Quay's supervisord (contract §5).
//!
//! The file that Quay generates ends in a comment without a line end: appended to directly, our
//! first header would become part of that comment and our values would override those of Quay's
//! last program, without any error. So the result is read again and compared with what it has to be.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use askama::Template;

use super::ini::{Ini, IniError, Section};
use super::nginx::RustAddress;
use super::text::{self, Refused};

/// Begins our part of the file.
const MARKER: &str = "; quay-sidecar";

/// In a service map of every release that we know, but never a program (decision D-001).
pub const RETIRED: &str = "ip-resolver-update-worker";

/// Our program that fills mirrors. The watcher starts it when its switch says so.
pub const MIRROR_WORKER: &str = "repomirror";

/// Quay's program that does.
pub const PYTHONS_MIRROR_WORKER: &str = "repomirrorworker";

/// What our programs need to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// The `quay` binary.
    pub binary: PathBuf,
    /// Quay's configuration folder: `conf/stack`.
    pub config: PathBuf,
    /// `QUAYCONF`: the folder of the generated files.
    pub quay_conf: PathBuf,
    /// The run folder.
    pub run: PathBuf,
    /// Whether registryd starts with the container. The watcher starts it once it is wanted.
    pub registryd: bool,
    /// Whether the watcher starts with the container.
    pub owner_switch: bool,
    /// registryd as a service elsewhere; none: its socket in the run folder.
    pub service: Option<SocketAddr>,
    /// Python's registry, as nginx's upstream has it; from its own files where `None`.
    pub python: Option<String>,
    /// How long a stop may take before SIGKILL: less than the container's own limit.
    pub stop_wait: u32,
    /// `QUAY_OVERRIDE_SERVICES`, which Quay itself applies to its own programs only.
    pub overrides: Option<String>,
}

/// Quay's file with our programs in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplicedPrograms {
    /// `supervisord.conf`.
    pub text: String,
    /// Programs that are not started, and why.
    pub notices: Vec<String>,
}

/// Why our programs are not added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SupervisordError {
    /// Quay's file, or the result, is none that supervisord would read.
    #[error("supervisord.conf: {0}")]
    Syntax(#[from] IniError),
    /// A value that supervisord would misread.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Somebody else has a program of this name.
    #[error("supervisord.conf has a program {0} that is not ours")]
    Taken(String),
    /// It has our programs already.
    #[error("supervisord.conf has our programs already, so it is not as Quay left it")]
    Marked,
    /// The result is not Quay's programs plus ours.
    #[error("with our programs added, supervisord.conf changes {0}")]
    Changed(String),
}

#[derive(Template)]
#[template(path = "supervisord.conf", escape = "none")]
struct ProgramsFile {
    programs: Vec<Program>,
}

struct Program {
    name: &'static str,
    command: String,
    autostart: bool,
    stop_wait: u32,
}

/// Whether a file has our programs.
pub fn is_spliced(text: &str) -> bool {
    text.lines().any(|line| line.starts_with(MARKER))
}

impl Programs {
    /// Where registryd is asked, by nginx and by the watcher alike.
    pub fn registryd_address(&self) -> RustAddress {
        match self.service {
            Some(address) => RustAddress::Tcp(address),
            None => RustAddress::Unix(self.run.join("registryd.sock")),
        }
    }

    /// Our part of the file.
    ///
    /// # Errors
    /// When a path cannot be written into it.
    pub fn render(&self, quay: &Ini, notices: &mut Vec<String>) -> Result<String, Refused> {
        let binary = path("the binary", &self.binary)?;
        let config = path("the configuration folder", &self.config)?;
        let quay_conf = path("QUAYCONF", &self.quay_conf)?;
        let run = path("the run folder", &self.run)?;
        let python = self.python_option(notices)?;
        // The address that nginx was told, not the name that it came of.
        let service =
            self.service.map(|address| format!(" --service {address}")).unwrap_or_default();
        // Read from the result: QUAY_SERVICES means different things in different releases.
        let nginx = quay.starts("nginx");
        // Where Quay does nothing but mirror, the watcher has a worker to move.
        let watched = nginx || quay.only_mirrors();
        match (nginx, watched) {
            (true, _) => {}
            (false, true) => notices.push(
                "nginx is not started here (QUAY_SERVICES?): only the mirror worker can be ours"
                    .to_owned(),
            ),
            (false, false) => notices.push(
                "nginx is not started here (QUAY_SERVICES?), so our programs are not either"
                    .to_owned(),
            ),
        }
        let mut autostart = |name: &str, wanted: bool, here: bool| {
            let told = self.told(name);
            if let Some(told) = told.filter(|_| here) {
                notices.push(format!("{name}: autostart={told}, from QUAY_OVERRIDE_SERVICES"));
            }
            here && told.unwrap_or(wanted)
        };
        let programs = vec![
            Program {
                name: "registryd",
                command: format!(
                    "{binary} serve registryd --config {config} \
                     --listen unix:{run}/registryd.sock,nginx{python}"
                ),
                autostart: autostart("registryd", self.registryd, nginx),
                stop_wait: self.stop_wait,
            },
            Program {
                name: "owner-switch",
                command: format!(
                    "{binary} switch watch --config {config} --quay-conf {quay_conf} \
                     --run {run}{service}"
                ),
                autostart: autostart("owner-switch", self.owner_switch, watched),
                stop_wait: self.stop_wait,
            },
            Program {
                name: MIRROR_WORKER,
                // Where its metrics are is a setting, which `quay mirror status` reads too.
                command: format!("{binary} worker repomirror --config {config}"),
                autostart: autostart(MIRROR_WORKER, false, watched),
                stop_wait: self.stop_wait,
            },
            Program {
                name: "api-service",
                command: format!("{binary} serve api-service --config {config}"),
                autostart: false,
                stop_wait: self.stop_wait,
            },
        ];
        let rendered = ProgramsFile { programs }.render();
        rendered.map_err(|error| text::shape("template", "", error.to_string()))
    }

    /// For what nginx cannot ask Python again: the bodies of uploads.
    fn python_option(&self, notices: &mut Vec<String>) -> Result<String, Refused> {
        let Some(address) = &self.python else { return Ok(String::new()) };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b".-:[]".contains(&b);
        match address.strip_prefix("unix:") {
            Some(socket) => {
                let socket = path("Python's socket", Path::new(socket))?;
                Ok(format!(" --python unix:{socket}"))
            }
            None if address.bytes().all(plain) => Ok(format!(" --python {address}")),
            None => {
                notices.push(format!("{address}: not understood, so no upload is passed through"));
                Ok(String::new())
            }
        }
    }

    /// As Quay reads the list: exact items, and of two for one name `true` wins.
    fn told(&self, name: &str) -> Option<bool> {
        let items: Vec<&str> = self.overrides.as_deref()?.split(',').map(str::trim).collect();
        let has = |value: bool| items.contains(&format!("{name}={value}").as_str());
        [true, false].into_iter().find(|&value| has(value))
    }

    /// Adds our programs to the file that Quay generated.
    ///
    /// # Errors
    /// When that cannot be done without changing one of Quay's programs.
    pub fn splice(&self, quay: &str) -> Result<SplicedPrograms, SupervisordError> {
        if is_spliced(quay) {
            return Err(SupervisordError::Marked);
        }
        let before = Ini::parse(quay)?;
        let mut notices = Vec::new();
        let ours = self.render(&before, &mut notices)?;
        let ours = format!("{}\n", ours.trim_end());
        let gap = if quay.ends_with('\n') { "\n" } else { "\n\n" };
        let text = format!("{quay}{gap}{ours}");
        prove(&before, &Ini::parse(&ours)?, &Ini::parse(&text)?)?;
        Ok(SplicedPrograms { text, notices })
    }
}

/// A plain path, where `%` is plain too: twice, or supervisord would begin to interpolate.
fn path(what: &str, path: &Path) -> Result<String, Refused> {
    let others = path.to_string_lossy().replace('%', "_");
    text::path(what, Path::new(&others))?;
    Ok(path.to_string_lossy().replace('%', "%%"))
}

/// That a file is what Quay had, untouched, and then ours.
///
/// # Errors
/// With the first section that is not.
pub fn prove(before: &Ini, ours: &Ini, result: &Ini) -> Result<(), SupervisordError> {
    for section in ours.sections() {
        if before.section(&section.name).is_some() {
            return Err(SupervisordError::Taken(section.name.clone()));
        }
    }
    let mut expected = before.sections().iter().chain(ours.sections());
    for section in result.sections() {
        if expected.next() != Some(section) {
            return Err(SupervisordError::Changed(section.name.clone()));
        }
    }
    match expected.next() {
        None => Ok(()),
        Some(Section { name, .. }) => Err(SupervisordError::Changed(name.clone())),
    }
}

/// Names that Quay's service map lists and no program defines (decision D-001): nothing of Quay's
/// is started under them, so they are reported and never rendered.
pub fn stale(service_map: &str, quay: &Ini) -> Vec<String> {
    let Ok(entry) =
        regex::Regex::new(r#"(?m)^\s*["']([A-Za-z0-9_-]+)["']\s*:\s*\{\s*["']autostart"#)
    else {
        return Vec::new();
    };
    let programs: Vec<&str> = quay.programs().collect();
    let mut stale: Vec<String> = entry
        .captures_iter(service_map)
        .filter_map(|found| found.get(1).map(|name| name.as_str()))
        .filter(|name| !programs.contains(name))
        .map(str::to_owned)
        .collect();
    stale.sort();
    stale.dedup();
    stale
}

/// Where Quay keeps its service map, below `QUAYCONF`.
pub fn service_map(quay_conf: &Path) -> PathBuf {
    quay_conf.join("init/supervisord_conf_create.py")
}
