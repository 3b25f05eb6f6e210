//! What a repository holds, to a file of this machine.
//!
//! Written by this process under a temporary name beside the final one, sparse; synced, then renamed without replacing
//! anything, then the folder is synced. So a file of that name is whole and durable, and an error or an interrupt leaves nothing.
//! SIGKILL leaves the temporary file, whose name says what it is.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::block::{FileSink, file_ops};
use crate::repository::RETRY_LOCK;
use crate::repository::tree::FileSelector;
use crate::transfer::{self, Budget, Image, Locking, Progress as Counters, RestoreError, RestoreOptions, RestoreReport, Target};
use crate::types::LogicalBlockSize;

use super::exit::{CliError, Exit};
use super::output::{Format, print_json, print_text};
use super::progress::{Progress, Step, Unit};
use super::repository_access::{RepositoryAccess, repository_error};
use super::restore::{RestoreSource, RestoreTuning};
use super::size::{ByteSize, throughput};
use super::unless;
use super::wait::Wait;

/// How often the counters are looked at for the display.
const SHOW_INTERVAL: Duration = Duration::from_millis(200);

/// Restores to `path` and prints what was made.
///
/// # Errors
/// [`Exit::Refused`] when the path is taken; [`Exit::Interrupted`]; else what the repository's failure means.
pub async fn run(
    access: &RepositoryAccess,
    source: &RestoreSource,
    path: &Path,
    tuning: &RestoreTuning,
    format: Format,
    interrupt: &CancellationToken,
) -> Result<(), CliError> {
    // Looked at again when it is renamed; here it saves the work.
    if path.symlink_metadata().is_ok() {
        return Err(taken(path));
    }
    let which = source.path.clone().map_or(FileSelector::Only, FileSelector::Path);
    let opening = async {
        let repository = access.open().await?.with_retry_lock(tuning.retry_lock.map_or(RETRY_LOCK, Wait::duration));
        let opened = Image::open(
            &repository,
            source.choice.of(&source.snapshot),
            &which,
            if tuning.no_lock { Locking::None } else { Locking::Shared },
        )
        .await;
        opened.map_err(|error| repository_error(format!("cannot find what to restore in {}", access.location()), error))
    };
    let image = unless(interrupt, opening).await?;
    let restored = to_file(&image, path, tuning, format, interrupt).await;
    let (size, name) = (image.size_bytes(), image.path().to_owned());
    image.let_go(interrupt).await;
    let report = restored?;
    match format {
        Format::Text => print_text(&format!(
            "restored {name} of snapshot {} to {}: {}, {} written, {}",
            report.snapshot.short(),
            path.display(),
            ByteSize::new(size),
            ByteSize::new(report.written_bytes),
            throughput(size, report.elapsed),
        )),
        Format::Json => print_json(&json!({
            "repository_snapshot": report.snapshot.to_string(),
            "file_in_repository": name,
            "path": path.to_string_lossy(),
            "size_bytes": size,
            "data_bytes": report.written_bytes,
            "fetched_bytes": report.fetched_bytes,
            "seconds": report.elapsed.as_secs_f64(),
        })),
    }
}

fn taken(path: &Path) -> CliError {
    CliError::new(Exit::Refused, format!("{} exists already", path.display()))
        .advise("choose another path; what is there is never overwritten")
}

async fn to_file(
    image: &Image,
    path: &Path,
    tuning: &RestoreTuning,
    format: Format,
    interrupt: &CancellationToken,
) -> Result<RestoreReport, CliError> {
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
    let counters = Counters::new();
    let work = transfer::restore(image, sink, &options, &counters, interrupt);
    let report = shown(work, &counters, format).await.map_err(|error| restore_error(path, error))?;

    temporary.persist_noclobber(path).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => taken(path),
        _ => failed(error.error),
    })?;
    file_ops::sync_dir(folder).map_err(failed)?;
    Ok(report)
}

/// Shows the counters while the work runs.
async fn shown<T>(work: impl Future<Output = T>, counters: &Counters, format: Format) -> T {
    let mut progress = Progress::begin("restore", Unit::Bytes, format);
    let mut tick = tokio::time::interval(SHOW_INTERVAL);
    tokio::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return result,
            _ = tick.tick() => {
                let now = counters.snapshot();
                let phase = counters.waiting().map(|reason| format!("waiting: {reason}")).unwrap_or_default();
                progress.update(&Step { phase, done: now.done_bytes, total: now.total_bytes, ..Step::default() });
            }
        }
    }
}

fn restore_error(path: &Path, error: RestoreError) -> CliError {
    let what = format!("cannot restore to {}", path.display());
    match error {
        RestoreError::Cancelled => CliError::interrupted("the restore was interrupted; nothing is left of it"),
        RestoreError::Repository(error) => repository_error(what, error),
        error @ RestoreError::Budget(_) => CliError::because(Exit::Usage, what, error).advise("give more by --memory"),
        error @ RestoreError::Damaged { .. } => CliError::because(Exit::Failed, what, error)
            .advise("`windlass repository check --read-data` lists everything that is damaged"),
        error => CliError::because(Exit::Failed, what, error),
    }
}
