//! Disks in memory, devices over them, and their removal whatever happens.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::MutexGuard;

use windlass::block::loop_device::{self, DirectIo, LoopDevice, LoopOptions};
use windlass::block::{AlignedBuffer, device};
use windlass::dm::units::{DataBlockSize, Sectors, ThinId};
use windlass::dm::{
    DataBlocks, DeviceMapper, DeviceNodes, DeviceNumber, DmName, DmUuid, PoolFeatures, Removal, Target, TargetKind, node,
};
use windlass::types::{Access, LogicalBlockSize};

pub use crate::basics::MIB;
use crate::basics::turn;
/// Bytes of a data block of the pools here.
pub const BLOCK: u64 = 64 << 10;

/// A test's devices. Dropping it removes them in reverse order, and the disks beneath.
pub struct Rig {
    pub dm: DeviceMapper,
    pub nodes: DeviceNodes,
    devices: Vec<DmName>,
    disks: Vec<(LoopDevice, tempfile::TempDir)>,
    /// The kernel's devices and events are for all: one test at a time.
    _turn: MutexGuard<'static, ()>,
}

impl Rig {
    pub fn new() -> Self {
        let turn = turn();
        Self {
            dm: DeviceMapper::open().unwrap(),
            nodes: DeviceNodes::open(node::DIRECTORY.as_ref()).unwrap(),
            devices: Vec::new(),
            disks: Vec::new(),
            _turn: turn,
        }
    }

    /// A blank disk.
    pub fn disk(&mut self, bytes: u64) -> DeviceNumber {
        // In memory for sure: an overlay promises direct I/O that what is beneath it does not have.
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(directory.path().join("disk")).unwrap();
        file.set_len(bytes).unwrap();
        let options = LoopOptions {
            access: Access::ReadWrite,
            block_size: LogicalBlockSize::B512,
            label: "disk",
            direct_io: DirectIo::IfPossible,
        };
        let attached = loop_device::attach(&file, &options).unwrap();
        let (major, minor) = device::number(&attached.path).unwrap();
        self.disks.push((attached, directory));
        DeviceNumber::new(major, minor).unwrap()
    }

    /// The disk that was made as the Nth, open.
    pub fn open_disk(&self, index: usize) -> File {
        open(&self.disks[index].0.path)
    }

    /// Has the device removed at the end.
    pub fn keep_track(&mut self, name: &DmName) {
        self.devices.push(name.clone());
    }

    pub fn activate(&mut self, name: &DmName, table: &[Target]) -> DeviceNumber {
        self.keep_track(name);
        let info = self.dm.activate(name, &uuid_of(name), Access::ReadWrite, table).unwrap();
        assert!(info.live_table && !info.suspended);
        info.number
    }

    /// The device's node, open for direct I/O.
    pub fn open_node(&self, name: &DmName, number: DeviceNumber) -> File {
        open(&self.nodes.make(name, number).unwrap())
    }

    /// A pool called `NAME-pool` over new disks: 4 MiB for metadata, `blocks` for data.
    pub fn pool(&mut self, prefix: &str, blocks: u64, low_water: u64) -> Pool {
        self.pool_with_metadata(prefix, 4 * MIB, blocks, low_water)
    }

    pub fn pool_with_metadata(&mut self, prefix: &str, metadata_bytes: u64, blocks: u64, low_water: u64) -> Pool {
        let (metadata, data) = (self.disk(metadata_bytes), self.disk(blocks * BLOCK));
        let (metadata_name, data_name) = (name(&format!("{prefix}-metadata")), name(&format!("{prefix}-data")));
        let metadata = self.activate(&metadata_name, &[linear(metadata_bytes, metadata, 0)]);
        let data = self.activate(&data_name, &[linear(blocks * BLOCK, data, 0)]);
        let table = pool_table(metadata, data, blocks, low_water);
        let pool = name(&format!("{prefix}-pool"));
        let number = self.activate(&pool, std::slice::from_ref(&table));
        Pool { name: pool, number, metadata: metadata_name, data: data_name, table }
    }

    pub fn forget_all(&mut self) {
        while let Some(device) = self.devices.pop() {
            let _ = self.nodes.remove(&device);
            match self.dm.remove(&device, Removal::Now) {
                Ok(()) | Err(windlass::dm::DmError::Missing(_)) => {}
                // The next test finds it; this one may be failing for another reason.
                Err(error) => eprintln!("left behind: {error}"),
            }
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.forget_all();
        for (disk, _directory) in &self.disks {
            if let Err(error) = loop_device::detach(disk) {
                eprintln!("left behind: {error}");
            }
        }
    }
}

pub struct Pool {
    pub name: DmName,
    pub number: DeviceNumber,
    pub metadata: DmName,
    pub data: DmName,
    pub table: Target,
}

pub fn name(text: &str) -> DmName {
    DmName::new(text).unwrap()
}

pub fn uuid_of(name: &DmName) -> DmUuid {
    DmUuid::new(format!("WINDLASS-{name}")).unwrap()
}

pub fn sectors(bytes: u64) -> Sectors {
    Sectors::from_bytes(bytes).unwrap()
}

pub fn thin_id(number: u32) -> ThinId {
    ThinId::new(number).unwrap()
}

pub fn linear(bytes: u64, device: DeviceNumber, offset: u64) -> Target {
    Target { start: sectors(0), length: sectors(bytes), kind: TargetKind::Linear { device, offset: sectors(offset) } }
}

pub fn pool_table(metadata: DeviceNumber, data: DeviceNumber, blocks: u64, low_water: u64) -> Target {
    let kind = TargetKind::ThinPool {
        metadata,
        data,
        block_size: DataBlockSize::from_bytes(BLOCK).unwrap(),
        low_water: DataBlocks::new(low_water),
        features: PoolFeatures::default(),
    };
    Target { start: sectors(0), length: sectors(blocks * BLOCK), kind }
}

pub fn thin(bytes: u64, pool: DeviceNumber, id: u32) -> Target {
    Target { start: sectors(0), length: sectors(bytes), kind: TargetKind::Thin { pool, id: thin_id(id) } }
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path).unwrap()
}

/// Writes data blocks of `value`, each through to the device.
pub fn write_blocks(file: &File, first: u64, count: u64, value: u8) -> std::io::Result<()> {
    let mut buffer = AlignedBuffer::zeroed(usize::try_from(BLOCK).unwrap());
    buffer.fill(value);
    (first..first + count).try_for_each(|block| file.write_all_at(&buffer, block * BLOCK))?;
    file.sync_all()
}

/// The one value that a data block holds everywhere; `None` when there are several.
pub fn read_block(file: &File, block: u64) -> Option<u8> {
    let mut buffer = AlignedBuffer::zeroed(usize::try_from(BLOCK).unwrap());
    file.read_exact_at(&mut buffer, block * BLOCK).unwrap();
    buffer.iter().all(|&byte| byte == buffer[0]).then_some(buffer[0])
}

/// What another program prints; it must succeed.
pub fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}
