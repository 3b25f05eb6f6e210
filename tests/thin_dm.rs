#![cfg(feature = "thin-tests")]
//! The binding to device-mapper against a real kernel: tables, states, messages, events, removal and nodes.
//!
//! dmsetup is the oracle for what the kernel says of tables and states.

// vm: memory=2048 limit=600

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/dm_fixture.rs"]
mod fixture;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use fixture::{
    BLOCK, MIB, Pool, Rig, linear, name, output, pool_table, read_block, sectors, thin, thin_id, uuid_of, write_blocks,
};
use nix::mount::{MsFlags, mount, umount};
use windlass::block::AlignedBuffer;
use windlass::dm::{
    DeviceMapper, DeviceNumber, DmError, DmName, DmUuid, FileSystem, Flush, Malformed, NoSpace, PoolMessage, PoolMode, PoolState,
    Removal, SuspendOptions, Target, TargetKind, ThinPoolStatus, ThinStatus, TransactionId, Woken, node,
};
use windlass::types::Access;

const FREEZE: SuspendOptions = SuspendOptions { file_system: FileSystem::Freeze, flush: Flush::Wait };

fn state(rig: &Rig, pool: &Pool) -> PoolState {
    *rig.dm.thin_pool_status(&pool.name).unwrap().running().unwrap()
}

fn create_thin(rig: &Rig, pool: &Pool, id: u32) {
    rig.dm.message(&pool.name, &PoolMessage::CreateThin { id: thin_id(id) }).unwrap();
}

/// What dmsetup prints of a device, without the blanks that the kernel leaves at the end.
fn dmsetup(command: &str, device: &DmName) -> Vec<String> {
    output("dmsetup", &[command, device.as_str()]).lines().map(|line| line.trim_end().to_owned()).collect()
}

fn assert_table_as_dmsetup_has_it(rig: &Rig, device: &DmName) {
    let table: Vec<String> = rig.dm.table(device).unwrap().iter().map(Target::to_string).collect();
    assert_eq!(table, dmsetup("table", device));
}

#[test]
fn a_missing_control_node_is_made_and_targets_are_known_or_not() {
    let rig = Rig::new();
    let control = Path::new("/dev/mapper/control");
    let number = fs::metadata(control).unwrap().rdev();
    fs::remove_file(control).unwrap();
    let dm = DeviceMapper::open().unwrap();
    let made = fs::metadata(control).unwrap();
    assert!(made.file_type().is_char_device());
    assert_eq!(made.rdev(), number);
    assert_eq!(dm.version(), rig.dm.version());
    let known = dm.target_version("thin-pool").unwrap().to_string();
    assert!(output("dmsetup", &["targets"]).lines().any(|line| line.split_whitespace().eq(["thin-pool", &format!("v{known}")])));
    let unknown = dm.target_version("windlass-test").unwrap_err();
    assert!(matches!(&unknown, DmError::Unavailable { module, .. } if module == "dm_windlass_test"), "{unknown}");
}

#[test]
fn a_linear_device_shows_what_is_beneath_and_its_table_is_what_was_loaded() {
    let mut rig = Rig::new();
    let disk = rig.disk(4 * MIB);
    write_blocks(&rig.open_disk(0), 16, 16, 7).unwrap();
    let device = name("windlass-test-linear");
    let table = [linear(MIB, disk, MIB), Target { start: sectors(MIB), length: sectors(BLOCK), kind: TargetKind::Error }];
    let number = rig.activate(&device, &table);
    assert_eq!(rig.dm.table(&device).unwrap(), table);
    assert_table_as_dmsetup_has_it(&rig, &device);

    let info = rig.dm.info(&device).unwrap().unwrap();
    assert_eq!((info.number, info.open_count, info.access), (number, 0, Access::ReadWrite));
    assert_eq!(info.uuid.as_deref(), Some(uuid_of(&device).as_str()));
    let file = rig.open_node(&device, number);
    assert_eq!(rig.dm.info(&device).unwrap().unwrap().open_count, 1);
    assert_eq!((read_block(&file, 0), read_block(&file, 15)), (Some(7), Some(7)));
    assert!(file.read_exact_at(&mut AlignedBuffer::zeroed(4096), MIB).is_err(), "its last block is made of errors");
    write_blocks(&file, 3, 1, 9).unwrap();
    assert_eq!(read_block(&rig.open_disk(0), 19), Some(9));
}

