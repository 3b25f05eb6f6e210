#![cfg(all(feature = "root-tests", feature = "failpoints"))]
//! The node is killed at every durable step of every call, over reflink pools; see `crash_points`. And the same for an export:
//! whatever was killed, stock restic finds the repository sound, and the next export completes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;
#[path = "support/crash_points/mod.rs"]
mod crash_points;
#[path = "support/share.rs"]
mod share;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use common::csi::Use;
use common::fixture::PoolFileSystem;
use common::program::{built_tool, command, run, run_ok, windlass};
use common::{MIB, wait_for};
use crash_points::SIZE;
use crash_points::ground::Ground;
use crash_points::point::points;
use csi_proto::csi::v1 as proto;
use share::Share;

crash_points!(on_xfs: Xfs);
crash_points!(on_btrfs: Btrfs);

#[test]
fn of_steps_that_begin_or_end_together_one_point_is_kept() {
    let trace = ["a.before", "b.before", "b.after", "a.after", "a.before", "a.after"].map(str::to_owned).to_vec();
    let kept: Vec<(String, u64)> = points(trace).into_iter().map(|point| (point.name, point.occurrence)).collect();
    let expected = [("b.before", 1), ("b.after", 1), ("a.before", 2), ("a.after", 2)];
    assert_eq!(kept, expected.map(|(name, occurrence)| (name.to_owned(), occurrence)));
}

const PASSWORD: &str = "correct horse battery staple";

fn export(ground: &Ground, snapshot: &str, repository: &Path) -> common::program::Ended {
    let endpoint = ground.node.as_ref().unwrap().endpoint();
    run(windlass()
        .args(["export", snapshot, "--endpoint", &endpoint, "--repository"])
        .arg(repository)
        .env("RESTIC_PASSWORD", PASSWORD))
}

fn restic(repository: &Path, arguments: &[&str]) -> common::program::Ended {
    run_ok(
        command(built_tool("restic"))
            .args(["--no-cache", "--repo"])
            .arg(repository)
            .args(arguments)
            .env("RESTIC_PASSWORD", PASSWORD),
    )
}

/// Bytes that neither compress nor repeat, the same on each run.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..bytes / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect()
}

#[test]
fn an_export_killed_at_every_step_leaves_a_sound_repository_and_the_next_one_completes() {
    let mut ground = Ground::new(PoolFileSystem::Xfs);
    let mut round = ground.round();
    let csi = ground.csi();
    round.create_written(&csi, Use::Block);
    let data = noise(24 * MIB as usize);
    fs::OpenOptions::new().write(true).open(&round.paths().target).unwrap().write_all(&data).unwrap();
    let snapshot = csi.make_snapshot("exported", &round.volume);

    // A repository is made once and copied for each round: its key derivation is slow on purpose.
    let made = ground.bench.path().join("repository");
    run_ok(windlass().args(["repository", "init", "--repository"]).arg(&made).env("RESTIC_PASSWORD", PASSWORD));
    let fresh = |ground: &Ground, number: usize| {
        let copy = ground.bench.path().join(format!("repository-{number}"));
        run_ok(command("cp").arg("--archive").arg(&made).arg(&copy));
        copy
    };

    let repository = fresh(&ground, 0);
    ground.bench.clear_trace();
    export(&ground, &snapshot, &repository).success();
    let all = points(ground.bench.trace());
    for step in ["lock", "pack", "index", "snapshot"] {
        assert!(all.iter().any(|point| point.name == format!("repository.{step}.before")), "no {step} is written: {all:?}");
    }

    let path = common::restic::volume_file(&restic(&repository, &["ls", "--json", "latest"]).text());

    let share = Share::of_this_run();
    let taken: Vec<_> = all.iter().enumerate().filter(|(number, _)| share.takes(*number as u64)).collect();
    for &(number, point) in &taken {
        println!("killed at {point:?}");
        let repository = fresh(&ground, number + 1);
        ground.bench.arm(&point.kill());
        let cut = export(&ground, &snapshot, &repository);
        assert_eq!(cut.code, Some(5), "the node of an export that was killed cannot be reached: {}", cut.stderr);
        ground.await_death(point);
        ground.restart();

        // restic, which knows nothing of the node's death, respects its lock for half an hour.
        if fs::read_dir(repository.join("locks")).unwrap().next().is_some() {
            restic(&repository, &["unlock", "--remove-all"]);
        }
        restic(&repository, &["check", "--read-data"]);
        export(&ground, &snapshot, &repository).success();
        let dumped = restic(&repository, &["dump", "latest", &path]).stdout;
        assert_eq!(dumped.len() as u64, SIZE);
        assert!(dumped[..data.len()] == data && dumped[data.len()..].iter().all(|byte| *byte == 0), "other content");
        fs::remove_dir_all(&repository).unwrap();
    }
    println!("{share}: {} kills of {}", taken.len(), all.len());
    wait_for("leases to end", Duration::from_secs(10), || {
        let request = proto::DeleteSnapshotRequest { snapshot_id: snapshot.clone(), ..Default::default() };
        ground.csi().delete_snapshot(request).ok()
    });
    ground.clean(&round);
    ground.node.take().unwrap().stop();
}
