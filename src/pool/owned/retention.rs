//! Which deleted snapshots are kept as anchors. Pure: decided from the records of one volume.

use crate::pool::record::{Anchor, Consumer, Snapshot};
use crate::types::{SnapshotId, Timestamp};

/// Whether more snapshots of a volume can be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The volume exists.
    Exists,
    /// It was deleted: only the snapshots that are there can still be compared with anything.
    Deleted,
}

/// The anchors of a volume that are not to be kept, newest first.
///
/// Kept are those that somebody may ask about: the last snapshot that a consumer used, while the volume or any snapshot of it
/// is there to be compared with it; of these the newest, up to the limit.
pub(super) fn surplus(origin: Origin, live: &[Snapshot], anchors: &[Anchor]) -> Vec<SnapshotId> {
    let comparable = origin == Origin::Exists || !live.is_empty();
    let mut newest_first: Vec<&Snapshot> = anchors.iter().map(|anchor| &anchor.snapshot).collect();
    newest_first.sort_unstable_by_key(|snapshot| std::cmp::Reverse(age(snapshot)));
    let mut kept = 0;
    let mut surplus = Vec::new();
    for snapshot in newest_first {
        let wanted = comparable && snapshot.used_by.iter().any(|consumer| !is_superseded(consumer, snapshot, live, anchors));
        if wanted && kept < snapshot.anchor_limit.count() {
            kept += 1;
        } else {
            surplus.push(snapshot.id);
        }
    }
    surplus
}

/// Orders the snapshots of a volume by their cuts; the id tells those of one moment apart.
pub(super) fn age(snapshot: &Snapshot) -> (Timestamp, SnapshotId) {
    (snapshot.created, snapshot.id)
}

/// Whether a consumer has gone on to newer snapshots than this one.
///
/// A repository has, once it holds a newer one. What a metadata client read may be asked for again as long as the newer
/// snapshot is there: it resumes a stream that broke off, and nobody tells us when its backup is complete.
fn is_superseded(consumer: &Consumer, snapshot: &Snapshot, live: &[Snapshot], anchors: &[Anchor]) -> bool {
    let is_newer_use = |other: &Snapshot| other.used_by.contains(consumer) && age(other) > age(snapshot);
    let newer = live.iter().filter(|other| is_newer_use(other)).count();
    let newer_deleted = anchors.iter().filter(|anchor| is_newer_use(&anchor.snapshot)).count();
    match consumer {
        Consumer::MetadataClient => newer_deleted > 0 || newer > 1,
        Consumer::Repository(_) | Consumer::Source => newer + newer_deleted > 0,
    }
}
