//! One sync of one mirror: what its rule means, fetched; what it means no longer, deleted; and
//! everybody told. Tags are moved one by one, each whole; a sync that fails leaves those that it has
//! moved, and says which it could not move and why.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use chrono::Utc;
use futures_util::StreamExt as _;
use tokio::sync::Semaphore;

use super::blobs::InFlight;
use super::claim::{Claim, Ending, ROUTE, Stop};
use super::copy::{Copied, client, no_tag};
use super::log::Log;
use super::policy::Policy;
use super::settings::Settings;
use super::{Parts, Progress, SyncError};
use crate::audit::Client;
use crate::auth::Identity;
use crate::catalog::{AliveTag, Catalog, Change, Entity, Mirror, MirrorStanding, SyncStatus};
use crate::config::MirrorEngine;
use crate::oci::{Digest, cosign_tags, is_tag};
use crate::upstream::{Counts, Options, Source};

/// Tags at once: most are one request, and the source's host bounds those anyway.
const TAGS: usize = 8;

/// Blobs of a sync at once, whatever the number of tags: each costs some memory.
const SLOTS: usize = 8;

/// What became of a sync.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Tags that the rule means.
    pub tags: usize,
    /// Tags that were moved.
    pub moved: usize,
    /// Tags that were as they are at the source.
    pub unchanged: usize,
    /// Tags that could not be copied or deleted, and why.
    pub failed: Vec<(String, String)>,
    /// Tags that were deleted, because the source or the rule has them no longer.
    pub deleted: usize,
    /// Why it ended before its time.
    pub ending: Option<Ending>,
    /// Why nothing was begun at all.
    pub not_begun: Option<String>,
    /// What was asked of the source.
    pub asked: Counts,
    /// Bytes of blobs that were here already and were linked.
    pub linked_bytes: u64,
    reason: Option<&'static str>,
}

impl Outcome {
    /// Whether every tag is here.
    pub fn is_success(&self) -> bool {
        self.failed.is_empty() && self.ending.is_none() && self.not_begun.is_none()
    }
}

/// A sync that goes on.
pub(super) struct Job<'a> {
    pub(super) parts: &'a Parts,
    pub(super) catalog: &'a Catalog,
    pub(super) mirror: &'a Mirror,
    pub(super) options: &'a Options,
    pub(super) source: Source,
    pub(super) host: &'a str,
    pub(super) architectures: &'a [String],
    pub(super) unsigned_images: bool,
    /// Every tag of the source.
    pub(super) source_tags: HashSet<String>,
    /// The tags that are here.
    pub(super) alive: HashMap<String, AliveTag>,
    pub(super) progress: &'a Progress,
    pub(super) in_flight: InFlight,
    pub(super) slots: Semaphore,
    pub(super) client: Client,
    pub(super) stop: Stop,
    claim: &'a Claim,
    engine: MirrorEngine,
}

/// Syncs a mirror that was claimed, and gives it back.
pub async fn sync(parts: &Parts, claim: Claim, progress: &Progress) -> Outcome {
    let began = Instant::now();
    let mirror = claim.mirror.clone();
    let (name, metrics) = (&mirror.name, &parts.metrics);
    tracing::info!(mirror = %name, source = mirror.external_reference, "sync begins");
    metrics.began(name);
    let log = Log {
        audit: &parts.audit,
        catalog: &parts.catalog,
        config: &parts.config,
        mirror: &mirror,
    };
    let outcome = match fill(parts, &claim, &log, progress).await {
        Ok(outcome) => outcome,
        Err(error) => {
            let reason = Some(error.reason());
            let ending = claim.stop().now();
            if ending.is_none()
                && let Err(unlogged) = log.not_begun(&error).await
            {
                tracing::error!(%unlogged, mirror = %name, "a failed sync is not in the action log");
            }
            let not_begun = Some(error.to_string());
            Outcome { not_begun, reason, ending, ..Outcome::default() }
        }
    };
    let status = match outcome.is_success() {
        true => SyncStatus::Success,
        false => SyncStatus::Fail,
    };
    let failure = match outcome.ending {
        None if outcome.is_success() => None,
        Some(Ending::Lost) => Some("preempted"),
        _ => Some(outcome.reason.unwrap_or("unknown_error")),
    };
    metrics.pending(name, 0);
    // A stop is no failure: the next worker goes on.
    if outcome.ending != Some(Ending::Stopping) {
        metrics.ended(name, began.elapsed().as_secs_f64(), failure);
    }
    let release = match outcome.ending {
        None => Some(mirror.after(status, Utc::now().naive_utc())),
        Some(Ending::Stopping) => Some(mirror.untouched()),
        // Whoever took it or cancelled it has written what it is now.
        Some(Ending::Lost | Ending::Cancelled) => None,
    };
    if let Some(release) = release
        && let Err(error) = claim.release(&release).await
    {
        tracing::warn!(%error, mirror = %name, "not given back; its lease will end");
    }
    report(&mirror, &outcome, began);
    outcome
}

