//! `windlass repository snapshots`.

use serde_json::json;

use super::super::exit::CliError;
use super::super::output::{Align, Format, Table, print_json, print_text};
use super::super::repository_access::repository_error;
use super::super::size::ByteSize;
use super::OpenArgs;
use crate::repository::StoredSnapshot;

/// Runs the verb.
///
/// # Errors
/// [`CliError`] with the exit code that the repository's failure means.
pub async fn run(args: &OpenArgs, format: Format) -> Result<(), CliError> {
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
