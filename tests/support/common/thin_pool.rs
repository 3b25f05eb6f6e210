//! Thin pools, made by the program under test on a disk of the virtual machine or on any other device.

use std::path::{Path, PathBuf};

use windlass::dm::units::DataBlockSize;
use windlass::dm::{DeviceMapper, DmName, PoolState, ThinPoolStatus};
use windlass::pool::thin::devices::LabelledDevice;

use super::fixture::Bench;
use super::leak;
use super::node::{Node, NodeOptions};
use super::program::{run_ok, windlass};

/// Size of the pools' data blocks, in bytes.
pub const BLOCK: u64 = DataBlockSize::MIN.bytes();

/// The disks that the test file asked for.
pub fn disks() -> Vec<PathBuf> {
    let disks = std::env::var("WINDLASS_VM_DISKS").expect("WINDLASS_VM_DISKS names the disks of the virtual machine");
    disks.split(':').map(PathBuf::from).collect()
}

/// A thin pool, whose devices go with this at the latest.
pub struct ThinPool {
    /// The device that it is on.
    pub device: PathBuf,
    /// Its identity.
    pub id: String,
}

impl ThinPool {
    /// Makes one, over what an earlier test may have left there.
    pub fn create(device: &Path) -> Self {
        let mut command = windlass();
        command.args(["pool", "create", "--output", "json", "--force", "--device"]).arg(device);
        if let Ok(earlier) = LabelledDevice::read(device) {
            command.arg("--replace-pool").arg(earlier.label().pool.to_string());
        }
        let made: serde_json::Value = serde_json::from_str(&run_ok(&mut command).text()).unwrap();
        Self { device: device.to_owned(), id: made["pool_id"].as_str().unwrap().to_owned() }
    }

    /// What the kernel says of it, while a node has it.
    pub fn state(&self) -> PoolState {
        let name = DmName::new(format!("windlass-{}-pool", self.id)).unwrap();
        match DeviceMapper::open().unwrap().thin_pool_status(&name).unwrap() {
            ThinPoolStatus::Running(state) => state,
            other => panic!("the pool is {other}"),
        }
    }

    /// Data blocks that are taken.
    pub fn data_used(&self) -> u64 {
        self.state().data_used.count()
    }

    /// Devices of its volumes and snapshots.
    pub fn attached(&self) -> Vec<String> {
        leak::thin_devices(&self.id)
    }

    /// Starts a node over it, which has the files of `bench`.
    pub fn node(&self, bench: &Bench) -> Node {
        Node::start(&NodeOptions { pools: vec![self.device.clone()], ..bench.options() })
    }

    /// Removes its devices, as far as nothing uses them; what is left. For clean-up, so it does not panic.
    pub fn take_down(&self) -> Vec<String> {
        leak::remove_thin_pool(&self.id)
    }
}

impl Drop for ThinPool {
    fn drop(&mut self) {
        let left = self.take_down();
        assert!(left.is_empty() || std::thread::panicking(), "left behind: {left:?}");
    }
}
