//! The end of a round: everything there is, compared with what must be there and with what other programs read.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rand::RngExt;
use windlass::block::device;
use windlass::dm::ThinPoolStatus;
use windlass::dm::units::ThinId;
use windlass::pool::PoolError;
use windlass::pool::owned::Lease;
use windlass::pool::thin::names::{Names, Part};
use windlass::types::{ByteRange, Object, RangeStream, SnapshotId};

use super::content::{Content, PIECE};
use super::model::{Deleted, Model, Snap};
use super::oracle::{Frozen, differing};

/// Pairs of snapshots that `thin_delta` is asked about after a round: a start of a program each.
const DELTAS: usize = 6;

impl Model {
    /// The end of a round.
    pub fn compare(&mut self) {
        self.compare_contents();
        let answers = self.ask();
        let frozen = Frozen::new(self.pool().id());
        self.maps = frozen.dump();
        self.check_ids();
        for answer in &answers {
            self.check(answer);
        }
        let pairs: Vec<&Answer> = answers.iter().filter(|answer| matches!(answer.base, Base::Live(_))).collect();
        for _ in 0..DELTAS.min(pairs.len()) {
            let pair = pairs[self.random.random_range(0..pairs.len())];
            if let Base::Live(base) = pair.base {
                let said: BTreeSet<u64> = blocks(&pair.ranges);
                let volume = &self.volumes[pair.volume];
                assert_eq!(said, self.clipped(frozen.delta(volume.live[base].thin, volume.live[pair.target].thin), pair));
                self.tally.thin_deltas += 1;
            }
        }
        drop(frozen);
        self.check_no_metadata_snapshot();
        self.tally.rounds += 1;
    }

    /// Every byte of every volume and snapshot.
    fn compare_contents(&mut self) {
        for index in 0..self.volumes.len() {
            if let Some(content) = &self.volumes[index].content {
                let path = self.attach(index);
                let file = direct(&path);
                assert_eq!(device::size(&file).unwrap(), content.bytes());
                content.assert_held_by(&file, "a volume");
                self.tally.bytes_compared += content.bytes();
                self.tally.contents_compared += 1;
            }
            for snap in &self.volumes[index].live {
                let lease = self.pool().lease(snap.id).unwrap();
                assert_eq!(lease.size().bytes(), snap.content.bytes());
                // The node of its device is gone: the descriptor leads to it.
                let file = direct(Path::new(&format!("/proc/self/fd/{}", lease.file().as_raw_fd())));
                snap.content.assert_held_by(&file, "a snapshot");
                self.tally.bytes_compared += snap.content.bytes();
                self.tally.contents_compared += 1;
            }
        }
    }

    /// All that the pool can be asked of the snapshots that are there.
    fn ask(&mut self) -> Vec<Answer> {
        let anchors: BTreeSet<SnapshotId> = self.pool().anchors().unwrap().iter().map(|anchor| anchor.snapshot.id).collect();
        let mut answers = Vec::new();
        let mut refused = (0, 0);
        for (index, volume) in self.volumes.iter().enumerate() {
            for (target, snap) in volume.live.iter().enumerate() {
                let lease = self.pool().lease(snap.id).unwrap();
                let mut push = |base, ranges| answers.push(Answer { volume: index, target, base, ranges: collected(ranges) });
                push(Base::Nothing, lease.allocated().unwrap());
                for base in 0..volume.live.len() {
                    push(Base::Live(base), lease.changed_since(volume.live[base].id).unwrap());
                }
                for (base, deleted) in volume.deleted.iter().enumerate() {
                    match asked_of_deleted(&lease, deleted, snap, &anchors) {
                        Gone::Answered(ranges) => push(Base::Deleted(base), ranges),
                        Gone::Unknown => refused.0 += 1,
                        Gone::Younger => refused.1 += 1,
                    }
                }
            }
        }
        self.tally.refused += refused.0;
        self.tally.refused_as_younger += refused.1;
        answers
    }

    /// The devices that the metadata holds are those that are there.
    fn check_ids(&self) {
        let volumes = self.volumes.iter().filter(|volume| volume.content.is_some()).map(|volume| volume.thin);
        let snapshots = self.volumes.iter().flat_map(|volume| &volume.live).map(|snap| snap.thin);
        let expected: BTreeSet<ThinId> = volumes.chain(snapshots).collect();
        assert_eq!(self.maps.keys().copied().collect::<BTreeSet<_>>(), expected);
    }

