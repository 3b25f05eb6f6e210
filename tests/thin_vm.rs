#![cfg(feature = "thin-tests")]
//! What the other tests of this kind stand on: the virtual machine has device-mapper, the disks that a test file asks for, a
//! writable root and the programs that the driver and the tests call.
// vm: disks=64M,192M

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::process::Command;

use windlass::block::device;

fn printed(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?} ended with {}: {text}", output.status);
    text
}

#[test]
fn the_kernel_has_device_mapper_and_the_targets_of_thin_pools() {
    let devices = fs::read_to_string("/proc/misc").unwrap();
    assert!(devices.lines().any(|line| line.ends_with(" device-mapper")), "{devices}");
    let targets = printed("dmsetup", &["targets"]);
    for target in ["thin", "thin-pool", "linear", "error"] {
        let found = targets.lines().any(|line| line.split_whitespace().next() == Some(target));
        assert!(found, "no target {target}: {targets}");
    }
    let version = printed("dmsetup", &["version"]);
    let driver = version.lines().find_map(|line| line.strip_prefix("Driver version:")).unwrap().trim();
    let numbers: Vec<u32> = driver.split('.').map(|number| number.parse().unwrap()).collect();
    assert!((4, 37) <= (numbers[0], numbers[1]), "device-mapper {driver} has no events by poll");
}

#[test]
fn modules_that_nobody_loaded_come_when_they_are_asked_for() {
    for (module, target) in [("dm-log-writes", "log-writes"), ("dm-flakey", "flakey")] {
        printed("modprobe", &[module]);
        let targets = printed("dmsetup", &["targets"]);
        assert!(targets.lines().any(|line| line.split_whitespace().next() == Some(target)), "{targets}");
    }
}

#[test]
fn the_disks_are_those_that_this_file_asks_for_and_can_be_written_to() {
    let disks = std::env::var("WINDLASS_VM_DISKS").expect("WINDLASS_VM_DISKS is set in the virtual machine");
    let sizes: Vec<u64> = disks
        .split(':')
        .map(|path| {
            assert!(fs::metadata(path).unwrap().file_type().is_block_device(), "{path}");
            let disk = File::options().read(true).write(true).open(path).unwrap();
            let size = device::size(&disk).unwrap();
            let text = b"the last block".as_slice();
            disk.write_all_at(text, size - 4096).unwrap();
            disk.sync_all().unwrap();
            let mut back = vec![0; text.len()];
            disk.read_exact_at(&mut back, size - 4096).unwrap();
            assert_eq!(back, text);
            size
        })
        .collect();
    assert_eq!(sizes, [64 << 20, 192 << 20]);
}

#[test]
fn the_program_under_test_and_what_it_calls_are_there() {
    let own = printed(env!("CARGO_BIN_EXE_windlass"), &["--version"]);
    assert!(own.contains(env!("CARGO_PKG_VERSION")), "{own}");
    for (program, argument) in
        [("mkfs.ext4", "-V"), ("mkfs.xfs", "-V"), ("mkfs.btrfs", "-V"), ("thin_check", "-V"), ("thin_delta", "-V")]
    {
        printed(program, &[argument]);
    }
}
