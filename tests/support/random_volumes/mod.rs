//! Random changes of volumes, by every way there is to write, while the test knows what must be there afterwards.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "called by tests only")]

pub mod files;
pub mod writers;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};
use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use windlass::block::{AlignedBuffer, device, file_ops};
use windlass::types::ByteRange;

pub const BLOCK: u64 = 4096;

/// Random bytes, at times zeros.
pub fn content(random: &mut StdRng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    if random.random_range(0..8) > 0 {
        random.fill_bytes(&mut bytes);
    }
    bytes
}

/// How a volume is reached: by its device, or, when it has none, by the file beneath.
pub enum Way<'a> {
    Device(&'a Path),
    File(&'a File),
}

/// One change of a volume whose content is `bytes`: written with and without the page cache, aligned and not, discarded,
/// zeroed, preallocated.
pub fn change(way: &Way<'_>, bytes: &mut [u8], random: &mut StdRng) {
    let size = bytes.len() as u64;
    let start = random.random_range(0..size);
    let any = ByteRange::new(start, random.random_range(1..=(size - start).min(16 * BLOCK))).unwrap();
    // Direct I/O, and the block layer's zeroing and discarding, take whole blocks.
    let whole = any.widened(BLOCK, size).unwrap();
    match way {
        Way::Device(device) => by_device(device, any, whole, bytes, random),
        Way::File(file) => by_file(file, any, whole, bytes, random),
    }
}

fn by_device(device: &Path, any: ByteRange, whole: ByteRange, bytes: &mut [u8], random: &mut StdRng) {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let buffered = options.open(device).unwrap();
    match random.random_range(0..10) {
        0..3 => buffered.write_all_at(filled(bytes, any, random), any.offset()).unwrap(),
        3..6 => {
            let direct = options.custom_flags(libc::O_DIRECT).open(device).unwrap();
            let data = filled(bytes, whole, random);
            let mut buffer = AlignedBuffer::zeroed(data.len());
            buffer.copy_from_slice(data);
            direct.write_all_at(&buffer, whole.offset()).unwrap();
        }
        6 => {
            zeroed(bytes, whole);
            free(&buffered, whole);
        }
        7 => {
            zeroed(bytes, whole);
            allocate(&buffered, FallocateFlags::FALLOC_FL_ZERO_RANGE, whole);
        }
        _ => buffered.write_all_at(zeroed(bytes, any), any.offset()).unwrap(),
    }
}

fn by_file(file: &File, any: ByteRange, whole: ByteRange, bytes: &mut [u8], random: &mut StdRng) {
    match random.random_range(0..10) {
        0..3 => file.write_all_at(filled(bytes, any, random), any.offset()).unwrap(),
        3..5 => file.write_all_at(filled(bytes, whole, random), whole.offset()).unwrap(),
        // A part of a block is written over with zeros.
        5 => {
            zeroed(bytes, any);
            file_ops::punch_hole(file, any).unwrap();
        }
        6 => {
            zeroed(bytes, whole);
            file_ops::punch_hole(file, whole).unwrap();
        }
        7 => {
            zeroed(bytes, any);
            allocate(file, FallocateFlags::FALLOC_FL_ZERO_RANGE, any);
        }
        // Changes nothing that is read: what is there stays, what is not is reserved.
        8 => file_ops::preallocate(file, any).unwrap(),
        _ => {
            zeroed(bytes, whole);
            file_ops::punch_hole(file, whole).unwrap();
            file_ops::preallocate(file, whole).unwrap();
        }
    }
    file.sync_all().unwrap();
}

/// Gives whole blocks of a device back, which read as zeros then. A discard alone leaves to the device what it does about them, and
/// a thin pool frees its own blocks only.
pub fn free(device: &File, range: ByteRange) {
    device::zero_out(device, range).unwrap();
    device::discard(device, range).unwrap();
}

fn allocate(file: &File, how: FallocateFlags, range: ByteRange) {
    let (offset, length) = (range.offset() as i64, range.length() as i64);
    fallocate(file, how | FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, length).unwrap();
}

fn part(bytes: &mut [u8], range: ByteRange) -> &mut [u8] {
    &mut bytes[range.offset() as usize..range.end() as usize]
}

/// The part of the content, filled anew.
fn filled<'a>(bytes: &'a mut [u8], range: ByteRange, random: &mut StdRng) -> &'a [u8] {
    let part = part(bytes, range);
    part.copy_from_slice(&content(random, part.len()));
    part
}

/// The part of the content, which is zeros now.
fn zeroed(bytes: &mut [u8], range: ByteRange) -> &[u8] {
    let part = part(bytes, range);
    part.fill(0);
    part
}
