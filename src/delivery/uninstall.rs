//! What has to be done so that everything is as it was before us.

use super::files::{self, at};
use super::install::{changed, is_empty};
use super::manifest::{Entry, Manifest, State};
use super::step::Step;
use super::target::{Place, Target};
use super::{Error, Refusal};
use crate::bundle::Tree;

/// The steps back; none when nothing of ours is there. What was begun and not ended is undone too.
///
/// # Errors
/// When somebody else has changed a file of ours since.
pub fn uninstall(place: &Place) -> Result<Vec<Step>, Error> {
    let home = &place.home;
    let Some(manifest) = Manifest::read(home)? else {
        return Ok(if is_empty(home) { begun(place)? } else { Vec::new() });
    };
    let removing = Manifest { state: State::Removing, ..manifest.clone() };
    let mut steps = vec![Step::Record { home: home.clone(), manifest: Box::new(removing) }];
    if let Target::Tree(quay_dir) = &manifest.target {
        steps.extend(revert(place, quay_dir));
    }
    steps.extend(files(&manifest.files)?);
    steps.extend(manifest.target.reload(place).map(|words| Step::Run { words, user: None }));
    let kept = manifest.files.iter().filter_map(|entry| entry.before.as_ref());
    steps.extend(kept.map(|before| Step::Remove(before.backup.clone())));
    // The manifest goes last of what is in our folder: it is what another run would go by.
    let folders = manifest.folders.iter().rev().cloned();
    let (last, first): (Vec<_>, Vec<_>) = folders.partition(|folder| home.starts_with(folder));
    steps.extend(first.into_iter().map(Step::RemoveFolder));
    steps.push(Step::Remove(Manifest::path(home)));
    steps.extend(last.into_iter().map(Step::RemoveFolder));
    Ok(steps)
}

/// An installation that was killed before it had noted anything down.
fn begun(place: &Place) -> Result<Vec<Step>, Error> {
    let home = &place.home;
    let unfinished = files::unfinished(&Manifest::path(home)).map_err(at("read", home))?;
    let removals = unfinished.into_iter().map(Step::Remove);
    Ok(removals.chain([Step::RemoveFolder(home.clone())]).collect())
}

/// Files as they were, the last one first: it puts the others to use.
pub(super) fn files(entries: &[Entry]) -> Result<Vec<Step>, Error> {
    let (mut steps, mut refused) = (Vec::new(), Vec::<Refusal>::new());
    for entry in entries.iter().rev() {
        let path = &entry.path;
        let unfinished = files::unfinished(path).map_err(at("read", path))?;
        steps.extend(unfinished.into_iter().map(Step::Remove));
        let found = files::look(path)?;
        let step = match (&found, &entry.before) {
            (None, None) => None,
            (Some(found), Some(before))
                if found.sha256 == before.sha256 && found.mode == before.mode =>
            {
                None
            }
            (Some(found), _) if found.is_link || !entry.is_ours(&found.sha256) => {
                refused.push(changed(path, &found.sha256));
                None
            }
            (_, Some(before)) => Some(Step::Restore { path: path.clone(), before: before.clone() }),
            (Some(_), None) => Some(Step::Remove(path.clone())),
        };
        steps.extend(step);
    }
    match refused.is_empty() {
        true => Ok(steps),
        false => Err(Error::Refused(refused)),
    }
}

/// The files that Quay generated have our edits until its next start: taken out now, as their owner,
/// whose they have to stay.
fn revert(place: &Place, quay_dir: &std::path::Path) -> Option<Step> {
    let conf = quay_dir.join("conf");
    let program = place.home.join("bin/quay");
    let owner = files::look(&conf.join("supervisord.conf")).ok()??.owner;
    if !Tree::new(quay_dir, &conf).is_edited() || !program.exists() {
        return None;
    }
    let words = [
        program.display().to_string(),
        "bundle".into(),
        "revert".into(),
        "--quay-conf".into(),
        conf.display().to_string(),
    ];
    let us = rustix::process::geteuid();
    let user = (us.is_root() && owner.0 != us.as_raw()).then_some(owner);
    Some(Step::Run { words: words.into(), user })
}
