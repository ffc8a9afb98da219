//! What has to be done so that our files are there.

use std::fs::DirEntry;
use std::path::{Path, PathBuf};

use super::files::{self, Found};
use super::manifest::{Before, Entry, Manifest, State};
use super::step::Step;
use super::target::{NewFile, Place, Target};
use super::uninstall;
use super::{Error, Refusal};

/// The steps of an installation, or of a newer release over an older one; none when all is there.
/// An installation that was begun and not ended is finished.
///
/// # Errors
/// When somebody else has changed a file of ours since, or we are installed into something else.
pub fn install(target: &Target, place: &Place, files: &[NewFile]) -> Result<Vec<Step>, Error> {
    let home = &place.home;
    let old = Manifest::read(home)?;
    if let Some(old) = old.as_ref().filter(|old| old.target != *target) {
        return Err(Refusal::new(
            format!("{} is that of an installation into {}", home.display(), old.target),
            "undo that one first, with `quay uninstall`, or use another folder with --home",
        )
        .into());
    }
    let mut new = Manifest::new(target.clone());
    new.folders = old.as_ref().map(|old| old.folders.clone()).unwrap_or_default();
    let (mut keeps, mut writes, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for file in files {
        let known = old.as_ref().and_then(|old| old.entry(&file.path));
        match one(home, file, known) {
            Ok(one) => {
                keeps.extend(one.keep);
                writes.extend(one.write);
                new.files.push(one.entry);
            }
            Err(Error::Refused(more)) => refused.extend(more),
            Err(error) => return Err(error),
        }
    }
    if !refused.is_empty() {
        return Err(Error::Refused(refused));
    }
    let gone = old.iter().flat_map(|old| &old.files);
    let gone: Vec<Entry> =
        gone.filter(|e| !files.iter().any(|file| file.path == e.path)).cloned().collect();
    let removals = uninstall::files(&gone)?;
    let whole =
        old.as_ref().is_some_and(|old| old.state == State::Installed && old.version == new.version);
    if whole && writes.is_empty() && removals.is_empty() {
        return Ok(Vec::new());
    }

    let missing = missing_folders(
        home,
        &files.iter().map(|f| f.path.as_path()).collect::<Vec<_>>(),
        !keeps.is_empty(),
    );
    for folder in &missing {
        if !new.folders.contains(folder) {
            new.folders.push(folder.clone());
        }
    }
    // An empty one is what an installation left that was killed before it could note anything down.
    if old.is_none() && is_empty(home) && !new.folders.contains(home) {
        new.folders.insert(0, home.clone());
    }
    let finished = finished(&new);
    new.files.extend(gone);
    let record = |manifest| Step::Record { home: home.clone(), manifest: Box::new(manifest) };
    let (first, others): (Vec<PathBuf>, Vec<PathBuf>) =
        missing.into_iter().partition(|folder| home.starts_with(folder));
    let mut steps: Vec<Step> = first.into_iter().map(Step::Folder).collect();
    steps.push(record(new));
    steps.extend(others.into_iter().map(Step::Folder));
    steps.extend(keeps);
    steps.extend(writes);
    steps.extend(removals);
    steps.extend(target.reload(place).map(|words| Step::Run { words, user: None }));
    steps.push(record(finished));
    Ok(steps)
}

struct One {
    entry: Entry,
    keep: Option<Step>,
    write: Option<Step>,
}

fn one(home: &Path, file: &NewFile, known: Option<&Entry>) -> Result<One, Error> {
    let path = &file.path;
    let found = files::look(path)?;
    if found.as_ref().is_some_and(|found| found.is_link) {
        return Err(Refusal::new(
            format!("{} is a link", path.display()),
            "remove it: we write a file there, and would not follow it",
        )
        .into());
    }
    let sha256 = files::sha256(&file.content);
    let is_there = |found: &Found| found.sha256 == sha256 && found.mode == file.mode;
    let before = match known {
        Some(entry) => {
            if let Some(found) = found.as_ref().filter(|found| !entry.knows(&found.sha256)) {
                return Err(changed(path, &found.sha256).into());
            }
            entry.before.clone()
        }
        None => found.as_ref().map(|found| Before {
            backup: home.join("backup").join(&found.sha256),
            sha256: found.sha256.clone(),
            mode: found.mode,
            owner: found.owner,
        }),
    };
    // Once: from then on the file may be ours. A copy that a removal has begun with is made again.
    let is_before = |before: &&Before| {
        found.as_ref().is_some_and(|found| found.sha256 == before.sha256) && !before.backup.exists()
    };
    let keep = before
        .as_ref()
        .filter(is_before)
        .map(|before| Step::Keep { path: path.clone(), backup: before.backup.clone() });
    let write = !found.as_ref().is_some_and(is_there);
    let write = write.then(|| Step::Write {
        path: path.clone(),
        content: file.content.clone(),
        mode: file.mode,
    });
    // Until it is replaced, the one before is ours as well.
    let mut ours = known.map(|entry| entry.ours.clone()).unwrap_or_default();
    ours.retain(|known| *known != sha256);
    ours.push(sha256);
    Ok(One { entry: Entry { path: path.clone(), ours, before }, keep, write })
}

/// The same, once all is done.
fn finished(begun: &Manifest) -> Manifest {
    let mut manifest = Manifest { state: State::Installed, ..begun.clone() };
    for entry in &mut manifest.files {
        let newest = entry.ours.len().saturating_sub(1);
        entry.ours.drain(..newest);
    }
    manifest
}

pub(super) fn changed(path: &Path, sha256: &str) -> Refusal {
    Refusal::new(
        format!("{}: somebody else has changed it since (sha256 {sha256})", path.display()),
        "look at it; if it is not needed, remove it, and run this again",
    )
}

/// Those that have to be made, the outer ones first.
fn missing_folders(home: &Path, files: &[&Path], backup: bool) -> Vec<PathBuf> {
    let backup = backup.then(|| home.join("backup/copy"));
    let inside = home.join("manifest");
    let paths = [inside.as_path()].into_iter().chain(files.iter().copied());
    let mut missing = Vec::new();
    for path in paths.chain(backup.as_deref()) {
        let above: Vec<&Path> =
            path.ancestors().skip(1).take_while(|folder| !folder.exists()).collect();
        for folder in above.into_iter().rev() {
            if !missing.iter().any(|known| known == folder) {
                missing.push(folder.to_owned());
            }
        }
    }
    missing
}

/// Whether a folder has nothing in it, or only what we were about to note down.
pub(super) fn is_empty(folder: &Path) -> bool {
    let manifest = Manifest::path(folder);
    let ours = |entry: &DirEntry| files::is_unfinished(entry, &manifest);
    std::fs::read_dir(folder)
        .is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(|entry| ours(&entry))))
}
