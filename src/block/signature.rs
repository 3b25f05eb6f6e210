//! What is on a device, told by the marks that file systems, partition tables and volume managers leave.
//!
//! Looked for where they belong in the first and the last MiB: whoever is about to take a whole device wants to know
//! everything that anybody may still believe to be there, so all marks are reported, each with its name and its offset in bytes,
//! and a mark counts whether or not the rest of its structure makes sense (a damaged file system may be somebody's only
//! copy). Only marks of two bytes are checked further, as random data would show them too often. Nothing is
//! written, and nothing found does not mean that nothing is there: data without a mark leave none. The marks themselves are in `magic`.

use std::fmt;
use std::io;

use super::magic::{self, Asked, BOOT_SECTOR, GPT, LVM, MD_RAID, ZFS_UBERBLOCK};
use super::{AlignedBuffer, BlockSource};

/// Bytes looked at from each end of the device.
pub const REACH: u64 = 1 << 20;

/// A mark that was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signature {
    /// Where its magic lies, in bytes from the beginning of the device.
    pub offset: u64,
    /// Whose it is, for people.
    pub name: &'static str,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at byte {})", self.name, self.offset)
    }
}

/// A list of them as one text: `XFS (at byte 0), swap space (at byte 4086)`.
pub fn listed(signatures: &[Signature]) -> String {
    signatures.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Looks at a device, ascending by offset.
///
/// # Errors
/// Whatever reading reports; an error never means "nothing found".
pub fn examine(source: &dyn BlockSource) -> io::Result<Vec<Signature>> {
    let size = source.size();
    let reach = size.min(REACH);
    let mut head = AlignedBuffer::zeroed(usize::try_from(reach).map_err(io::Error::other)?);
    let mut tail = AlignedBuffer::zeroed(head.len());
    source.read_at(0, &mut head)?;
    source.read_at(size - reach, &mut tail)?;
    Ok(detect(&head, &tail, size))
}

/// The marks in the first and the last bytes of a device of `size` bytes. The two may overlap.
pub fn detect(head: &[u8], tail: &[u8], size: u64) -> Vec<Signature> {
    let head = Bytes { bytes: head, offset: 0 };
    let tail = Bytes { bytes: tail, offset: size.saturating_sub(tail.len() as u64) };
    let mut found: Vec<Signature> = magic::at_the_beginning(Asked::OfVolumes)
        .filter(|magic| head.is(magic.offset, magic.bytes))
        .map(|magic| Signature { offset: magic.offset, name: magic.name })
        .collect();
    let looks: [fn(Bytes<'_>) -> Option<Signature>; 8] = [ext, lvm, swap, partition_table, fat, zfs, nilfs, minix];
    found.extend(looks.iter().filter_map(|look| look(head)));
    found.extend(at_the_end(tail, size));
    found.sort_unstable();
    found.dedup();
    found
}

/// Reads that are outside give nothing instead of panicking: a device may be of any size.
#[derive(Clone, Copy)]
struct Bytes<'a> {
    bytes: &'a [u8],
    /// Where they begin on the device.
    offset: u64,
}

impl<'a> Bytes<'a> {
    /// By the offset on the device.
    fn at<const N: usize>(self, offset: u64) -> Option<[u8; N]> {
        let start = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        self.bytes.get(start..start.checked_add(N)?)?.try_into().ok()
    }

    fn is(self, offset: u64, magic: &[u8]) -> bool {
        let start = offset.checked_sub(self.offset).and_then(|start| usize::try_from(start).ok());
        start.is_some_and(|start| self.bytes.get(start..).is_some_and(|bytes| bytes.starts_with(magic)))
    }

    fn le16(self, offset: u64) -> Option<u16> {
        self.at(offset).map(u16::from_le_bytes)
    }

    fn le32(self, offset: u64) -> Option<u32> {
        self.at(offset).map(u32::from_le_bytes)
    }

    fn le64(self, offset: u64) -> Option<u64> {
        self.at(offset).map(u64::from_le_bytes)
    }
}

fn found(offset: u64, name: &'static str) -> Option<Signature> {
    Some(Signature { offset, name })
}

/// ext2, ext3, ext4 and their journals. Two bytes of magic; so the size of a block must be one too.
fn ext(bytes: Bytes<'_>) -> Option<Signature> {
    let is_ext = bytes.le16(1024 + 0x38)? == 0xef53 && bytes.le32(1024 + 0x18)? <= 6;
    if is_ext { found(1024 + 0x38, "ext2, ext3 or ext4") } else { None }
}

/// An LVM label lies in one of the first four sectors.
fn lvm(bytes: Bytes<'_>) -> Option<Signature> {
    let sector = (0..4).map(|sector| sector * 512).find(|&sector| bytes.is(sector, LVM))?;
    found(sector, "an LVM physical volume")
}

/// At the end of the first page, of any size that pages have.
fn swap(bytes: Bytes<'_>) -> Option<Signature> {
    let ends = [4096, 8192, 16384, 32768, 65536];
    let magic = |end: &u64| [b"SWAPSPACE2", b"SWAP-SPACE", b"S1SUSPEND\0", b"S2SUSPEND\0"].iter().any(|m| bytes.is(end - 10, *m));
    found(ends.into_iter().find(magic)? - 10, "swap space")
}

/// A boot sector with at least one plausible entry. One without entries is a boot loader's, and stands before file systems too.
fn partition_table(bytes: Bytes<'_>) -> Option<Signature> {
    let is_entry = |index: u64| {
        let entry = 446 + index * 16;
        let flag_and_kind = bytes.at::<1>(entry).zip(bytes.at::<1>(entry + 4));
        flag_and_kind.is_some_and(|([flag], [kind])| flag & 0x7f == 0 && kind != 0)
            && bytes.le32(entry + 8).is_some_and(|start| start != 0)
            && bytes.le32(entry + 12).is_some_and(|sectors| sectors != 0)
    };
    let is_table = bytes.is(510, BOOT_SECTOR) && (0..4).any(is_entry);
    if is_table { found(510, "an MBR partition table") } else { None }
}

/// FAT names itself in one of two places of a boot sector.
fn fat(bytes: Bytes<'_>) -> Option<Signature> {
    let named = [(54, b"FAT12   "), (54, b"FAT16   "), (54, b"FAT     "), (82, b"FAT32   ")];
    let (offset, _) = named.into_iter().find(|(offset, magic)| bytes.is(*offset, *magic))?;
    if bytes.is(510, BOOT_SECTOR) { found(offset, "FAT") } else { None }
}

/// ZFS keeps two labels of 256 KiB at each end; the uberblocks begin at 128 KiB of each.
fn zfs(bytes: Bytes<'_>) -> Option<Signature> {
    let labels = (bytes.offset / ZFS_LABEL * ZFS_LABEL..bytes.offset + bytes.bytes.len() as u64).step_by(ZFS_LABEL as usize);
    let slots = labels.flat_map(|label| (ZFS_LABEL / 2..ZFS_LABEL).step_by(1024).map(move |slot| label + slot));
    found(slots.into_iter().find(|&slot| is_uberblock(bytes, slot))?, "a ZFS member")
}

const ZFS_LABEL: u64 = 256 << 10;

fn is_uberblock(bytes: Bytes<'_>, offset: u64) -> bool {
    bytes.le64(offset).is_some_and(|magic| magic == ZFS_UBERBLOCK || magic.swap_bytes() == ZFS_UBERBLOCK)
}

/// Two bytes of magic; so the number of its format, which is 2, must be there too.
fn nilfs(bytes: Bytes<'_>) -> Option<Signature> {
    let is_nilfs = bytes.le16(1024 + 6)? == 0x3434 && bytes.le32(1024)? == 2;
    if is_nilfs { found(1024 + 6, "NILFS") } else { None }
}

/// Two bytes of magic, in another place in version 3; so there must be inodes, and a map of them.
fn minix(bytes: Bytes<'_>) -> Option<Signature> {
    let plausible =
        |map: u64| bytes.le16(1024).is_some_and(|inodes| inodes != 0) && bytes.le16(map).is_some_and(|blocks| blocks != 0);
    match (bytes.le16(1024 + 16)?, bytes.le16(1024 + 24)?) {
        (0x137f | 0x138f | 0x2468 | 0x2478, _) if plausible(1024 + 4) => found(1024 + 16, "Minix"),
        (_, 0x4d5a) if plausible(1024 + 6) => found(1024 + 24, "Minix"),
        _ => None,
    }
}

/// What lies at places counted from the end.
fn at_the_end(tail: Bytes<'_>, size: u64) -> Vec<Signature> {
    let from_end = |distance: u64, magic: &[u8]| {
        let offset = size.checked_sub(distance)?;
        tail.is(offset, magic).then_some(offset)
    };
    let mut all = Vec::new();
    let mut add = |offset: Option<u64>, name| all.extend(offset.map(|offset| Signature { offset, name }));
    for sector in [512, 4096] {
        add(from_end(sector, GPT), "a GPT partition table (second copy)");
        add(from_end(sector, LVM), "an LVM physical volume");
    }
    add(size.is_multiple_of(4096).then(|| from_end(4096, b"windlass pool")).flatten(), "a pool of windlass (second label)");
    // MD RAID: format 1.0 lies at 8 to 12 KiB from the end, 0.90 at 64 to 128 KiB; both at multiples of 4 KiB.
    let last = size - size % 4096;
    let offsets = [2, 3].into_iter().chain(16..=32).filter_map(|blocks: u64| last.checked_sub(blocks * 4096));
    add(offsets.into_iter().find(|&offset| tail.is(offset, MD_RAID)), "an MD RAID member");
    let drbd = [b"\x83\x74\x02\x67", b"\x83\x74\x02\x6b", b"\x83\x74\x02\x6d"];
    let drbd = drbd.into_iter().find_map(|magic| from_end(4096, magic).or_else(|| from_end(4096 - 60, magic)));
    add(drbd, "DRBD metadata");
    // Formats that firmware knows: Intel's, and the common one of others.
    add(from_end(1024, b"Intel Raid ISM Cfg Sig. "), "an Intel RAID member");
    add(from_end(512, b"\xde\x11\xde\x11"), "a DDF RAID member");
    // The two last labels begin at multiples of their own size.
    if let Some(first) = (size - size % ZFS_LABEL).checked_sub(2 * ZFS_LABEL) {
        let slots = [first, first + ZFS_LABEL].into_iter();
        let mut slots = slots.flat_map(|label| (ZFS_LABEL / 2..ZFS_LABEL).step_by(1024).map(move |slot| label + slot));
        add(slots.find(|&slot| is_uberblock(tail, slot)), "a ZFS member");
    }
    all
}

#[cfg(test)]
mod tests;
