//! What is on a device, told from its bytes.
//!
//! The answer decides whether a file system may be made (DESIGN, invariant 1), so doubt counts as content. The first and the
//! last mebibyte are read, past every cache; each known signature is looked for; and whatever is not zero there is content
//! even when nothing is recognised. Only a device that reads as zeros in all of it is blank.
//!
//! A mountable file system is named only when its superblock is plausible and no second one claims the same device. What lies
//! at the end of a device (copies of partition tables, RAID records), or far from its beginning where file systems keep their files
//! (the labels of ZFS), belongs to whoever owns the beginning, and counts only when nothing there was recognised.
//!
//! [`signature`](super::signature) asks another question of the same marks ([`magic`]).

use std::fmt;
use std::io;

use super::magic::{self, Asked, BOOT_SECTOR, DEVICE_MAPPER_OFFSET, DM_CACHE, DM_ERA, DM_THIN, GPT, LVM, MD_RAID, ZFS_UBERBLOCK};
use super::{AlignedBuffer, BlockSource};
use crate::types::FsType;

/// Bytes looked at from each end.
const REACH: u64 = 1 << 20;

/// What was found, with the distinctions that making a file system over an unfinished one needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Zeros everywhere.
    Blank,
    /// A complete, plausible superblock.
    FileSystem(FsType),
    /// A superblock that says of itself that making the file system did not end.
    Unfinished(FsType),
    /// Something of others, by its name.
    Foreign(String),
    /// Bytes that nothing here knows.
    Unknown,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("nothing"),
            Self::FileSystem(fs_type) => write!(f, "{fs_type}"),
            Self::Unfinished(fs_type) => write!(f, "an unfinished {fs_type}"),
            Self::Foreign(name) => f.write_str(name),
            Self::Unknown => f.write_str("unknown data"),
        }
    }
}

/// Looks at a device or image. It should read past the caches ([`crate::block::FileSource`] does).
///
/// # Errors
/// Whatever reading reports; an error never means "blank".
pub fn examine(source: &dyn BlockSource) -> io::Result<Finding> {
    let size = source.size();
    let reach = size.min(REACH);
    let mut head = AlignedBuffer::zeroed(usize::try_from(reach).map_err(io::Error::other)?);
    let mut tail = AlignedBuffer::zeroed(head.len());
    source.read_at(0, &mut head)?;
    source.read_at(size - reach, &mut tail)?;
    Ok(detect(&head, &tail))
}

/// Judges the beginning and the end of a device. The two may overlap or be the same bytes.
pub fn detect(head: &[u8], tail: &[u8]) -> Finding {
    let head = Bytes(head);
    let mut found: Vec<Finding> = [ext(head), xfs(head), btrfs(head)].into_iter().flatten().collect();
    found.extend(foreign_at_the_beginning(head).map(|name| Finding::Foreign(name.to_owned())));
    match found.len() {
        0 => match zfs(head).or_else(|| foreign_at_the_end(Bytes(tail))) {
            Some(name) => Finding::Foreign(name.to_owned()),
            None if head.is_zero() && Bytes(tail).is_zero() => Finding::Blank,
            None => Finding::Unknown,
        },
        1 => found.swap_remove(0),
        _ => {
            let names: Vec<_> = found.iter().map(ToString::to_string).collect();
            Finding::Foreign(format!("several at once: {}", names.join(" and ")))
        }
    }
}

