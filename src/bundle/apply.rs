//! Putting our pieces into a Quay, and taking them out again.
//!
//! Everything is rendered and checked before the first file is written, and what was written is put
//! back if nginx does not accept the result: whatever is wrong with us, Quay starts as it always did.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::facts::{Facts, FactsError};
use super::files;
use super::gate::{GateError, nginx_test};
use super::nginx::{Blobs, Nginx, Routing};
use super::run_folder::{RunFolder, RunFolderError};
use super::splice::{SpliceError, splice, undefined_upstreams};
use super::supervisord::{self, Programs, SupervisordError};
use super::text::Refused;
use super::tree::{Edited, FileError, Pristine, PristineError, Tree};

/// All that goes into a Quay.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Which Quay.
    pub tree: Tree,
    /// Which requests can be ours.
    pub routing: Routing,
    /// Roots of local storages, with the index that registryd names them by.
    pub blob_roots: Vec<(usize, PathBuf)>,
    /// Quay's database, where it is a file of SQLite's: only looked at.
    pub database: Option<PathBuf>,
    /// Our programs; the run folder is theirs.
    pub programs: Programs,
    /// The program to test nginx's files with.
    pub nginx: PathBuf,
    /// How long that may take.
    pub nginx_limit: Duration,
}

/// Our own files, and Quay's with our edits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Our file for nginx's http level.
    pub http: String,
    /// Our file for each of nginx's servers.
    pub server: String,
    /// Quay's `http-base.conf`.
    pub http_base: String,
    /// Quay's `server-base.conf`.
    pub server_base: String,
    /// Quay's `supervisord.conf`.
    pub supervisord: String,
    /// What was left out, and why.
    pub notices: Vec<String>,
}

/// When a bundle is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before Quay's programs start: all flags are cleared, and a failure puts back Quay's own files.
    Boot,
    /// While they run, to change the map: flags stay, and a failure puts back what was there before.
    Live,
}

/// What came of applying a bundle.
#[derive(Debug)]
pub struct Applied {
    /// What happened.
    pub outcome: Outcome,
    /// What an operator should know of.
    pub notices: Vec<String>,
}

/// What happened.
#[derive(Debug)]
pub enum Outcome {
    /// Our pieces are in place.
    Done {
        /// Whether any file is different from before.
        changed: bool,
    },
    /// No file was touched.
    Untouched(BundleError),
    /// Files were touched, and are as they were.
    Restored(BundleError),
    /// Files were touched, and could not all be put back.
    Broken {
        /// What went wrong.
        error: BundleError,
        /// What went wrong while putting it right.
        restoring: FileError,
    },
}

