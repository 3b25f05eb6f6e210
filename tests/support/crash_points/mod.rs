//! The node is killed (`kill -9` of the real process over real pools) before and after every durable step of every call that
//! changes something, and once more at every step of the recovery that follows.
//!
//! What there is to cut is learnt from the node itself: each call runs once while the failure points are traced. After each
//! kill the node starts again, and then
//!
//! * nothing is half-visible: what is listed is what the repeated call answers with;
//! * the same request succeeds, and once more with the same answer;
//! * the content is what was written;
//! * after deletes by CSI nothing is left: no record, file, device, mount, nor anything quarantined.
//!
//! Of these steps a run takes its share, for every second call; the call that is left out over one kind of pool is taken over the next.
//! Of those of the recovery, which are mostly the opening of the pool, whatever was killed, it takes half as many. Calls and kinds of pools
//! begin to count at different numbers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_types, reason = "the answers of gRPC calls are compared")]

pub mod ground;
pub mod point;
pub mod round;
pub mod scenarios;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use ground::{Counts, Ground, Seen, await_attached};
use point::Point;
use scenarios::Scenario;

use crate::common::MIB;
use crate::common::fixture::PoolFileSystem;
use crate::share::Share;

/// Size of the volumes: the smallest that every file system takes.
pub const SIZE: u64 = 320 * MIB;
/// What they are grown to.
const GROWN: u64 = 480 * MIB;
/// Longest time from a call's end to the death of a node that was armed: the death is the call's end.
const DEATH_BOUND: Duration = Duration::from_secs(30);

/// What a call does when nothing goes wrong.
struct Reference {
    points: Vec<Point>,
    counts: Counts,
}

fn run_undisturbed(ground: &mut Ground, scenario: &Scenario) -> Reference {
    let mut round = ground.round();
    let csi = ground.csi();
    (scenario.prepare)(&csi, &mut round);
    ground.bench.clear_trace();
    let first = (scenario.call)(&csi, &round).unwrap();
    let points = point::points(ground.bench.trace());
    assert_eq!((scenario.call)(&csi, &round).unwrap(), first, "a repeated call is answered differently");
    let counts = Seen::now(&csi).counts();
    await_attached(&ground.bench, scenario.attached);
    (scenario.verify)(&csi, &mut round);
    ground.clean(&round);
    Reference { points, counts }
}

/// Kills the node at `point` of the call, and if `again` is given, at that point of the first recovery. Returns the points of
/// the recovery.
fn run_killed(
    ground: &mut Ground,
    scenario: &Scenario,
    reference: &Reference,
    point: &Point,
    again: Option<&Point>,
) -> Vec<Point> {
    let mut round = ground.round();
    let csi = ground.csi();
    (scenario.prepare)(&csi, &mut round);
    let before = Seen::now(&csi);
    ground.bench.arm(&point.kill());
    // The last points lie after the answer was decided, so the answer may or may not have been sent.
    let _ = (scenario.call)(&csi, &round);
    ground.await_death(point);
    if let Some(again) = again {
        ground.restart_killed(again);
    }
    let recovery = ground.restart();

    let csi = ground.csi();
    let recovered = Seen::now(&csi);
    assert_eq!(ground.quarantined(), Vec::<String>::new(), "something is quarantined after the recovery");
    let first = (scenario.call)(&csi, &round).unwrap_or_else(|status| panic!("the repeated call failed: {status}"));
    let after = Seen::now(&csi);
    assert!(
        recovered.is_within(&before, &after),
        "half-visible: {recovered:?} after the recovery is neither what was before {before:?} nor what is now {after:?}"
    );
    assert_eq!(after.counts(), reference.counts, "volumes and snapshots");
    assert_eq!((scenario.call)(&csi, &round).unwrap(), first, "a repeated call is answered differently");
    await_attached(&ground.bench, scenario.attached);
    (scenario.verify)(&csi, &mut round);
    ground.clean(&round);
    recovery
}

