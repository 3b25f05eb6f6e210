//! `windlass repository prune`.

use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::cli::exit::{CliError, Exit};
use crate::cli::format::Format;
use crate::cli::output::{counted, print_json, print_text};
use crate::cli::progress::{Progress, Step, Unit};
use crate::cli::repository_access::{RepositoryArgs, repository_error};
use crate::cli::size::ByteSize;
use crate::cli::wait::Wait;
use crate::repository::RETRY_LOCK;
use crate::repository::prune::{Extent, MaxUnused, PruneError, PruneOptions, PruneStats, Stage};

/// Arguments of `repository prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// How much that no snapshot needs may stay, so that less is copied: a size, a share of the repository, or `unlimited`
    #[arg(long, value_name = "LIMIT", default_value = "5%")]
    max_unused: Limit,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// How long locks of others, such as an export's, are waited for [default: 5m]
    #[arg(long, value_name = "DURATION")]
    retry_lock: Option<Wait>,
    #[command(flatten)]
    repository: RepositoryArgs,
}

/// A [`MaxUnused`] as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit(MaxUnused);

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a limit: give a size such as 10GiB, a share such as 5%, or `unlimited`");
        let limit = match text.strip_suffix('%') {
            Some(share) => MaxUnused::Percent(share.parse().ok().filter(|share| *share <= 100).ok_or_else(wrong)?),
            None if text == "unlimited" => MaxUnused::Unlimited,
            None => MaxUnused::Bytes(text.parse::<ByteSize>().map_err(|_| wrong())?.bytes()),
        };
        Ok(Self(limit))
    }
}

/// Frees the space of what no snapshot needs.
///
/// # Errors
/// [`Exit::Interrupted`] when it was cut short.
pub async fn run(args: &PruneArgs, format: Format, interrupt: &CancellationToken) -> Result<(), CliError> {
    let access = args.repository.access()?;
    let repository = access.open().await?.with_retry_lock(args.retry_lock.map_or(RETRY_LOCK, Wait::duration));
    let extent = if args.dry_run { Extent::DryRun } else { Extent::Prune };
    let progress = Mutex::new(None);
    let show = |stage: Stage, done: u64, total: u64| {
        // A poisoned bar only means that its last drawing failed.
        let mut shown = progress.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = match shown.take() {
            Some((of, bar)) if of == stage => bar,
            _ => Progress::begin(title(stage), Unit::Items, format),
        };
        let (_, bar) = shown.insert((stage, bar));
        bar.update(&Step { done, total, ..Step::default() });
    };
    let pruned = repository.prune(PruneOptions { max_unused: args.max_unused.0, extent }, &show, interrupt).await;
    drop(progress);
    let stats = pruned.map_err(|error| failed(format!("cannot prune {}", access.location()), error))?;
    match format {
        Format::Text => print_text(&text(&stats, extent)),
        Format::Json => print_json(&Pruned { dry_run: args.dry_run, stats: &stats }),
    }
}

/// What a prune did, or would do, as it is printed.
#[derive(Debug, Serialize)]
struct Pruned<'a> {
    dry_run: bool,
    stats: &'a PruneStats,
}

fn title(stage: Stage) -> &'static str {
    match stage {
        Stage::Snapshots => "reading snapshots",
        Stage::Repack => "copying blobs",
        Stage::Delete => "deleting",
    }
}

fn failed(what: String, error: PruneError) -> CliError {
    match error {
        PruneError::Repository(error) => repository_error(what, error),
        PruneError::Missing(_) => CliError::because(Exit::Failed, what, error).advise(
            "`windlass repository check` names the snapshots; forget those, or export their volumes anew, and prune then",
        ),
        PruneError::Unreadable { snapshot, .. } => {
            let advice = format!(
                "`windlass repository forget {}` gives up that snapshot and frees the way; `windlass repository check` names all that are so",
                snapshot.short()
            );
            CliError::because(Exit::Failed, what, error).advise(advice)
        }
        PruneError::Changed => {
            CliError::because(Exit::Unavailable, what, error).advise("wait until the other has finished, then repeat the command")
        }
        PruneError::Cancelled => CliError::interrupted(what).advise("nothing is lost; repeat the command, and it goes on"),
    }
}

fn text(stats: &PruneStats, extent: Extent) -> String {
    let size = |bytes| ByteSize::new(bytes).to_string();
    let would = match extent {
        Extent::DryRun => "would be ",
        Extent::Prune => "",
    };
    let mut lines = vec![format!(
        "{} in {}: {} in use, {} not",
        size(stats.bytes_used + stats.bytes_unused),
        counted(stats.packs, "pack"),
        size(stats.bytes_used),
        size(stats.bytes_unused),
    )];
    if stats.packs_damaged > 0 {
        lines.push(format!("{} of them absent or damaged, of which nothing is needed", stats.packs_damaged));
    }
    if stats.packs_doubted > 0 {
        lines.push(format!(
            "{} of them damaged, of which snapshots need what no other pack has: export their volumes anew, or forget those snapshots",
            stats.packs_doubted
        ));
    }
    if stats.packs_unnamed > 0 {
        let packs = counted(stats.packs_unnamed, "pack");
        lines.push(format!("{} in {packs} that no index names, left by interrupted exports", size(stats.bytes_unnamed)));
    }
    lines.push(format!(
        "{} {would}kept, {} {would}deleted, {} {would}repacked ({} copied)",
        counted(stats.packs_kept, "pack"),
        stats.packs_removed,
        stats.packs_repacked,
        size(stats.bytes_copied),
    ));
    lines.push(format!("{} of {} {would}rewritten", stats.index_files_superseded, counted(stats.index_files, "index file")));
    if stats.packs_rescued > 0 {
        lines.push(format!("{} kept after all, for snapshots stored meanwhile", counted(stats.packs_rescued, "pack")));
    }
    lines.push(match stats.is_idle() {
        true => "there was nothing to do".to_owned(),
        false => format!(
            "{} {would}freed; {} that no snapshot needs {}",
            size(stats.bytes_freed + stats.bytes_unnamed),
            size(stats.bytes_unused_kept),
            if extent == Extent::DryRun { "would stay" } else { "stay" },
        ),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_sizes_shares_or_none() {
        assert_eq!("5%".parse(), Ok(Limit(MaxUnused::Percent(5))));
        assert_eq!("2GiB".parse(), Ok(Limit(MaxUnused::Bytes(2 << 30))));
        assert_eq!("unlimited".parse(), Ok(Limit(MaxUnused::Unlimited)));
        for text in ["", "%", "101%", "-1%", "5.5%", "5GB", "all"] {
            assert!(text.parse::<Limit>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_dry_run_says_what_would_be() {
        let stats = PruneStats { packs: 3, packs_kept: 1, packs_removed: 2, bytes_freed: 1 << 20, ..PruneStats::default() };
        let dry = text(&stats, Extent::DryRun);
        assert!(dry.contains("2 would be deleted") && dry.contains("1.0 MiB would be freed"), "{dry}");
        assert!(text(&PruneStats::default(), Extent::Prune).ends_with("there was nothing to do"));
    }
}
