//! `quay mirror …` for organizations.

use std::process::ExitCode;

use indicatif::HumanBytes;
use quay_sidecar::catalog::{CatalogError, OrgMirror, Session, SyncStatus};
use quay_sidecar::mirroring::{OrganizationPlan, Outcome, Snapshot, SyncError};
use quay_sidecar::oci::RepoName;
use quay_sidecar::serve::repomirror::{Mirrors, OrganizationOutcome};
use serde_json::{Map, Value, json};

use super::mirrors::{far, planned, report as report_one};

/// Organizations that are listed at most.
const MOST: usize = 10_000;

/// Looks for an organization's repositories and fills them, or says what that would change.
pub async fn sync(
    mirrors: &Mirrors,
    name: &str,
    dry_run: bool,
    as_json: bool,
) -> Result<ExitCode, SyncError> {
    let Some(of) = mirrors.organization(name).await? else {
        eprintln!("quay: {name} is no organization that follows another registry");
        return Ok(ExitCode::FAILURE);
    };
    if dry_run {
        return plan(mirrors, &of, as_json).await;
    }
    if of.status == SyncStatus::Cancel {
        eprintln!("quay: {name} was cancelled, which no worker has seen to yet; try again then");
        return Ok(ExitCode::FAILURE);
    }
    let filled = |name: &RepoName, outcome: &Outcome| {
        if !as_json {
            println!("{name}: {}", in_words(outcome));
        }
    };
    let Some(outcome) = mirrors.sync_organization(&of, filled).await? else {
        eprintln!("quay: a worker is looking for {name}'s repositories right now");
        return Ok(ExitCode::FAILURE);
    };
    match as_json {
        true => println!("{}", report(&outcome)),
        false => show(&outcome),
    }
    Ok(if outcome.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A line for each organization that follows another registry, and one for each of its repositories
/// that a worker is at. Returns how many organizations there are.
pub async fn show_status(
    db: Session<'_>,
    syncs: &[Snapshot],
    as_json: bool,
) -> Result<usize, CatalogError> {
    let organizations = db.org_mirrors(MOST).await?;
    for of in &organizations {
        let counts = db.org_repository_counts(of.id).await?;
        let within = format!("{}/", of.organization);
        let syncs: Vec<&Snapshot> =
            syncs.iter().filter(|sync| sync.repository.starts_with(&within)).collect();
        let next = of.start.map(|start| format!("{start}Z"));
        let source = format!("{}/{}", of.url.trim_end_matches('/'), of.external_namespace);
        if as_json {
            println!(
                "{}",
                json!({
                    "organization": of.organization,
                    "source": source,
                    "status": of.status.as_str(),
                    "enabled": of.enabled,
                    "next": next,
                    "retries": of.retries,
                    "repositories": counted(&counts),
                    "progress": syncs,
                })
            );
        } else {
            let next = due(of, next.as_deref());
            let counts: Vec<String> = counts
                .iter()
                .map(|(status, count)| format!("{count} {}", status.as_str()))
                .collect();
            let counts = if counts.is_empty() { "none".to_owned() } else { counts.join(", ") };
            let (name, status) = (&of.organization, of.status.as_str());
            println!("{name}  {status}  {next}  from {source}  repositories: {counts}");
            syncs.iter().for_each(|sync| println!("  {}  {}", sync.repository, far(sync)));
        }
    }
    Ok(organizations.len())
}

fn counted(counts: &[(SyncStatus, i64)]) -> Map<String, Value> {
    counts.iter().map(|(status, count)| (status.as_str().to_owned(), (*count).into())).collect()
}

fn due(of: &OrgMirror, next: Option<&str>) -> String {
    match (of.enabled, next) {
        (false, _) => "disabled".to_owned(),
        (true, Some(next)) => format!("next {next}"),
        (true, None) => "when asked for".to_owned(),
    }
}

fn in_words(outcome: &Outcome) -> String {
    if let Some(why) = &outcome.not_begun {
        return format!("not begun: {why}");
    }
    let Outcome { tags, moved, unchanged, .. } = outcome;
    let (failed, bytes) = (outcome.failed.len(), HumanBytes(outcome.asked.bytes_received));
    let why = outcome.failed.first().map(|(tag, why)| format!("; {tag}: {why}"));
    let why = why.unwrap_or_default();
    format!("{tags} tags: {moved} copied, {unchanged} unchanged, {failed} failed; {bytes}{why}")
}

fn show(outcome: &OrganizationOutcome) {
    let discovery = &outcome.discovery;
    if let Some(why) = &discovery.failed {
        println!("repositories not listed: {why}");
        return;
    }
    let failed = outcome.repositories.iter().filter(|(_, one)| !one.is_success()).count();
    println!(
        "{} repositories of {}: {} new, {} not followed any more; {} filled, {failed} failed",
        discovery.wanted,
        discovery.listed,
        discovery.changed.new,
        discovery.changed.skipped,
        outcome.repositories.len() - failed,
    );
}

fn report(outcome: &OrganizationOutcome) -> Value {
    let discovery = &outcome.discovery;
    let repositories: Map<String, Value> = outcome
        .repositories
        .iter()
        .map(|(name, one)| (name.repository.clone(), report_one(one)))
        .collect();
    json!({
        "listed": discovery.listed, "wanted": discovery.wanted, "new": discovery.changed.new,
        "skipped": discovery.changed.skipped, "scheduled": discovery.changed.scheduled,
        "error": discovery.failed, "requests": discovery.asked.requests(),
        "repositories": repositories,
    })
}

/// Says what a sync would do, a line for each repository as it becomes known.
async fn plan(mirrors: &Mirrors, of: &OrgMirror, as_json: bool) -> Result<ExitCode, SyncError> {
    let found = mirrors.plan_organization(of).await?;
    let OrganizationPlan { new, again, skip, known } = &found;
    let (mut repositories, mut failed, mut bytes) = (Map::new(), 0, 0);
    let kinds = [("follow   ", new), ("again    ", again), ("as before", known)];
    for (what, name) in kinds.iter().flat_map(|(what, names)| names.iter().map(move |n| (what, n)))
    {
        let one = mirrors.plan_repository(of, name).await;
        let line = match &one {
            Ok(plan) => planned(plan),
            Err(error) => error.to_string(),
        };
        if !as_json {
            println!("{what} {name}: {line}");
        }
        bytes += one.as_ref().map_or(0, |plan| plan.bytes);
        failed += usize::from(one.as_ref().map_or(true, |plan| !plan.failed.is_empty()));
        let one = one.map_or_else(|error| json!({"error": error.to_string()}), |one| json!(one));
        repositories.insert(name.clone(), one);
    }
    if as_json {
        let lists = json!({"new": new, "again": again, "skip": skip, "known": known});
        println!("{}", json!({"repositories": repositories, "bytes": bytes, "found": lists}));
    } else {
        skip.iter().for_each(|name| println!("no longer {name}"));
        println!(
            "{} to follow, {} again, {} no longer, {} as before, of which {failed} cannot be \
             filled; {} to fetch",
            new.len(),
            again.len(),
            skip.len(),
            known.len(),
            HumanBytes(bytes)
        );
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
