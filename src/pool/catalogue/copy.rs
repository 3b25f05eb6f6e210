//! The second copy of a catalogue: what it records, in another file and another form, for the day on which the first is lost or damaged.
//!
//! *What is in it* (`records`): the records of volumes, snapshots, anchors and exports, what was chosen for the pool, and the counter
//! of intents; as lines of text that a person can read, with a checksum over all of it. **No intents**: one that ended long
//! ago would, taken up again, delete what was acknowledged since. Of what is under way it names the objects, for whoever must
//! judge them. No publications either: the kernel knows what is mounted, and they change too often.
//!
//! *Where* (`slots`): a file beside the catalogue, of two slots that are written in turn, each overwritten in place: whatever
//! interrupts a write, the other slot is whole. Its space is taken beforehand, as the catalogue's is, so a full pool does not keep it
//! from being written. Larger, it is a new file, renamed over the old one, if the file system can spare the room.
//!
//! *When* (`keeper`): a thread of the open pool writes it after commits that changed what is in it; at most so often that it takes a
//! twentieth of the time, and not more than once a second. So it is about a second behind at a crash, and not behind at all after
//! an orderly end. A copy that cannot be written is logged once and tried again after the next commit; no commit ever waits for it
//! or fails by it.
//!
//! *How it is known which is newer.* Every commit of a catalogue raises its *revision*, and the copy says of which revision it is. It is written
//! from what is durable, so the catalogue is never the older of the two, unless somebody put an earlier one back. Such a catalogue is
//! refused ([`check_not_behind`]) before anything is recovered by it: its intents are of long ago.
//!
//! *What it is for*: `windlass pool adopt` (`pool::adopt`). Nothing else reads it.
//!
//! *Pools on block devices have none.* Their catalogue is a region of the device, guarded by two labels, and without it nobody
//! knows which thin device is which volume; a copy at the other end of the device would have to grow and move with the second
//! label. `windlass pool repair` mends their metadata, not their catalogue.

mod keeper;
mod records;
mod slots;
mod text;

use std::path::Path;

pub(in crate::pool) use self::keeper::CopyKeeper;
pub(in crate::pool) use self::records::Records;
pub(in crate::pool) use self::slots::CopyError;
use super::open::Catalogue;
use crate::pool::PoolError;
use crate::types::Timestamp;
use crate::types::error::chain;

/// A copy that was read.
#[derive(Debug)]
pub(in crate::pool) struct StoredCopy {
    /// The revision of the catalogue that it was made of.
    pub(in crate::pool) revision: u64,
    /// When it was written, to the second.
    pub(in crate::pool) written: Timestamp,
    /// What it says.
    pub(in crate::pool) records: Records,
}

/// Reads the copy at `path`. Nothing is changed.
pub(in crate::pool) fn read(path: &Path) -> Result<StoredCopy, CopyError> {
    let stored = slots::read(path)?;
    let records = Records::decode(&stored.body).map_err(CopyError::Damaged)?;
    Ok(StoredCopy { revision: stored.revision, written: Timestamp { seconds: stored.written, nanoseconds: 0 }, records })
}

/// Refuses a catalogue that is of an earlier moment than its copy at `path`, or of another pool. A copy that is missing or cannot be read
/// says nothing.
pub(in crate::pool) fn check_not_behind(catalogue: &Catalogue, path: &Path) -> Result<(), PoolError> {
    let stored = match slots::read(path) {
        Ok(stored) => stored,
        Err(CopyError::Absent) => return Ok(()),
        Err(error) => {
            tracing::warn!(copy = %path.display(), error = %chain(&error), "the second copy of the catalogue does not read back");
            return Ok(());
        }
    };
    let refuse = |why: String| Err(PoolError::CatalogueLost(format!("the catalogue beside {} {why}", path.display())));
    match records::pool_of(&stored.body) {
        Ok(pool) if pool != catalogue.id() => refuse(format!(
            "is of the pool {}, and its second copy of the pool {pool}: one of them was put there by mistake",
            catalogue.id()
        )),
        Ok(_) if stored.revision > catalogue.revision()? => refuse(
            "is of an earlier moment than its second copy: what it says of volumes and snapshots is not true any more".to_owned(),
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
