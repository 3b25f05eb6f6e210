//! `windlass repository`: make, list and check repositories, in this process.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::repository::check::{CheckReport, Depth};
use crate::repository::{KdfCost, Repository, RepositoryError, StoredSnapshot};

use super::exit::{CliError, Exit};
use super::output::{Align, Format, Table, counted, print_json, print_text};
use super::progress::{Progress, Step, Unit};
use super::repository_access::{RepositoryArgs, repository_error};
use super::size::ByteSize;

/// Verbs on repositories.
#[derive(Debug, Subcommand)]
pub enum RepositoryCommand {
    /// Make a repository; a place that holds one already is not touched
    Init(OpenArgs),
    /// List what a repository holds, oldest first
    Snapshots(OpenArgs),
    /// Check that everything in a repository is whole
    Check(CheckArgs),
}

/// Arguments of verbs without any of their own.
#[derive(Debug, Args)]
pub struct OpenArgs {
    #[command(flatten)]
    repository: RepositoryArgs,
}

/// Arguments of `repository check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Read and verify every byte of data too, not only that it is there
    #[arg(long)]
    read_data: bool,
    #[command(flatten)]
    repository: RepositoryArgs,
}

/// Runs one verb.
///
/// # Errors
/// [`CliError`] with the exit code that the repository's failure means.
pub async fn run(command: RepositoryCommand, format: Format) -> Result<(), CliError> {
    match command {
        RepositoryCommand::Init(args) => init(&args, format).await,
        RepositoryCommand::Snapshots(args) => snapshots(&args, format).await,
        RepositoryCommand::Check(args) => check(&args, format).await,
    }
}

async fn init(args: &OpenArgs, format: Format) -> Result<(), CliError> {
    let access = args.repository.access()?;
    let store = access.store()?;
    let made = Repository::init(store, &access.password()?, KdfCost::STANDARD).await;
    let what = format!("cannot make a repository at {}", access.location());
    let repository = made.map_err(|error| repository_error(what, error))?;
    match format {
        Format::Text => print_text(&format!("made the repository {} at {}", repository.id().short(), access.location())),
        Format::Json => print_json(&json!({ "id": repository.id().to_string(), "location": access.location().to_string() })),
    }
}

async fn snapshots(args: &OpenArgs, format: Format) -> Result<(), CliError> {
    let access = args.repository.access()?;
    let found = access.open().await?.snapshots().await;
    let what = format!("cannot list the snapshots of {}", access.location());
    let snapshots = found.map_err(|error| repository_error(what, error))?;
    match format {
        Format::Text => print_text(&table(&snapshots).render()),
        Format::Json => {
            let view = |stored: &StoredSnapshot| {
                json!({
                    "id": stored.id.to_string(),
                    "time": stored.snapshot.time,
                    "host": stored.snapshot.hostname,
                    "size_bytes": size(stored),
                    "tags": stored.snapshot.tags,
                    "paths": stored.snapshot.paths,
                    "program": stored.snapshot.program_version,
                })
            };
            print_json(&json!({ "snapshots": snapshots.iter().map(view).collect::<Vec<_>>() }))
        }
    }
}

/// Bytes of all files, when the program that made the snapshot recorded them.
fn size(stored: &StoredSnapshot) -> Option<u64> {
    stored.snapshot.summary.as_ref().map(|summary| summary.total_bytes_processed)
}

fn table(snapshots: &[StoredSnapshot]) -> Table {
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("TIME", Align::Left),
        ("HOST", Align::Left),
        ("SIZE", Align::Right),
        ("TAGS", Align::Left),
        ("PATHS", Align::Left),
    ]);
    for stored in snapshots {
        let snapshot = &stored.snapshot;
        // To the second: what follows is fractions and the zone, which JSON shows.
        let time = snapshot.time.get(..19).unwrap_or(&snapshot.time).replace('T', " ");
        let size = size(stored).map_or_else(|| "-".to_owned(), |bytes| ByteSize::new(bytes).to_string());
        table.row([stored.id.short(), time, snapshot.hostname.clone(), size, snapshot.tags.join(","), snapshot.paths.join(",")]);
    }
    table
}

async fn check(args: &CheckArgs, format: Format) -> Result<(), CliError> {
    let access = args.repository.access()?;
    let depth = if args.read_data { Depth::ReadData } else { Depth::Structure };
    let checked = checked(&access.open().await?, depth, format).await;
    let report = checked.map_err(|error| repository_error(format!("cannot check {}", access.location()), error))?;
    match format {
        Format::Text => print_text(&summary(&report))?,
        Format::Json => print_json(&json!({
            "clean": report.is_clean(),
            "snapshots": report.snapshots,
            "trees": report.trees,
            "blobs_used": report.blobs_used,
            "blobs_indexed": report.blobs_indexed,
            "packs": report.packs,
            "packs_unindexed": report.packs_unindexed,
            "bytes_read": report.bytes_read,
            "errors": report.errors,
        }))?,
    }
    if report.is_clean() {
        return Ok(());
    }
    Err(CliError::new(Exit::Failed, format!("the repository {} is damaged: {} errors", access.location(), report.errors.len()))
        .advise("keep it as it is, export what still exists anew, and see restic's `repair` commands for what can be saved"))
}

/// Runs a check and shows how far it is.
///
/// # Errors
/// As for [`Repository::check`].
pub async fn checked(repository: &Repository, depth: Depth, format: Format) -> Result<CheckReport, RepositoryError> {
    let progress = std::sync::Mutex::new(Progress::begin("checking packs", Unit::Items, format));
    let show = |done: u64, total: u64| {
        // A poisoned bar only means that its last drawing failed.
        let mut progress = progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        progress.update(&Step { done, total, ..Step::default() });
    };
    repository.check(depth, &show).await
}

fn summary(report: &CheckReport) -> String {
    let mut lines: Vec<String> = report.errors.iter().map(|error| format!("error: {error}")).collect();
    lines.push(format!(
        "{}, {}, {} of {} in use, {}{}",
        counted(report.snapshots, "snapshot"),
        counted(report.trees, "tree"),
        report.blobs_used,
        counted(report.blobs_indexed, "blob"),
        counted(report.packs, "pack"),
        if report.bytes_read > 0 { format!(", {} read", ByteSize::new(report.bytes_read)) } else { String::new() },
    ));
    if report.packs_unindexed > 0 {
        lines.push(format!(
            "{} in no index: left by interrupted exports, harmless; `restic prune` removes what is there",
            counted(report.packs_unindexed, "pack")
        ));
    }
    lines.push(if report.is_clean() { "no errors were found".to_owned() } else { counted(report.errors.len() as u64, "error") });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_ends_with_its_verdict() {
        let mut report = CheckReport { snapshots: 2, packs: 3, packs_unindexed: 1, ..CheckReport::default() };
        assert!(summary(&report).ends_with("no errors were found"));
        report.errors.push("pack abc is missing".to_owned());
        assert!(summary(&report).starts_with("error: pack abc is missing\n"));
        assert!(summary(&report).ends_with("\n1 error"));
    }
}
