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
    // What is not here any more is compared with nothing.
    let comparable = origin == Origin::Exists || live.iter().any(Snapshot::is_here);
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

/// Puts the anchors of a pool into the order in which they are given up for space.
///
/// First those that only volumes were made from: whoever copies a snapshot on the node itself loses nothing but an increment that was never asked for. Then the
/// bases of repositories and metadata clients, the one first that was cut longest ago: its consumer has not come back for the
/// longest time. So copies that are made and dropped every hour never cost a daily backup its base.
pub(super) fn eviction_order(anchors: &mut [Anchor]) {
    let is_base = |snapshot: &Snapshot| snapshot.used_by.iter().any(|consumer| *consumer != Consumer::Source);
    anchors.sort_unstable_by_key(|anchor| (is_base(&anchor.snapshot), age(&anchor.snapshot)));
}

/// Orders the snapshots of a pool by their cuts, the oldest first; the id tells those of one set apart. The clock, which may
/// have jumped, decides only between records that are older than the numbers.
pub(super) fn age(snapshot: &Snapshot) -> (u64, Timestamp, SnapshotId) {
    (snapshot.serial, snapshot.created, snapshot.id)
}

/// As many deleted snapshots that metadata clients read are kept of a volume: two backup programs, each with its base.
const METADATA_BASES: usize = 2;