/// One line for the log of this process, and one for each tag that failed.
fn report(mirror: &Mirror, outcome: &Outcome, began: Instant) {
    let Outcome { tags, moved, unchanged, deleted, .. } = *outcome;
    let (failed, ending, seconds) =
        (outcome.failed.len(), outcome.ending, began.elapsed().as_secs_f64());
    for (tag, why) in &outcome.failed {
        tracing::warn!(mirror = %mirror.name, tag, why, "tag not mirrored");
    }
    let name = &mirror.name;
    match (&outcome.not_begun, outcome.is_success()) {
        (Some(why), _) => tracing::warn!(mirror = %name, why, ?ending, "sync failed"),
        (None, true) => tracing::info!(
            mirror = %name, tags, moved, unchanged, deleted, seconds, "sync succeeded"
        ),
        (None, false) => tracing::warn!(
            mirror = %name, tags, moved, unchanged, failed, ?ending, seconds, "sync failed"
        ),
    }
}

/// Everything up to the first error that makes the rest pointless.
async fn fill(
    parts: &Parts,
    claim: &Claim,
    log: &Log<'_>,
    progress: &Progress,
) -> Result<Outcome, SyncError> {
    let mirror = &claim.mirror;
    let settings = Settings::read(mirror, &parts.config, &parts.field_key, &parts.hosts)?;
    let engine = engine(parts, mirror, &settings)?;
    may_write(parts, mirror).await?;
    log.started().await?;
    let source = Source::open(settings.options.clone())?;
    let stop = claim.stop();
    let all = until_told(&stop, async { Ok(source.tags().await?) }).await?;
    let source_tags: HashSet<String> = all.iter().cloned().collect();
    let matching = settings.globs.matching(all);
    progress.tags(matching.len());
    parts.metrics.pending(&mirror.name, matching.len());
    if matching.is_empty() {
        log.succeeded(&matching).await?;
        return Ok(Outcome::default());
    }
    let db = parts.catalog.session(ROUTE);
    let alive = db.alive_tags(mirror.repository_id).await?;
    let job = Job {
        parts,
        catalog: &parts.catalog,
        mirror,
        options: &settings.options,
        host: mirror.external_reference.split('/').next().unwrap_or_default(),
        architectures: &settings.architectures,
        unsigned_images: settings.unsigned_images,
        source,
        source_tags,
        alive: alive.into_iter().map(|tag| (tag.name.clone(), tag)).collect(),
        progress,
        in_flight: InFlight::default(),
        slots: Semaphore::new(SLOTS),
        client: client(),
        stop,
        claim,
        engine,
    };
    let copied = job.copy_all(&matching, log).await;
    let (asked, linked_bytes) = (job.source.counts(), progress.snapshot().linked_bytes);
    parts.metrics.asked(&asked, linked_bytes);
    Ok(Outcome { asked, linked_bytes, ..copied? })
}

/// What copies this mirror: skopeo alone can verify signatures.
fn engine(parts: &Parts, mirror: &Mirror, settings: &Settings) -> Result<MirrorEngine, SyncError> {
    let engine = parts.config.sidecar.mirror_engine;
    if settings.unsigned_images || engine == MirrorEngine::Skopeo {
        return Ok(engine);
    }
    match Policy::of(&mirror.external_reference)? {
        Policy::Anything => Ok(engine),
        Policy::Signatures => Ok(MirrorEngine::Skopeo),
        Policy::Reject => Err(SyncError::Forbidden(format!(
            "the policy of this machine rejects images of {}",
            mirror.external_reference
        ))),
    }
}

