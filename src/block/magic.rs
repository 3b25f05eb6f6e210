//! The marks by which file systems, partition tables and volume managers are known: one table for the two questions that are asked.
//!
//! * *May this device be taken whole?* (`signature`) There one mark too many costs a look and a `--force`, so every mark counts.
//! * *Is there a file system to mount, or anything else of somebody's?* (`probe`) There one mark too many makes a volume that holds a
//!   file system unusable, so none counts that a file system's own fields can say, and those of the file systems that are mounted
//!   here are looked at in full.

/// Which question a mark answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Always,
    /// Only whether a device may be taken whole.
    OfWholeDevices,
    /// Only what a volume holds.
    OfVolumes,
}

/// Bytes at a fixed place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Magic {
    /// Where, in bytes from the beginning of the device.
    pub offset: u64,
    /// What lies there.
    pub bytes: &'static [u8],
    /// Whose it is, for people.
    pub name: &'static str,
    /// For which question.
    pub asked: Asked,
}

/// Of dm-thin metadata, at [`DEVICE_MAPPER_OFFSET`].
pub const DM_THIN: u64 = 27_022_010;
/// Of dm-cache metadata.
pub const DM_CACHE: u64 = 0x0616_1013;
/// Of dm-era metadata.
pub const DM_ERA: u64 = 0x3bac_a3ee;
/// Behind a checksum, flags, a block number and a uuid.
pub const DEVICE_MAPPER_OFFSET: u64 = 32;
/// Of an MD RAID member.
pub const MD_RAID: &[u8] = b"\xfc\x4e\x2b\xa9";
/// Of a GPT partition table.
pub const GPT: &[u8] = b"EFI PART";
/// Of a ZFS uberblock, in either order of bytes.
pub const ZFS_UBERBLOCK: u64 = 0x00ba_b10c;
/// The end of a boot sector.
pub const BOOT_SECTOR: &[u8] = b"\x55\xaa";
/// Of an LVM physical volume, in one of the first four sectors.
pub const LVM: &[u8] = b"LABELONE";

const fn always(offset: u64, bytes: &'static [u8], name: &'static str) -> Magic {
    Magic { offset, bytes, name, asked: Asked::Always }
}

const fn whole(offset: u64, bytes: &'static [u8], name: &'static str) -> Magic {
    Magic { offset, bytes, name, asked: Asked::OfWholeDevices }
}

const fn volume(offset: u64, bytes: &'static [u8], name: &'static str) -> Magic {
    Magic { offset, bytes, name, asked: Asked::OfVolumes }
}

/// Marks at the beginning of a device. Of several that a volume has, the first names it.
pub const AT_THE_BEGINNING: &[Magic] = &[
    always(0, b"LUKS\xba\xbe", "LUKS encryption"),
    always(512, GPT, "a GPT partition table"),
    always(4096, GPT, "a GPT partition table"),
    always(3, b"NTFS    ", "NTFS"),
    always(3, b"EXFAT   ", "exFAT"),
    always(3, b"-FVE-FS-", "BitLocker encryption"),
    // Whole devices: with what else a boot sector of FAT has.
    volume(54, b"FAT1", "FAT"),
    volume(82, b"FAT32   ", "FAT"),
    always(0x8001, b"CD001", "ISO 9660"),
    always(0x8001, b"BEA01", "UDF"),
    always(0x8001, b"NSR0", "UDF"),
    always(4096, MD_RAID, "an MD RAID member"),
    always(0, MD_RAID, "an MD RAID member"),
    always(4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache"),
    always(4096 + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", "bcachefs"),
    always(1024, b"\x10\x20\xf5\xf2", "F2FS"),
    always(1024, b"\xe2\xe1\xf5\xe0", "EROFS"),
    // Letters and version; in an ext4, a number of inodes that it cannot have.
    always(1024, b"H+\0\x04", "HFS+"),
    always(1024, b"HX\0\x05", "HFS+"),
    always(0, b"hsqs", "SquashFS"),
    always(0, b"bluestore block device", "Ceph BlueStore"),
    always(0x1_0034, b"ReIsEr", "ReiserFS"),
    always(0x8000, b"JFS1", "JFS"),
    volume(0, b"\x01\x01\x20\x00\x00\x00\x00\x00GFS2", "GFS2"),
    always(0x1_0000, b"\x01\x16\x19\x70", "GFS2"),
    volume(0, b"VMFS", "VMFS"),
    always(0, b"QFI\xfb", "a QCOW image"),
    whole(0, b"windlass pool", "a pool of windlass"),
    whole(0, b"windlass region", "a catalogue of windlass"),
    // Volumes: superblocks that are looked at in full.
    whole(0, b"XFSB", "XFS"),
    whole(0x1_0040, b"_BHRfS_M", "Btrfs"),
    whole(0x1_0040, b"!BHRfS_M", "Btrfs (unfinished)"),
    // The second header of LUKS 2, at the sizes that its first may have.
    whole(0x4000, b"SKUL\xba\xbe", "LUKS encryption (second header)"),
    whole(0x8000, b"SKUL\xba\xbe", "LUKS encryption (second header)"),
    whole(0x1_0000, b"SKUL\xba\xbe", "LUKS encryption (second header)"),
    whole(0x2_0000, b"SKUL\xba\xbe", "LUKS encryption (second header)"),
    whole(0x4_0000, b"SKUL\xba\xbe", "LUKS encryption (second header)"),
    whole(0x8_0000, b"SKUL\xba\xbe", "LUKS encryption (second header)"),
    whole(0x2034, b"ReIsEr", "ReiserFS"),
    whole(1024, b"OCFSV2", "OCFS2"),
    whole(2048, b"OCFSV2", "OCFS2"),
    whole(4096, b"OCFSV2", "OCFS2"),
    whole(0, b"\x45\x3d\xcd\x28", "cramfs"),
    whole(0, b"\xce\xfa\xad\x1b", "BFS"),
    whole(0, b"vdo", "VDO"),
    whole(0, b"dmvdo001", "VDO"),
    whole(0, b"verity\0\0", "dm-verity"),
    whole(0, b"integrt\0", "dm-integrity"),
    whole(0, b"SnAp", "a dm-snapshot store"),
    // Volumes: after marks that say more.
    whole(DEVICE_MAPPER_OFFSET, &DM_THIN.to_le_bytes(), "dm-thin metadata"),
    whole(DEVICE_MAPPER_OFFSET, &DM_CACHE.to_le_bytes(), "dm-cache metadata"),
    whole(DEVICE_MAPPER_OFFSET, &DM_ERA.to_le_bytes(), "dm-era metadata"),
    whole(0, b"!Stra0tis\x86\xff\x02^\x41rh", "Stratis"),
    whole(512 + 4, b"!Stra0tis\x86\xff\x02^\x41rh", "Stratis"),
];

/// The marks at the beginning that answer a question.
pub fn at_the_beginning(but_not: Asked) -> impl Iterator<Item = &'static Magic> {
    AT_THE_BEGINNING.iter().filter(move |magic| magic.asked != but_not)
}
