#![cfg(feature = "root-tests")]
//! Making pools on block devices, as far as no device-mapper is needed: what is refused, and that it is left as it was. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/root_support/mod.rs"]
mod root_support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use basics::MIB;
use root_support::{Sandbox, attach, request, sparse_file};
use windlass::block::loop_device::{self, LoopDevice};
use windlass::mount::Mounter;
use windlass::mount::system::SystemMounter;
use windlass::pool::PoolError;
use windlass::pool::thin::devices::{self, Copies, LabelledDevice, PoolDevices};
use windlass::pool::thin::examine;
use windlass::pool::thin::format::{self, CreateOptions, DataBlockSize, DevicePaths, Others};
use windlass::pool::thin::label::{Label, Role, State};
use windlass::types::error::chain;
use windlass::types::{Access, FsType};

const SIZE: u64 = 400 * MIB;

/// A loop device and the file behind it.
struct Disk {
    path: PathBuf,
    file: File,
    device: LoopDevice,
}

impl Disk {
    fn new(sandbox: &Sandbox, name: &str, bytes: u64) -> Self {
        let path = sandbox.path(name);
        let file = sparse_file(&path, bytes);
        let device = attach(&file, Access::ReadWrite);
        Self { path, file, device }
    }

    fn options(&self) -> CreateOptions {
        CreateOptions::on(DevicePaths::One(self.device.path.clone()))
    }

    /// Both ends, where everything that is refused would have been written.
    fn ends(&self) -> Vec<u8> {
        self.device_flushed();
        let mut ends = vec![0; 4 * MIB as usize];
        let (head, tail) = ends.split_at_mut(2 * MIB as usize);
        self.file.read_exact_at(head, 0).unwrap();
        let size = self.file.metadata().unwrap().len();
        self.file.read_exact_at(tail, size - 2 * MIB).unwrap();
        ends
    }

    /// What was written through the cache of the device is in the file.
    fn device_flushed(&self) {
        File::open(&self.device.path).unwrap().sync_all().unwrap();
    }

    fn label(&self) -> Label {
        LabelledDevice::read(&self.device.path).unwrap().label().clone()
    }
}