/// What a push by the mirror's robot would meet (contract §7.6 rules 7 and 8).
async fn may_write(parts: &Parts, mirror: &Mirror) -> Result<(), SyncError> {
    let forbidden = |reason: String| Err(SyncError::Forbidden(reason));
    let (config, robot) = (&parts.config, &mirror.robot);
    if config.server.registry_state_readonly {
        return forbidden("REGISTRY_STATE: the registry is read-only".to_owned());
    }
    if config.push.disabled {
        return forbidden("DISABLE_PUSHES: the registry takes no pushes".to_owned());
    }
    if config.auth.robots_disallow && !config.auth.robots_whitelist.contains(robot) {
        return forbidden(format!("ROBOTS_DISALLOW: robot {robot} cannot log in"));
    }
    let owner = robot.split('+').next().unwrap_or_default();
    let db = parts.catalog.session(ROUTE);
    let row = db.robot(robot, owner).await?.filter(|row| row.enabled);
    let enabled = row.and_then(|row| row.owner).filter(|(_, enabled)| *enabled);
    let Some((owner_id, _)) = enabled else {
        return forbidden(format!("robot {robot} is disabled"));
    };
    let identity = Identity::Robot {
        id: mirror.robot_id,
        username: robot.clone(),
        owner_id,
        owner: owner.to_owned(),
    };
    match parts.authorizer.may_push(db, &mirror.name, &identity).await {
        Ok(true) => Ok(()),
        Ok(false) => forbidden(format!("robot {robot} has no write permission on {}", mirror.name)),
        Err(error) => forbidden(error.to_string()),
    }
}

/// The result of `work`, unless the sync has to end before.
async fn until_told<T>(
    stop: &Stop,
    work: impl Future<Output = Result<T, SyncError>>,
) -> Result<T, SyncError> {
    tokio::select! {
        done = work => done,
        _ = stop.ending() => Err(SyncError::Ended),
    }
}

