#![cfg(feature = "thin-tests")]
//! Random operations on a thin pool of a real kernel, while the test knows every byte. After each round every volume and snapshot
//! is compared with what must be there, and all that the pool says is allocated or changed with three oracles: the bytes,
//! `thin_dump`, and for some pairs `thin_delta`. While both snapshots exist the answers must be theirs block for block. Against
//! a base that was deleted and kept as an anchor nothing may be missing; what is said too much is counted.
//!
//! `WINDLASS_RANDOM_OPERATIONS` is how many, `WINDLASS_RANDOM_SEED` repeats a run, as far as writers in flight can be repeated. Without
//! them a run takes half of its share of the operations, with a seed of its own.

// vm: disks=6G memory=3072 limit=3000

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/random_volumes/mod.rs"]
mod random_volumes;
#[path = "support/share.rs"]
mod share;
#[path = "support/thin_random/mod.rs"]
mod thin_random;
#[path = "support/thin_support.rs"]
mod thin_support;

use std::time::{Duration, Instant};

use share::Share;
use thin_random::model::Model;

const OPERATIONS: u64 = 10_000;
/// Operations between two comparisons.
const ROUND: u64 = 250;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn whatever_is_done_to_volumes_their_bytes_and_what_is_said_of_them_are_right() {
    let disks = std::env::var("WINDLASS_VM_DISKS").expect("WINDLASS_VM_DISKS names the disks of the virtual machine");
    let share = Share::of_this_run();
    let operations = number("WINDLASS_RANDOM_OPERATIONS").unwrap_or(share.rarer().part(OPERATIONS));
    let seed = number("WINDLASS_RANDOM_SEED").unwrap_or(share.seed(5));
    println!("{share}: {operations} operations, seed {seed}");
    let begin = Instant::now();
    let mut model = Model::new(disks.split(':').next().unwrap().into(), seed);
    let mut comparing = Duration::ZERO;
    for operation in 1..=operations {
        model.step();
        if operation % ROUND == 0 || operation == operations {
            let begin = Instant::now();
            model.compare();
            comparing += begin.elapsed();
        }
    }
    let tally = model.end();
    println!("{tally:#?}");
    println!("{} s, of which {} s for comparing", begin.elapsed().as_secs(), comparing.as_secs());
    assert!(tally.operations.values().map(|(count, _)| count).sum::<u64>() >= operations);
    if operations >= 5000 {
        assert!(tally.changed > operations / 20 && tally.from_anchors > operations / 100, "too little was asked");
        assert!(tally.refused > 0 && tally.refused_as_younger > 0 && tally.writes_in_flight > 0, "too little was tried");
    }
}
