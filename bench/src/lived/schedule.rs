//! What the node is asked to do, in turn and sometimes four at once.

/// Volumes that are exported.
pub(super) const VOLUMES: usize = 4;
/// How often the same is repeated: ten exports and a restore each time.
const ROUNDS: usize = 10;
/// Bytes that change before an export by itself.
const CHANGED: u64 = 10 << 20;
/// And before each of several at once, so that they run beside each other for a while.
const CHANGED_AT_ONCE: u64 = 48 << 20;

/// A transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// A volume of that number, of which so many bytes are written anew before.
    Export {
        /// Below [`VOLUMES`].
        volume: usize,
        /// Bytes.
        changed: u64,
        /// Whether everything is read, not only what changed.
        full: bool,
    },
    /// The newest export of the volume of that number.
    Restore {
        /// Below [`VOLUMES`].
        volume: usize,
    },
}

/// Transfers that run at the same time: one, or as many as a node runs.
pub(super) type Batch = Vec<Work>;

/// All of it: a hundred exports and ten restores.
pub(super) fn batches() -> Vec<Batch> {
    (0..ROUNDS).flat_map(round).collect()
}

fn round(number: usize) -> Vec<Batch> {
    // In every other round the restore runs beside exports.
    let beside = number % 2 == 1;
    let alone = if beside { 7 } else { 6 };
    let at_once = |volume| Work::Export { volume, changed: CHANGED_AT_ONCE, full: false };
    let restore = Work::Restore { volume: number % VOLUMES };
    let mut batches: Vec<Batch> = (0..alone)
        .map(|turn| vec![Work::Export { volume: (number + turn) % VOLUMES, changed: CHANGED, full: turn == 5 }])
        .collect();
    if beside {
        let others = (0..VOLUMES).filter(|volume| *volume != number % VOLUMES).map(at_once);
        batches.push(others.chain([restore]).collect());
    } else {
        batches.push((0..VOLUMES).map(at_once).collect());
        batches.push(vec![restore]);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn it_is_a_hundred_exports_and_ten_restores_alone_and_four_at_once() {
        let batches = batches();
        let works: Vec<Work> = batches.iter().flatten().copied().collect();
        let is_export = |work: &&Work| matches!(work, Work::Export { .. });
        assert_eq!(works.iter().filter(is_export).count(), 100);
        assert_eq!(works.len(), 110);
        assert!(batches.iter().all(|batch| [1, 4].contains(&batch.len())));
        let mixed = |batch: &&Batch| batch.len() == 4 && batch.iter().any(|work| matches!(work, Work::Restore { .. }));
        assert_eq!(batches.iter().filter(mixed).count(), 5);
        assert_eq!(batches.iter().filter(|batch| batch.len() == 4).count(), 10);
    }

    #[test]
    fn no_volume_is_exported_twice_at_once_and_each_was_exported_before_it_is_restored() {
        let mut exported = BTreeSet::new();
        for batch in batches() {
            let of = |work: &Work| match *work {
                Work::Export { volume, .. } | Work::Restore { volume } => volume,
            };
            assert_eq!(batch.iter().map(of).collect::<BTreeSet<_>>().len(), batch.len());
            for work in &batch {
                match *work {
                    Work::Export { volume, .. } => drop(exported.insert(volume)),
                    Work::Restore { volume } => assert!(exported.contains(&volume)),
                }
            }
        }
    }
}
