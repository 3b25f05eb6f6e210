//! What the tests of the built program share: a running node, CSI calls to it, pools in image files, and a look at what was
//! left behind.
//!
//! Every fixture removes what it made when dropped, also when the test panics: processes first, then mounts from the top
//! down, then loop devices, then files. Nothing outside the fixture's own temporary directory is touched.

#![allow(dead_code, reason = "each test binary uses a part of this")]

pub mod csi;
pub mod fixture;
pub mod leak;
pub mod node;
pub mod open;
pub mod pool_kind;
pub mod process;
pub mod program;
pub mod restic;
pub mod thin_pool;
pub mod writer;

#[allow(unused_imports, reason = "each test binary uses a part of this")]
pub use crate::basics::{GIB, MIB, wait_for};

/// Stops with a clear text when the test is not run as root.
pub fn require_root() {
    assert!(nix::unistd::geteuid().is_root(), "this test mounts file systems and attaches loop devices: it needs root");
}

/// Whether this process may grow a mounted ext4: the kernel wants CAP_SYS_RESOURCE for that, which not every sandbox gives to root.
pub fn is_mounted_ext4_grown() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() >> CAP_SYS_RESOURCE & 1 == 1
}
