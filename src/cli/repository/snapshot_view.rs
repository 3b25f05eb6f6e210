//! A snapshot of a repository as it is printed.

use serde::Serialize;

use crate::repository::StoredSnapshot;

/// What every list of snapshots says of one.
#[derive(Debug, Serialize)]
pub(super) struct SnapshotView<'a> {
    id: String,
    time: &'a str,
    host: &'a str,
    paths: &'a [String],
    tags: &'a [String],
}

impl<'a> SnapshotView<'a> {
    pub(super) fn of(stored: &'a StoredSnapshot) -> Self {
        let snapshot = &stored.snapshot;
        Self {
            id: stored.id.to_string(),
            time: &snapshot.time,
            host: &snapshot.hostname,
            paths: &snapshot.paths,
            tags: &snapshot.tags,
        }
    }
}
