//! What a repository holds, to a file of this machine.
//!
//! Written by this process under a temporary name beside the final one, sparse; synced, then renamed without replacing
//! anything, then the folder is synced. So a file of that name is whole and durable, and an error or an interrupt leaves nothing.
//! SIGKILL leaves the temporary file, whose name says what it is.
//!
//! What has holes (`--skip-damaged`) never gets that name: it is `PATH.damaged`, or with a number if that is taken, and beside it lies the
//! list of its holes, which is there first.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tempfile::NamedTempFile;
use tokio_util::sync::CancellationToken;

use crate::block::{FileSink, file_ops};
use crate::repository::tree::FileSelector;
use crate::repository::{RETRY_LOCK, RepositoryError};
use crate::transfer::{
    self, Budget, Hole, Holes, Image, Locking, OnDamage, Progress as Counters, Reading, RestoreError, RestoreOptions,
    RestoreReport, Target,
};
use crate::types::LogicalBlockSize;
use crate::types::error::chain;

use super::exit::{CliError, Exit};
use super::interruptible::unless;
use super::output::{Format, print_json, print_text};
use super::progress::{Progress, Step, Unit};
use super::repository_access::repository_error;
use super::restore_request::{RestoreSource, RestoreTuning, incomplete};
use super::size::{ByteSize, throughput};
use super::wait::Wait;

/// What to do about damage.
pub const SKIP: &str = "--skip-damaged restores everything else; `windlass repository check --read-data` lists all that is damaged, and says which \
                        snapshots are whole";

/// How often the counters are looked at for the display.
const SHOW_INTERVAL: Duration = Duration::from_millis(200);

/// Restores to `path` and prints what was made.
///
/// # Errors
/// [`Exit::Refused`] when the path is taken; [`Exit::Interrupted`]; else what the repository's failure means.
pub async fn run(source: &RestoreSource, path: &Path, format: Format, interrupt: &CancellationToken) -> Result<(), CliError> {
    // Looked at again when it is renamed; here it saves the work.
    if path.symlink_metadata().is_ok() {
        return Err(taken(path));
    }
    let RestoreSource { access, tuning, .. } = source;
    let which = source.path.clone().map_or(FileSelector::Only, FileSelector::Path);
    let reading = Reading {
        locking: if tuning.no_lock { Locking::None } else { Locking::Shared },
        on_damage: if tuning.skip_damaged { OnDamage::Skip } else { OnDamage::Fail },
    };
    let counters = Counters::new();
    let opening = async {
        let repository = access.open().await?.with_retry_lock(tuning.retry_lock.map_or(RETRY_LOCK, Wait::duration));
        let waiting = |reason: &RepositoryError| counters.waits_for(Some(chain(reason)));
        let choice = source.choice.of(&source.snapshot);
        let opened = Image::open_or_wait(&repository, choice, &which, reading, &waiting).await;
        counters.waits_for(None);
        opened.map_err(|error| repository_error(format!("cannot find what to restore in {}", access.location()), error))
    };
    let display = Display { counters: &counters, format };
    let mut image = unless(interrupt, display.during(opening)).await?;
    let restored = to_file(&mut image, path, tuning, display, interrupt).await;
    let (size, name) = (image.size_bytes(), image.path().to_owned());
    let metadata_lost = image.lost_metadata().map(str::to_owned);
    image.let_go(interrupt).await;
    let (report, path) = restored?;
    match format {
        Format::Text => print_text(&format!(
            "restored {name} of snapshot {} to {}: {}, {} written, {}",
            report.snapshot.short(),
            path.display(),
            ByteSize::new(size),
            ByteSize::new(report.written_bytes),
            throughput(size, report.elapsed),
        ))?,
        Format::Json => print_json(&RestoredFile {
            repository_snapshot: report.snapshot.to_string(),
            file_in_repository: &name,
            path: &path.to_string_lossy(),
            size_bytes: size,
            data_bytes: report.written_bytes,
            fetched_bytes: report.fetched_bytes,
            seconds: report.elapsed.as_secs_f64(),
            hole_bytes: report.holes.bytes,
            unlisted_hole_bytes: report.holes.unlisted_bytes,
            holes: &report.holes.listed,
            metadata_lost,
        })?,
    }
    let Holes { listed, bytes, unlisted_bytes } = report.holes;
    let what = format!("{} has holes; {} lists them", path.display(), list_of(&path).display());
    incomplete(what, listed.iter().map(ToString::to_string), bytes, unlisted_bytes, format)
}

fn taken(path: &Path) -> CliError {
    CliError::new(Exit::Refused, format!("{} exists already", path.display()))
        .advise("choose another path; what is there is never overwritten")
}