#[test]
fn a_table_that_was_loaded_goes_live_at_resume_or_is_cleared() {
    let mut rig = Rig::new();
    let disk = rig.disk(4 * MIB);
    let device = name("windlass-test-reload");
    rig.activate(&device, &[linear(MIB, disk, 0)]);
    let larger = [linear(2 * MIB, disk, 0)];
    rig.dm.load(&device, Access::ReadWrite, &larger).unwrap();
    assert!(rig.dm.info(&device).unwrap().unwrap().inactive_table);
    rig.dm.clear(&device).unwrap();
    rig.dm.clear(&device).unwrap();
    assert!(!rig.dm.info(&device).unwrap().unwrap().inactive_table);
    assert!(!rig.dm.resume(&device).unwrap().inactive_table);
    assert_eq!(rig.dm.table(&device).unwrap(), [linear(MIB, disk, 0)]);

    rig.dm.load(&device, Access::ReadOnly, &larger).unwrap();
    let info = rig.dm.resume(&device).unwrap();
    assert_eq!((info.access, info.inactive_table), (Access::ReadOnly, false));
    assert_eq!(rig.dm.table(&device).unwrap(), larger);
    let node = rig.nodes.make(&device, info.number).unwrap();
    let refused = OpenOptions::new().write(true).open(&node).and_then(|file| file.write_at(&[0; 512], 0)).unwrap_err();
    assert!(matches!(refused.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::EROFS)), "{refused}");
}

#[test]
fn tables_and_states_of_a_pool_and_its_volumes_are_those_that_dmsetup_reads() {
    let mut rig = Rig::new();
    let pool = rig.pool("windlass-test-states", 64, 8);
    let status = rig.dm.thin_pool_status(&pool.name).unwrap();
    let line = dmsetup("status", &pool.name).remove(0);
    assert_eq!(line.split_once("thin-pool ").unwrap().1, status.to_string());
    assert_eq!(rig.dm.table(&pool.name).unwrap(), std::slice::from_ref(&pool.table));
    assert_table_as_dmsetup_has_it(&rig, &pool.name);
    let fresh = state(&rig, &pool);
    assert_eq!((fresh.data_total.count(), fresh.data_used.count(), fresh.metadata_total.count()), (64, 0, 1024));
    assert_eq!((fresh.mode, fresh.no_space, fresh.needs_check), (PoolMode::ReadWrite, NoSpace::Error, false));
    assert_eq!((fresh.transaction_id, fresh.held_root), (TransactionId::FIRST, None));

    create_thin(&rig, &pool, 0);
    let volume = name("windlass-test-states-v");
    let number = rig.activate(&volume, &[thin(MIB, pool.number, 0)]);
    assert_table_as_dmsetup_has_it(&rig, &volume);
    assert_eq!(rig.dm.thin_status(&volume).unwrap(), ThinStatus::Running { mapped: sectors(0), highest: None });
    write_blocks(&rig.open_node(&volume, number), 4, 2, 1).unwrap();
    let written = ThinStatus::Running { mapped: sectors(2 * BLOCK), highest: Some(sectors(6 * BLOCK - 512)) };
    assert_eq!(rig.dm.thin_status(&volume).unwrap(), written);
    let line = dmsetup("status", &volume).remove(0);
    assert_eq!(line.split_once("thin ").unwrap().1, written.to_string());
    assert_eq!(state(&rig, &pool).data_used.count(), 2);

    let wrong = rig.dm.thin_pool_status(&volume).unwrap_err();
    assert!(matches!(&wrong, DmError::Reply { source: Malformed::Targets { found, .. }, .. } if found == "thin"), "{wrong}");
}

