//! `windlass repository snapshots`.

use serde_json::json;

use super::super::exit::{CliError, Exit};
use super::super::output::{Align, Format, Table, counted, print_json, print_text};
use super::super::repository_access::repository_error;
use super::super::size::ByteSize;
use super::open_args::OpenArgs;
use crate::repository::snapshot::SnapshotList;
use crate::repository::{Id, RepositoryError, StoredSnapshot};

/// Runs the verb.
///
/// # Errors
/// [`CliError`] with the exit code that the repository's failure means.
pub async fn run(args: &OpenArgs, format: Format) -> Result<(), CliError> {
    let access = args.repository.access()?;
    let found = access.open().await?.list_snapshots().await;
    let what = format!("cannot list the snapshots of {}", access.location());
    let SnapshotList { snapshots, unreadable } = found.map_err(|error| repository_error(what, error))?;
    match format {
        Format::Text => print_text(&table(&snapshots).render())?,
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
            let odd = |(id, error): &(Id, RepositoryError)| json!({ "id": id.to_string(), "error": error.to_string() });
            print_json(&json!({
                "snapshots": snapshots.iter().map(view).collect::<Vec<_>>(),
                "unreadable": unreadable.iter().map(odd).collect::<Vec<_>>(),
            }))?;
        }
    }
    match unreadable.as_slice() {
        [] => Ok(()),
        odd => {
            let reasons: Vec<String> = odd.iter().map(|(_, error)| error.to_string()).collect();
            let what = format!("the list lacks {}", counted(odd.len() as u64, "snapshot"));
            Err(CliError::because(Exit::Failed, what, reasons.join("; "))
                .advise("the others may be restored; `windlass repository check` says what else is damaged"))
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
