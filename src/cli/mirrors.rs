//! `quay mirror …`

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use quay_sidecar::catalog::Catalog;
use quay_sidecar::config::Config;
use quay_sidecar::mirroring::{Outcome, Plan, Progress, Snapshot, SyncError};
use quay_sidecar::oci::{NameRules, RepoName};
use quay_sidecar::serve::repomirror::{Mirrors, ask};
use quay_sidecar::telemetry::Metrics;

use super::{ConfigDir, EX_USAGE, mirror_organizations, unusable};

/// Repositories and organizations that follow another registry.
#[derive(Subcommand)]
pub enum Mirror {
    /// Fill one now, and show how it goes.
    ///
    /// Of an organization, its repositories are looked for first, and all of them are filled. Exits 0
    /// when every tag is here, 1 otherwise.
    Sync(SyncNow),
    /// What there is, how it stands, and when it is filled next; how far, where a worker is at it. Of
    /// organizations, how many of their repositories are in which state.
    Status(Status),
}

#[derive(Args)]
pub struct SyncNow {
    #[command(flatten)]
    config: ConfigDir,
    /// What to fill: NAMESPACE/REPOSITORY, or an ORGANIZATION that follows another registry.
    #[arg(value_name = "NAMESPACE/REPOSITORY|ORGANIZATION")]
    what: String,
    /// Print what would be copied and deleted, with bytes; of an organization, for each repository
    /// that it would follow. Changes nothing. Exits 1 where something cannot be copied.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct Status {
    #[command(flatten)]
    config: ConfigDir,
    /// Where the worker is asked how far it is. [default: QUAY_SIDECAR's repo_mirror_admin,
    /// 127.0.0.1:9194]
    #[arg(long, value_name = "IP:PORT")]
    worker: Option<SocketAddr>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// How often the bar is drawn.
const DRAW: Duration = Duration::from_millis(100);

/// Mirrors that are listed at most.
const MOST: usize = 10_000;

impl Mirror {
    pub fn run(self) -> ExitCode {
        match self {
            Self::Sync(command) => command.run(),
            Self::Status(command) => command.run(),
        }
    }
}

/// What there is to show of a repository.
enum Done {
    Synced(Outcome),
    Planned(Plan),
}

impl SyncNow {
    fn run(self) -> ExitCode {
        let config = match self.config.load() {
            Ok(loaded) => loaded.config,
            Err(error) => return unusable(&error),
        };
        if !self.what.contains('/') {
            return self.organization(config);
        }
        let rules = NameRules {
            library_namespace: config.server.library_namespace.clone(),
            extended: config.features.extended_repository_names,
        };
        let Some(name) = RepoName::parse(&self.what, &rules) else {
            eprintln!("quay: {:?} is no repository: write NAMESPACE/REPOSITORY", self.what);
            return ExitCode::from(EX_USAGE);
        };
        with_mirrors(config, &self.what, async |mirrors| {
            let done = self.repository(mirrors, &name).await?;
            Ok(done.unwrap_or_else(|| {
                eprintln!("quay: {name} is no mirror, or a worker is filling it right now");
                ExitCode::FAILURE
            }))
        })
    }

    fn organization(&self, config: Config) -> ExitCode {
        if !config.auth.org_mirror {
            eprintln!(
                "quay: {:?} has no slash, so it is an organization, and FEATURE_ORG_MIRROR is not \
                 true; of a repository, write NAMESPACE/REPOSITORY",
                self.what
            );
            return ExitCode::from(EX_USAGE);
        }
        with_mirrors(config, &self.what, async |mirrors| {
            mirror_organizations::sync(mirrors, &self.what, self.dry_run, self.json).await
        })
    }