#[test]
fn a_snapshot_holds_what_the_volume_held_when_it_was_cut() {
    let mut rig = Rig::new();
    let pool = rig.pool("windlass-test-snap", 64, 0);
    create_thin(&rig, &pool, 0);
    create_thin(&rig, &pool, 1);
    let (volume, other, snapshot) = (name("windlass-test-snap-v"), name("windlass-test-snap-o"), name("windlass-test-snap-s"));
    let number = rig.activate(&volume, &[thin(MIB, pool.number, 0)]);
    let other_number = rig.activate(&other, &[thin(MIB, pool.number, 1)]);
    let file = rig.open_node(&volume, number);
    write_blocks(&file, 0, 3, 1).unwrap();
    write_blocks(&rig.open_node(&other, other_number), 0, 1, 9).unwrap();

    rig.dm.suspend(&volume, FREEZE).unwrap();
    rig.dm.suspend(&volume, FREEZE).unwrap();
    assert!(rig.dm.info(&volume).unwrap().unwrap().suspended);
    rig.dm.message(&pool.name, &PoolMessage::CreateSnap { id: thin_id(2), origin: thin_id(0) }).unwrap();
    assert!(!rig.dm.resume(&volume).unwrap().suspended);
    rig.dm.resume(&volume).unwrap();

    write_blocks(&file, 1, 1, 2).unwrap();
    let snapshot_number = rig.activate(&snapshot, &[thin(MIB, pool.number, 2)]);
    let cut = rig.open_node(&snapshot, snapshot_number);
    let blocks = |file: &File| [0, 1, 2, 3].map(|block| read_block(file, block));
    assert_eq!(blocks(&cut), [Some(1), Some(1), Some(1), Some(0)]);
    assert_eq!(blocks(&file), [Some(1), Some(2), Some(1), Some(0)]);
    // Three, one that was written to after, and one of the other.
    assert_eq!(state(&rig, &pool).data_used.count(), 5);
}

#[test]
fn a_suspended_device_keeps_a_mounted_file_system_clean_and_its_snapshot_whole() {
    let mut rig = Rig::new();
    let pool = rig.pool("windlass-test-freeze", 512, 0);
    create_thin(&rig, &pool, 0);
    let (volume, snapshot) = (name("windlass-test-freeze-v"), name("windlass-test-freeze-s"));
    let number = rig.activate(&volume, &[thin(32 * MIB, pool.number, 0)]);
    let node = rig.nodes.make(&volume, number).unwrap();
    output("mkfs.ext4", &["-q", node.to_str().unwrap()]);
    let folder = tempfile::tempdir().unwrap();
    let no_data = None::<&str>;
    mount(Some(&node), folder.path(), Some("ext4"), MsFlags::empty(), no_data).unwrap();
    // Not synced: it is the freezing that writes it out.
    fs::write(folder.path().join("file"), vec![5; 300_000]).unwrap();
    rig.dm.suspend(&volume, FREEZE).unwrap();
    rig.dm.message(&pool.name, &PoolMessage::CreateSnap { id: thin_id(1), origin: thin_id(0) }).unwrap();
    rig.dm.resume(&volume).unwrap();
    fs::write(folder.path().join("later"), "later").unwrap();
    umount(folder.path()).unwrap();

    let snapshot_number = rig.activate(&snapshot, &[thin(32 * MIB, pool.number, 1)]);
    let cut = rig.nodes.make(&snapshot, snapshot_number).unwrap();
    let features = output("dumpe2fs", &["-h", cut.to_str().unwrap()]);
    assert!(!features.contains("needs_recovery"), "{features}");
    output("e2fsck", &["-fn", cut.to_str().unwrap()]);
    mount(Some(&cut), folder.path(), Some("ext4"), MsFlags::MS_RDONLY, no_data).unwrap();
    let read = fs::read(folder.path().join("file"));
    let later = folder.path().join("later").exists();
    umount(folder.path()).unwrap();
    assert_eq!(read.unwrap(), vec![5; 300_000]);
    assert!(!later);
}