fn make_file_system(program: &str, device: &Path) {
    let made = Command::new(program).args(["-q", "-F"]).arg(device).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn refused(options: &CreateOptions) -> String {
    match format::begin(options) {
        Err(PoolError::Format(refusal)) => chain(&refusal),
        other => panic!("{other:?}"),
    }
}

fn ready(devices: &mut PoolDevices) {
    for device in devices.all_mut() {
        let label = Label { state: State::Ready, ..device.label().clone() };
        device.write(label).unwrap();
    }
}

fn windlass(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_windlass")).args(arguments).env_remove("WINDLASS_LOG").output().unwrap()
}

#[test]
fn a_device_in_use_is_refused_with_who_uses_it_even_if_all_is_given_up() {
    let sandbox = Sandbox::new();
    let disk = Disk::new(&sandbox, "disk", SIZE);
    make_file_system("mkfs.ext4", &disk.device.path);
    let target = sandbox.directory("mounted");
    let mounter = SystemMounter::new();
    mounter.mount(&request(&disk.device, &target, FsType::Ext4, Access::ReadWrite)).unwrap();
    let options = CreateOptions { others: Others::GivenUp, ..disk.options() };
    let text = refused(&options);
    assert!(text.contains("is in use") && text.contains(&format!("mounted at {}", target.display())), "{text}");
    mounter.unmount(&target).unwrap();

    // Claimed by a process that leaves no other trace.
    use std::os::unix::fs::OpenOptionsExt;
    let claim = File::options().read(true).custom_flags(libc::O_EXCL).open(&disk.device.path).unwrap();
    assert!(refused(&options).contains("by another process"));
    drop(claim);
    assert_eq!(format::begin(&options).unwrap().state(), State::Making);
}

#[test]
fn what_is_on_a_device_is_said_and_left_until_it_is_given_up() {
    let sandbox = Sandbox::new();
    let disk = Disk::new(&sandbox, "disk", SIZE);
    make_file_system("mkfs.ext4", &disk.device.path);
    disk.file.write_all_at(b"EFI PART", SIZE - 512).unwrap();
    let before = disk.ends();
    let text = refused(&disk.options());
    assert!(text.contains("ext2, ext3 or ext4 (at byte 1080)") && text.contains("GPT") && text.contains("--force"), "{text}");
    assert!(disk.ends() == before);
    let made = format::begin(&CreateOptions { others: Others::GivenUp, ..disk.options() }).unwrap();
    assert_eq!(made.all().len(), 1);
    let (label, ends) = (disk.label(), disk.ends());
    assert_eq!((label.role, label.state, label.device_bytes, label.pool), (Role::Whole, State::Making, SIZE, made.pool()));
    // The labels, and nothing else of what was there.
    let labels = [0..4096, 4 * MIB as usize - 4096..4 * MIB as usize];
    let wiped = (0..MIB as usize).chain(3 * MIB as usize..4 * MIB as usize).filter(|at| !labels.iter().any(|l| l.contains(at)));
    assert!(wiped.into_iter().all(|at| ends[at] == 0));
    let blkid = Command::new("blkid").args(["-p", "-o", "value"]).arg(&disk.device.path).output().unwrap();
    assert!(blkid.stdout.is_empty(), "{}", String::from_utf8_lossy(&blkid.stdout));
}

#[test]
fn a_device_that_is_too_small_is_refused_with_what_is_needed() {
    let sandbox = Sandbox::new();
    let disk = Disk::new(&sandbox, "disk", 50 * MIB);
    match format::begin(&disk.options()) {
        Err(PoolError::NoSpace(text)) => assert!(text.contains(&(91 * MIB).to_string()), "{text}"),
        other => panic!("{other:?}"),
    }
    assert!(disk.ends().iter().all(|&byte| byte == 0));
}

#[test]
fn a_pool_that_was_ready_is_replaced_only_by_its_name_and_one_that_never_was_without() {
    let sandbox = Sandbox::new();
    let disk = Disk::new(&sandbox, "disk", SIZE);
    let first = format::begin(&disk.options()).unwrap().pool();
    // The making was interrupted here.
    let mut devices = format::begin(&disk.options()).unwrap();
    let second = devices.pool();
    assert_ne!(first, second);
    ready(&mut devices);
    assert_eq!(PoolDevices::open(&disk.device.path).unwrap().state(), State::Ready);
    let before = disk.ends();
    for given_up_pool in [None, Some(first)] {
        let text = refused(&CreateOptions { others: Others::GivenUp, given_up_pool, ..disk.options() });
        assert!(text.contains(&format!("--replace-pool {second}")), "{text}");
    }
    // Also when only the second label is left of it.
    disk.file.write_all_at(&[0; 4096], 0).unwrap();
    assert!(refused(&CreateOptions { others: Others::GivenUp, ..disk.options() }).contains(&second.to_string()));
    disk.file.write_all_at(&before[..4096], 0).unwrap();
    assert!(disk.ends() == before);
    let third = format::begin(&CreateOptions { given_up_pool: Some(second), ..disk.options() }).unwrap().pool();
    assert_eq!(disk.label().pool, third);
}

#[test]
fn a_pool_on_two_devices_is_found_by_either() {
    let sandbox = Sandbox::new();
    let (metadata, data) = (Disk::new(&sandbox, "metadata", 64 * MIB), Disk::new(&sandbox, "data", SIZE));
    let paths = |metadata: &Disk, data: &Disk| DevicePaths::Two {
        metadata: metadata.device.path.clone(),
        data: data.device.path.clone(),
    };
    assert!(refused(&CreateOptions::on(paths(&data, &data))).contains("same device"));
    let block_size = DataBlockSize::from_bytes(128 << 10);
    let mut made = format::begin(&CreateOptions { block_size, ..CreateOptions::on(paths(&metadata, &data)) }).unwrap();
    ready(&mut made);
    for start in [&metadata, &data] {
        let found = PoolDevices::open(&start.device.path).unwrap();
        assert_eq!((found.pool(), found.state()), (made.pool(), State::Ready));
        assert_eq!((found.metadata().path(), found.data().path()), (metadata.device.path.as_path(), data.device.path.as_path()));
        assert_eq!(Some(found.data().label().block_size), block_size);
    }
    // A copy of the second device beside it: which one is right?
    let copy = Disk::new(&sandbox, "copy", SIZE);
    std::fs::copy(&data.path, &copy.path).unwrap();
    let text = chain(&PoolDevices::open(&metadata.device.path).unwrap_err());
    assert!(text.contains("more than once") && text.contains(&copy.device.path.display().to_string()), "{text}");
    copy.file.write_all_at(&[0; 4096], 0).unwrap();
    copy.file.write_all_at(&[0; 4096], SIZE - 4096).unwrap();
    loop_device::detach(&data.device).unwrap();
    let text = chain(&PoolDevices::open(&metadata.device.path).unwrap_err());
    assert!(text.contains("is not there"), "{text}");
}

#[test]
fn a_device_that_grew_and_one_that_was_cut_off_are_told_apart() {
    let sandbox = Sandbox::new();
    let disk = Disk::new(&sandbox, "disk", SIZE);
    ready(&mut format::begin(&disk.options()).unwrap());
    disk.file.set_len(SIZE + 100 * MIB).unwrap();
    loop_device::refresh_capacity(&disk.device).unwrap();
    let found = LabelledDevice::read(&disk.device.path).unwrap();
    assert_eq!((found.judgement().grown_bytes, found.judgement().copies), (100 * MIB, Copies::Whole));
    disk.file.set_len(SIZE - MIB).unwrap();
    loop_device::refresh_capacity(&disk.device).unwrap();
    let before = disk.ends();
    let text = chain(&LabelledDevice::read(&disk.device.path).unwrap_err());
    assert!(text.contains("cut off"), "{text}");
    assert!(matches!(examine::examine(&disk.device.path), Err(PoolError::Format(_))));
    assert!(disk.ends() == before);
}

#[test]
fn import_lists_what_carries_a_pool_and_changes_nothing() {
    let sandbox = Sandbox::new();
    let (disk, blank) = (Disk::new(&sandbox, "disk", SIZE), Disk::new(&sandbox, "blank", SIZE));
    let mut made = format::begin(&disk.options()).unwrap();
    ready(&mut made);
    let before = disk.ends();
    let listed = windlass(&["pool", "import", "--output", "json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let path = disk.device.path.to_str().unwrap();
    let ours = listed["devices"].as_array().unwrap().iter().find(|device| device["path"] == path).unwrap();
    assert_eq!((&ours["pool_id"], &ours["role"]), (&serde_json::json!(made.pool().to_string()), &serde_json::json!("whole")));
    assert!(!listed.to_string().contains(blank.device.path.to_str().unwrap()));
    assert!(devices::search().unwrap().iter().any(|found| found.path == disk.device.path));
    // Without metadata and a catalogue it cannot be served, and says so.
    let looked = windlass(&["pool", "import", "--device", path]);
    assert_eq!(looked.status.code(), Some(4));
    let text = String::from_utf8(looked.stdout).unwrap();
    assert!(text.contains(&made.pool().to_string()) && text.contains("is all zeros") && text.contains("its catalogue"), "{text}");
    assert!(disk.ends() == before);
    let none = windlass(&["pool", "import", "--device", blank.device.path.to_str().unwrap()]);
    assert_eq!(none.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&none.stderr).contains("there is no pool on it"));
}

#[test]
fn the_command_line_refuses_what_is_no_device_and_does_not_touch_it() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("file");
    sparse_file(&path, SIZE);
    for arguments in [["pool", "create", "--device"], ["pool", "repair", "--device"]] {
        let ended = windlass(&[arguments.as_slice(), &[path.to_str().unwrap()]].concat());
        assert_eq!(ended.status.code(), Some(4), "{}", String::from_utf8_lossy(&ended.stderr));
    }
    assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE);
    let missing = windlass(&["pool", "create", "--device", "/dev/there-is-no-such"]);
    assert!(matches!(missing.status.code(), Some(3 | 4)), "{missing:?}");
    let unknown = windlass(&["pool", "create", "--device", "/dev/sdx", "--replace-pool", "x"]);
    assert_eq!(unknown.status.code(), Some(2));
}
