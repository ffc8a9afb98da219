//! Where we go: a unit that runs Quay's container, or a tree of Quay's on this machine, and which
//! files that takes (contract §7.1, §12).

use std::fmt;
use std::path::{Path, PathBuf};

use askama::Template;
use serde::{Deserialize, Serialize};

use super::unit::drop_ins;
use super::{Error, Refusal};

/// The boot hook, as it lies in `init/`.
const HOOK: &str = include_str!("../../init/zzz_quay_sidecar.sh");

/// Its name: the last of Quay's scripts.
const HOOK_NAME: &str = "zzz_quay_sidecar.sh";

/// Where the hook looks for us, unless told otherwise.
const HOME_IN_QUAY: &str = "/opt/quay-sidecar";

/// The name of our drop-ins.
const DROP_IN: &str = "50-quay-sidecar.conf";

/// What runs Quay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "path", rename_all = "lowercase")]
pub enum Target {
    /// A systemd unit that calls `podman run`, as mirror-registry's does.
    Service(PathBuf),
    /// A quadlet: `NAME.container`.
    Quadlet(PathBuf),
    /// An unpacked Quay: the folder that Quay calls QUAYDIR.
    Tree(PathBuf),
}

/// Where our own files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Our folder: program, hook, manifest.
    pub home: PathBuf,
    /// Whether the units are those of a user, not of the machine.
    pub user: bool,
}

/// A file that has to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    /// Where.
    pub path: PathBuf,
    /// All of it.
    pub content: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
}

#[derive(Template)]
#[template(path = "delivery/service.conf", escape = "none")]
struct ServiceDropIn<'a> {
    home: &'a str,
}

#[derive(Template)]
#[template(path = "delivery/podman.env", escape = "none")]
struct PodmanEnvironment<'a> {
    home: &'a str,
}

#[derive(Template)]
#[template(path = "delivery/containers.conf", escape = "none")]
struct ContainersConf {
    mounts: [String; 2],
}

#[derive(Template)]
#[template(path = "delivery/quadlet.conf", escape = "none")]
struct QuadletDropIn {
    mounts: [String; 2],
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(unit) => write!(f, "the unit {}", unit.display()),
            Self::Quadlet(unit) => write!(f, "the quadlet {}", unit.display()),
            Self::Tree(folder) => write!(f, "the tree {}", folder.display()),
        }
    }
}

impl Target {
    /// The drop-in, where there is one.
    pub(super) fn drop_in(&self) -> Option<PathBuf> {
        match self {
            Self::Service(unit) | Self::Quadlet(unit) => Some(drop_ins(unit).join(DROP_IN)),
            Self::Tree(_) => None,
        }
    }

    /// Every file that it takes, with `program` as ours. The last one puts the others to use.
    ///
    /// # Errors
    /// When our folder has a name that cannot be written into all of them.
    pub fn files(&self, place: &Place, program: Vec<u8>) -> Result<Vec<NewFile>, Error> {
        let home = plain(&place.home)?;
        let file = |path: PathBuf, content: &str, mode| NewFile {
            path,
            content: content.as_bytes().to_vec(),
            mode,
        };
        let ours = |name: &str| place.home.join(name);
        let mut files = vec![NewFile { path: ours("bin/quay"), content: program, mode: 0o755 }];
        match self {
            Self::Tree(quay_dir) => {
                let hook = HOOK.replace(HOME_IN_QUAY, home);
                files.push(file(quay_dir.join("conf/init").join(HOOK_NAME), &hook, 0o755));
            }
            Self::Service(_) => {
                files.push(file(ours(HOOK_NAME), HOOK, 0o755));
                let mounts = mounts(home);
                files.push(file(
                    ours("containers.conf"),
                    &text(ContainersConf { mounts }.render())?,
                    0o644,
                ));
                let environment = text(PodmanEnvironment { home }.render())?;
                files.push(file(ours("podman.env"), &environment, 0o644));
                let drop_in = text(ServiceDropIn { home }.render())?;
                files.extend(self.drop_in().map(|path| file(path, &drop_in, 0o644)));
            }
            Self::Quadlet(_) => {
                files.push(file(ours(HOOK_NAME), HOOK, 0o755));
                let drop_in = text(QuadletDropIn { mounts: mounts(home) }.render())?;
                files.extend(self.drop_in().map(|path| file(path, &drop_in, 0o644)));
            }
        }
        Ok(files)
    }

    /// What has systemd read its units again, where it runs: not in an image that is being built.
    pub(super) fn reload(&self, place: &Place) -> Option<Vec<String>> {
        // sd_booted(3)
        let runs = Path::new("/run/systemd/system").is_dir();
        self.drop_in().filter(|_| runs).map(|_| systemctl(place, &["daemon-reload"]))
    }

    /// What has Quay start with us, or without: left to the operator, for Quay is away meanwhile.
    pub fn restart(&self, place: &Place) -> Option<String> {
        let unit = match self {
            Self::Tree(_) => return None,
            Self::Service(unit) => unit.file_name()?.to_string_lossy().into_owned(),
            Self::Quadlet(unit) => format!("{}.service", unit.file_stem()?.to_string_lossy()),
        };
        Some(systemctl(place, &["restart", &unit]).join(" "))
    }
}

/// One folder and one file. Read-only, and labelled as what several containers may read: a private
/// label would take them from the container that has them already.
pub(super) fn mounts(home: &str) -> [String; 2] {
    [
        format!("{home}/bin:{HOME_IN_QUAY}/bin:ro,z"),
        format!("{home}/{HOOK_NAME}:/quay-registry/conf/init/{HOOK_NAME}:ro,z"),
    ]
}

fn systemctl(place: &Place, words: &[&str]) -> Vec<String> {
    let user = place.user.then_some("--user");
    ["systemctl"].into_iter().chain(user).chain(words.iter().copied()).map(str::to_owned).collect()
}

/// A path that means the same in a shell, in a unit, in TOML and in a volume's option.
pub(super) fn plain(path: &Path) -> Result<&str, Refusal> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._/-".contains(c);
    let text = path.to_str().filter(|text| text.starts_with('/') && text.chars().all(is_plain));
    text.filter(|text| !text.split('/').any(|part| part == "..")).ok_or_else(|| {
        Refusal::new(
            format!("{}: this name cannot be written into all files that need it", path.display()),
            "use an absolute path of A-Z a-z 0-9 . _ / - without ..",
        )
    })
}

fn text(rendered: Result<String, askama::Error>) -> Result<String, Error> {
    // The template language leaves out a last line end.
    rendered.map(|text| text + "\n").map_err(|error| Error::Command(error.to_string()))
}
