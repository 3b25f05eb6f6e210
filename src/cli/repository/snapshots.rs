//! `windlass repository snapshots`.

use serde::Serialize;

use super::open_args::OpenArgs;
use super::snapshot_view::SnapshotView;
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::{Align, Format, Table, counted, print_json, print_text};
use crate::cli::repository_access::repository_error;
use crate::cli::size::ByteSize;
use crate::repository::snapshot::SnapshotList;
use crate::repository::{Id, RepositoryError, StoredSnapshot};
use crate::types::error::chain;

/// Lists the snapshots; those that do not read are an error after the list.
pub async fn run(args: &OpenArgs, format: Format) -> Result<(), CliError> {
    let access = args.repository.access()?;
    let found = access.open().await?.list_snapshots().await;
    let what = format!("cannot list the snapshots of {}", access.location());
    let SnapshotList { snapshots, unreadable } = found.map_err(|error| repository_error(what, error))?;
    match format {
        Format::Text => print_text(&table(&snapshots).render())?,
        Format::Json => print_json(&Listing::of(&snapshots, &unreadable))?,
    }
    match unreadable.as_slice() {
        [] => Ok(()),
        odd => {
            let reasons: Vec<String> = odd.iter().map(|(_, error)| chain(error)).collect();
            let what = format!("the list lacks {}", counted(odd.len() as u64, "snapshot"));
            Err(CliError::because(Exit::Failed, what, reasons.join("; "))
                .advise("the others may be restored; `windlass repository check` says what else is damaged"))
        }
    }
}

/// The list as it is printed.
#[derive(Debug, Serialize)]
struct Listing<'a> {
    snapshots: Vec<ListedSnapshot<'a>>,
    unreadable: Vec<Unreadable>,
}

/// A snapshot with what only this list says of it.
#[derive(Debug, Serialize)]
struct ListedSnapshot<'a> {
    #[serde(flatten)]
    snapshot: SnapshotView<'a>,
    size_bytes: Option<u64>,
    program: &'a str,
}

/// A snapshot that is there and does not read.
#[derive(Debug, Serialize)]
struct Unreadable {
    id: String,
    error: String,
}

impl<'a> Listing<'a> {
    fn of(snapshots: &'a [StoredSnapshot], unreadable: &[(Id, RepositoryError)]) -> Self {
        let unreadable = unreadable.iter().map(|(id, error)| Unreadable { id: id.to_string(), error: chain(error) });
        Self { snapshots: snapshots.iter().map(ListedSnapshot::of).collect(), unreadable: unreadable.collect() }
    }
}

impl<'a> ListedSnapshot<'a> {
    fn of(stored: &'a StoredSnapshot) -> Self {
        Self { snapshot: SnapshotView::of(stored), size_bytes: size(stored), program: &stored.snapshot.program_version }
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