#[test]
fn messages_that_a_pool_refuses_are_told_apart() {
    let mut rig = Rig::new();
    let pool = rig.pool("windlass-test-messages", 64, 0);
    let send = |rig: &Rig, message: PoolMessage| rig.dm.message(&pool.name, &message);
    let (one, two, none) = (thin_id(1), thin_id((1 << 24) - 1), thin_id(77));
    send(&rig, PoolMessage::CreateThin { id: one }).unwrap();
    send(&rig, PoolMessage::CreateSnap { id: two, origin: one }).unwrap();
    for taken in [PoolMessage::CreateThin { id: one }, PoolMessage::CreateSnap { id: two, origin: one }] {
        assert!(matches!(send(&rig, taken), Err(DmError::ExistsThin(_))), "{taken}");
    }
    for unknown in [PoolMessage::Delete { id: none }, PoolMessage::CreateSnap { id: none, origin: thin_id(78) }] {
        assert!(matches!(send(&rig, unknown), Err(DmError::MissingThin(_))), "{unknown}");
    }
    let volume = name("windlass-test-messages-v");
    rig.activate(&volume, &[thin(MIB, pool.number, 1)]);
    let busy = send(&rig, PoolMessage::Delete { id: one }).unwrap_err();
    assert!(matches!(busy, DmError::Busy(_)), "{busy}");
    assert!(busy.to_string().contains("delete 1") && busy.to_string().contains(pool.name.as_str()), "{busy}");
    rig.dm.remove(&volume, Removal::Now).unwrap();
    send(&rig, PoolMessage::Delete { id: one }).unwrap();
    send(&rig, PoolMessage::Delete { id: two }).unwrap();

    let (first, second) = (TransactionId::FIRST, TransactionId::new(1 << 40));
    let set = |from, to| PoolMessage::SetTransactionId { from, to };
    assert!(matches!(send(&rig, set(second, first)), Err(DmError::Refused { .. })));
    send(&rig, set(first, second)).unwrap();
    assert_eq!(state(&rig, &pool).transaction_id, second);

    assert!(matches!(send(&rig, PoolMessage::ReleaseMetadataSnap), Err(DmError::Refused { .. })));
    send(&rig, PoolMessage::ReserveMetadataSnap).unwrap();
    assert!(state(&rig, &pool).held_root.is_some_and(|root| root.number() > 0));
    let line = dmsetup("status", &pool.name).remove(0);
    assert_eq!(line.split_once("thin-pool ").unwrap().1, rig.dm.thin_pool_status(&pool.name).unwrap().to_string());
    assert!(matches!(send(&rig, PoolMessage::ReserveMetadataSnap), Err(DmError::Busy(_))));
    send(&rig, PoolMessage::ReleaseMetadataSnap).unwrap();
    assert_eq!(state(&rig, &pool).held_root, None);
}

#[test]
fn what_cannot_be_made_or_loaded_says_why_and_leaves_nothing() {
    let mut rig = Rig::new();
    let disk = rig.disk(4 * MIB);
    let pool = rig.pool("windlass-test-refuse", 64, 0);
    let device = name("windlass-test-refuse-x");
    let missing = |error: DmError| assert!(matches!(error, DmError::Missing(_)), "{error}");
    assert_eq!(rig.dm.info(&device).unwrap(), None);
    missing(rig.dm.resume(&device).unwrap_err());
    missing(rig.dm.suspend(&device, FREEZE).unwrap_err());
    missing(rig.dm.load(&device, Access::ReadWrite, &[linear(MIB, disk, 0)]).unwrap_err());
    missing(rig.dm.clear(&device).unwrap_err());
    missing(rig.dm.table(&device).unwrap_err());
    missing(rig.dm.thin_status(&device).unwrap_err());
    missing(rig.dm.remove(&device, Removal::Now).unwrap_err());
    missing(rig.dm.cancel_deferred_remove(&device).unwrap_err());
    missing(rig.dm.message(&device, &PoolMessage::ReserveMetadataSnap).unwrap_err());

    let activate = |table: &[Target]| rig.dm.activate(&device, &uuid_of(&device), Access::ReadWrite, table).unwrap_err();
    assert!(matches!(activate(&[thin(MIB, pool.number, 5)]), DmError::MissingThin(_)));
    let gap = [linear(MIB, disk, 0), Target { start: sectors(2 * MIB), length: sectors(MIB), kind: TargetKind::Error }];
    assert!(matches!(activate(&gap), DmError::Refused { .. }));
    assert!(matches!(activate(&[]), DmError::Refused { .. }));
    assert!(matches!(activate(&[linear(8 * MIB, disk, 0)]), DmError::Refused { .. }), "beyond the end of the disk");
    let absent = activate(&[linear(MIB, DeviceNumber::new(pool.number.major(), pool.number.minor() + 500).unwrap(), 0)]);
    assert!(matches!(absent, DmError::Refused { .. } | DmError::Io { .. }), "{absent}");
    let claimed = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(path_of(&rig.open_disk(0))).unwrap();
    assert!(matches!(activate(&[linear(MIB, disk, 0)]), DmError::Busy(_)));
    drop(claimed);
    assert_eq!(rig.dm.info(&device).unwrap(), None, "a device that could not be started is gone");
    assert!(matches!(rig.dm.remove(&pool.data, Removal::Now), Err(DmError::Busy(_))), "a device beneath another is in use");

    rig.activate(&device, &[linear(MIB, disk, 0)]);
    let other = name("windlass-test-refuse-y");
    assert!(matches!(rig.dm.create(&device, &uuid_of(&other)), Err(DmError::Exists(_))));
    assert!(matches!(rig.dm.create(&other, &uuid_of(&device)), Err(DmError::Exists(_))));
    let no_table = name("windlass-test-refuse-z");
    rig.keep_track(&no_table);
    let info = rig.dm.create(&no_table, &uuid_of(&no_table)).unwrap();
    assert!(!info.live_table && !info.inactive_table);
    assert_eq!(rig.dm.table(&no_table).unwrap(), []);
    let empty = rig.dm.thin_pool_status(&no_table).unwrap_err();
    assert!(matches!(&empty, DmError::Reply { source: Malformed::Targets { found, .. }, .. } if found == "none"), "{empty}");
}

