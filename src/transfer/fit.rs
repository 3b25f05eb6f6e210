//! Whether what an image holds can be used on a device with logical blocks of a certain size, told from its bytes.
//!
//! Disks count in their logical blocks, and what was written through a disk of one size may be of no use on one of another: a
//! partition table is looked for in the second block and counts in blocks, and a file system of smaller sectors than the
//! device's is not mounted. An image that was taken of a disk does not say its block size; its content does. Content that is unknown
//! here fits: this stops what is known not to work, and does not prove that the rest does.

use std::io;

use crate::block::probe::{self, Finding};
use crate::block::{AlignedBuffer, BlockSource};
use crate::types::{FsType, LogicalBlockSize};

/// Bytes that are looked at from the beginning: all that counts here is in the first two blocks of 4 KiB.
const REACH: u64 = 8 << 10;
/// The block size of nearly every disk; content that names none was written for it.
const SMALL: u32 = 512;

/// Why the content of an image is of no use on a device.
#[derive(Debug, thiserror::Error)]
pub enum Misfit {
    #[error("the image holds {found}, not {wanted}")]
    FileSystem { wanted: FsType, found: String },
    /// The image was made for devices of another block size, which is in `bytes`; that of the device is in `device`.
    #[error("the image holds {what} for devices with blocks of {bytes} bytes, and the volume's would be of {device} bytes")]
    Blocks { what: &'static str, bytes: u32, device: u32 },
    #[error("the image cannot be looked at")]
    Io(#[from] io::Error),
}

/// Looks whether an image can be used on a device with logical blocks of size `device`, and as a file system of type `wanted`
/// if that is given. An empty image may become anything.
pub fn check(image: &dyn BlockSource, wanted: Option<FsType>, device: LogicalBlockSize) -> Result<(), Misfit> {
    if let Some(wanted) = wanted {
        match probe::examine(image)? {
            Finding::Blank => return Ok(()),
            Finding::FileSystem(found) if found == wanted => {}
            other => return Err(Misfit::FileSystem { wanted, found: other.to_string() }),
        }
    }
    let mut head = AlignedBuffer::zeroed(usize::try_from(image.size().min(REACH)).map_err(io::Error::other)?);
    image.read_at(0, &mut head)?;
    match made_for(&head, image.size(), device.bytes()) {
        Some((what, bytes)) => Err(Misfit::Blocks { what, bytes, device: device.bytes() }),
        None => Ok(()),
    }
}

/// What the image holds and the block size that needs, if that is not the device's, both in bytes.
fn made_for(head: &[u8], size: u64, device: u32) -> Option<(&'static str, u32)> {
    let too_small = |found: Option<(&'static str, u32)>| found.filter(|&(_, bytes)| bytes < device);
    too_small(xfs(head))
        .or_else(|| too_small(ext(head)))
        .or_else(|| too_small(fat(head)))
        .or_else(|| partitions(head, size, device))
}

fn at<const N: usize>(head: &[u8], offset: usize) -> Option<[u8; N]> {
    head.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

/// The largest blocks on which an XFS is mounted are its sectors.
fn xfs(head: &[u8]) -> Option<(&'static str, u32)> {
    let sector = u16::from_be_bytes(at(head, 102)?);
    (head.starts_with(b"XFSB") && sector >= 512).then_some(("an XFS", sector.into()))
}

/// The largest blocks on which an ext2, ext3 or ext4 is mounted are its own.
fn ext(head: &[u8]) -> Option<(&'static str, u32)> {
    let magic = u16::from_le_bytes(at(head, 1024 + 0x38)?);
    let shift = u32::from_le_bytes(at(head, 1024 + 0x18)?);
    (magic == 0xef53 && shift <= 6).then(|| ("an ext file system", 1024 << shift))
}

/// FAT and NTFS give the size of their sectors in the boot sector.
fn fat(head: &[u8]) -> Option<(&'static str, u32)> {
    let sector = u16::from_le_bytes(at(head, 11)?);
    let named = |offset: usize, name: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(name));
    let is_fat = named(3, b"NTFS    ") || named(54, b"FAT1") || named(82, b"FAT32   ");
    (is_fat && sector.is_power_of_two() && sector >= 512).then_some(("a FAT or NTFS", sector.into()))
}

fn partitions(head: &[u8], size: u64, device: u32) -> Option<(&'static str, u32)> {
    // A GPT's header lies in the second block.
    let is_gpt = |block: u32| head.get(block as usize..).is_some_and(|rest| rest.starts_with(b"EFI PART"));
    if is_gpt(device) {
        return None;
    }
    if let Some(other) = [SMALL, 4096].into_iter().find(|&block| is_gpt(block)) {
        return Some(("a partition table (GPT)", other));
    }
    // An MBR does not say what it counts in; but its partitions end within the disk.
    let end = mbr_end(head)?;
    let ends_within = |block: u32| end.saturating_mul(block.into()) <= size;
    (device != SMALL && !ends_within(device) && ends_within(SMALL)).then_some(("a partition table (MBR)", SMALL))
}

/// The first block behind all partitions of an MBR.
fn mbr_end(head: &[u8]) -> Option<u64> {
    if at(head, 510)? != [0x55, 0xaa] {
        return None;
    }
    let mut end = None;
    for offset in (446..510).step_by(16) {
        let (status, kind) = (*head.get(offset)?, *head.get(offset + 4)?);
        // A boot sector of another kind has code here.
        if !matches!(status, 0 | 0x80) {
            return None;
        }
        if kind != 0 {
            let (start, count) = (u32::from_le_bytes(at(head, offset + 8)?), u32::from_le_bytes(at(head, offset + 12)?));
            end = end.max(Some(u64::from(start) + u64::from(count)));
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::MemorySource;

    const SIZE: u64 = 64 << 20;

    fn image(parts: &[(usize, &[u8])]) -> MemorySource {
        let mut bytes = vec![0; SIZE as usize];
        for (offset, part) in parts {
            bytes[*offset..*offset + part.len()].copy_from_slice(part);
        }
        MemorySource::with_block_size(bytes, LogicalBlockSize::B512)
    }

    /// What an image needs on devices of 512 bytes and of 4096, where it does not fit.
    fn needed(parts: &[(usize, &[u8])]) -> [Option<u32>; 2] {
        [LogicalBlockSize::B512, LogicalBlockSize::B4096].map(|device| match check(&image(parts), None, device) {
            Ok(()) => None,
            Err(Misfit::Blocks { bytes, device: found, .. }) => {
                assert_eq!(found, device.bytes());
                Some(bytes)
            }
            Err(other) => panic!("{other}"),
        })
    }

    fn xfs_of(sector: u16) -> Vec<u8> {
        let mut superblock = vec![0; 512];
        superblock[..8].copy_from_slice(b"XFSB\0\0\x10\0");
        superblock[102..104].copy_from_slice(&sector.to_be_bytes());
        superblock
    }

    fn mbr_of(start: u32, count: u32) -> Vec<u8> {
        let mut table = vec![0; 512];
        table[446] = 0x80;
        table[450] = 0x83;
        table[454..458].copy_from_slice(&start.to_le_bytes());
        table[458..462].copy_from_slice(&count.to_le_bytes());
        table[510..].copy_from_slice(&[0x55, 0xaa]);
        table
    }

    #[test]
    fn file_systems_of_small_sectors_do_not_fit_devices_of_large_blocks() {
        assert_eq!(needed(&[(0, &xfs_of(512))]), [None, Some(512)]);
        assert_eq!(needed(&[(0, &xfs_of(4096))]), [None, None]);
        let ext = |shift: u8| needed(&[(1024 + 0x18, &[shift]), (1024 + 0x38, &[0x53, 0xef])]);
        assert_eq!((ext(0), ext(1), ext(2)), ([None, Some(1024)], [None, Some(2048)], [None, None]));
        let fat = |sector: u16| needed(&[(11, &sector.to_le_bytes()), (82, b"FAT32   ")]);
        assert_eq!((fat(512), fat(4096)), ([None, Some(512)], [None, None]));
        assert_eq!(needed(&[(3, b"NTFS    \0\x02")]), [None, Some(512)]);
    }

    #[test]
    fn a_gpt_fits_devices_of_its_own_block_size_only() {
        assert_eq!(needed(&[(512, b"EFI PART")]), [None, Some(512)]);
        assert_eq!(needed(&[(4096, b"EFI PART")]), [Some(4096), None]);
        // A disk that was partitioned anew may have both.
        assert_eq!(needed(&[(512, b"EFI PART"), (4096, b"EFI PART")]), [None, None]);
    }

    #[test]
    fn an_mbr_whose_partitions_would_end_beyond_the_image_counts_in_smaller_blocks() {
        let blocks = u32::try_from(SIZE / 512).unwrap();
        assert_eq!(needed(&[(0, &mbr_of(2048, blocks - 2048))]), [None, Some(512)]);
        assert_eq!(needed(&[(0, &mbr_of(256, blocks / 8 - 256))]), [None, None]);
        // Beyond it in any blocks: truncated, and no matter of these.
        assert_eq!(needed(&[(0, &mbr_of(2048, u32::MAX))]), [None, None]);
        // Code of a boot loader where partitions would be.
        let mut code = mbr_of(2048, blocks - 2048);
        code[446 + 16] = 0xfa;
        assert_eq!(needed(&[(0, &code)]), [None, None]);
    }

    #[test]
    fn a_file_system_that_was_asked_for_must_be_there() {
        let found = |image: &MemorySource, wanted| match check(image, Some(wanted), LogicalBlockSize::B512) {
            Ok(()) => "fits".to_owned(),
            Err(error) => error.to_string(),
        };
        let xfs = image(&[(0, &xfs_of(512))]);
        assert_eq!(found(&xfs, FsType::Xfs), "fits");
        assert_eq!(found(&xfs, FsType::Ext4), "the image holds xfs, not ext4");
        assert_eq!(found(&image(&[]), FsType::Ext4), "fits");
        assert!(found(&image(&[(512, b"EFI PART")]), FsType::Xfs).contains("GPT"));
        assert!(found(&image(&[(0, b"data")]), FsType::Xfs).contains("unknown data"));
        assert!(matches!(check(&xfs, Some(FsType::Xfs), LogicalBlockSize::B4096), Err(Misfit::Blocks { bytes: 512, .. })));
    }
}
