//! `quay mirror …` for organizations.

use std::process::ExitCode;

use indicatif::HumanBytes;
use quay_sidecar::catalog::{CatalogError, OrgMirror, Session, SyncStatus};
use quay_sidecar::mirroring::{OrganizationPlan, Outcome, Snapshot, SyncError};
use quay_sidecar::oci::RepoName;
use quay_sidecar::serve::repomirror::{Mirrors, OrganizationOutcome};
use serde_json::{Map, Value, json};

use super::mirrors::{far, report as report_one};

/// Organizations that are listed at most.
const MOST: usize = 10_000;

/// Looks for an organization's repositories and fills them, or says what the look would change.
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
        let plan = mirrors.plan_organization(&of).await?;
        show_plan(&plan, as_json);
        return Ok(ExitCode::SUCCESS);
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

fn show_plan(plan: &OrganizationPlan, as_json: bool) {
    if as_json {
        println!("{}", json!(plan));
        return;
    }
    plan.new.iter().for_each(|name| println!("follow    {name}"));
    plan.again.iter().for_each(|name| println!("again     {name}"));
    plan.skip.iter().for_each(|name| println!("no longer {name}"));
    println!(
        "{} to follow, {} again, {} no longer, {} as before",
        plan.new.len(),
        plan.again.len(),
        plan.skip.len(),
        plan.known
    );
}
