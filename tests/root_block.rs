#![cfg(feature = "root-tests")]
//! Loop devices, extents, clones and subvolumes on the real kernel. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/root_support/mod.rs"]
mod root_support;

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::slice;
use std::time::Instant;

use basics::MIB;
use root_support::{Sandbox, attach, options, pattern, sparse_file};
use windlass::block::fiemap::{self, FiemapOptions, Unwritten};
use windlass::block::loop_device::{self, DirectIo, LoopError, LoopOptions};
use windlass::block::{AlignedBuffer, BlockSink, BlockSource, FileSink, FileSource, btrfs, device, file_ops, reflink};
use windlass::types::{Access, ByteRange, FsType, LogicalBlockSize};

#[test]
fn a_file_is_attached_once_found_by_inode_and_detached() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("volume");
    let file = sparse_file(&path, 16 * MIB);
    let device = loop_device::attach(&file, &options(Access::ReadWrite, "volume-1")).unwrap();
    assert!(device.direct_io && !device.vanishing);
    assert_eq!((device.access, device.label.as_str()), (Access::ReadWrite, "volume-1"));
    let node = File::open(&device.path).unwrap();
    assert_eq!(device::size(&node).unwrap(), 16 * MIB);
    assert_eq!(device::logical_block_bytes(&node).unwrap(), 4096);
    drop(node);

    // By another name and another description it is the same file.
    std::fs::hard_link(&path, sandbox.path("other-name")).unwrap();
    let other = File::open(sandbox.path("other-name")).unwrap();
    assert_eq!(loop_device::find(&other).unwrap(), slice::from_ref(&device));
    let again = loop_device::attach(&other, &options(Access::ReadOnly, "again"));
    assert!(matches!(again, Err(LoopError::Attached(attached)) if *attached == device));

    loop_device::detach(&device).unwrap();
    assert_eq!(loop_device::find(&file).unwrap(), []);
    loop_device::detach(&device).unwrap();
}

#[test]
fn only_one_of_many_threads_attaches_a_file() {
    let sandbox = Sandbox::new();
    let file = sparse_file(&sandbox.path("volume"), MIB);
    let attached = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| loop_device::attach(&file, &options(Access::ReadWrite, "x")).is_ok())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).filter(|&attached| attached).count()
    });
    assert_eq!(attached, 1);
    assert_eq!(loop_device::find(&file).unwrap().len(), 1);
}

#[test]
fn many_files_are_attached_at_once() {
    let sandbox = Sandbox::new();
    let files: Vec<_> = (0..20).map(|index| sparse_file(&sandbox.path(&format!("volume-{index}")), MIB)).collect();
    std::thread::scope(|scope| {
        for file in &files {
            scope.spawn(|| attach(file, Access::ReadWrite));
        }
    });
    for file in &files {
        assert_eq!(loop_device::find(file).unwrap().len(), 1);
    }
}

#[test]
fn a_device_that_is_open_is_busy_and_stays_as_it_was() {
    let sandbox = Sandbox::new();
    let file = sparse_file(&sandbox.path("volume"), MIB);
    let device = attach(&file, Access::ReadWrite);
    let user = File::open(&device.path).unwrap();
    assert!(matches!(loop_device::detach(&device), Err(LoopError::Busy(path)) if path == device.path));
    assert_eq!(loop_device::find(&file).unwrap(), slice::from_ref(&device));
    // Not marked to go when its user goes: that would take it from under the next one.
    drop(user);
    assert_eq!(loop_device::find(&file).unwrap(), slice::from_ref(&device));
    loop_device::detach(&device).unwrap();
}

#[test]
fn detaching_waits_for_a_short_visitor() {
    let sandbox = Sandbox::new();
    let file = sparse_file(&sandbox.path("volume"), MIB);
    let device = attach(&file, Access::ReadWrite);
    let visitor = File::open(&device.path).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = receiver.recv_timeout(std::time::Duration::from_millis(200));
            drop(visitor);
        });
        loop_device::detach(&device).unwrap();
    });
    drop(sender);
    assert_eq!(loop_device::find(&file).unwrap(), []);
}