/// The path by which a file was opened.
fn path_of(file: &File) -> std::path::PathBuf {
    use std::os::fd::AsRawFd;
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
}

#[test]
fn an_open_device_is_removed_at_its_last_close_if_that_was_asked_and_not_taken_back() {
    let mut rig = Rig::new();
    let disk = rig.disk(4 * MIB);
    let device = name("windlass-test-busy");
    let number = rig.activate(&device, &[linear(MIB, disk, 0)]);
    let open = rig.open_node(&device, number);
    let began = Instant::now();
    assert!(matches!(rig.dm.remove(&device, Removal::Now), Err(DmError::Busy(_))));
    assert!(began.elapsed() >= Duration::from_millis(800), "short visitors are waited for");

    // Asked for and taken back: the close changes nothing.
    rig.dm.cancel_deferred_remove(&device).unwrap();
    rig.dm.remove(&device, Removal::Deferred).unwrap();
    assert!(rig.dm.info(&device).unwrap().unwrap().deferred_remove);
    rig.dm.cancel_deferred_remove(&device).unwrap();
    assert!(!rig.dm.info(&device).unwrap().unwrap().deferred_remove);
    drop(open);
    assert_eq!(rig.dm.info(&device).unwrap().unwrap().open_count, 0);

    // Asked for: it goes with the close, in a thread of the kernel's.
    let open = rig.open_node(&device, number);
    rig.dm.remove(&device, Removal::Deferred).unwrap();
    drop(open);
    let deadline = Instant::now() + Duration::from_secs(20);
    while rig.dm.info(&device).unwrap().is_some() {
        assert!(Instant::now() < deadline, "it never went");
        std::thread::yield_now();
    }
    assert!(matches!(rig.dm.cancel_deferred_remove(&device), Err(DmError::Missing(_))), "too late");

    // Not open: at once.
    rig.activate(&device, &[linear(MIB, disk, 0)]);
    rig.dm.remove(&device, Removal::Deferred).unwrap();
    assert_eq!(rig.dm.info(&device).unwrap(), None);
}

#[test]
fn a_visitor_who_leaves_in_time_does_not_keep_a_device_from_being_removed() {
    let mut rig = Rig::new();
    let disk = rig.disk(4 * MIB);
    let device = name("windlass-test-visitor");
    let number = rig.activate(&device, &[linear(MIB, disk, 0)]);
    let open = rig.open_node(&device, number);
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| rig.dm.remove(&device, Removal::Now));
        // Whether it looked before or looks after: within its time it finds the device closed.
        drop(open);
        removal.join().unwrap().unwrap();
    });
    assert_eq!(rig.dm.info(&device).unwrap(), None);
}

#[test]
fn threads_share_one_binding() {
    let mut rig = Rig::new();
    let disk = rig.disk(4 * MIB);
    let names: Vec<DmName> = (0..4).map(|index| name(&format!("windlass-test-threads-{index}"))).collect();
    names.iter().for_each(|device| rig.keep_track(device));
    let rig = &rig;
    std::thread::scope(|scope| {
        for (index, device) in names.iter().enumerate() {
            scope.spawn(move || {
                for round in 0..20 {
                    // Each its own quarter of the disk, so that a device that is another's would be noticed.
                    let table = [linear(MIB, disk, index as u64 * MIB)];
                    let number = rig.dm.activate(device, &uuid_of(device), Access::ReadWrite, &table).unwrap().number;
                    let value = u8::try_from(index * 20 + round).unwrap();
                    let file = rig.open_node(device, number);
                    write_blocks(&file, 0, 1, value).unwrap();
                    let listed = rig.dm.list().unwrap();
                    assert!(listed.iter().any(|one| one.name == device.as_str() && one.number == number));
                    assert_eq!((rig.dm.table(device).unwrap(), read_block(&file, 0)), (table.to_vec(), Some(value)));
                    drop(file);
                    rig.dm.remove(device, Removal::Now).unwrap();
                }
            });
        }
    });
    let last = [0, 16, 32, 48].map(|block| read_block(&rig.open_disk(0), block));
    assert_eq!(last, [Some(19), Some(39), Some(59), Some(79)]);
}

