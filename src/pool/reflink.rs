//! Pools of files that share extents, on Btrfs or XFS.
//!
//! One sparse file for each object, in a directory that is the pool's alone:
//!
//! ```text
//! catalogue.redb     the records and the pool's id
//! catalogue.copy     its second copy (`catalogue::copy`), for `adopt`
//! catalogue.replaced a catalogue that an adoption put another in the place of
//! lock               locked (flock) by the process that owns the pool; a lock of the inode, so mount namespaces do not matter
//! volumes/ID         a volume        XFS: the file itself
//! snapshots/ID       a snapshot      Btrfs: a subvolume (a snapshot's is read-only) that holds the file `data`
//! */.tmp-ID          unfinished; swept by [`Pool::scan`]
//! ```
//!
//! *XFS* shares by FICLONE: into a temporary name, sync, rename, sync the directory, for a clone that was not synced may be
//! lost or partial after a power cut. It costs some 20 us for each extent and stops the source's writers meanwhile, so extents are
//! counted before and a cut that would exceed the deadline is refused (`stall`). *Btrfs* snapshots a subvolume in some milliseconds, whatever
//! is in it; that ioctl commits its transaction, so a snapshot is there whole and durable or not at all, under its final name. A
//! copy that must also grow is made under a temporary name like a file. Volumes there are NODATACOW unless checksums are asked for.
//!
//! *Attachment* is a loop device with direct I/O, except of volumes with checksums. Btrfs checksums what it writes, and a guest may
//! change a page while it is written (ext4 and raw block users do), which leaves data that does not read: before Linux 6.15 direct I/O
//! wrote the page as it became, not as it was summed; since then it copies, as the page cache does, and is no longer direct. So those
//! are attached through the page cache, whatever the kernel. Nothing acknowledged as durable is lost by that: the device says
//! that it has a write cache, and a flush or a write with FUA is an fsync of the file beneath; a snapshot writes out what is dirty
//! before it is cut, and reads of the file see the same cache.
//!
//! A device is found by the file's inode whenever it is asked for, and never remembered: devices outlive this process. There is one
//! for a file, or none. Only devices whose file is called like the object are opened.
//!
//! *Changed ranges* come from comparing the physical places of two snapshots' extents: what both share at the same offset is
//! the same, everything else is reported. Both files exist while they are compared, so no place was given to other data
//! meanwhile. Defragmentation or balancing over-reports, never under-reports. Unwritten extents are holes. On XFS the extents
//! come from FIEMAP, on Btrfs from the snapshot's tree (`extents`).
//!
//! *A full pool* opens, is recovered and emptied: [`ReflinkPool::open`] writes nothing, and deletions take only what file systems keep
//! back for them.
//!
//! A crash between any two steps leaves a temporary name (swept), or an object that the catalogue has an intent for. This
//! module never copies data to share it, and never touches a name that it did not give.

mod adopt;
pub mod changed;
mod extents;
mod files;
mod layout;
mod lock;
mod pool;
mod setup;
mod sharing;
mod stall;
mod subvolumes;
mod verbs;

pub use self::adopt::adopt;
pub(super) use self::layout::is_file_of;
pub use self::pool::ReflinkPool;
pub use self::setup::{create_pool, create_pool_with, holds_pool, open_pool, read_records};

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::layout::Layout;
    use super::*;
    use crate::pool::PoolError;
    use crate::types::{Object, VolumeId};

    #[test]
    fn the_file_of_a_volume_is_known_however_its_pool_was_reached() {
        let (volume, other) = (VolumeId::random(), VolumeId::random());
        for pool in ["/", "/var/lib/pool", "/somewhere/else"] {
            let file = Layout::new(pool.into()).object(Object::Volume(volume));
            for path in [file.clone(), file.join("data")] {
                assert!(is_file_of(&path, volume) && !is_file_of(&path, other), "{}", path.display());
            }
            assert!(!is_file_of(&file.join("data/more"), volume));
            assert!(!is_file_of(&Layout::new(pool.into()).temporary(Object::Volume(volume)), volume));
        }
        assert!(!is_file_of(Path::new(&format!("/home/{volume}")), volume));
    }

    #[test]
    fn a_directory_without_a_pool_says_how_to_make_one() {
        let directory = tempfile::tempdir().unwrap();
        match ReflinkPool::open(directory.path()) {
            Err(PoolError::Format(refusal)) => assert!(refusal.to_string().contains("windlass pool create"), "{refusal}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_in_use_for_something_else_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("notes.txt"), "mine").unwrap();
        assert!(matches!(create_pool(directory.path()), Err(PoolError::Format(_))));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