#[test]
fn a_device_that_holds_another_file_by_now_is_left_alone() {
    let sandbox = Sandbox::new();
    let (first, second) = (sparse_file(&sandbox.path("first"), MIB), sparse_file(&sandbox.path("second"), MIB));
    let before = attach(&first, Access::ReadWrite);
    loop_device::detach(&before).unwrap();
    let mut now = attach(&second, Access::ReadWrite);
    now.backing = before.backing;
    loop_device::detach(&now).unwrap();
    assert_eq!(loop_device::find(&second).unwrap().len(), 1);
}

#[test]
fn a_read_only_device_refuses_writes() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("snapshot");
    drop(sparse_file(&path, MIB));
    let device = attach(&File::open(&path).unwrap(), Access::ReadOnly);
    assert_eq!(device.access, Access::ReadOnly);
    let writer = OpenOptions::new().write(true).open(&device.path);
    assert!(writer.is_err() || writer.unwrap().write_all_at(&[1; 4096], 0).is_err());
}

#[test]
fn sizes_off_the_grid_are_refused() {
    let sandbox = Sandbox::new();
    for (index, bytes) in [0, 512, 4095, 4096 + 512].into_iter().enumerate() {
        let file = sparse_file(&sandbox.path(&format!("volume-{index}")), bytes);
        assert!(matches!(
            loop_device::attach(&file, &options(Access::ReadWrite, "x")),
            Err(LoopError::Size { size, .. }) if size == bytes
        ));
    }
}

#[test]
fn a_device_grows_with_its_file() {
    let sandbox = Sandbox::new();
    let file = sparse_file(&sandbox.path("volume"), 4 * MIB);
    let device = attach(&file, Access::ReadWrite);
    file_ops::set_len_sync(&file, 8 * MIB).unwrap();
    loop_device::refresh_capacity(&device).unwrap();
    assert_eq!(device::size(&File::open(&device.path).unwrap()).unwrap(), 8 * MIB);
}

