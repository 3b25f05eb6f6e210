//! A copied Btrfs gets an identity of its own, without a transaction.
//!
//! The kernel tells file systems apart by the `fsid` of the superblock and mounts no two with the same. Every metadata block carries
//! it too, but a superblock with the feature METADATA_UUID says which other id the blocks carry (since Linux 5.0). So a new
//! identity is a matter of the superblocks: `fsid`, `metadata_uuid`, the feature's bit, and the checksum. Nothing else changes, above all no
//! generation: a copy of a file system in use has a log tree, which holds what was fsynced since the last commit, and the kernel
//! replays that only when it is of exactly the generation after the superblock's. A program that commits a transaction to change the
//! id would make such a copy unmountable.
//!
//! Order of durable steps: the copies of the superblock (64 MiB, 256 GiB, as the device's size allows), sync, the primary one (64 KiB),
//! sync. Each copy becomes the primary with its own place in it, as when the kernel commits. A crash between any two leaves the primary
//! as it was, which is the one that counts: the next run begins anew, with another id. A crash that tears the primary itself
//! (its fields lie in two sectors) leaves one whose checksum does not fit and which differs from the first copy in nothing but those fields:
//! that copy takes its place. Any other damage is left alone, with an error.

mod checksum;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use uuid::Uuid;

use self::checksum::{Checksum, FIELD};
use super::MountError;
use crate::block::device;
use crate::failpoint;

/// Length of a superblock in bytes.
const LENGTH: usize = 4096;
/// Where superblocks lie, in bytes from the beginning of the device: the primary one, then its copies (btrfs-man5, `BTRFS_SUPER_MIRROR`).
const PRIMARY: u64 = 64 << 10;
const COPIES: [u64; 2] = [64 << 20, 256 << 30];

// Offsets of fields (struct btrfs_super_block).
const FSID: usize = 0x20;
const PLACE: usize = 0x30;
const FLAGS: usize = 0x38;
const MAGIC: usize = 0x40;
const DEVICES: usize = 0x88;
const INCOMPAT: usize = 0xbc;
const CHECKSUM_KIND: usize = 0xc4;
const DEVICE_FSID: usize = 0x11b;
const METADATA_UUID: usize = 0x23b;
const UUID: usize = 16;

/// `BTRFS_FEATURE_INCOMPAT_METADATA_UUID`
const HAS_METADATA_UUID: u64 = 1 << 10;
/// `BTRFS_SUPER_FLAG_CHANGING_FSID`: a program is rewriting every block, and was interrupted.
const REWRITING_BLOCKS: u64 = 1 << 35;
/// `BTRFS_SUPER_FLAG_CHANGING_FSID_V2`: a program is doing what this module does, and was interrupted. What the superblock says is valid
/// before and after; kernels since 6.7 refuse the flag.
const RENEWING: u64 = 1 << 36;

/// Gives the unmounted Btrfs on `device` (or in an image file) a new random identity.
///
/// # Errors
/// [`MountError::Busy`] when the device is mounted or otherwise held; [`MountError::Unsound`] when its superblock is not one that can be
/// renewed; [`MountError::Io`].
pub(super) fn renew(device: &Path) -> Result<(), MountError> {
    let failed = |source: io::Error| match source.raw_os_error() {
        Some(libc::EBUSY) => MountError::Busy(device.to_owned()),
        Some(libc::ENOENT) => MountError::NotFound(device.to_owned()),
        _ => MountError::io(format!("renew the identity of {}", device.display()))(source),
    };
    // On a device, O_EXCL is refused as long as it is mounted.
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(device).map_err(failed)?;
    let size = device::size(&file).map_err(failed)?;
    let read = |at| Superblock::read(&file, at).map_err(failed);
    let unsound = |reason: String| MountError::Unsound { place: device.to_owned(), reason };

    let primary = read(PRIMARY)?;
    let primary = match primary.check(PRIMARY) {
        Ok(()) => primary,
        Err(Fault::Checksum) => match copies(size).next().map(read).transpose()? {
            Some(copy) if copy.check(COPIES[0]).is_ok() && copy.differs_in_identity_only(&primary) => copy,
            _ => return Err(unsound(format!("its Btrfs superblock is damaged ({})", Fault::Checksum))),
        },
        Err(fault) => return Err(unsound(format!("its Btrfs superblock cannot get a new identity: {fault}"))),
    };
    let renewed = primary.with_identity(*Uuid::new_v4().as_bytes());
    for at in copies(size) {
        renewed.at(at).write(&file, at).map_err(failed)?;
    }
    file.sync_all().map_err(failed)?;
    failpoint::hit("mount.identity.copies");
    renewed.at(PRIMARY).write(&file, PRIMARY).and_then(|()| file.sync_all()).map_err(failed)
}