/// Kills the node at every step of a call, which has this number, over a pool, and at every step of the recovery.
pub fn survives_a_kill_at_every_step(number: usize, scenario: &Scenario, file_system: PoolFileSystem) {
    let start = std::time::Instant::now();
    let share = Share::of_this_run();
    if !share.takes_group(number as u64 + file_system as u64) {
        println!("{share}: another turn takes this call");
        return;
    }
    let mut ground = Ground::new(file_system);
    let reference = run_undisturbed(&mut ground, scenario);
    assert!(!reference.points.is_empty(), "the call hits no failure point: is the node built with them?");
    let first = reference.points.len() as u64 + file_system as u64;
    let mut work: VecDeque<(Point, Option<Point>)> = (first..)
        .zip(&reference.points)
        .filter(|(number, _)| share.takes(*number))
        .map(|(_, point)| (point.clone(), None))
        .collect();
    let in_the_call = work.len();
    let (mut recovery_points, mut in_recovery) = (BTreeSet::new(), 0);
    while let Some((point, again)) = work.pop_front() {
        // Printed only when the test fails: says where.
        println!("killed at {point:?}{}", again.as_ref().map(|again| format!(", then at {again:?}")).unwrap_or_default());
        let recovery = run_killed(&mut ground, scenario, &reference, &point, again.as_ref());
        if again.is_none() {
            for found in recovery {
                let number = first + recovery_points.len() as u64;
                if recovery_points.insert(found.name.clone()) && share.rarer().takes(number) {
                    work.push_back((point.clone(), Some(found)));
                    in_recovery += 1;
                }
            }
        }
    }
    println!(
        "{share}: {in_the_call} kills in the call of {}, {in_recovery} more in recovery of {}, {:.1} s",
        reference.points.len(),
        recovery_points.len(),
        start.elapsed().as_secs_f64()
    );
    ground.node.take().unwrap().stop();
}

/// One test for each call that changes something, in a module for each kind of pool.
#[macro_export]
macro_rules! crash_points {
    ($module:ident: $pool:ident) => {
        $crate::crash_points! { @each $module: $pool;
            create_file_system_volume: CREATE_FILE_SYSTEM_VOLUME;
            create_block_volume: CREATE_BLOCK_VOLUME;
            create_volume_from_snapshot: CREATE_VOLUME_FROM_SNAPSHOT;
            create_volume_from_volume: CREATE_VOLUME_FROM_VOLUME;
            create_snapshot_of_published_volume: CREATE_SNAPSHOT_OF_PUBLISHED_VOLUME;
            create_snapshot_of_block_volume: CREATE_SNAPSHOT_OF_BLOCK_VOLUME;
            delete_volume: DELETE_VOLUME;
            delete_snapshot: DELETE_SNAPSHOT;
            expand_published_volume: EXPAND_PUBLISHED_VOLUME;
            expand_node: EXPAND_NODE;
            stage_formats: STAGE_FORMATS;
            stage_grows_a_copy: STAGE_GROWS_A_COPY;
            stage_block: STAGE_BLOCK;
            publish: PUBLISH;
            publish_block: PUBLISH_BLOCK;
            unpublish: UNPUBLISH;
            unpublish_block: UNPUBLISH_BLOCK;
            unstage: UNSTAGE;
            unstage_block: UNSTAGE_BLOCK;
        }
    };
    (@each $module:ident: $pool:ident; $($test:ident: $scenario:ident;)*) => {
        mod $module {
            /// Their order numbers the calls.
            const CALLS: &[&str] = &[$(stringify!($test)),*];

            $(#[test] fn $test() {
                $crate::crash_points::survives_a_kill_at_every_step(
                    CALLS.iter().position(|call| *call == stringify!($test)).unwrap(),
                    &$crate::crash_points::scenarios::$scenario,
                    $crate::common::fixture::PoolFileSystem::$pool,
                );
            })*
        }
    };
}