#[test]
fn a_device_without_direct_io_is_refused_where_it_is_required() {
    // A device over a file on a device with larger blocks than its own has no direct I/O.
    let sandbox = Sandbox::new();
    let pool = sandbox.pool(FsType::Xfs);
    let file = sparse_file(&pool.directory().join("volume"), MIB);
    let small = |direct_io| LoopOptions { access: Access::ReadWrite, block_size: LogicalBlockSize::B512, label: "x", direct_io };
    match loop_device::attach(&file, &small(DirectIo::Required)) {
        Err(LoopError::NoDirectIo { block_size: 512, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(loop_device::find(&file).unwrap(), []);
    let device = loop_device::attach(&file, &small(DirectIo::IfPossible)).unwrap();
    assert!(!device.direct_io);
    loop_device::detach(&device).unwrap();
    drop(file);
    pool.close().unwrap();
}

#[test]
fn a_loop_device_is_a_source_and_a_sink() {
    let sandbox = Sandbox::new();
    let file = sparse_file(&sandbox.path("volume"), 8 * MIB);
    let device = attach(&file, Access::ReadWrite);
    let open = || OpenOptions::new().read(true).write(true).open(&device.path).unwrap();
    let sink = FileSink::new(open(), 8 * MIB, LogicalBlockSize::B4096).unwrap();
    let mut expected = pattern(1, 8 << 20);
    sink.write_at(0, &expected).unwrap();
    sink.write_at(5000, &[7; 10_000]).unwrap();
    expected[5000..15_000].fill(7);
    for (offset, length) in [(100, 50), (9000, 20_000), (1 << 20, 4 << 20), ((8 << 20) - 3, 3)] {
        sink.write_zeros(ByteRange::new(offset as u64, length as u64).unwrap()).unwrap();
        expected[offset..offset + length].fill(0);
    }
    sink.flush().unwrap();
    let source = FileSource::new(open(), 8 * MIB, LogicalBlockSize::B4096).unwrap();
    let mut content = AlignedBuffer::zeroed(8 << 20);
    source.read_at(0, &mut content).unwrap();
    assert!(*content == *expected);
    // The zeros gave their space back.
    let stored: u64 = fiemap::extents(&file, FiemapOptions::LIVE).map(|extent| extent.unwrap().length).sum();
    assert!(stored < 5 * MIB, "{stored}");
}

fn write_scattered(file: &File, seed: u64, size: usize, writes: usize) {
    let places = pattern(seed, writes * 4);
    for place in places.chunks_exact(4) {
        let offset = u32::from_le_bytes(place.try_into().unwrap()) as usize % (size / 4096) * 4096;
        file.write_all_at(&pattern(seed + offset as u64, 4096), offset as u64).unwrap();
    }
}

/// Bytes that are no zeros lie in the ranges that have storage.
fn check_extents_cover_content(file: &File, size: usize) {
    let mut content = vec![0; size];
    file.read_exact_at(&mut content, 0).unwrap();
    let mut end = 0;
    for extent in fiemap::extents(file, FiemapOptions::SETTLED) {
        let range = extent.unwrap().range().unwrap();
        assert!(range.offset() as usize >= end);
        assert!(content[end..range.offset() as usize].iter().all(|&byte| byte == 0));
        end = (range.end() as usize).min(size);
    }
    assert!(content[end..].iter().all(|&byte| byte == 0));
}

#[test]
fn extents_cover_everything_that_was_written() {
    let sandbox = Sandbox::new();
    for fs_type in [FsType::Xfs, FsType::Btrfs] {
        let pool = sandbox.pool(fs_type);
        let size = 64 << 20;
        let file = sparse_file(&pool.directory().join("volume"), size as u64);
        write_scattered(&file, 3, size, 4000);
        file_ops::preallocate(&file, ByteRange::new(0, MIB).unwrap()).unwrap();
        file_ops::punch_hole(&file, ByteRange::new(2 * MIB, MIB).unwrap()).unwrap();
        file.sync_all().unwrap();
        check_extents_cover_content(&file, size);
        // Several batches, and as many as the kernel counts.
        let every = FiemapOptions { unwritten: Unwritten::Report, ..FiemapOptions::SETTLED };
        let all: Vec<_> = fiemap::extents(&file, every).map(Result::unwrap).collect();
        assert!(all.len() > 1200, "{fs_type}: {}", all.len());
        assert_eq!(fiemap::count(&file).unwrap(), all.len() as u64, "{fs_type}");
        let written = fiemap::extents(&file, FiemapOptions::SETTLED).count();
        assert!(written < all.len(), "{fs_type}: unwritten extents are not reported");
        let part = ByteRange::new(10 * MIB + 4096, 20 * MIB).unwrap();
        let within = FiemapOptions { range: Some(part), ..every };
        let expected: Vec<_> = all.iter().filter_map(|extent| extent.within(part)).map(|extent| extent.range()).collect();
        let found: Vec<_> = fiemap::extents(&file, within).map(|extent| extent.unwrap().range()).collect();
        assert_eq!(found, expected, "{fs_type}");
        drop(file);
        pool.close().unwrap();
    }
}

#[test]
fn clones_share_extents_and_part_when_they_are_written() {
    let sandbox = Sandbox::new();
    assert!(!reflink::supports_reflink(&sandbox.directory("plain")).unwrap() || !is_ext4(&sandbox.path("plain")));
    for fs_type in [FsType::Xfs, FsType::Btrfs] {
        let pool = sandbox.pool(fs_type);
        assert!(reflink::supports_reflink(pool.directory()).unwrap());
        assert_eq!(btrfs::is_btrfs(pool.directory()).unwrap(), fs_type == FsType::Btrfs);
        let source = sparse_file(&pool.directory().join("source"), 8 * MIB);
        let content = pattern(9, 8 << 20);
        source.write_all_at(&content, 0).unwrap();
        let clone = sparse_file(&pool.directory().join("clone"), 0);
        reflink::clone_file(&source, &clone).unwrap();
        clone.sync_all().unwrap();
        let extents = |file: &File| -> Vec<_> { fiemap::extents(file, FiemapOptions::LIVE).map(Result::unwrap).collect() };
        let places = |file: &File| -> Vec<_> { extents(file).iter().map(|extent| (extent.logical, extent.physical)).collect() };
        assert!(extents(&clone).iter().all(|extent| extent.flags.is_shared() && !extent.flags.is_opaque()));
        assert_eq!(places(&source), places(&clone));
        source.write_all_at(&[1; 4096], 4 * MIB).unwrap();
        let mut read = vec![0; 8 << 20];
        clone.read_exact_at(&mut read, 0).unwrap();
        assert!(read == content);
        assert_ne!(places(&source), places(&clone));
        drop((source, clone));
        pool.close().unwrap();
    }
}

fn is_ext4(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).unwrap().filesystem_type() == nix::sys::statfs::EXT4_SUPER_MAGIC
}

#[test]
fn subvolumes_are_made_snapshotted_and_deleted() {
    let sandbox = Sandbox::new();
    let pool = sandbox.pool(FsType::Btrfs);
    let parent = File::open(pool.directory()).unwrap();
    let open = |name: &str| File::open(pool.directory().join(name)).unwrap();
    btrfs::create_subvolume(&parent, OsStr::new("volume")).unwrap();
    let again = btrfs::create_subvolume(&parent, OsStr::new("volume")).unwrap_err();
    assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);
    let volume = open("volume");
    assert!(btrfs::is_subvolume(&volume).unwrap() && btrfs::is_subvolume(&parent).unwrap());
    let file = sparse_file(&pool.directory().join("volume/data"), 0);
    file_ops::set_no_cow(&file).unwrap();
    assert!(file_ops::is_no_cow(&file).unwrap());
    file.set_len(4 * MIB).unwrap();
    file.write_all_at(&[1; 1 << 20], 0).unwrap();

    let started = Instant::now();
    btrfs::snapshot_subvolume(&volume, &parent, OsStr::new("snapshot"), Access::ReadOnly).unwrap();
    assert!(started.elapsed().as_secs() < 5);
    btrfs::sync(&parent).unwrap();
    file.write_all_at(&[2; 1 << 20], 0).unwrap();
    assert!(OpenOptions::new().write(true).open(pool.directory().join("snapshot/data")).is_err());
    let frozen = File::open(pool.directory().join("snapshot/data")).unwrap();
    let mut content = vec![0; 1 << 20];
    frozen.read_exact_at(&mut content, 0).unwrap();
    assert!(content.iter().all(|&byte| byte == 1));
    drop(frozen);

    // A file in a read-only subvolume can be attached, for reading.
    btrfs::snapshot_subvolume(&volume, &parent, OsStr::new("second"), Access::ReadOnly).unwrap();
    let source = File::open(pool.directory().join("second/data")).unwrap();
    let device = attach(&source, Access::ReadOnly);
    assert_eq!(loop_device::find(&source).unwrap(), slice::from_ref(&device));
    loop_device::detach(&device).unwrap();
    drop((source, file, volume));

    for name in ["volume", "snapshot", "second"] {
        btrfs::delete_subvolume(&parent, OsStr::new(name)).unwrap();
        let again = btrfs::delete_subvolume(&parent, OsStr::new(name)).unwrap_err();
        assert_eq!(again.kind(), std::io::ErrorKind::NotFound);
    }
    drop(parent);
    pool.close().unwrap();
}
