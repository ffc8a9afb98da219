//! An existing Quay's folders, and which files in them concern us (contract §2, §6.2).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::facts::QuayNginx;
use super::lexer::directives;
use super::run_folder::Workers;
use super::{splice, supervisord};

/// Where copies of Quay's files are kept while ours stand in for them.
const PRISTINE: &str = ".quay-sidecar-pristine";

/// Quay's folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// `QUAYDIR`: the application.
    pub quay_dir: PathBuf,
    /// `QUAYCONF`: the generated files.
    pub quay_conf: PathBuf,
}

/// A file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {path}: {source}")]
pub struct FileError {
    /// `read` or `write`.
    pub verb: &'static str,
    /// Which.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

impl FileError {
    pub(super) fn reading(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self { verb: "read", path, source }
    }

    pub(super) fn writing(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self { verb: "write", path, source }
    }
}

/// A file of Quay's that we edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edited {
    HttpBase,
    ServerBase,
    Supervisord,
}

/// Why there is no telling what Quay's files were.
#[derive(Debug, thiserror::Error)]
pub enum PristineError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It has our edits, and the copy from before them is gone.
    #[error(
        "{path} has our edits, but {copy} is gone: restart the container, so that Quay writes it"
    )]
    Gone {
        /// The edited file.
        path: PathBuf,
        /// Where the copy should be.
        copy: PathBuf,
    },
}

impl Edited {
    pub const ALL: [Self; 3] = [Self::HttpBase, Self::ServerBase, Self::Supervisord];

    fn name(self) -> &'static str {
        match self {
            Self::HttpBase => "http-base.conf",
            Self::ServerBase => "server-base.conf",
            Self::Supervisord => "supervisord.conf",
        }
    }

    pub fn path(self, tree: &Tree) -> PathBuf {
        match self {
            Self::Supervisord => tree.quay_conf.join(self.name()),
            _ => tree.nginx_folder().join(self.name()),
        }
    }

    pub fn copy(self, tree: &Tree) -> PathBuf {
        tree.pristine().join(self.name())
    }

    fn is_spliced(self, text: &str) -> bool {
        match self {
            Self::Supervisord => supervisord::is_spliced(text),
            _ => splice::is_spliced(text),
        }
    }

    /// What Quay wrote, whether we have edited it since or not.
    pub fn pristine(self, tree: &Tree) -> Result<String, PristineError> {
        let path = self.path(tree);
        let present = read(&path)?;
        if !self.is_spliced(&present) {
            return Ok(present);
        }
        let copy = self.copy(tree);
        match fs::read_to_string(&copy) {
            Ok(text) if !self.is_spliced(&text) => Ok(text),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(FileError::reading(&copy)(error).into())
            }
            _ => Err(PristineError::Gone { path, copy }),
        }
    }
}

/// The three files that Quay generated, without our edits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pristine {
    pub main: String,
    pub http_base: String,
    pub server_base: String,
    pub supervisord: String,
}

impl Pristine {
    pub fn read(tree: &Tree) -> Result<Self, PristineError> {
        Ok(Self {
            main: read(&tree.nginx_conf())?,
            http_base: Edited::HttpBase.pristine(tree)?,
            server_base: Edited::ServerBase.pristine(tree)?,
            supervisord: Edited::Supervisord.pristine(tree)?,
        })
    }

    pub fn nginx(&self) -> QuayNginx<'_> {
        QuayNginx { main: &self.main, http_base: &self.http_base, server_base: &self.server_base }
    }

    pub fn of(&self, edited: Edited) -> &str {
        match edited {
            Edited::HttpBase => &self.http_base,
            Edited::ServerBase => &self.server_base,
            Edited::Supervisord => &self.supervisord,
        }
    }
}

impl Tree {
    /// As Quay's image has it: `QUAYDIR` and `QUAYCONF`.
    pub fn new(quay_dir: impl Into<PathBuf>, quay_conf: impl Into<PathBuf>) -> Self {
        Self { quay_dir: quay_dir.into(), quay_conf: quay_conf.into() }
    }

    /// `nginx.conf`, which nginx is started with.
    pub fn nginx_conf(&self) -> PathBuf {
        self.nginx_folder().join("nginx.conf")
    }

    /// supervisord's control socket.
    pub fn supervisor_socket(&self) -> PathBuf {
        self.quay_conf.join("supervisord.sock")
    }

    pub(super) fn nginx_folder(&self) -> PathBuf {
        self.quay_conf.join("nginx")
    }

    /// Where copies of Quay's files are kept while they have our edits.
    pub fn pristine(&self) -> PathBuf {
        self.quay_conf.join(PRISTINE)
    }

    /// Whether the files that Quay generated have our edits, or copies of them are kept.
    pub fn is_edited(&self) -> bool {
        let is_spliced = |edited: &Edited| {
            fs::read_to_string(edited.path(self)).is_ok_and(|text| edited.is_spliced(&text))
        };
        self.pristine().exists() || Edited::ALL.iter().any(is_spliced)
    }

    /// Ours, beside Quay's.
    pub(super) fn our_files(&self) -> [PathBuf; 2] {
        [splice::HTTP_FILE, splice::SERVER_FILE].map(|name| self.nginx_folder().join(name))
    }

    /// Whose nginx's workers are: ours, unless root starts nginx and does not keep them.
    pub fn workers(&self) -> Workers {
        if !rustix::process::geteuid().is_root() {
            return Workers::Ourselves;
        }
        let folder = self.nginx_folder();
        let kept = ["nginx.conf", "root-base.conf"].iter().any(|name| {
            let text = fs::read_to_string(folder.join(name)).unwrap_or_default();
            directives(&text).is_ok_and(|all| {
                all.iter().any(|d| d.name() == "user" && d.args().first() == Some(&"root"))
            })
        });
        if kept { Workers::Ourselves } else { Workers::Others }
    }

    /// The user of a running Quay, where that is not us. `nginx -t` as root gives Quay's temporary
    /// folders, /tmp among them, to another user; so it is not run for a Quay of somebody else.
    pub fn foreign_user(&self) -> Option<u32> {
        let owner = fs::metadata(self.supervisor_socket()).ok()?.uid();
        (owner != rustix::process::geteuid().as_raw()).then_some(owner)
    }

    /// Quay's release, from its change log, as Quay itself finds it.
    pub fn version(&self) -> Option<String> {
        let log = fs::read_to_string(self.quay_dir.join("CHANGELOG.md")).ok()?;
        let number = regex::Regex::new(r"v[0-9]+\.[0-9]+\.[0-9]+").ok()?;
        number.find(&log).map(|found| found.as_str().to_owned())
    }
}

pub(super) fn read(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(FileError::reading(path))
}
