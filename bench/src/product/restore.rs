//! One restore, to a file.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use windlass::block::FileSink;
use windlass::repository::tree::FileSelector;
use windlass::transfer::{self, Image, Locking, Progress, RestoreOptions, RestoreReport, Target};
use windlass::types::LogicalBlockSize;

use super::{BudgetArguments, FOLDER, IMAGE, RepositoryArguments, print, runtime};
use crate::error::{BenchError, While};

/// The arguments of `restore`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    repository: RepositoryArguments,
    /// The file to make; nothing may be there
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// The snapshot in the repository: its id, the beginning of one, or `latest`
    #[arg(long, value_name = "ID", default_value = "latest")]
    snapshot: String,
    #[command(flatten)]
    budget: BudgetArguments,
}

/// Restores, syncs, and prints the report.
///
/// # Errors
/// When anything fails; the file is then not to be used.
pub fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let options = RestoreOptions { target: Target::Fresh, budget: arguments.budget.budget() };
    let report = runtime()?.block_on(async {
        let repository = arguments.repository.open().await?;
        let which = FileSelector::Path(format!("/{FOLDER}/{IMAGE}"));
        let opened = Image::open(&repository, &arguments.snapshot, &which, Locking::Shared).await;
        let mut image = opened.while_doing(|| "finding the image".to_owned())?;
        let restored = to_file(&mut image, arguments, &options).await;
        image.close().await;
        restored
    })?;
    print(report, json!({ "memory_bytes": options.budget.memory_bytes, "workers": options.budget.workers }))
}

async fn to_file(image: &mut Image, arguments: &Arguments, options: &RestoreOptions) -> Result<RestoreReport, BenchError> {
    let writing = || format!("writing {}", arguments.to.display());
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&arguments.to).while_doing(writing)?;
    file.set_len(image.size_bytes()).while_doing(writing)?;
    let sink = FileSink::new(file, image.size_bytes(), LogicalBlockSize::B4096).while_doing(writing)?;
    // Returns when everything was written and flushed.
    let restored = transfer::restore(image, Arc::new(sink), options, &Progress::new(), &CancellationToken::new()).await;
    restored.while_doing(writing)
}
