//! Whether a Quay can be served, before anything is put into it; and what its next upgrade takes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::podman::Podman;
use super::target::{Place, Target, mounts, plain};
use super::{Error, Refusal};
use crate::bundle::Tree;
use crate::config::{Config, Environment};
use crate::switches::{CONFIG_FILE, SECTION, SWITCH_FILE};

/// podman's first release that reads one more configuration file (containers/common 0.52).
const PODMAN: (u32, u32) = (4, 5);

/// podman's first release whose quadlets have drop-ins.
const QUADLET: (u32, u32) = (5, 0);

/// Quay's first and last release whose files were looked at (contract §1.1).
const KNOWN: [(u32, u32); 2] = [(3, 10), (3, 18)];

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looked {
    /// What keeps us out.
    pub refusals: Vec<Refusal>,
    /// What an operator should know of.
    pub notices: Vec<String>,
}

/// Looks at everything that can be known without starting anything. `scratch` is an empty folder:
/// files of a running container are copied there.
///
/// # Errors
/// When the unit cannot be read, or is no Quay's.
pub fn look(
    target: &Target,
    place: &Place,
    scratch: &Path,
    env: &dyn Environment,
) -> Result<Looked, Error> {
    let mut looked = Looked::default();
    match target {
        Target::Tree(quay_dir) => looked.tree(quay_dir, env),
        Target::Service(unit) | Target::Quadlet(unit) => {
            if let Some(podman) = Podman::of(target)? {
                looked.podman(target, place, &podman);
                looked.container(&podman, scratch, env);
            }
            looked.user(place, unit);
        }
    }
    Ok(looked)
}

impl Looked {
    fn refuse(&mut self, reason: impl Into<String>, remedy: impl Into<String>) {
        self.refusals.push(Refusal::new(reason, remedy));
    }

    /// Another user's podman knows nothing of this one's containers.
    fn user(&mut self, place: &Place, unit: &Path) {
        let root = rustix::process::geteuid().is_root();
        if !root && !place.user {
            let reason = format!("{} is root's", unit.display());
            self.refuse(reason, "run this as root, or with --user for a unit of your own");
        }
    }

    fn podman(&mut self, target: &Target, place: &Place, podman: &Podman) {
        let quadlet = matches!(target, Target::Quadlet(_));
        let least = if quadlet { QUADLET } else { PODMAN };
        match podman.version() {
            Err(error) => self.refuse(error, "install podman, or correct the unit"),
            Ok(found) if found < least => {
                let what =
                    if quadlet { "drop-ins for quadlets" } else { "second file of settings" };
                let mounts = plain(&place.home).map(mounts).unwrap_or_default().join(" and ");
                self.refuse(
                    format!(
                        "podman {}.{} has no {what}, {}.{} has",
                        found.0, found.1, least.0, least.1
                    ),
                    format!("use a derived image (docker/image.md), or mount by hand {mounts}"),
                );
            }
            Ok(_) => {}
        }
        if let Some(file) = podman.restated_by.as_ref() {
            self.notices.push(format!(
                "{} has the whole command, an image too: that one runs, whatever an upgrade writes \
                 into the unit",
                file.display()
            ));
        }
        if let Some(file) = site_volumes(place.user) {
            self.refuse(
                format!("{} sets volumes, which ours would replace", file.display()),
                "mount these in the unit instead",
            );
        }
    }

    fn container(&mut self, podman: &Podman, scratch: &Path, env: &dyn Environment) {
        match &podman.config {
            Some(folder) => self.config(folder, env),
            None => self.notices.push("config.yaml is in a volume, and was not looked at".into()),
        }
        if !podman.is_running() {
            self.notices.push(format!(
                "{} does not run, so its files were not looked at: the hook does at every start, \
                 and leaves Quay alone where it cannot go in",
                podman.name
            ));
            return;
        }
        match copy_out(podman, scratch) {
            Err(error) => self.refuse(
                format!("the files of {} cannot be looked at: {error}", podman.name),
                "only a Quay with nginx and supervisord can be served beside; is this one?",
            ),
            Ok(()) => self.files(&Tree::new(scratch, scratch.join("conf"))),
        }
    }

    fn tree(&mut self, quay_dir: &Path, env: &dyn Environment) {
        let conf = quay_dir.join("conf");
        let init = conf.join("init");
        if !init.is_dir() {
            let reason = match quay_dir.join("quay").is_file() {
                true => format!("{} has Quay's mirror, a program in Go", quay_dir.display()),
                false => format!("{} is not there: this is no tree of Quay's", init.display()),
            };
            self.refuse(reason, "name with --tree the folder that Quay calls QUAYDIR");
            return;
        }
        let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        if let Err(error) = rustix::fs::access(&init, access) {
            self.refuse(
                format!("{}: {error}", init.display()),
                "run this as root, or as the owner of the tree",
            );
        }
        self.config(&conf.join("stack"), env);
        let tree = Tree::new(quay_dir, &conf);
        match tree.nginx_conf().is_file() {
            true => self.files(&tree),
            false => self.notices.push(
                "Quay was never started here, so its files were not looked at: the hook does at \
                 every start"
                    .into(),
            ),
        }
    }