    /// Fills it, or says what that would do.
    async fn repository(
        &self,
        mirrors: &Mirrors,
        name: &RepoName,
    ) -> Result<Option<ExitCode>, SyncError> {
        let mut drawing = None;
        let person = std::io::stderr().is_terminal() && !self.json;
        let begun = |progress| drawing = person.then(|| tokio::spawn(draw(progress)));
        let done = match self.dry_run {
            true => mirrors.plan(name, begun).await.map(|plan| plan.map(Done::Planned)),
            false => mirrors.sync(name, begun).await.map(|outcome| outcome.map(Done::Synced)),
        };
        if let Some(drawing) = drawing {
            drawing.abort();
            let _ = drawing.await;
        }
        Ok(done?.map(|done| match done {
            Done::Synced(outcome) => self.show(&outcome),
            Done::Planned(plan) => self.show_plan(&plan),
        }))
    }

    fn show(&self, outcome: &Outcome) -> ExitCode {
        let Outcome { tags, moved, unchanged, deleted, .. } = *outcome;
        if self.json {
            println!("{}", report(outcome));
        } else {
            outcome.failed.iter().for_each(|(tag, why)| println!("{tag}: {why}"));
            outcome.not_begun.iter().for_each(|why| println!("not begun: {why}"));
            let failed = outcome.failed.len();
            println!(
                "{tags} tags: {moved} copied, {unchanged} unchanged, {failed} failed; {deleted} deleted"
            );
        }
        if outcome.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn show_plan(&self, plan: &Plan) -> ExitCode {
        if self.json {
            println!("{}", serde_json::json!(plan));
        } else {
            for copy in &plan.copy {
                let bytes = HumanBytes(copy.bytes);
                println!("copy    {}  {} blobs, {bytes}  {}", copy.tag, copy.blobs, copy.digest);
            }
            plan.delete.iter().for_each(|tag| println!("delete  {tag}"));
            plan.failed.iter().for_each(|(tag, why)| println!("cannot  {tag}: {why}"));
            println!("{}", planned(plan));
        }
        if plan.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// The whole of a plan in one line.
pub fn planned(plan: &Plan) -> String {
    let Plan { unchanged, copy, delete, failed, referrers, bytes, linked_bytes } = plan;
    let some = |count: &usize, what: &str| match count {
        0 => String::new(),
        count => format!(", {count} {what}"),
    };
    let linked = match linked_bytes {
        0 => String::new(),
        bytes => format!(", {} to link", HumanBytes(*bytes)),
    };
    format!(
        "{} to copy, {} to delete, {unchanged} unchanged{}{}; {} to fetch{linked}",
        copy.len(),
        delete.len(),
        some(referrers, "referrers to copy"),
        some(&failed.len(), "cannot be copied"),
        HumanBytes(*bytes)
    )
}

/// Does something with mirrors, and writes what waits before it ends.
fn with_mirrors(
    config: Config,
    what: &str,
    work: impl AsyncFnOnce(&Mirrors) -> Result<ExitCode, SyncError>,
) -> ExitCode {
    actix_web::rt::System::new().block_on(async {
        let mirrors = match Mirrors::new(config) {
            Ok(mirrors) => mirrors,
            Err(error) => {
                eprintln!("quay: {error}");
                return ExitCode::FAILURE;
            }
        };
        let done = work(&mirrors).await;
        mirrors.finish().await;
        done.unwrap_or_else(|error| {
            eprintln!("quay: {what}: {error}");
            ExitCode::FAILURE
        })
    })
}

/// What became of a repository, for programs.
pub fn report(outcome: &Outcome) -> serde_json::Value {
    let failed: serde_json::Map<String, serde_json::Value> =
        outcome.failed.iter().map(|(tag, why)| (tag.clone(), why.clone().into())).collect();
    serde_json::json!({
        "tags": outcome.tags, "copied": outcome.moved, "unchanged": outcome.unchanged,
        "deleted": outcome.deleted, "failed": failed, "error": outcome.not_begun,
        "requests": {
            "tags": outcome.asked.tag_pages, "head": outcome.asked.heads,
            "manifest": outcome.asked.manifests, "blob": outcome.asked.blobs,
            "token": outcome.asked.tokens, "referrers": outcome.asked.referrers,
        },
        "fetched_bytes": outcome.asked.bytes_received,
        "linked_bytes": outcome.linked_bytes,
    })
}

/// A bar for the tags, and the bytes beside it.
async fn draw(progress: Arc<Progress>) {
    let bar = ProgressBar::new(0);
    let style = "{bar:30} {pos}/{len} tags  {msg}";
    bar.set_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    loop {
        let now = progress.snapshot();
        bar.set_length(now.tags as u64);
        bar.set_position(now.done as u64);
        let left = now.seconds_left.map(|left| format!(", {left:.0} s left")).unwrap_or_default();
        let bytes = format!(
            "{} of {}, {}/s{left}  ",
            HumanBytes(now.bytes),
            HumanBytes(now.expected_bytes),
            HumanBytes(now.rate() as u64)
        );
        // A dry run fetches none.
        let bytes = if now.expected_bytes > 0 { bytes } else { String::new() };
        bar.set_message(format!("{bytes}{}", now.doing));
        tokio::time::sleep(DRAW).await;
    }
}

/// `42% (21 of 50 tags, 3 MiB of 8 MiB, 512 KiB/s, 4 s left)`
pub fn far(sync: &Snapshot) -> String {
    let Some(percent) = sync.percent() else { return format!("({})", sync.doing) };
    let left = sync.seconds_left.map(|left| format!(", {left:.0} s left")).unwrap_or_default();
    format!(
        "{percent}% ({} of {} tags, {} of {}, {}/s{left})",
        sync.done,
        sync.tags,
        HumanBytes(sync.bytes),
        HumanBytes(sync.expected_bytes),
        HumanBytes(sync.rate() as u64)
    )
}

impl Status {
    fn run(self) -> ExitCode {
        let config = match self.config.load() {
            Ok(loaded) => loaded.config,
            Err(error) => return unusable(&error),
        };
        match actix_web::rt::System::new().block_on(self.show(&config)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("quay: {error}");
                ExitCode::FAILURE
            }
        }
    }

    async fn show(&self, config: &Config) -> Result<(), quay_sidecar::catalog::CatalogError> {
        let metrics = Arc::new(Metrics::default());
        let catalog = Catalog::new(&config.database, &config.sidecar, 1, metrics)?;
        let db = catalog.session("mirror_status");
        let mirrors = db.mirrors(MOST).await?;
        let address = self.worker.unwrap_or(config.sidecar.mirror_admin);
        let syncs = ask(address).await.unwrap_or_else(|error| {
            if !mirrors.is_empty() || config.auth.org_mirror {
                eprintln!("{error}: how far syncs are is not known");
            }
            Vec::new()
        });
        for mirror in &mirrors {
            let name = mirror.name.to_string();
            let sync = syncs.iter().find(|sync| sync.repository == name);
            let start = mirror.start.map(|start| format!("{start}Z"));
            if self.json {
                println!(
                    "{}",
                    serde_json::json!({
                        "repository": name,
                        "source": mirror.external_reference,
                        "status": mirror.status.as_str(),
                        "enabled": mirror.enabled,
                        "next": start,
                        "retries": mirror.retries,
                        "progress": sync,
                    })
                );
            } else {
                let next = match (mirror.enabled, &start) {
                    (false, _) => "disabled".to_owned(),
                    (true, Some(start)) => format!("next {start}"),
                    (true, None) => "when asked for".to_owned(),
                };
                let far = sync.map(|sync| format!(" {}", far(sync))).unwrap_or_default();
                println!(
                    "{name}  {}{far}  {next}  from {}",
                    mirror.status.as_str(),
                    mirror.external_reference
                );
            }
        }
        let organizations = match config.auth.org_mirror {
            true => mirror_organizations::show_status(db, &syncs, self.json).await?,
            false => 0,
        };
        if mirrors.is_empty() && organizations == 0 && !self.json {
            println!("no repository follows another registry");
        }
        Ok(())
    }
}