/// Whether a consumer has gone on to newer snapshots than this one.
///
/// A repository has, once it holds a newer one. What a metadata client read may be asked for again as long as the newer
/// snapshot is there: it resumes a stream that broke off, and nobody tells us when its backup is complete. Nor does anybody tell one
/// client from another, so the base of a second one is kept beside that of the first.
fn is_superseded(consumer: &Consumer, snapshot: &Snapshot, live: &[Snapshot], anchors: &[Anchor]) -> bool {
    let is_newer_use = |other: &Snapshot| other.used_by.contains(consumer) && age(other) > age(snapshot);
    let newer = live.iter().filter(|other| is_newer_use(other)).count();
    let newer_deleted = anchors.iter().filter(|anchor| is_newer_use(&anchor.snapshot)).count();
    match consumer {
        Consumer::MetadataClient => newer_deleted >= METADATA_BASES || newer > 1,
        Consumer::Repository(_) | Consumer::Source => newer + newer_deleted > 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::types::{AnchorLimit, DataChecksum, FormatState, LocalCopy, LogicalBlockSize, VolumeId, VolumeMode, VolumeSize};

    const META: Consumer = Consumer::MetadataClient;

    fn repository(name: &str) -> Consumer {
        Consumer::Repository(name.to_owned())
    }

    fn snapshot(serial: u64, used_by: &[Consumer]) -> Snapshot {
        let mut id = [0; 16];
        id[8..].copy_from_slice(&serial.to_be_bytes());
        Snapshot {
            id: SnapshotId::from_bytes(id),
            name: format!("snapshot-{serial}").try_into().unwrap(),
            source: VolumeId::from_bytes([1; 16]),
            size: VolumeSize::DEFAULT,
            logical_block_size: LogicalBlockSize::B4096,
            mode: VolumeMode::Block,
            format: FormatState::Content,
            checksum: DataChecksum::Off,
            parameters: BTreeMap::new(),
            // The clock runs backwards: it must not matter.
            created: Timestamp { seconds: 1000 - serial, nanoseconds: 0 },
            serial,
            anchor_limit: AnchorLimit::default(),
            used_by: used_by.iter().cloned().collect::<BTreeSet<_>>(),
            kubernetes: Default::default(),
            copies: Default::default(),
        }
    }

    fn anchor(serial: u64, used_by: &[Consumer]) -> Anchor {
        Anchor { snapshot: snapshot(serial, used_by), deleted: Timestamp { seconds: 2000, nanoseconds: 0 } }
    }

    fn serials(origin: Origin, live: &[Snapshot], anchors: &[Anchor]) -> Vec<u64> {
        let found = surplus(origin, live, anchors);
        let serial = |id: &SnapshotId| anchors.iter().find(|anchor| anchor.snapshot.id == *id).unwrap().snapshot.serial;
        found.iter().map(serial).collect()
    }

    #[test]
    fn the_last_snapshot_of_each_repository_is_kept_and_an_unused_one_is_not() {
        let (a, b) = (repository("a"), repository("b"));
        let anchors = [(1, Some(&a)), (2, Some(&b)), (3, Some(&a)), (4, None)]
            .map(|(serial, by)| anchor(serial, by.map_or(&[], std::slice::from_ref)));
        assert_eq!(serials(Origin::Exists, &[], &anchors), [4, 1]);
        // One that exists, and was used, takes the place of an anchor as well; one that was not used does not.
        assert_eq!(serials(Origin::Exists, &[snapshot(5, &[b])], &anchors), [4, 2, 1]);
        assert_eq!(serials(Origin::Exists, &[snapshot(5, &[]), snapshot(6, &[META])], &anchors), [4, 1]);
        // An older one that is used late does not.
        assert_eq!(serials(Origin::Exists, &[snapshot(0, &[a])], &anchors), [4, 1]);
    }

    #[test]
    fn a_metadata_client_keeps_its_base_while_the_snapshot_it_compares_exists() {
        let anchors = [anchor(1, &[META])];
        assert_eq!(serials(Origin::Exists, &[], &anchors), Vec::<u64>::new());
        assert_eq!(serials(Origin::Exists, &[snapshot(2, &[META])], &anchors), Vec::<u64>::new());
        assert_eq!(serials(Origin::Exists, &[snapshot(2, &[META]), snapshot(3, &[META])], &anchors), [1]);
        // Two clients may each have one.
        let three = [1, 2, 3].map(|serial| anchor(serial, &[META]));
        assert_eq!(serials(Origin::Exists, &[], &three[..2]), Vec::<u64>::new());
        assert_eq!(serials(Origin::Exists, &[], &three), [1]);
    }

    #[test]
    fn anchors_of_a_deleted_volume_go_with_its_last_snapshot() {
        let anchors = [anchor(1, &[repository("a")])];
        assert_eq!(serials(Origin::Deleted, &[snapshot(2, &[])], &anchors), Vec::<u64>::new());
        assert_eq!(serials(Origin::Deleted, &[], &anchors), [1]);
    }

    #[test]
    fn a_given_up_snapshot_is_kept_as_its_repository_s_base_until_there_is_a_newer_one() {
        let a = repository("a");
        let given_up = |serial| {
            let mut snapshot = snapshot(serial, std::slice::from_ref(&a));
            snapshot.copies.local = LocalCopy::GivenUp;
            snapshot
        };
        let anchors = [anchor(1, std::slice::from_ref(&a))];
        assert_eq!(serials(Origin::Exists, &[given_up(1)], &anchors), Vec::<u64>::new());
        assert_eq!(serials(Origin::Exists, &[given_up(1), given_up(2)], &anchors), [1]);
        // Nothing is left to be compared with it.
        assert_eq!(serials(Origin::Deleted, &[given_up(1)], &anchors), [1]);
    }

    #[test]
    fn for_space_local_copies_go_before_bases_of_backups_and_the_oldest_first() {
        let daily = repository("daily");
        let mut anchors = [
            anchor(1, std::slice::from_ref(&daily)),
            anchor(4, &[META]),
            anchor(2, &[Consumer::Source]),
            anchor(3, &[Consumer::Source, META]),
        ];
        eviction_order(&mut anchors);
        assert_eq!(anchors.map(|anchor| anchor.snapshot.serial), [2, 1, 3, 4]);
    }

    #[test]
    fn beyond_the_limit_the_oldest_go_first() {
        let mut anchors: Vec<Anchor> = (1..=6).map(|serial| anchor(serial, &[repository(&serial.to_string())])).collect();
        assert_eq!(serials(Origin::Exists, &[], &anchors), [2, 1]);
        anchors.iter_mut().for_each(|anchor| anchor.snapshot.anchor_limit = AnchorLimit::new(1).unwrap());
        assert_eq!(serials(Origin::Exists, &[], &anchors), [5, 4, 3, 2, 1]);
        anchors.iter_mut().for_each(|anchor| anchor.snapshot.anchor_limit = AnchorLimit::NONE);
        assert_eq!(serials(Origin::Exists, &[], &anchors), [6, 5, 4, 3, 2, 1]);
    }
}