    /// The database's engine and every other setting: what registryd itself would refuse.
    fn config(&mut self, folder: &Path, env: &dyn Environment) {
        let file = folder.join(CONFIG_FILE);
        match fs::metadata(&file) {
            Err(error) => {
                let reason = format!("{}: {error}", file.display());
                return self.refuse(reason, "install Quay first, and let it have its config.yaml");
            }
            // Quay's image is of user 1001 and group 0, which a user's own group is in its
            // containers (contract §11).
            Ok(found) if found.mode() & 0o044 == 0 && found.uid() != 1001 => self.refuse(
                format!("{}: only its owner may read it, which Quay is not", file.display()),
                format!("chmod g+r {}", file.display()),
            ),
            Ok(_) => {}
        }
        if let Err(error) = Config::load(folder, env) {
            for problem in error.problems {
                let reason = format!("{} ({}): {}", problem.key, problem.place, problem.reason);
                if problem.severity == crate::config::Severity::Error {
                    self.refuse(reason, problem.remedy);
                }
            }
        }
    }

    fn files(&mut self, tree: &Tree) {
        let version = tree.version();
        let number = version.as_deref().and_then(release);
        let [first, last] = KNOWN;
        if let Some(number) = number.filter(|number| *number < first || number.0 > last.0) {
            self.refuse(
                format!(
                    "Quay {}.{} is not known to us: {}.{} is the oldest, {}.{} the newest",
                    number.0, number.1, first.0, first.1, last.0, last.1
                ),
                "use a release of Quay, or of quay-sidecar, that goes with the other",
            );
        }
        match tree.anchors() {
            Err(error) => self.refuse(
                error,
                "this release of Quay cannot be served beside: look for a newer quay-sidecar",
            ),
            Ok(found) => {
                let version = version.unwrap_or_else(|| "of unknown version".into());
                let newer = number.is_some_and(|number| number > last);
                let newer = if newer { ", newer than those that were tested" } else { "" };
                self.notices.push(format!("Quay {version}{newer}; {found}"));
            }
        }
    }
}

/// What Quay generated, and its change log, without what is secret beside it.
fn copy_out(podman: &Podman, scratch: &Path) -> Result<(), String> {
    let conf = scratch.join("conf");
    fs::create_dir_all(&conf).map_err(|error| format!("{}: {error}", conf.display()))?;
    for name in ["nginx", "supervisord.conf"] {
        podman.copy(&format!("/quay-registry/conf/{name}"), &conf.join(name))?;
    }
    // There is none where we never were.
    let pristine = Tree::new(scratch, &conf).pristine();
    let name = pristine.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let _ = podman.copy(&format!("/quay-registry/conf/{name}"), &pristine);
    // Only the version is read from it.
    let log = scratch.join("CHANGELOG.md");
    let _ = podman.copy("/quay-registry/CHANGELOG.md", &log);
    Ok(())
}

fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim_start_matches('v').split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// A file of podman's that sets volumes for every container.
fn site_volumes(user: bool) -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let mut roots = vec![PathBuf::from("/usr/share/containers"), "/etc/containers".into()];
    if user {
        roots.push(home.join(".config/containers"));
    }
    let files = roots.into_iter().flat_map(|root| {
        let more = fs::read_dir(root.join("containers.conf.d")).into_iter().flatten();
        let more: Vec<PathBuf> = more.flatten().map(|entry| entry.path()).collect();
        [root.join("containers.conf")].into_iter().chain(more)
    });
    let sets = |text: String| {
        text.lines().filter_map(|line| line.trim_start().strip_prefix("volumes")).any(|rest| {
            rest.trim_start().strip_prefix('=').is_some_and(|value| value.trim() != "[]")
        })
    };
    files.into_iter().find(|file| fs::read_to_string(file).is_ok_and(sets))
}

/// What somebody else's upgrade would take away.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Losses(pub Vec<String>);

/// Looks at what an upgrade of Quay does to this installation (contract §12.1).
pub fn losses(target: &Target, podman: Option<&Podman>) -> Losses {
    let mut lost = Vec::new();
    let config = match target {
        Target::Tree(quay_dir) => {
            lost.push(format!(
                "the hook in {}, where the tree is replaced: run `quay install` again then",
                quay_dir.join("conf/init").display()
            ));
            Some(quay_dir.join("conf/stack"))
        }
        _ => podman.and_then(|podman| podman.config.clone()),
    };
    if let Some(file) = podman.and_then(|podman| podman.restated_by.as_ref()) {
        lost.push(format!("the new image: {} names one itself", file.display()));
    }
    let section = format!("{SECTION}:");
    let text = config.as_ref().map(|folder| fs::read_to_string(folder.join(CONFIG_FILE)));
    let in_config = text.is_some_and(|text| {
        text.is_ok_and(|text| text.lines().any(|line| line.starts_with(&section)))
    });
    if in_config {
        lost.push(format!(
            "the switches in {CONFIG_FILE}, which mirror-registry's install writes anew: any \
             `quay switch set` moves them to {SWITCH_FILE}"
        ));
    }
    Losses(lost)
}