/// The places of the copies that a device of this size has.
fn copies(size: u64) -> impl Iterator<Item = u64> {
    COPIES.into_iter().filter(move |at| at + LENGTH as u64 <= size)
}

/// Why a superblock is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("it is not that of a Btrfs")]
    NotBtrfs,
    #[error("its checksum is of an unknown kind")]
    UnknownChecksum,
    #[error("its checksum does not fit")]
    Checksum,
    #[error("the file system spans several devices")]
    SeveralDevices,
    #[error("a change of its id was interrupted; finish it with `btrfstune`")]
    Interrupted,
}

#[derive(Clone, PartialEq, Eq)]
struct Superblock(Box<[u8; LENGTH]>);

impl Superblock {
    fn read(file: &File, at: u64) -> io::Result<Self> {
        let mut bytes = Box::new([0; LENGTH]);
        file.read_exact_at(&mut *bytes, at)?;
        Ok(Self(bytes))
    }

    fn write(&self, file: &File, at: u64) -> io::Result<()> {
        file.write_all_at(&*self.0, at)
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|index| self.0[at + index])
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn number(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.field(at))
    }

    fn checksum(&self) -> Option<Checksum> {
        Checksum::from_number(u16::from_le_bytes(self.field(CHECKSUM_KIND)))
    }

    fn has_metadata_uuid(&self) -> bool {
        self.number(INCOMPAT) & HAS_METADATA_UUID != 0
    }

    fn check(&self, place: u64) -> Result<(), Fault> {
        if &self.field(MAGIC) != b"_BHRfS_M" || self.number(PLACE) != place {
            return Err(Fault::NotBtrfs);
        }
        let checksum = self.checksum().ok_or(Fault::UnknownChecksum)?;
        if checksum.of(&self.0[FIELD..]) != self.field(0) {
            return Err(Fault::Checksum);
        }
        if self.number(DEVICES) != 1 {
            return Err(Fault::SeveralDevices);
        }
        if self.number(FLAGS) & REWRITING_BLOCKS != 0 {
            return Err(Fault::Interrupted);
        }
        Ok(())
    }

    /// The same file system with another id. Its blocks go on carrying the first one it ever had.
    fn with_identity(&self, fsid: [u8; UUID]) -> Self {
        let mut renewed = self.clone();
        if !self.has_metadata_uuid() {
            renewed.set(METADATA_UUID, &self.field::<UUID>(FSID));
            renewed.set(INCOMPAT, &(self.number(INCOMPAT) | HAS_METADATA_UUID).to_le_bytes());
        }
        renewed.set(FLAGS, &(self.number(FLAGS) & !RENEWING).to_le_bytes());
        renewed.set(FSID, &fsid);
        renewed
    }

    /// This superblock at its place, with the checksum that fits.
    fn at(&self, place: u64) -> Self {
        let mut placed = self.clone();
        placed.set(PLACE, &place.to_le_bytes());
        // Checked before: the kind is known.
        if let Some(checksum) = placed.checksum() {
            let sum = checksum.of(&placed.0[FIELD..]);
            placed.set(0, &sum);
        }
        placed
    }

    /// Whether two superblocks differ in nothing but what [`Superblock::with_identity`] and [`Superblock::at`] change.
    fn differs_in_identity_only(&self, other: &Self) -> bool {
        let blank = |superblock: &Self| {
            let mut blank = superblock.clone();
            let features = superblock.number(INCOMPAT) & !HAS_METADATA_UUID;
            let flags = superblock.number(FLAGS) & !RENEWING;
            for (at, length) in [(0, FIELD), (FSID, UUID), (PLACE, 8), (METADATA_UUID, UUID)] {
                blank.0[at..at + length].fill(0);
            }
            blank.set(INCOMPAT, &features.to_le_bytes());
            blank.set(FLAGS, &flags.to_le_bytes());
            blank
        };
        // The device's own item has the id of the blocks, in both.
        blank(self) == blank(other) && self.field::<UUID>(DEVICE_FSID) == self.field(METADATA_UUID)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn made(checksum: &str) -> tempfile::NamedTempFile {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(256 << 20).unwrap();
        let made = Command::new("mkfs.btrfs").args(["-q", "--csum", checksum]).arg(image.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        image
    }

    /// What the program of others says of all superblocks: each line once for each of them.
    fn dump(image: &tempfile::NamedTempFile) -> String {
        let output = Command::new("btrfs").args(["inspect-internal", "dump-super", "-a"]).arg(image.path()).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    fn fields<'a>(dump: &'a str, name: &str) -> Vec<&'a str> {
        dump.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('\t')).map(str::trim).collect()
    }

    fn assert_clean(image: &tempfile::NamedTempFile) {
        let check = Command::new("btrfs").args(["check", "--readonly"]).arg(image.path()).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    }

    #[test]
    fn the_id_changes_in_each_superblock_and_nothing_else_does_whatever_the_checksum() {
        for checksum in ["crc32c", "xxhash", "sha256", "blake2"] {
            let image = made(checksum);
            let before = dump(&image);
            let id = fields(&before, "fsid")[0];
            let mut seen = vec![id.to_owned()];
            for _ in 0..2 {
                renew(image.path()).unwrap();
                let after = dump(&image);
                let fsids = fields(&after, "fsid");
                assert_eq!(fsids.len(), 2, "{checksum}");
                assert_eq!(fsids[0], fsids[1]);
                assert!(!seen.contains(&fsids[0].to_owned()), "{checksum}");
                seen.push(fsids[0].to_owned());
                assert_eq!(fields(&after, "metadata_uuid"), [id; 2]);
                assert!(fields(&after, "dev_item.fsid").iter().all(|field| field.contains(id) && field.ends_with("[match]")));
                let sums = fields(&after, "csum\t");
                assert!(sums.len() == 2 && sums.iter().all(|sum| sum.ends_with("[match]")), "{checksum}: {sums:?}");
                assert_eq!(fields(&after, "generation"), fields(&before, "generation"));
                assert_eq!(fields(&after, "root"), fields(&before, "root"));
            }
            assert_clean(&image);
        }
    }

    #[test]
    fn a_primary_superblock_that_was_torn_is_made_whole_from_its_copy() {
        let image = made("crc32c");
        let old = Superblock::read(image.as_file(), PRIMARY).unwrap();
        renew(image.path()).unwrap();
        let new = Superblock::read(image.as_file(), PRIMARY).unwrap();
        // A power cut between the two sectors that the change is in.
        for (first, second) in [(&old, &new), (&new, &old)] {
            let mut torn = first.clone();
            torn.set(512, &second.0[512..]);
            torn.write(image.as_file(), PRIMARY).unwrap();
            assert_eq!(torn.check(PRIMARY), Err(Fault::Checksum));
            renew(image.path()).unwrap();
            assert_clean(&image);
        }
    }

    #[test]
    fn damage_of_another_kind_is_left_as_it_is() {
        let image = made("crc32c");
        let whole = Superblock::read(image.as_file(), PRIMARY).unwrap();
        let mut several = whole.clone();
        several.set(DEVICES, &2_u64.to_le_bytes());
        let mut rewriting = whole.clone();
        rewriting.set(FLAGS, &(1 | REWRITING_BLOCKS).to_le_bytes());
        let mut unknown = whole.clone();
        unknown.set(CHECKSUM_KIND, &9_u16.to_le_bytes());
        let mut bit_flip = whole.clone();
        bit_flip.set(0x50, &[whole.0[0x50] ^ 1]);
        for damaged in [several.at(PRIMARY), rewriting.at(PRIMARY), unknown, bit_flip, Superblock(Box::new([0; LENGTH]))] {
            damaged.write(image.as_file(), PRIMARY).unwrap();
            let error = renew(image.path()).unwrap_err();
            assert!(matches!(error, MountError::Unsound { .. }), "{error:?}");
            assert!(Superblock::read(image.as_file(), PRIMARY).unwrap() == damaged);
        }
    }

    #[test]
    fn an_interrupted_change_by_the_program_is_finished() {
        let image = made("crc32c");
        let mut begun = Superblock::read(image.as_file(), PRIMARY).unwrap();
        begun.set(FLAGS, &(1 | RENEWING).to_le_bytes());
        begun.at(PRIMARY).write(image.as_file(), PRIMARY).unwrap();
        renew(image.path()).unwrap();
        assert_eq!(Superblock::read(image.as_file(), PRIMARY).unwrap().number(FLAGS), 1);
        assert_clean(&image);
    }
}