#[test]
fn three_hundred_devices_with_the_longest_names_are_all_listed() {
    let mut rig = Rig::new();
    let long = |index: usize| name(&format!("{:x<127}", format!("windlass-test-list-{index}-")));
    let uuid = |index: usize| DmUuid::new(format!("{:u<128}", format!("WINDLASS-test-list-{index}-"))).unwrap();
    let mut numbers = Vec::new();
    for index in 0..300 {
        rig.keep_track(&long(index));
        numbers.push(rig.dm.create(&long(index), &uuid(index)).unwrap().number);
    }
    let anonymous = "windlass-test-list-anonymous";
    output("dmsetup", &["create", anonymous, "--notable"]);
    rig.keep_track(&name(anonymous));
    let listed = rig.dm.list().unwrap();
    for (index, number) in numbers.iter().enumerate() {
        let found: Vec<_> = listed.iter().filter(|device| device.name == long(index).as_str()).collect();
        assert_eq!(found.len(), 1, "{index}");
        assert_eq!((found[0].number, found[0].uuid.as_deref()), (*number, Some(uuid(index).as_str())));
    }
    assert!(listed.iter().any(|device| device.name == anonymous && device.uuid.is_none()));
    rig.forget_all();
    assert!(!rig.dm.list().unwrap().iter().any(|device| device.name.starts_with("windlass-test-list")));
}

#[test]
fn a_pool_that_passes_its_low_water_mark_wakes_who_waits_and_a_stop_ends_the_waiting() {
    let mut rig = Rig::new();
    let pool = rig.pool("windlass-test-events", 64, 60);
    create_thin(&rig, &pool, 0);
    let volume = name("windlass-test-events-v");
    let number = rig.activate(&volume, &[thin(MIB, pool.number, 0)]);
    let file = rig.open_node(&volume, number);
    let (waiter, stopper) = rig.dm.events().unwrap();
    assert_eq!(waiter.wait(Duration::from_millis(50)).unwrap(), Woken::Timeout, "nothing happened");
    let before = rig.dm.info(&pool.name).unwrap().unwrap().event_nr;
    write_blocks(&file, 0, 8, 1).unwrap();
    while rig.dm.info(&pool.name).unwrap().unwrap().event_nr == before {
        assert_eq!(waiter.wait(Duration::from_secs(20)).unwrap(), Woken::Event);
    }
    let listed = rig.dm.list().unwrap();
    let listed = listed.iter().find(|device| device.name == pool.name.as_str()).unwrap();
    assert_eq!(listed.event_nr, rig.dm.info(&pool.name).unwrap().unwrap().event_nr);

    // What happens between two waits is not lost, however long ago the waiter last waited. What is left from before is read
    // first.
    while waiter.wait(Duration::ZERO).unwrap() == Woken::Event {}
    let made = name("windlass-test-events-made");
    rig.keep_track(&made);
    rig.dm.create(&made, &uuid_of(&made)).unwrap();
    assert_eq!(waiter.wait(Duration::from_secs(20)).unwrap(), Woken::Event);
    assert_eq!(waiter.wait(Duration::ZERO).unwrap(), Woken::Timeout, "an event wakes once");

    let waiting = std::thread::spawn(move || waiter.wait(Duration::from_secs(60)).unwrap());
    stopper.stop();
    assert_eq!(waiting.join().unwrap(), Woken::Stopped);
}

