#![cfg(feature = "root-tests")]
//! The memory of a node that lives on: export after export in one process, each with another part of the volume changed. What one took
//! is there for the next, and is given back to the system when none runs. Needs root.
//!
//! `WINDLASS_EXPORTS` is how many, for measurements by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use common::csi::{Source, Use};
use common::fixture::{Bench, PoolFileSystem};
use common::program::{run_ok, windlass};
use common::{GIB, MIB, wait_for};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use windlass::transfer::Budget;

/// What may be left of it a moment after the last.
const KEPT: u64 = 96 * MIB;
const VOLUME: u64 = 512 * MIB;
const CHANGED: u64 = 10 * MIB;
const EXPORTS: u64 = 12;

#[test]
fn exports_one_after_another_take_no_more_than_one_and_give_it_back() {
    // What an export may take when the command line says nothing.
    let memory = Budget::for_this_machine().memory_bytes;
    let exports = std::env::var("WINDLASS_EXPORTS").map_or(EXPORTS, |text| text.parse().unwrap());
    let bench = Bench::with_pool(PoolFileSystem::Xfs, 4 * GIB);
    let node = bench.start();
    let csi = node.csi();
    let repository = bench.path().join("repository");
    let command = |arguments: &[&str]| {
        let mut command = windlass();
        command.args(arguments).arg("--repository").arg(&repository).env("RESTIC_PASSWORD", "correct horse battery staple");
        run_ok(&mut command)
    };
    command(&["repository", "init"]);
    let volume = csi.make_volume("data", VOLUME, Use::Block, &Source::Blank);
    let paths = csi.bring_up(&bench.root(), "data", &volume, Use::Block);
    let device = OpenOptions::new().write(true).open(&paths.target).unwrap();
    let mut random = StdRng::seed_from_u64(1);
    let mut bytes = vec![0; MIB as usize];
    let mut before: Option<String> = None;
    for number in 1..=exports {
        for _ in 0..CHANGED / MIB {
            random.fill_bytes(&mut bytes);
            device.write_all_at(&bytes, random.random_range(0..VOLUME / MIB) * MIB).unwrap();
        }
        device.sync_all().unwrap();
        let snapshot = csi.make_snapshot(&format!("snapshot-{number}"), &volume);
        command(&["export", &snapshot, "--endpoint", &node.endpoint()]);
        if let Some(before) = before.replace(snapshot) {
            csi.drop_snapshot(&before);
        }
        let (now, most) = node.resident_bytes();
        println!("after export {number}: {} MiB, at most {} MiB", now / MIB, most / MIB);
        assert!(most <= memory, "{most} bytes were taken by export {number}");
    }
    wait_for("what was taken to be given back", Duration::from_secs(30), || (node.resident_bytes().0 <= KEPT).then_some(()));
    drop(device);
    csi.take_down(&volume, &paths);
    csi.drop_snapshot(&before.unwrap());
    csi.drop_volume(&volume);
    node.stop();
}
