//! One repository that is being filled, whatever says so: which of its source's tags are copied is for
//! others to decide, and how is decided here.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt as _;
use tokio::sync::Semaphore;

use super::blobs::InFlight;
use super::claim::{Claim, Ending, ROUTE, Stop};
use super::copy::{Copied, client};
use super::look::{Look, no_tag};
use super::policy::Policy;
use super::settings::Access;
use super::steps::step;
use super::sync::Outcome;
use super::{Parts, Progress, SyncError};
use crate::audit::Client;
use crate::auth::Identity;
use crate::catalog::{Destination, MirrorStanding};
use crate::config::MirrorEngine;
use crate::oci::{Digest, is_tag};

/// Tags at once: most are one request, and the source's host bounds those anyway.
const TAGS: usize = 8;

/// Blobs of a sync at once, whatever the number of tags: each costs some memory.
const SLOTS: usize = 8;

/// A sync that goes on.
pub(super) struct Job<'a> {
    pub(super) look: Look<'a>,
    /// Tags that this sync has moved.
    pub(super) moved: Mutex<Vec<String>>,
    /// Manifests whose companions were looked for, and the tags among those companions.
    pub(super) accompanied: Mutex<HashSet<Digest>>,
    pub(super) companions: Mutex<HashSet<String>>,
    pub(super) progress: &'a Progress,
    pub(super) in_flight: InFlight,
    pub(super) slots: Semaphore,
    pub(super) client: Client,
    pub(super) stop: Stop,
    claim: &'a Claim,
    engine: MirrorEngine,
}

/// What copies from a source: skopeo alone can verify signatures.
pub(super) fn engine(parts: &Parts, access: &Access) -> Result<MirrorEngine, SyncError> {
    let engine = parts.config.sidecar.mirror_engine;
    let engine = match (access.unsigned_images, engine) {
        (true, _) | (_, MirrorEngine::Skopeo) => engine,
        (false, MirrorEngine::Native) => {
            let source = access.options.source.canonical();
            match Policy::of(&source)? {
                Policy::Anything => engine,
                Policy::Signatures => MirrorEngine::Skopeo,
                Policy::Reject => {
                    let reason = format!("the policy of this machine rejects images of {source}");
                    return Err(SyncError::Forbidden(reason));
                }
            }
        }
    };
    if engine == MirrorEngine::Skopeo && !access.architectures.is_empty() {
        return Err(SyncError::Settings(
            "architecture_filter: skopeo copies all architectures here; take the filter away, or \
             let the mirror take unsigned images natively"
                .to_owned(),
        ));
    }
    Ok(engine)
}

/// What a push by the mirror's robot would meet (contract §7.6 rules 7 and 8).
pub(super) async fn may_write(parts: &Parts, into: &Destination) -> Result<(), SyncError> {
    let forbidden = |reason: String| Err(SyncError::Forbidden(reason));
    let (config, robot) = (&parts.config, &into.robot);
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
        id: into.robot_id,
        username: robot.clone(),
        owner_id,
        owner: owner.to_owned(),
    };
    match parts.authorizer.may_push(db, &into.name, &identity).await {
        Ok(true) => Ok(()),
        Ok(false) => forbidden(format!("robot {robot} has no write permission on {}", into.name)),
        Err(error) => forbidden(error.to_string()),
    }
}

/// The result of `work`, unless the sync has to end before.
pub(super) async fn until_told<T>(
    stop: &Stop,
    work: impl Future<Output = Result<T, SyncError>>,
) -> Result<T, SyncError> {
    tokio::select! {
        done = work => done,
        ending = stop.ending() => Err(SyncError::Ended(ending)),
    }
}

impl<'a> Job<'a> {
    /// Gets ready; asks nothing yet.
    pub(super) fn open(
        parts: &'a Parts,
        into: &'a Destination,
        access: &'a Access,
        engine: MirrorEngine,
        claim: &'a Claim,
        progress: &'a Progress,
    ) -> Result<Self, SyncError> {
        Ok(Self {
            look: Look::open(parts, into, access)?,
            moved: Mutex::default(),
            accompanied: Mutex::default(),
            companions: Mutex::default(),
            progress,
            in_flight: InFlight::default(),
            slots: Semaphore::new(SLOTS),
            client: client(),
            stop: claim.stop(),
            claim,
            engine,
        })
    }

