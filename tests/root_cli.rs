#![cfg(feature = "root-tests")]
//! The command as a process over real pools: the demo, also interrupted at every step, and a node with every verb. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "called by tests only")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;
#[path = "support/root_support/mod.rs"]
mod root_support;
#[path = "support/verbs.rs"]
mod verbs;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::csi::{Source, Use, new_volume};
use common::fixture::{Bench, PoolFileSystem};
use common::{GIB, MIB, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use root_support::Sandbox;

fn windlass(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
    command.args(arguments).env("RESTIC_PASSWORD", "geheim").stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

/// A tree of files to copy: small, so that the demo is quick.
fn tree(sandbox: &Sandbox) -> PathBuf {
    let tree = sandbox.directory("tree");
    for number in 0..40_u32 {
        let bytes: Vec<u8> = (0..20_000_u32).flat_map(|word| (word ^ (number * 7919)).to_le_bytes()).collect();
        fs::write(tree.join(format!("file-{number}")), bytes).unwrap();
    }
    tree
}

fn demo(sandbox: &Sandbox, tree: &Path, arguments: &[&str]) -> Command {
    let mut command = windlass(&["demo", "--bytes", "4MiB"]);
    command.args(arguments).arg("--source").arg(tree).arg("--directory").arg(sandbox.directory("place"));
    command
}

/// Nothing is mounted, attached or left in the folder of the demos.
fn assert_nothing_left(sandbox: &Sandbox) {
    assert_eq!(fs::read_dir(sandbox.path("place")).unwrap().count(), 0, "files are left");
    let beneath = |text: String| text.contains(&*sandbox.path("place").to_string_lossy());
    assert!(!beneath(fs::read_to_string("/proc/self/mountinfo").unwrap()), "mounts are left");
    for entry in fs::read_dir("/sys/block").unwrap().flatten() {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        assert!(!beneath(backing), "{} is left", entry.path().display());
    }
}

#[test]
fn the_demo_compares_every_file_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let tree = tree(&sandbox);
    for (pool, volume) in [("xfs", "ext4"), ("btrfs", "xfs"), ("xfs", "btrfs")] {
        let output = demo(&sandbox, &tree, &["--filesystem", pool, "--fs-type", volume]).output().unwrap();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{pool} {volume}\n{out}\n{err}");
        let verdict = out.lines().last().unwrap();
        let passed: u64 = verdict.strip_suffix(" passed, 0 failed").unwrap_or_else(|| panic!("{verdict}")).parse().unwrap();
        // 40 files of 80,000 bytes, all of them compared twice, and the checks.
        assert!((2 * 40 + 6..=2 * 40 + 10).contains(&passed), "{verdict}");
        assert_nothing_left(&sandbox);
    }
}

#[test]
fn a_demo_that_is_interrupted_at_any_step_leaves_nothing() {
    let sandbox = Sandbox::new();
    let tree = tree(&sandbox);
    let mut interrupted = Vec::new();
    for number in 1..40 {
        let mut child = demo(&sandbox, &tree, &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut steps = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        // Each step is announced before it begins.
        let step = steps.by_ref().filter(|line| line.ends_with(" ...")).nth(number - 1);
        if step.is_some() {
            signal(&child, if number % 2 == 0 { Signal::SIGTERM } else { Signal::SIGINT });
        }
        let rest: Vec<String> = steps.collect();
        let code = child.wait().unwrap().code();
        assert_nothing_left(&sandbox);
        let Some(step) = step else { break };
        // The last step may have ended before the signal came.
        assert!(code == Some(130) || (code == Some(0) && number > 10), "{step}: {code:?} {rest:?}");
        interrupted.push(step);
    }
    assert!(interrupted.len() >= 15, "{interrupted:?}");
}

#[test]
fn every_verb_works_against_a_node_and_its_exit_codes_tell_outcomes_apart() {
    verbs::every_verb_works(PoolFileSystem::Xfs);
}

#[test]
fn a_second_node_is_refused_and_a_node_that_was_killed_can_start_again() {
    verbs::a_second_node_is_refused(PoolFileSystem::Xfs);
}

#[test]
fn a_pool_image_can_be_let_go_of_when_its_node_has_ended() {
    for file_system in PoolFileSystem::ALL {
        let bench = Bench::with_pool(file_system, GIB);
        let close = || {
            let closed = windlass(&["pool", "close", "--image"]).arg(bench.image()).output().unwrap();
            (closed.status.code(), String::from_utf8_lossy(&closed.stderr).into_owned())
        };
        let node = bench.start();
        let volume = node.csi().make_volume("data", 64 * MIB, Use::Block, &Source::Blank);
        assert_eq!(close().0, Some(4), "a node serves it");
        node.stop();
        assert_eq!(close(), (Some(0), String::new()));
        assert_eq!(bench.attached(), Vec::<String>::new());
        // Nothing is left to do, and nothing was lost.
        assert_eq!(close().0, Some(0));
        let node = bench.start();
        assert_eq!(node.csi().volume_ids(), [volume]);
        node.stop();
        assert_eq!(close().0, Some(0));
    }
    let sandbox = Sandbox::new();
    let none = windlass(&["pool", "close", "--image"]).arg(sandbox.path("none")).output().unwrap();
    assert_eq!(none.status.code(), Some(3));
}

#[test]
fn a_node_with_work_that_hangs_ends_within_its_grace_and_lets_go_of_the_pool() {
    let bench = Bench::with_pool(PoolFileSystem::Xfs, GIB);
    let node = bench.start_armable();
    bench.clear_trace();
    node.csi().make_volume("first", 64 * MIB, Use::Block, &Source::Blank);
    let point = bench.trace().into_iter().find(|name| name.ends_with(".before")).expect("a volume is made in steps");
    bench.clear_trace();
    bench.arm(&format!("hang:1:{point}"));
    let csi = node.csi();
    std::thread::spawn(move || csi.create_volume(new_volume("second", 64 * MIB, Use::Block, &Source::Blank)));
    wait_for("the call to hang", Duration::from_secs(20), || bench.trace().contains(&point).then_some(()));
    // Within less than the 30 s of the kubelet.
    node.stop();
    bench.disarm();
    // What hung is undone or finished; the name can be used.
    let node = bench.start_armable();
    let volumes = node.csi().make_volume("second", 64 * MIB, Use::Block, &Source::Blank);
    assert!(node.csi().volume_ids().contains(&volumes));
    node.stop();
}

#[test]
fn wrong_places_for_a_pool_are_refused_with_advice() {
    let sandbox = Sandbox::new();
    let bench = Bench::with_pool(PoolFileSystem::Xfs, GIB);
    let pool = bench.image();
    let again = windlass(&["pool", "create", "--size", "1GiB", "--image"]).arg(&pool).output().unwrap();
    assert_eq!(again.status.code(), Some(4));
    let small = windlass(&["pool", "create", "--size", "1MiB", "--image"]).arg(sandbox.path("small")).output().unwrap();
    assert_eq!(small.status.code(), Some(2));
    assert!(!sandbox.path("small").exists());
    // tmpfs shares no extents on any kernel.
    let directory = Path::new("/dev/shm").join(format!("windlass-test-{}", std::process::id()));
    let refused = windlass(&["pool", "create"]).arg(&directory).output().unwrap();
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("--image"), "{}", text(&refused.stderr));
    assert!(!directory.exists());
}

#[test]
fn a_root_whose_mounts_nobody_else_sees_is_refused_and_a_shared_one_is_not() {
    let bench = Bench::with_pool(PoolFileSystem::Xfs, GIB);
    let socket = format!("unix://{}", bench.path().join("csi.sock").display());
    let node = |propagation: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", propagation, "--", env!("CARGO_BIN_EXE_windlass"), "node", "--standalone"]);
        command.args(["--node-id", "a", "--endpoint", &socket, "--root"]).arg(bench.root()).arg("--pool").arg(bench.pool());
        command.stdin(Stdio::null());
        command
    };
    for propagation in ["private", "slave"] {
        let refused = node(propagation).output().unwrap();
        assert_eq!(refused.status.code(), Some(4));
        assert!(text(&refused.stderr).contains("--allow-private-mounts"), "{}", text(&refused.stderr));
    }
    // `unshare` becomes the node.
    let mut served = node("shared").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(served.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("ready "), "{line}");
    signal(&served, Signal::SIGTERM);
    assert!(served.wait().unwrap().success());
}
