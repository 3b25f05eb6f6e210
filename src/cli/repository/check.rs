//! `windlass repository check`.

use clap::Args;
use serde::Serialize;

use crate::cli::exit::{CliError, Exit};
use crate::cli::format::Format;
use crate::cli::output::{counted, print_json, print_text};
use crate::cli::progress::{Progress, Step, Unit};
use crate::cli::repository_access::{RepositoryArgs, repository_error};
use crate::cli::size::ByteSize;
use crate::cli::wait::Wait;
use crate::repository::check::{CheckReport, Depth};
use crate::repository::{Locking, RETRY_LOCK, Repository, RepositoryError};

/// Arguments of `repository check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Read and verify every byte of data too, not only that it is there
    #[arg(long)]
    read_data: bool,
    /// How long locks of others, such as a prune's, are waited for [default: 5m]
    #[arg(long, value_name = "DURATION")]
    retry_lock: Option<Wait>,
    /// Take no lock; what a prune removes meanwhile is then reported as missing
    #[arg(long)]
    no_lock: bool,
    #[command(flatten)]
    repository: RepositoryArgs,
}

/// What a check found, as it is printed.
#[derive(Debug, Serialize)]
struct Checked<'a> {
    clean: bool,
    snapshots: u64,
    trees: u64,
    blobs_used: u64,
    blobs_indexed: u64,
    packs: u64,
    packs_unindexed: u64,
    bytes_read: u64,
    errors: &'a [String],
    errors_omitted: u64,
}

/// Checks the repository; damage is an error after the report.
pub async fn run(args: &CheckArgs, format: Format) -> Result<(), CliError> {
    let access = args.repository.access()?;
    let depth = if args.read_data { Depth::ReadData } else { Depth::Structure };
    let repository = access.open().await?.with_retry_lock(args.retry_lock.map_or(RETRY_LOCK, Wait::duration));
    let repository = repository.with_locking(if args.no_lock { Locking::None } else { Locking::Shared });
    let checked = checked(&repository, depth, format).await;
    let report = checked.map_err(|error| repository_error(format!("cannot check {}", access.location()), error))?;
    match format {
        Format::Text => print_text(&summary(&report))?,
        Format::Json => print_json(&Checked {
            clean: report.is_clean(),
            snapshots: report.snapshots,
            trees: report.trees,
            blobs_used: report.blobs_used,
            blobs_indexed: report.blobs_indexed,
            packs: report.packs,
            packs_unindexed: report.packs_unindexed,
            bytes_read: report.bytes_read,
            errors: &report.errors,
            errors_omitted: report.errors_omitted,
        })?,
    }
    if report.is_clean() {
        return Ok(());
    }
    Err(CliError::new(Exit::Failed, format!("the repository {} is damaged: {}", access.location(), errors(&report))).advise(
        "first export each volume that still exists anew, from this machine: what its damaged and missing packs held is stored again, \
         and snapshots that share it read again. Then `windlass repository prune` drops what the index says of packs that nobody needs any more. \
         Of what a check still names, `windlass restore --skip-damaged` restores the rest, and forgetting those snapshots lets a prune \
         end it",
    ))
}

/// How many errors there are; not all of them are in words.
fn errors(report: &CheckReport) -> String {
    counted(report.errors.len() as u64 + report.errors_omitted, "error")
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
            "{} in no index: left by interrupted exports, harmless; `windlass repository prune` removes what is there",
            counted(report.packs_unindexed, "pack")
        ));
    }
    if report.errors_omitted > 0 {
        lines.push(format!("{} beyond these are not shown", counted(report.errors_omitted, "error")));
    }
    lines.push(if report.is_clean() { "no errors were found".to_owned() } else { errors(report) });
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
        report.errors_omitted = 4;
        assert!(summary(&report).ends_with("\n4 errors beyond these are not shown\n5 errors"));
    }
}