#[test]
fn a_full_pool_says_so_fails_writes_at_once_and_works_again_with_space() {
    let mut rig = Rig::new();
    let pool = rig.pool("windlass-test-full", 16, 0);
    create_thin(&rig, &pool, 0);
    create_thin(&rig, &pool, 1);
    let (volume, other) = (name("windlass-test-full-v"), name("windlass-test-full-o"));
    let number = rig.activate(&volume, &[thin(4 * MIB, pool.number, 0)]);
    let file = rig.open_node(&volume, number);
    write_blocks(&file, 0, 16, 1).unwrap();
    let refused = write_blocks(&file, 16, 1, 1).unwrap_err();
    assert!(matches!(refused.raw_os_error(), Some(libc::ENOSPC | libc::EIO)), "{refused}");
    let full = state(&rig, &pool);
    assert_eq!((full.mode, full.data_free().count()), (PoolMode::OutOfDataSpace, 0));
    assert_eq!(rig.dm.thin_pool_status(&pool.name).unwrap().to_string().split(' ').nth(4), Some("out_of_data_space"));

    // Larger disks beneath, online: first the device, then the pool.
    let grown = rig.disk(64 * BLOCK);
    let mut data = rig.dm.table(&pool.data).unwrap();
    data.push(Target { start: sectors(16 * BLOCK), ..linear(32 * BLOCK, grown, 0) });
    rig.dm.load(&pool.data, Access::ReadWrite, &data).unwrap();
    rig.dm.resume(&pool.data).unwrap();
    let TargetKind::ThinPool { metadata, data, .. } = pool.table.kind.clone() else { panic!("{}", pool.table) };
    rig.dm.load(&pool.name, Access::ReadWrite, &[pool_table(metadata, data, 48, 0)]).unwrap();
    rig.dm.resume(&pool.name).unwrap();
    let working = state(&rig, &pool);
    assert_eq!((working.mode, working.data_total.count(), working.data_free().count()), (PoolMode::ReadWrite, 48, 32));
    write_blocks(&file, 16, 1, 2).unwrap();
    assert_eq!((read_block(&file, 0), read_block(&file, 16)), (Some(1), Some(2)));

    let other_number = rig.activate(&other, &[thin(MIB, pool.number, 1)]);
    write_blocks(&rig.open_node(&other, other_number), 0, 1, 3).unwrap();
}

#[test]
fn a_pool_whose_metadata_fail_says_so_and_takes_no_messages() {
    let mut rig = Rig::new();
    let pool = rig.pool("windlass-test-failed", 64, 0);
    create_thin(&rig, &pool, 0);
    let volume = name("windlass-test-failed-v");
    let number = rig.activate(&volume, &[thin(MIB, pool.number, 0)]);
    let file = rig.open_node(&volume, number);
    write_blocks(&file, 0, 1, 1).unwrap();
    let broken = Target { start: sectors(0), length: sectors(4 * MIB), kind: TargetKind::Error };
    rig.dm.load(&pool.metadata, Access::ReadWrite, &[broken]).unwrap();
    rig.dm.resume(&pool.metadata).unwrap();
    assert!(write_blocks(&file, 1, 1, 1).is_err());
    assert_eq!(rig.dm.thin_pool_status(&pool.name).unwrap(), ThinPoolStatus::Failed);
    assert_eq!(rig.dm.thin_status(&volume).unwrap(), ThinStatus::Failed);
    let refused = rig.dm.message(&pool.name, &PoolMessage::CreateThin { id: thin_id(1) }).unwrap_err();
    assert!(matches!(refused, DmError::PoolReadOnly(_)), "{refused}");
    assert!(matches!(rig.dm.table(&volume), Err(DmError::Reply { .. })), "the kernel says `Fail` for a table");
    // Its own table it still tells.
    assert_eq!(rig.dm.table(&pool.name).unwrap(), std::slice::from_ref(&pool.table));
}

#[test]
fn a_pool_over_damaged_metadata_is_not_loaded() {
    let mut rig = Rig::new();
    let pool = rig.pool("windlass-test-damaged", 64, 0);
    create_thin(&rig, &pool, 0);
    rig.dm.remove(&pool.name, Removal::Now).unwrap();
    let disk = rig.open_disk(0);
    let mut superblock = AlignedBuffer::zeroed(4096);
    disk.read_exact_at(&mut superblock, 0).unwrap();
    superblock[2000] ^= 1;
    disk.write_all_at(&superblock, 0).unwrap();
    let activate = || rig.dm.activate(&pool.name, &uuid_of(&pool.name), Access::ReadWrite, std::slice::from_ref(&pool.table));
    let damaged = activate().unwrap_err();
    assert!(matches!(damaged, DmError::Damaged(_)), "{damaged}");
    superblock[2000] ^= 1;
    disk.write_all_at(&superblock, 0).unwrap();
    activate().unwrap();
    assert!(matches!(rig.dm.message(&pool.name, &PoolMessage::CreateThin { id: thin_id(0) }), Err(DmError::ExistsThin(_))));
}

