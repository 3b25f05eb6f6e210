#![cfg(feature = "root-tests")]
//! `windlass demo`: every file equal, and nothing left behind, also when it is interrupted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use common::leak::{files_beneath, loops_beneath, mounts_beneath};
use common::program::{run, wait_child, windlass};
use common::{leak, require_root, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A temporary directory for the demo's own; cleared away whatever the demo leaves in it.
struct Ground(tempfile::TempDir);

impl Ground {
    fn new() -> Self {
        require_root();
        Self(tempfile::Builder::new().prefix("windlass-demo-test-").tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn assert_nothing_left(&self) {
        assert_eq!(mounts_beneath(self.path()), Vec::<std::path::PathBuf>::new(), "mounts are left");
        assert_eq!(loops_beneath(self.path()), Vec::<leak::Loop>::new(), "loop devices are left");
        assert!(files_beneath(self.path()).is_empty(), "files are left: {:?}", files_beneath(self.path()));
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        leak::tear_down(self.path());
    }
}

/// The counts of a last line `N passed, N failed`.
fn counts(text: &str) -> (u64, u64) {
    let last = text.lines().last().unwrap_or_default();
    let parse = || -> Option<(u64, u64)> {
        let (passed, failed) = last.split_once(" passed, ")?;
        Some((passed.parse().ok()?, failed.strip_suffix(" failed")?.parse().ok()?))
    };
    parse().unwrap_or_else(|| panic!("the last line is no result: `{last}`\n{text}"))
}

#[test]
fn the_demo_ends_with_every_file_equal_and_leaves_nothing() {
    let ground = Ground::new();
    let ended = run(windlass().args(["demo", "--bytes", "64MiB"]).env("TMPDIR", ground.path())).success();
    let (passed, failed) = counts(&ended.text());
    println!("{}", ended.text());
    assert!(passed > 100 && failed == 0, "{passed} passed, {failed} failed");
    ground.assert_nothing_left();
}

fn start_demo(ground: &Ground) -> Child {
    windlass()
        .args(["demo", "--bytes", "256MiB"])
        .env("TMPDIR", ground.path())
        .stdout(Stdio::null())
        .stderr(fs::File::create("/dev/null").unwrap())
        .spawn()
        .unwrap()
}

fn interrupted_leaves_nothing(signal: Signal, when: &str, reached: impl Fn(&Ground) -> bool) {
    let ground = Ground::new();
    let mut child = start_demo(&ground);
    wait_for(when, Duration::from_secs(120), || {
        assert!(child.try_wait().unwrap().is_none(), "the demo ended before {when}");
        reached(&ground).then_some(())
    });
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    let status = wait_child("the interrupted demo to end", &mut child, Duration::from_secs(60));
    assert!(!status.success(), "an interrupted demo must not report success");
    ground.assert_nothing_left();
}

#[test]
fn a_demo_interrupted_while_its_pool_is_mounted_leaves_nothing() {
    interrupted_leaves_nothing(Signal::SIGINT, "the pool is mounted", |ground| !mounts_beneath(ground.path()).is_empty());
}

#[test]
fn a_demo_terminated_while_its_volume_is_mounted_leaves_nothing() {
    interrupted_leaves_nothing(Signal::SIGTERM, "the volume is mounted", |ground| mounts_beneath(ground.path()).len() > 1);
}

#[test]
fn a_demo_of_a_thin_pool_says_what_the_kernel_lacks_and_leaves_nothing() {
    let ground = Ground::new();
    let has_device_mapper = fs::read_to_string("/proc/misc").unwrap().contains("device-mapper");
    let ended = run(windlass().args(["demo", "--pool", "thin", "--bytes", "16MiB"]).env("TMPDIR", ground.path()));
    if has_device_mapper {
        assert_eq!(counts(&ended.success().text()).1, 0);
    } else {
        assert_eq!(ended.code, Some(4), "{}", ended.stderr);
        assert!(ended.stderr.contains("device-mapper"), "{}", ended.stderr);
    }
    ground.assert_nothing_left();
}
