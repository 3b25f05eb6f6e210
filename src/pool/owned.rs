//! A pool that this process owns: lock held, catalogue open, recovered.
//!
//! Every change is three durable steps: commit the *intent* (everything needed to finish or undo it, fresh ids included), *act*
//! (one verb of the [`Pool`], itself durable), *commit* the result and drop the intent. Deletes go the other way round: the
//! intent takes the object out of sight, the act removes it, the last commit forgets it. A crash between any two:
//!
//! | interrupted | seen at the next start | what is done |
//! |---|---|---|
//! | creation, copy, set of snapshots | an intent, perhaps objects that no record names | undone; nobody was told, and a retry makes it anew |
//! | restore target | likewise, perhaps half filled | undone, or kept for the next equal restore (`kept`), as its beginner said |
//! | deletion, eviction of an anchor | an intent, no record | finished |
//! | deletion into an anchor | the snapshot, or the anchor | nothing: one commit |
//! | giving a local copy up | an intent and a record without a copy, or an anchor | finished |
//! | growth | an intent beside the record | finished |
//! | anything under a hold | the volumes that we may hold are in the intent | the hold is ended first |
//!
//! The last row has a gap that the kernel leaves: a freeze carries no owner, and only an attempt to freeze tells that somebody else
//! did. So an intent names the volumes that are about to be held; those that turn out to be frozen by somebody else are taken from it
//! in a commit of its own before the cut begins. If the process dies between these two commits (a write-out and one ioctl lie between them),
//! the next start ends that foreign freeze.
//!
//! An act that fails is undone at once; if that fails too, or the process is told to stop meanwhile, the intent stays. A *commit* that
//! fails is never undone by its call: it may have reached the disk. What either leaves is found out before the next change, once the catalogue
//! works again (`settle`), and else by the next start. Nothing here is cancelled half way: callers run these methods on threads that
//! outlive the request.
//!
//! * Answers to repeated requests come from the record (`idempotent`), never from the request.
//! * One operation per object and name; a second gets [`PoolError::Busy`]. Sources are pinned, so that many copies may be
//!   made of one snapshot at a time.
//! * A deleted snapshot that somebody used is kept as an anchor (`anchors`): invisible, a base for what changed since, and
//!   evicted before anything is refused for want of space, and while writers have no more than the reserve left (`watch`).
//! * A restore that was interrupted may be kept, invisible, for the next one (`kept`); it goes before anything is refused for its sake.
//! * Objects that no record names are quarantined: reported by [`OwnedPool::status`], never touched. Records whose object is
//!   missing or cut short stay, are reported as damaged, and refuse to be used: they are never taken for deleted.
//! * A volume that was filled as a raw device gives the space of its zeros back when nobody uses it (`zeros`): background work that needs no
//!   intent, and gives way to any operation.
//! * It never sees a mount: whether a volume may be formatted is recorded here and decided above.

mod anchors;
mod attach;
mod background;
mod copies;
mod create;
mod delete;
mod figures;
mod grow;
mod hold;
mod kept;
mod lease;
mod leftovers;
mod pool;
mod promise;
mod recovery;
mod restore;
mod restoring;
mod retention;
mod settle;
mod snapshots;
mod status;
mod volumes;
mod watch;
mod zeros;

pub use self::figures::{ClaimFigures, ExportFigures, PoolFigures};
pub use self::lease::Lease;
pub use self::pool::OwnedPool;
pub use self::promise::Promises;
pub use self::restore::{RestoreStart, RestoreTarget};
pub use self::status::{AnchorStatus, PoolStatus};
pub(in crate::pool) use self::volumes::boot_id;
pub use self::zeros::Pass;

#[cfg(test)]
pub(crate) mod tests;