#[test]
fn a_pool_out_of_metadata_refuses_messages_and_goes_on_when_its_metadata_grow() {
    let mut rig = Rig::new();
    let pool = rig.pool_with_metadata("windlass-test-metadata", 512 << 10, 64, 0);
    // Each volume takes a block, of 128 that there are.
    let mut ids = 0..128;
    let refused = ids.find_map(|id| rig.dm.message(&pool.name, &PoolMessage::CreateThin { id: thin_id(id) }).err()).unwrap();
    assert!(matches!(refused, DmError::PoolReadOnly(_)), "{refused}");
    let last = ids.start - 2;
    let full = state(&rig, &pool);
    assert_eq!((full.mode, full.metadata_free().count(), full.needs_check), (PoolMode::ReadOnly, 0, false));
    let delete = rig.dm.message(&pool.name, &PoolMessage::Delete { id: thin_id(0) }).unwrap_err();
    assert!(matches!(delete, DmError::PoolReadOnly(_)), "not even a volume can be deleted to make room: {delete}");

    let more = rig.disk(512 << 10);
    let mut metadata = rig.dm.table(&pool.metadata).unwrap();
    metadata.push(Target { start: sectors(512 << 10), ..linear(512 << 10, more, 0) });
    rig.dm.load(&pool.metadata, Access::ReadWrite, &metadata).unwrap();
    rig.dm.resume(&pool.metadata).unwrap();
    rig.dm.suspend(&pool.name, FREEZE).unwrap();
    rig.dm.resume(&pool.name).unwrap();
    let grown = state(&rig, &pool);
    assert_eq!((grown.mode, grown.metadata_total.count()), (PoolMode::ReadWrite, 256));
    for id in [last, 0] {
        rig.dm.message(&pool.name, &PoolMessage::Delete { id: thin_id(id) }).unwrap();
    }
    create_thin(&rig, &pool, 200);
}

#[test]
fn nodes_lead_to_their_device_replace_stale_ones_and_are_swept_with_it() {
    let mut rig = Rig::new();
    let disk = rig.disk(4 * MIB);
    let (device, gone) = (name("windlass-test-node"), name("windlass-test-node-gone"));
    let number = rig.activate(&device, &[linear(MIB, disk, 0)]);
    // A stale one: another device's number.
    let stale = rig.nodes.make(&device, disk).unwrap();
    assert_eq!(DeviceNumber::from_rdev(fs::metadata(&stale).unwrap().rdev()), Some(disk));
    let path = rig.nodes.make(&device, number).unwrap();
    assert_eq!(path, Path::new(node::DIRECTORY).join("windlass-test-node"));
    let metadata = fs::symlink_metadata(&path).unwrap();
    assert!(metadata.file_type().is_block_device());
    assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o600, 0));
    assert_eq!(DeviceNumber::from_rdev(metadata.rdev()), Some(number));
    assert_eq!(rig.nodes.make(&device, number).unwrap(), path);
    assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), metadata.ino(), "one that is right stays");

    let long = name(&"n".repeat(127));
    assert!(rig.nodes.make(&long, number).unwrap().exists());
    rig.nodes.remove(&long).unwrap();
    rig.nodes.make(&gone, DeviceNumber::new(number.major(), number.minor() + 1).unwrap()).unwrap();
    // As a crash between the making and the renaming leaves one.
    let unfinished = Path::new(node::DIRECTORY).join(".1-0");
    output("mknod", &[unfinished.to_str().unwrap(), "b", "7", "0"]);
    assert_eq!(rig.nodes.sweep(".1-", &rig.dm.list().unwrap()).unwrap(), [".1-0"]);
    // Others' nodes, which other tests may have left, are not looked at.
    assert_eq!(rig.nodes.sweep("windlass-test-", &rig.dm.list().unwrap()).unwrap(), ["windlass-test-node-gone"]);
    assert!(path.exists() && !unfinished.exists());
    // The device is another by now: its name alone does not keep the node.
    rig.nodes.make(&device, disk).unwrap();
    assert_eq!(rig.nodes.sweep("windlass-test-", &rig.dm.list().unwrap()).unwrap(), ["windlass-test-node"]);
    rig.nodes.remove(&device).unwrap();
}
