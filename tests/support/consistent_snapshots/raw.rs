//! A snapshot of a raw block volume that is open for writing.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use super::SIZE;
use crate::common::csi::{Source, Use};
use crate::common::fixture::{Bench, PoolFileSystem};
use crate::common::{GIB, MIB};

/// What was written through the page cache, and never flushed by its user, is in the snapshot.
pub fn a_snapshot_holds_what_was_written_and_not_flushed(file_system: PoolFileSystem) {
    let bench = Bench::with_pool(file_system, 4 * GIB);
    let node = bench.start();
    let csi = node.csi();
    let volume = csi.make_volume("raw", SIZE, Use::Block, &Source::Blank);
    let paths = csi.bring_up(&bench.root(), "raw", &volume, Use::Block);
    let device = OpenOptions::new().read(true).write(true).open(&paths.target).unwrap();
    for round in 1..=10_u8 {
        let written = vec![round; MIB as usize];
        let offset = u64::from(round) * 7 * MIB;
        device.write_all_at(&written, offset).unwrap();
        let snapshot = csi.make_snapshot(&format!("snapshot-{round}"), &volume);
        // Later than the cut: must not be in it.
        device.write_all_at(&vec![0xff; MIB as usize], offset).unwrap();

        let copy = csi.make_volume(&format!("copy-{round}"), SIZE, Use::Block, &Source::Snapshot(snapshot.clone()));
        let seen = csi.bring_up(&bench.root(), "copy", &copy, Use::Block);
        let mut found = vec![0; MIB as usize];
        File::open(&seen.target).unwrap().read_exact_at(&mut found, offset).unwrap();
        assert!(found == written, "round {round} on {}", file_system.name());
        csi.take_down(&copy, &seen);
        csi.drop_volume(&copy);
        csi.drop_snapshot(&snapshot);
    }
    drop(device);
    csi.take_down(&volume, &paths);
    csi.drop_volume(&volume);
    node.stop();
    assert_eq!(bench.attached(), Vec::<String>::new());
}