    /// All tags of the source. Looks at those that are here, too.
    pub(super) async fn list(&mut self) -> Result<Vec<String>, SyncError> {
        let tags = until_told(&self.stop, self.look.list()).await?;
        step("mirror: tags listed");
        Ok(tags)
    }

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
            MirrorStanding::Ours => may_write(self.look.parts, self.look.into).await,
            MirrorStanding::Cancelled => Err(SyncError::Ended(Ending::Cancelled)),
            MirrorStanding::Lost => Err(SyncError::Ended(Ending::Lost)),
        }
    }

    /// The robot's token, for skopeo.
    pub(super) async fn robot_token(&self) -> Result<String, SyncError> {
        let robot = &self.look.into.robot;
        let owner = robot.split('+').next().unwrap_or_default();
        let row = self.look.db().robot(robot, owner).await?;
        let token = row.and_then(|row| row.token);
        let none = || SyncError::Forbidden(format!("robot {robot} has no token"));
        let token = token.ok_or_else(none)?;
        let key = &self.look.parts.field_key;
        key.decrypt(&token).map_err(|_| SyncError::Undecryptable("robot's token"))
    }

    /// Copies tags, several at once, until all are done or the sync has to end. `heard` is told of
    /// each, and a tag of which it fails has failed.
    pub(super) async fn copy_all(
        &mut self,
        tags: &[String],
        heard: impl AsyncFn(&str, &Result<Copied, SyncError>) -> Result<(), SyncError>,
    ) -> Outcome {
        self.look.matches(tags);
        let mut outcome = Outcome { tags: tags.len(), ..Outcome::default() };
        let (this, heard) = (&*self, &heard);
        let work = tags.iter().map(|tag| async move {
            let copied = this.one(tag).await;
            let told = heard(tag, &copied).await;
            step("mirror: tag logged");
            (tag, told.and(copied))
        });
        let mut work = futures_util::stream::iter(work).buffer_unordered(TAGS);
        while let Some((tag, copied)) = work.next().await {
            match copied {
                Err(SyncError::Ended(ending)) => outcome.ending = Some(ending),
                copied => outcome.count(tag, copied, self.progress),
            }
            // Quay has this one for repository mirrors alone.
            let Look { parts, into, .. } = &self.look;
            if !into.of_organization {
                let done = outcome.moved + outcome.unchanged + outcome.failed.len();
                parts.metrics.pending(&into.name, tags.len() - done);
            }
        }
        outcome.failed.sort_unstable();
        outcome.ending = outcome.ending.or_else(|| self.stop.now());
        outcome
    }

    /// Notes what the whole of it has cost.
    pub(super) fn asked(&self, outcome: &mut Outcome) {
        outcome.asked = self.look.source.counts();
        outcome.linked_bytes = self.progress.snapshot().linked_bytes;
        self.look.parts.metrics.asked(&outcome.asked, outcome.linked_bytes);
    }

    async fn one(&self, tag: &str) -> Result<Copied, SyncError> {
        if let Some(ending) = self.stop.now() {
            return Err(SyncError::Ended(ending));
        }
        match is_tag(tag) {
            true => self.by_engine(tag).await,
            false => Err(no_tag(tag)),
        }
    }

    async fn by_engine(&self, tag: &str) -> Result<Copied, SyncError> {
        match self.engine {
            MirrorEngine::Native => self.tag(tag).await,
            MirrorEngine::Skopeo => {
                // It may have moved the tag also where it fails.
                locked(&self.moved).push(tag.to_owned());
                self.until_told(self.tag_by_skopeo(tag)).await?;
                let alive = self.look.db().alive_tags(self.look.into.repository_id).await?;
                let here = alive.iter().find(|alive| alive.name == tag);
                let digest = here.and_then(|tag| Digest::parse(&tag.digest));
                let none = || SyncError::Skopeo("skopeo succeeded, but the tag is not here".into());
                digest.map(Copied::Moved).ok_or_else(none)
            }
        }
    }
}

/// A panic elsewhere ends that sync, not this one.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outcome {
    fn count(&mut self, tag: &str, copied: Result<Copied, SyncError>, progress: &Progress) {
        match copied {
            Ok(Copied::Moved(_)) => {
                self.moved += 1;
                progress.tag_done(true, false);
            }
            Ok(Copied::Unchanged(_) | Copied::OtherArchitecture(_)) => {
                self.unchanged += 1;
                progress.tag_done(false, false);
            }
            Err(error) => {
                self.reason.get_or_insert(error.reason());
                self.failed.push((tag.to_owned(), error.to_string()));
                progress.tag_done(false, true);
            }
        }
    }
}
