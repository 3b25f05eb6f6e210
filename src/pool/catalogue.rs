//! The catalogue: the durable record of what was promised, on the pool's own disk.
//!
//! One redb database, in a file of the pool's directory or in a region of its device. Tables: `meta` (magic, format version, pool id,
//! properties), `volumes`, `snapshots`, `snapshots_of` (which snapshots a volume has, see `index`), `names` (unique within volumes and
//! within snapshots), `intents` (what is under way, hidden restores among it), `publications`, `exports`, `anchors` (deleted
//! snapshots that are kept; catalogues of the first versions lack this table), and of a thin pool `thin_objects` (which number each
//! object has in the pool's metadata) and `kept_maps` (what is kept of deleted snapshots; the one table that is no JSON). Values are JSON, so that `windlass` of a later
//! version reads them with defaults.
//!
//! * Every change goes through [`Catalogue::commit`]: one transaction, durable (file synced) when it returns `Ok`. When it
//!   returns an error the change may or may not be there; whoever gets one does nothing more about it, and what it left is found out
//!   from the intents, in this process or by the next start (`owned::recovery`).
//! * After an I/O error the database refuses everything until it is opened anew, which the next call does (`connection`).
//! * **It never needs space of its pool**: a file is allocated beforehand and overwritten in place (`allocated`), a region is its own;
//!   what is new is refused while there is room for all deletions (`room`). So a pool without a free block can be emptied.
//! * Running out of space in a commit all the same is [`PoolError::Catalogue`] like any other error of it: it is not known whether the
//!   change is there, which is no final answer.
//! * Opening never changes a file that is not ours: it is first read into memory whole and examined there (a catalogue is some
//!   megabytes). A newer format is refused with [`PoolError::Format`], another program's file and a damaged one with
//!   [`PoolError::CatalogueLost`].
//! * The file is made under another name and renamed when it is complete; a crash before leaves nothing that opens. Mode 0600.
//!   Of a region, the label of the device says whether it was complete.
//!
//! What it records is kept once more, in a second copy (`copy`), from which it can be made again ([`Catalogue::rebuild`]).
//!
//! It keeps no secrets, and it is not locked against other processes by itself but by the pool's lock.

mod allocated;
mod change;
mod commits;
mod connection;
pub(in crate::pool) mod copy;
mod create;
mod examine;
mod index;
mod open;
mod queries;
mod room;
mod tables;
mod thin;

pub use self::change::Change;
pub use self::open::Catalogue;
pub use self::thin::EpochStep;

#[cfg(test)]
mod tests;