impl Job<'_> {
    /// The result of a request, unless the sync has to end before.
    pub(super) async fn until_told<T>(
        &self,
        work: impl Future<Output = Result<T, SyncError>>,
    ) -> Result<T, SyncError> {
        until_told(&self.stop, work).await
    }

    /// Whether the mirror is still ours, and its robot may still write.
    pub(super) async fn may_write(&self) -> Result<(), SyncError> {
        match self.claim.standing().await? {
            MirrorStanding::Ours => may_write(self.parts, self.mirror).await,
            MirrorStanding::Cancelled | MirrorStanding::Lost => Err(SyncError::Ended),
        }
    }

    /// The robot's token, for skopeo.
    pub(super) async fn robot_token(&self) -> Result<String, SyncError> {
        let robot = &self.mirror.robot;
        let owner = robot.split('+').next().unwrap_or_default();
        let row = self.catalog.session(ROUTE).robot(robot, owner).await?;
        let token = row.and_then(|row| row.token);
        let none = || SyncError::Forbidden(format!("robot {robot} has no token"));
        let token = token.ok_or_else(none)?;
        self.parts.field_key.decrypt(&token).map_err(|_| SyncError::Undecryptable("robot's token"))
    }

    async fn copy_all(&self, tags: &[String], log: &Log<'_>) -> Result<Outcome, SyncError> {
        let mut outcome = Outcome { tags: tags.len(), ..Outcome::default() };
        let (mut moved, mut kept, mut ended) = (Vec::new(), HashSet::new(), false);
        let copies = tags.iter().map(|tag| async move { (tag, self.one(tag, log).await) });
        let mut copies = futures_util::stream::iter(copies).buffer_unordered(TAGS);
        while let Some((tag, copied)) = copies.next().await {
            match copied {
                Ok(Copied::Moved(digest)) => {
                    outcome.moved += 1;
                    kept.extend(cosign_tags(&digest));
                    moved.push(tag);
                    self.progress.tag_done(true, false);
                }
                Ok(Copied::Unchanged(digest)) => {
                    outcome.unchanged += 1;
                    kept.extend(cosign_tags(&digest));
                    self.progress.tag_done(false, false);
                }
                Ok(Copied::OtherArchitecture(_)) => {
                    outcome.unchanged += 1;
                    self.progress.tag_done(false, false);
                }
                Err(SyncError::Ended) => ended = true,
                Err(error) => {
                    outcome.reason.get_or_insert(error.reason());
                    outcome.failed.push((tag.clone(), error.to_string()));
                    self.progress.tag_done(false, true);
                }
            }
            let left = tags.len().saturating_sub(self.progress.snapshot().done);
            self.parts.metrics.pending(&self.mirror.name, left);
        }
        outcome.failed.sort_unstable();
        outcome.ending = match ended {
            true => Some(self.stop.ending().await),
            false => self.stop.now(),
        };
        match outcome.ending {
            Some(Ending::Cancelled) => log.cancelled(tags).await?,
            Some(Ending::Lost | Ending::Stopping) => {}
            None if outcome.failed.is_empty() => {
                self.delete_obsolete(tags, &kept, &mut outcome).await?;
                match outcome.failed.is_empty() {
                    true => log.succeeded(tags).await?,
                    false => log.failed(tags, &outcome.failed, false).await?,
                }
            }
            None => {
                let undo = self.parts.config.mirroring.rollback;
                log.failed(tags, &outcome.failed, undo).await?;
                if undo {
                    self.undo(&moved).await?;
                    outcome.moved = 0;
                }
            }
        }
        Ok(outcome)
    }

    /// One tag, and its line in the action log.
    async fn one(&self, tag: &str, log: &Log<'_>) -> Result<Copied, SyncError> {
        if self.stop.now().is_some() {
            return Err(SyncError::Ended);
        }
        let copied = match is_tag(tag) {
            true => self.by_engine(tag).await,
            false => Err(no_tag(tag)),
        };
        match &copied {
            Ok(copied) => log.tag_copied(tag, &copied.describe()).await?,
            Err(SyncError::Ended) => {}
            Err(error) => log.tag_failed(tag, &error.to_string()).await?,
        }
        copied
    }

    async fn by_engine(&self, tag: &str) -> Result<Copied, SyncError> {
        match self.engine {
            MirrorEngine::Native => self.tag(tag).await,
            MirrorEngine::Skopeo => {
                self.until_told(self.tag_by_skopeo(tag)).await?;
                let db = self.catalog.session(ROUTE);
                let alive = db.alive_tags(self.mirror.repository_id).await?;
                let here = alive.iter().find(|alive| alive.name == tag);
                let digest = here.and_then(|tag| Digest::parse(&tag.digest));
                let none = || SyncError::Skopeo("skopeo succeeded, but the tag is not here".into());
                digest.map(Copied::Moved).ok_or_else(none)
            }
        }
    }

    /// Deletes what the rule means no longer. Only after everything else went well: a source that
    /// fails must not cost anybody a tag.
    async fn delete_obsolete(
        &self,
        tags: &[String],
        companions: &HashSet<String>,
        outcome: &mut Outcome,
    ) -> Result<(), SyncError> {
        let matching: HashSet<&str> = tags.iter().map(String::as_str).collect();
        let wanted = |tag: &&String| {
            let companion = self.parts.config.sidecar.mirror_referrers && companions.contains(*tag);
            matching.contains(tag.as_str()) || companion
        };
        let mut obsolete: Vec<&String> = self.alive.keys().filter(|tag| !wanted(tag)).collect();
        obsolete.sort_unstable();
        let (id, db) = (self.mirror.repository_id, self.catalog.session(ROUTE));
        for tag in obsolete {
            if self.stop.now().is_some() {
                break;
            }
            match db.delete_tag(id, tag, &self.parts.config.push).await {
                Ok(Some(deleted)) => {
                    outcome.deleted += 1;
                    self.parts.stale.manifest_gone(id, &deleted.digest).await;
                }
                Ok(None) => {}
                Err(error) => {
                    let error = SyncError::from(error);
                    outcome.reason.get_or_insert(error.reason());
                    outcome.failed.push((tag.clone(), format!("not deleted: {error}")));
                }
            }
        }
        Ok(())
    }

    /// Points the tags that this sync has moved to where they pointed, as `REPO_MIRROR_ROLLBACK`
    /// wants it when one of the others fails.
    async fn undo(&self, moved: &[&String]) -> Result<(), SyncError> {
        let db = self.catalog.session(ROUTE);
        let change = db.change(&self.mirror.name, "", &Entity::Anonymous).await?;
        let Some(Change { repository, .. }) = change else { return Ok(()) };
        for tag in moved {
            let before = self.alive.get(*tag).map(|tag| tag.digest.as_str());
            let rules = &self.parts.config.push;
            let now = db.revert_tag(&repository, tag, before, rules).await?;
            if let Some(digest) = now {
                self.parts.stale.manifest_gone(self.mirror.repository_id, &digest).await;
            }
        }
        Ok(())
    }
}

impl Copied {
    fn describe(&self) -> String {
        match self {
            Self::Unchanged(digest) => format!("unchanged, {digest}"),
            Self::Moved(digest) => format!("copied, {digest}"),
            Self::OtherArchitecture(architecture) => {
                format!("skipped: its architecture is {architecture:?}")
            }
        }
    }
}