/// Why a bundle is not applied.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each is the error of one step and speaks for itself")]
pub enum BundleError {
    #[error(transparent)]
    Pristine(#[from] PristineError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Facts(#[from] FactsError),
    #[error(transparent)]
    Splice(#[from] SpliceError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Supervisord(#[from] SupervisordError),
    #[error(transparent)]
    RunFolder(#[from] RunFolderError),
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error("Quay runs here as uid {0}, and we do not: run this as that user")]
    OtherUser(u32),
    #[error("the nginx files name upstreams that none of them defines: {0}")]
    Upstreams(String),
}

impl Bundle {
    /// Everything that would be written, from Quay's files as Quay wrote them; touches nothing.
    ///
    /// # Errors
    /// When any of it cannot be made, or would not be what it has to be.
    pub fn render(&self, blob_prefix: &str) -> Result<Rendered, BundleError> {
        self.render_from(&Pristine::read(&self.tree)?, blob_prefix)
    }

    fn render_from(&self, quay: &Pristine, blob_prefix: &str) -> Result<Rendered, BundleError> {
        let facts = Facts::read(quay.nginx())?;
        let spliced = splice(quay.nginx())?;
        let mut notices = spliced.notices;
        let blobs = Blobs { prefix: blob_prefix.to_owned(), roots: self.blob_roots.clone() };
        for root in blobs.unusable() {
            notices.push(format!(
                "{}: nginx cannot be told of it; its blobs are streamed",
                root.display()
            ));
        }
        if !facts.headers_agree {
            notices
                .push("nginx.conf's servers add different headers; blobs are streamed".to_owned());
        }
        let run = self.programs.run.clone();
        let rust = self.programs.registryd_address();
        // A registryd elsewhere has no file that nginx could send.
        let blobs = self.programs.service.is_none().then_some(blobs);
        let nginx = Nginx { run, rust, routing: self.routing.clone(), blobs };
        let (http, server) = (nginx.http(&facts)?, nginx.server(&facts)?);
        let used = [&spliced.http_base, &spliced.server_base, &http, &server];
        let undefined = undefined_upstreams(&used.map(String::as_str));
        let undefined =
            undefined.map_err(|error| FactsError::Syntax { file: "our own file", error })?;
        if !undefined.is_empty() {
            return Err(BundleError::Upstreams(undefined.join(", ")));
        }
        // Parameters of the server follow its address.
        let first = facts.python_servers.first().and_then(|server| server.split(' ').next());
        let python = self.programs.python.clone().or(first.map(str::to_owned));
        let programs = Programs { python, ..self.programs.clone() };
        let programs = programs.splice(&quay.supervisord)?;
        notices.extend(programs.notices);
        Ok(Rendered {
            http,
            server,
            http_base: spliced.http_base,
            server_base: spliced.server_base,
            supervisord: programs.text,
            notices,
        })
    }

    /// Puts our pieces in place.
    pub fn apply(&self, when: When) -> Applied {
        let mut notices = Vec::new();
        let outcome = match self.prepare(when, &mut notices) {
            Ok((quay, rendered)) => self.put(when, &quay, &rendered, &mut notices),
            Err(error) if when == When::Boot => self.give_up(error, &mut notices),
            Err(error) => Outcome::Untouched(error),
        };
        Applied { outcome, notices }
    }

    /// A boot that finds our edits of an earlier one, and cannot make them again, takes them out.
    fn give_up(&self, error: BundleError, notices: &mut Vec<String>) -> Outcome {
        match self.revert() {
            Ok(restored) if restored.is_empty() => Outcome::Untouched(error),
            Ok(_) => Outcome::Restored(error),
            Err(reverting) => {
                notices.push(format!("what there was before stays: {reverting}"));
                Outcome::Untouched(error)
            }
        }
    }

    fn prepare(
        &self,
        when: When,
        notices: &mut Vec<String>,
    ) -> Result<(Pristine, Rendered), BundleError> {
        if when == When::Boot {
            // Even if nothing else succeeds: flags of an earlier life must not outlive it.
            self.clear_flags()?;
        } else if let Some(user) = self.tree.foreign_user() {
            return Err(BundleError::OtherUser(user));
        }
        let quay = Pristine::read(&self.tree)?;
        let run = RunFolder::prepare(&self.programs.run, self.tree.workers())?;
        let rendered = self.render_from(&quay, &run.blob_prefix()?)?;
        notices.extend(rendered.notices.iter().cloned());
        notices.extend(self.stale(&quay));
        Ok((quay, rendered))
    }

    fn stale(&self, quay: &Pristine) -> Option<String> {
        let map = fs::read_to_string(supervisord::service_map(&self.tree.quay_conf)).ok()?;
        let programs = super::ini::Ini::parse(&quay.supervisord).ok()?;
        let stale = supervisord::stale(&map, &programs);
        (!stale.is_empty()).then(|| {
            format!("stale in Quay's service map, no program has this name: {}", stale.join(", "))
        })
    }

    fn put(
        &self,
        when: When,
        quay: &Pristine,
        rendered: &Rendered,
        notices: &mut Vec<String>,
    ) -> Outcome {
        let mut undo = Undo::default();
        let mut changed = false;
        let written = self.write(when, quay, rendered, &mut undo, &mut changed);
        let error = match written {
            // Unchanged files are tested too: a hook that runs again answers for the result.
            Ok(()) => match nginx_test(&self.nginx, &self.tree.nginx_conf(), self.nginx_limit) {
                Ok(()) => return Outcome::Done { changed },
                Err(error) => BundleError::from(error),
            },
            Err(error) => BundleError::from(error),
        };
        if let Err(restoring) = undo.restore() {
            return Outcome::Broken { error, restoring };
        }
        if matches!(error, BundleError::Gate(GateError::Refused { .. }))
            && let Err(own) = nginx_test(&self.nginx, &self.tree.nginx_conf(), self.nginx_limit)
        {
            notices.push(format!("not because of us, for without our edits too: {own}"));
        }
        Outcome::Restored(error)
    }

    fn write(
        &self,
        when: When,
        quay: &Pristine,
        rendered: &Rendered,
        undo: &mut Undo,
        changed: &mut bool,
    ) -> Result<(), FileError> {
        let folder = self.tree.pristine();
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(FileError::writing(&folder)(error));
            }
            _ => {}
        }
        for edited in Edited::ALL {
            let copy = edited.copy(&self.tree);
            files::replace(&copy, quay.of(edited).as_bytes()).map_err(FileError::writing(&copy))?;
        }
        // Ours first: Quay's never include what is not there.
        let [http, server] = self.tree.our_files();
        for (path, content) in [(http, &rendered.http), (server, &rendered.server)] {
            undo.remember(
                &path,
                match when {
                    When::Boot => None,
                    When::Live => fs::read(&path).ok(),
                },
            );
            // It holds the secret part of blob paths.
            let same = fs::read(&path).is_ok_and(|present| present == content.as_bytes());
            if !same {
                let written = files::write(&path, content.as_bytes(), 0o600);
                written.map_err(FileError::writing(&path))?;
                *changed = true;
            }
        }
        for edited in Edited::ALL {
            let path = edited.path(&self.tree);
            undo.remember(
                &path,
                match when {
                    When::Boot => Some(quay.of(edited).as_bytes().to_vec()),
                    When::Live => fs::read(&path).ok(),
                },
            );
            let content = match edited {
                Edited::HttpBase => &rendered.http_base,
                Edited::ServerBase => &rendered.server_base,
                Edited::Supervisord => &rendered.supervisord,
            };
            let replaced = files::replace(&path, content.as_bytes());
            *changed |= replaced.map_err(FileError::writing(&path))?;
        }
        Ok(())
    }