    /// That an answer is right.
    fn check(&mut self, answer: &Answer) {
        let volume = &self.volumes[answer.volume];
        let target = &volume.live[answer.target];
        let nothing = Content::zeros(0);
        let base = match answer.base {
            Base::Nothing => &nothing,
            Base::Live(base) => &volume.live[base].content,
            Base::Deleted(base) => &volume.deleted[base].snap.content,
        };
        let said = blocks(&answer.ranges);
        assert!(answer.ranges.windows(2).all(|pair| pair[0].end() < pair[1].offset()), "{:?}", answer.ranges);
        assert!(answer.ranges.last().is_none_or(|last| last.end() <= target.content.bytes()), "{:?}", answer.ranges);
        let different: BTreeSet<u64> =
            (0..target.content.pieces()).filter(|&block| target.content.differs(base, block)).collect();
        let missed: Vec<&u64> = different.difference(&said).collect();
        assert!(missed.is_empty(), "not said: {missed:?}, of {:?} against {:?}", target.thin, answer.base);

        let map = &self.maps[&target.thin];
        let (said_count, different_count) = (said.len() as u64, different.len() as u64);
        match answer.base {
            Base::Nothing => {
                assert_eq!(said, self.clipped(map.keys().copied().collect(), answer), "allocated in {:?}", target.thin);
                self.tally.allocated += 1;
            }
            Base::Live(base) => {
                let expected = differing(&self.maps[&volume.live[base].thin], map);
                assert_eq!(said, self.clipped(expected, answer), "from {:?} to {:?}", volume.live[base].thin, target.thin);
                self.tally.changed += 1;
                self.tally.blocks_said += said_count;
                self.tally.blocks_different += different_count;
            }
            Base::Deleted(base) => {
                if let Some(base) = &volume.deleted[base].map {
                    let expected = self.clipped(differing(base, map), answer);
                    assert!(expected.is_subset(&said), "not said: {:?}", expected.difference(&said).collect::<Vec<_>>());
                    self.tally.anchors_maps_known += 1;
                    self.tally.anchors_blocks_beyond_the_map += said.difference(&expected).count() as u64;
                }
                self.tally.from_anchors += 1;
                self.tally.anchors_blocks_said += said_count;
                self.tally.anchors_blocks_different += different_count;
            }
        }
    }

    /// What lies within the target of an answer.
    fn clipped(&self, mut blocks: BTreeSet<u64>, answer: &Answer) -> BTreeSet<u64> {
        let target = &self.volumes[answer.volume].live[answer.target];
        blocks.retain(|&block| block < target.content.pieces());
        blocks
    }

    fn check_no_metadata_snapshot(&self) {
        let name = Names::new(self.pool().id()).name(Part::Pool).unwrap();
        match self.dm.thin_pool_status(&name).unwrap() {
            ThinPoolStatus::Running(state) => assert_eq!(state.held_root, None, "a metadata snapshot is held"),
            other => panic!("the pool is {other}"),
        }
    }
}

/// Opens a device for reading without the page cache.
fn direct(path: &Path) -> File {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap()
}

/// What the pool said of a snapshot.
struct Answer {
    volume: usize,
    target: usize,
    base: Base,
    ranges: Vec<ByteRange>,
}

/// Against what.
#[derive(Debug, Clone, Copy)]
enum Base {
    Nothing,
    Live(usize),
    Deleted(usize),
}

/// What the pool says against a base that was deleted.
enum Gone {
    Answered(RangeStream),
    /// It knows nothing of it.
    Unknown,
    /// It was cut after the target.
    Younger,
}

fn asked_of_deleted(lease: &Lease, base: &Deleted, target: &Snap, anchors: &BTreeSet<SnapshotId>) -> Gone {
    // Thin ids are given in the order of the cuts.
    let is_younger = base.snap.thin > target.thin;
    match lease.changed_since(base.snap.id) {
        Ok(ranges) => {
            assert!(anchors.contains(&base.snap.id), "an answer from a base that is not kept");
            assert!(!is_younger, "an answer from a base that was cut later, and whose data is gone");
            Gone::Answered(ranges)
        }
        Err(PoolError::Missing(object)) => {
            assert_eq!(object, Object::Snapshot(base.snap.id));
            assert!(!anchors.contains(&base.snap.id), "an anchor that does not answer");
            Gone::Unknown
        }
        Err(PoolError::Unsupported(text)) => {
            assert!(is_younger && anchors.contains(&base.snap.id), "{text}");
            Gone::Younger
        }
        Err(error) => panic!("{error}"),
    }
}

fn collected(ranges: RangeStream) -> Vec<ByteRange> {
    ranges.map(Result::unwrap).collect()
}

/// The data blocks of some ranges, which are made of whole ones but for the end.
fn blocks(ranges: &[ByteRange]) -> BTreeSet<u64> {
    ranges.iter().flat_map(|range| range.offset() / PIECE..range.end().div_ceil(PIECE)).collect()
}