/// Restores to `path`, or to one that says that it has holes; which of them comes with the report.
async fn to_file(
    image: &mut Image,
    path: &Path,
    tuning: &RestoreTuning,
    display: Display<'_>,
    interrupt: &CancellationToken,
) -> Result<(RestoreReport, PathBuf), CliError> {
    let failed = |error: io::Error| CliError::because(Exit::Failed, format!("cannot write {}", path.display()), error);
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = tempfile::Builder::new().prefix(".windlass-restore-").tempfile_in(folder).map_err(failed)?;
    let size = image.size_bytes();
    temporary.as_file().set_len(size).map_err(failed)?;
    let file = temporary.as_file().try_clone().map_err(failed)?;
    let sink = Arc::new(FileSink::new(file, size, LogicalBlockSize::B4096).map_err(failed)?);

    let mut budget = Budget::for_this_machine();
    if let Some(workers) = tuning.workers.and_then(|workers| std::num::NonZeroUsize::new(workers as usize)) {
        budget = Budget::for_workers(workers);
    }
    if let Some(memory) = tuning.memory {
        budget.memory_bytes = memory.bytes();
    }
    let options = RestoreOptions { target: Target::Fresh, budget };
    let work = transfer::restore(image, sink, &options, display.counters, interrupt);
    let report = display.during(work).await.map_err(|error| restore_error(path, error))?;

    let made = match report.holes.is_empty() {
        true => temporary.persist_noclobber(path).map(|_| path.to_owned()).map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => taken(path),
            _ => failed(error.error),
        })?,
        false => keep_damaged(temporary, path, folder, &HoleList::of(image, &report)).map_err(failed)?,
    };
    file_ops::sync_dir(folder).map_err(failed)?;
    Ok((report, made))
}

/// The result as it is printed.
#[derive(Debug, Serialize)]
struct RestoredFile<'a> {
    repository_snapshot: String,
    file_in_repository: &'a str,
    path: &'a str,
    size_bytes: u64,
    data_bytes: u64,
    fetched_bytes: u64,
    seconds: f64,
    hole_bytes: u64,
    unlisted_hole_bytes: u64,
    holes: &'a [Hole],
    metadata_lost: Option<String>,
}

/// What lies beside a file with holes.
#[derive(Debug, Serialize)]
struct HoleList<'a> {
    repository_snapshot: String,
    file_in_repository: &'a str,
    size_bytes: u64,
    hole_bytes: u64,
    unlisted_hole_bytes: u64,
    holes: &'a [Hole],
}

impl<'a> HoleList<'a> {
    fn of(image: &'a Image, report: &'a RestoreReport) -> Self {
        Self {
            repository_snapshot: report.snapshot.to_string(),
            file_in_repository: image.path(),
            size_bytes: report.size_bytes,
            hole_bytes: report.holes.bytes,
            unlisted_hole_bytes: report.holes.unlisted_bytes,
            holes: &report.holes.listed,
        }
    }
}

/// Gives a file with holes the first name that is free, once its list is durable beside it.
fn keep_damaged(mut temporary: NamedTempFile, path: &Path, folder: &Path, list: &HoleList<'_>) -> io::Result<PathBuf> {
    for number in 1_u32.. {
        let to = damaged_path(path, number);
        let mut listing = tempfile::Builder::new().prefix(".windlass-restore-").tempfile_in(folder)?;
        serde_json::to_writer_pretty(&mut listing, list)?;
        listing.as_file().sync_all()?;
        match listing.persist_noclobber(list_of(&to)) {
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => continue,
            persisted => persisted.map_err(|error| error.error)?,
        };
        match temporary.persist_noclobber(&to) {
            Ok(_) => return Ok(to),
            // The list of a file that is not there says nothing about the one that is.
            Err(error) => {
                std::fs::remove_file(list_of(&to))?;
                if error.error.kind() != io::ErrorKind::AlreadyExists {
                    return Err(error.error);
                }
                temporary = error.file;
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn damaged_path(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(if number == 1 { ".damaged".to_owned() } else { format!(".damaged-{number}") });
    name.into()
}

/// Where the list of a file's holes lies.
fn list_of(damaged: &Path) -> PathBuf {
    let mut name = damaged.as_os_str().to_owned();
    name.push(".json");
    name.into()
}

/// Where the counters of a restore are shown.
#[derive(Clone, Copy)]
struct Display<'a> {
    counters: &'a Counters,
    format: Format,
}

impl Display<'_> {
    /// Shows them while the work runs.
    async fn during<T>(self, work: impl Future<Output = T>) -> T {
        let mut progress = Progress::begin("restore", Unit::Bytes, self.format);
        let mut tick = tokio::time::interval(SHOW_INTERVAL);
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return result,
                _ = tick.tick() => {
                    let now = self.counters.snapshot();
                    let phase = self.counters.waiting().map(|reason| format!("waiting: {reason}")).unwrap_or_default();
                    progress.update(&Step { phase, done: now.done_bytes, total: now.total_bytes, ..Step::default() });
                }
            }
        }
    }
}

fn restore_error(path: &Path, error: RestoreError) -> CliError {
    let what = format!("cannot restore to {}", path.display());
    match error {
        RestoreError::Cancelled => CliError::interrupted("the restore was interrupted; nothing is left of it"),
        RestoreError::Repository(error @ (RepositoryError::Damaged { .. } | RepositoryError::MissingBlob { .. })) => {
            repository_error(what, error).advise(SKIP)
        }
        RestoreError::Repository(error) => repository_error(what, error),
        error @ RestoreError::Budget(_) => CliError::because(Exit::Usage, what, error).advise("give more by --memory"),
        error @ (RestoreError::Damaged { .. } | RestoreError::Plan(_)) => {
            CliError::because(Exit::Failed, what, error).advise(SKIP)
        }
        error => CliError::because(Exit::Failed, what, error),
    }
}