    /// Takes our pieces out: every owner is Python at once, Quay's files are as Quay wrote them. A
    /// running nginx and supervisord keep what they have read until they are told to read again.
    ///
    /// # Errors
    /// When a file cannot be put back; those before it are.
    pub fn revert(&self) -> Result<Vec<PathBuf>, BundleError> {
        let cleared = self.clear_flags();
        let mut restored = Vec::new();
        for edited in Edited::ALL {
            let path = edited.path(&self.tree);
            let quay = edited.pristine(&self.tree)?;
            if files::replace(&path, quay.as_bytes()).map_err(FileError::writing(&path))? {
                restored.push(path);
            }
        }
        for path in self.tree.our_files() {
            remove(&path)?;
        }
        for edited in Edited::ALL {
            remove(&edited.copy(&self.tree))?;
        }
        match fs::remove_dir(self.tree.pristine()) {
            // Somebody else's file in it is not ours to remove.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(%error, "folder of pristine copies not removed");
            }
            _ => {}
        }
        // Told last: a folder that is not ours is no reason to leave our edits in Quay's files.
        cleared?;
        Ok(restored)
    }

    fn clear_flags(&self) -> Result<(), RunFolderError> {
        match RunFolder::open(&self.programs.run) {
            Ok(run) => run.clear(),
            Err(RunFolderError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FileError::writing(path)(error))
        }
        _ => Ok(()),
    }
}

/// What files were before we wrote them; nothing stands for a file that must not be there.
#[derive(Default)]
struct Undo(Vec<(PathBuf, Option<Vec<u8>>)>);

impl Undo {
    fn remember(&mut self, path: &Path, content: Option<Vec<u8>>) {
        self.0.push((path.to_owned(), content));
    }

    /// The newest first, so that an include goes before what it includes. One failure does not keep
    /// the others from being put back.
    fn restore(&self) -> Result<(), FileError> {
        let mut failed = None;
        for (path, content) in self.0.iter().rev() {
            let restored = match content {
                Some(content) => {
                    files::replace(path, content).map(|_| ()).map_err(FileError::writing(path))
                }
                None => remove(path),
            };
            failed = failed.or(restored.err());
        }
        failed.map_or(Ok(()), Err)
    }
}

impl Applied {
    /// Whether our pieces are in place.
    pub fn is_done(&self) -> bool {
        matches!(self.outcome, Outcome::Done { .. })
    }

    /// Whether Quay can start: anything but files that could not be put back.
    pub fn can_boot(&self) -> bool {
        !matches!(self.outcome, Outcome::Broken { .. })
    }
}

/// A line for each thing to know.
impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Done { changed: true } => writeln!(f, "applied")?,
            Outcome::Done { changed: false } => writeln!(f, "applied before, nothing changed")?,
            Outcome::Untouched(error) => {
                writeln!(f, "not applied, no file touched, Quay runs as before: {error}")?;
            }
            Outcome::Restored(error) => {
                writeln!(f, "not applied, all files put back, Quay runs as before: {error}")?;
            }
            Outcome::Broken { error, restoring } => {
                writeln!(f, "not applied: {error}")?;
                writeln!(f, "NOT ALL FILES COULD BE PUT BACK: {restoring}")?;
            }
        }
        self.notices.iter().try_for_each(|notice| writeln!(f, "notice: {notice}"))
    }
}