/// Reads that are outside give nothing instead of panicking: a device may be of any size.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn at(self, offset: usize, length: usize) -> Option<&'a [u8]> {
        self.0.get(offset..offset.checked_add(length)?)
    }

    fn is(self, offset: usize, magic: &[u8]) -> bool {
        self.at(offset, magic.len()) == Some(magic)
    }

    fn le16(self, offset: usize) -> Option<u16> {
        self.at(offset, 2)?.try_into().ok().map(u16::from_le_bytes)
    }

    fn le32(self, offset: usize) -> Option<u32> {
        self.at(offset, 4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn le64(self, offset: usize) -> Option<u64> {
        self.at(offset, 8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn be32(self, offset: usize) -> Option<u32> {
        self.at(offset, 4)?.try_into().ok().map(u32::from_be_bytes)
    }

    fn is_zero(self) -> bool {
        self.0.iter().all(|&byte| byte == 0)
    }
}

/// ext2, ext3, ext4 and their external journals: superblock at 1024.
fn ext(bytes: Bytes<'_>) -> Option<Finding> {
    const SUPERBLOCK: usize = 1024;
    const COMPAT_HAS_JOURNAL: u32 = 0x4;
    const INCOMPAT_JOURNAL_DEVICE: u32 = 0x8;
    // Features that ext3 has too: filetype, recover, meta_bg; sparse_super, large_file, btree_dir.
    const INCOMPAT_OF_EXT3: u32 = 0x2 | 0x4 | 0x10;
    const RO_COMPAT_OF_EXT3: u32 = 0x1 | 0x2 | 0x4;
    if bytes.le16(SUPERBLOCK + 0x38)? != 0xef53 {
        return None;
    }
    let foreign = |name: &str| Some(Finding::Foreign(name.to_owned()));
    let (inodes, blocks, log_block) = (bytes.le32(SUPERBLOCK)?, bytes.le32(SUPERBLOCK + 4)?, bytes.le32(SUPERBLOCK + 0x18)?);
    let compat = bytes.le32(SUPERBLOCK + 0x5c)?;
    let incompat = bytes.le32(SUPERBLOCK + 0x60)?;
    let ro_compat = bytes.le32(SUPERBLOCK + 0x64)?;
    if incompat & INCOMPAT_JOURNAL_DEVICE != 0 {
        return foreign("an external ext journal");
    }
    // Blocks of 1 KiB to 64 KiB.
    if inodes == 0 || blocks == 0 || log_block > 6 {
        return foreign("a damaged ext superblock");
    }
    if incompat & !INCOMPAT_OF_EXT3 != 0 || ro_compat & !RO_COMPAT_OF_EXT3 != 0 {
        return Some(Finding::FileSystem(FsType::Ext4));
    }
    foreign(if compat & COMPAT_HAS_JOURNAL != 0 { "ext3" } else { "ext2" })
}

/// XFS: superblock at 0.
fn xfs(bytes: Bytes<'_>) -> Option<Finding> {
    if !bytes.is(0, b"XFSB") {
        return None;
    }
    let (block, sector) = (bytes.be32(4)?, bytes.at(102, 2)?);
    let sector = u32::from(u16::from_be_bytes([sector[0], sector[1]]));
    let in_progress = *bytes.at(126, 1)?.first()?;
    let plausible =
        block.is_power_of_two() && (512..=65536).contains(&block) && sector.is_power_of_two() && (512..=32768).contains(&sector);
    Some(match (plausible, in_progress) {
        (true, 0) => Finding::FileSystem(FsType::Xfs),
        (true, _) => Finding::Unfinished(FsType::Xfs),
        (false, _) => Finding::Foreign("a damaged XFS superblock".to_owned()),
    })
}

/// Btrfs: superblock at 64 KiB.
fn btrfs(bytes: Bytes<'_>) -> Option<Finding> {
    const SUPERBLOCK: usize = 64 << 10;
    let magic = bytes.at(SUPERBLOCK + 0x40, 8)?;
    if magic == b"!BHRfS_M" {
        return Some(Finding::Unfinished(FsType::Btrfs));
    }
    if magic != b"_BHRfS_M" {
        return None;
    }
    let devices = bytes.le64(SUPERBLOCK + 0x88)?;
    if bytes.le64(SUPERBLOCK + 0x30)? != SUPERBLOCK as u64 {
        return Some(Finding::Foreign("a damaged Btrfs superblock".to_owned()));
    }
    if devices != 1 {
        return Some(Finding::Foreign("a member of a Btrfs over several devices".to_owned()));
    }
    Some(Finding::FileSystem(FsType::Btrfs))
}

fn foreign_at_the_beginning(bytes: Bytes<'_>) -> Option<&'static str> {
    magic::at_the_beginning(Asked::OfWholeDevices)
        .find(|magic| usize::try_from(magic.offset).is_ok_and(|offset| bytes.is(offset, magic.bytes)))
        .map(|magic| magic.name)
        .or_else(|| lvm(bytes))
        .or_else(|| swap(bytes))
        .or_else(|| device_mapper(bytes))
        .or_else(|| nilfs(bytes))
        .or_else(|| mbr(bytes))
}

/// An LVM label lies in one of the first four sectors.
fn lvm(bytes: Bytes<'_>) -> Option<&'static str> {
    (0..4).any(|sector| bytes.is(sector * 512, LVM)).then_some("an LVM physical volume")
}

/// The end of the first page of any page size.
fn swap(bytes: Bytes<'_>) -> Option<&'static str> {
    let ends = [4096, 8192, 16384, 32768, 65536];
    let is_swap = |end: usize| [b"SWAPSPACE2", b"SWAP-SPACE"].iter().any(|magic| bytes.is(end - 10, *magic));
    ends.into_iter().any(is_swap).then_some("swap space")
}

/// Metadata of device-mapper targets.
fn device_mapper(bytes: Bytes<'_>) -> Option<&'static str> {
    match bytes.le64(DEVICE_MAPPER_OFFSET as usize)? {
        DM_THIN => Some("dm-thin metadata"),
        DM_CACHE => Some("dm-cache metadata"),
        DM_ERA => Some("dm-era metadata"),
        _ => None,
    }
}

/// Magic and the number of its format. The magic alone is also the number of blocks of any ext4 of 3341 GiB.
fn nilfs(bytes: Bytes<'_>) -> Option<&'static str> {
    let is_nilfs = bytes.le16(1024 + 6)? == 0x3434 && bytes.le32(1024)? == 2;
    is_nilfs.then_some("NILFS")
}

/// ZFS keeps two labels of 256 KiB at each end; the uberblocks begin at 128 KiB of each.
fn zfs(bytes: Bytes<'_>) -> Option<&'static str> {
    let slots = (128 << 10..256 << 10).chain(384 << 10..512 << 10).step_by(1024);
    let is_uberblock =
        |offset| bytes.le64(offset).is_some_and(|magic| magic == ZFS_UBERBLOCK || magic.swap_bytes() == ZFS_UBERBLOCK);
    slots.into_iter().any(is_uberblock).then_some("a ZFS member")
}

/// A boot sector with at least one entry. One without entries is a boot loader's, and stands before file systems too.
fn mbr(bytes: Bytes<'_>) -> Option<&'static str> {
    if !bytes.is(510, BOOT_SECTOR) {
        return None;
    }
    let is_entry = |index: usize| {
        let entry = 446 + index * 16;
        bytes.at(entry, 1).is_some_and(|flag| flag[0] & 0x7f == 0)
            && bytes.at(entry + 4, 1).is_some_and(|kind| kind[0] != 0)
            && bytes.le32(entry + 12).is_some_and(|sectors| sectors != 0)
    };
    (0..4).any(is_entry).then_some("an MBR partition table")
}

fn foreign_at_the_end(bytes: Bytes<'_>) -> Option<&'static str> {
    let end = bytes.0.len();
    let from_end = |distance: usize, magic: &[u8]| end.checked_sub(distance).is_some_and(|offset| bytes.is(offset, magic));
    if from_end(512, GPT) || from_end(4096, GPT) {
        return Some("the second copy of a GPT partition table");
    }
    // Version 1.0 at 8 to 12 KiB from the end, 0.90 at 64 to 128 KiB.
    let md = |distance: usize| from_end(distance, MD_RAID);
    if (8..=12).chain(64..=128).any(|kib| md(kib << 10)) {
        return Some("an MD RAID member");
    }
    if from_end(4096, b"\x83\x74\x02\x6b") || from_end(4096 - 60, b"\x83\x74\x02\x6b") {
        return Some("DRBD metadata");
    }
    zfs(Bytes(bytes.0.get(end.checked_sub(512 << 10)?..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::MemorySource;
    use proptest::prelude::*;

    const SIZE: usize = 4 << 20;

    fn with(patches: &[(usize, &[u8])]) -> Finding {
        let mut bytes = vec![0; SIZE];
        for (offset, patch) in patches {
            bytes[*offset..*offset + patch.len()].copy_from_slice(patch);
        }
        examine(&MemorySource::new(bytes)).unwrap()
    }

    fn foreign(patches: &[(usize, &[u8])]) -> String {
        match with(patches) {
            Finding::Foreign(name) => name,
            other => panic!("{other:?}"),
        }
    }

    const EXT4: &[(usize, &[u8])] = &[
        (1024, &[16, 0, 0, 0, 64, 0, 0, 0]),
        (1024 + 0x18, &[2]),
        (1024 + 0x38, &[0x53, 0xef]),
        (1024 + 0x5c, &[4]),
        (1024 + 0x60, &[0x42]),
    ];

    #[test]
    fn only_zeros_are_blank() {
        assert_eq!(with(&[]), Finding::Blank);
        for size in [0, 512, 4096, (1 << 20) + 512] {
            assert_eq!(examine(&MemorySource::new(vec![0; size])).unwrap(), Finding::Blank);
        }
    }

    proptest! {
        #[test]
        fn a_single_byte_at_either_end_is_content(offset in 0_usize..1 << 20, byte in 1_u8..) {
            prop_assert_ne!(with(&[(offset, &[byte])]), Finding::Blank);
            prop_assert_ne!(with(&[(SIZE - 1 - offset, &[byte])]), Finding::Blank);
        }

        #[test]
        fn no_content_makes_the_detection_panic(bytes in proptest::collection::vec(any::<u8>(), 0..6000)) {
            detect(&bytes, &bytes);
        }
    }

    #[test]
    fn the_ext_family_is_told_apart_by_features() {
        assert_eq!(with(EXT4), Finding::FileSystem(FsType::Ext4));
        assert_eq!(foreign(&[EXT4, &[(1024 + 0x60, &[0x2])]].concat()), "ext3");
        assert_eq!(foreign(&[EXT4, &[(1024 + 0x60, &[0x2]), (1024 + 0x5c, &[0])]].concat()), "ext2");
        assert_eq!(foreign(&[EXT4, &[(1024 + 0x60, &[0x8])]].concat()), "an external ext journal");
        assert_eq!(foreign(&[(1024 + 0x38, &[0x53, 0xef])]), "a damaged ext superblock");
    }

    #[test]
    fn interrupted_attempts_are_known_as_such() {
        let xfs: &[(usize, &[u8])] = &[(0, b"XFSB\0\0\x10\0"), (102, &[0x10, 0])];
        assert_eq!(with(xfs), Finding::FileSystem(FsType::Xfs));
        assert_eq!(with(&[xfs, &[(126, &[1])]].concat()), Finding::Unfinished(FsType::Xfs));
        assert_eq!(with(&[(0x10040, b"!BHRfS_M")]), Finding::Unfinished(FsType::Btrfs));
        let btrfs: &[(usize, &[u8])] = &[(0x10030, &[0, 0, 1]), (0x10040, b"_BHRfS_M"), (0x10088, &[1])];
        assert_eq!(with(btrfs), Finding::FileSystem(FsType::Btrfs));
        assert_eq!(foreign(&[btrfs, &[(0x10088, &[2])]].concat()), "a member of a Btrfs over several devices");
    }

    #[test]
    fn what_others_own_is_named() {
        let partition: &[u8] = &[0x80, 0, 2, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0];
        assert_eq!(foreign(&[(510, b"\x55\xaa"), (446, partition)]), "an MBR partition table");
        assert_eq!(foreign(&[(512, b"EFI PART")]), "a GPT partition table");
        assert_eq!(foreign(&[(SIZE - 512, b"EFI PART")]), "the second copy of a GPT partition table");
        assert_eq!(foreign(&[(512, b"LABELONE")]), "an LVM physical volume");
        assert_eq!(foreign(&[(0, b"LUKS\xba\xbe")]), "LUKS encryption");
        assert_eq!(foreign(&[(4086, b"SWAPSPACE2")]), "swap space");
        assert_eq!(foreign(&[(32, &27_022_010_u64.to_le_bytes())]), "dm-thin metadata");
        assert_eq!(foreign(&[(132 << 10, &0x00ba_b10c_u64.to_le_bytes())]), "a ZFS member");
        assert_eq!(foreign(&[(SIZE - (64 << 10), b"\xfc\x4e\x2b\xa9")]), "an MD RAID member");
    }

    #[test]
    fn two_owners_of_one_device_are_a_doubt() {
        let both = [EXT4, &[(0, b"XFSB\0\0\x10\0"), (102, &[0x10, 0])]].concat();
        assert!(foreign(&both).starts_with("several at once: ext4 and xfs"));
    }

    #[test]
    fn what_a_file_system_has_at_its_end_or_among_its_files_is_its_own() {
        assert_eq!(with(&[EXT4, &[(SIZE - 512, b"EFI PART")]].concat()), Finding::FileSystem(FsType::Ext4));
        let uberblock = 0x00ba_b10c_u64.to_le_bytes();
        assert_eq!(with(&[EXT4, &[(132 << 10, &uberblock)]].concat()), Finding::FileSystem(FsType::Ext4));
    }

    #[test]
    fn no_size_of_a_file_system_makes_it_one_of_others() {
        for blocks in [0x3434_0000_u32.to_le_bytes(), 0x3434_ffff_u32.to_le_bytes()] {
            assert_eq!(with(&[EXT4, &[(1024 + 4, &blocks)]].concat()), Finding::FileSystem(FsType::Ext4));
        }
        assert_eq!(foreign(&[(1024, &[2]), (1024 + 6, b"\x34\x34")]), "NILFS");
        assert_eq!(foreign(&[(1024, b"H+\0\x04")]), "HFS+");
    }
}
