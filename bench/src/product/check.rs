//! One check of a repository.

use serde_json::json;
use windlass::repository::check::Depth;

use super::{RepositoryArguments, print, runtime};
use crate::error::{BenchError, While};

/// The arguments of `check`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    repository: RepositoryArguments,
    /// Read every byte of every pack too
    #[arg(long)]
    read_data: bool,
}

/// Checks, and prints what was looked at.
///
/// # Errors
/// When the check cannot go on, or finds anything wrong.
pub fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let depth = if arguments.read_data { Depth::ReadData } else { Depth::Structure };
    let report = runtime()?.block_on(async {
        let repository = arguments.repository.open().await?;
        repository.check(depth, &|_, _| {}).await.while_doing(|| "checking".to_owned())
    })?;
    if let Some(first) = report.errors.first() {
        return Err(BenchError::new(format!("the repository is damaged: {first}")));
    }
    let looked_at = json!({
        "snapshots": report.snapshots,
        "trees": report.trees,
        "blobs_used": report.blobs_used,
        "packs": report.packs,
        "bytes_read": report.bytes_read,
    });
    print(looked_at, json!({ "read_data": arguments.read_data }))
}
