//! The set of a node's pools, each with a state of its own: the failure domain is the pool.
//!
//! A pool is given by its place and opened from there, by a thread that watches over it for as long as the set is. What a member can
//! be:
//!
//! | state | left when |
//! |---|---|
//! | being opened | it opens or fails |
//! | open | a look at it fails: it is closed, and failed |
//! | failed, with the reason | it opens when it is tried again |
//!
//! * **Looks.** An open pool is looked at every 10 s ([`OwnedPool::check`]), and at once when somebody found it failing
//!   ([`PoolSet::suspect`]). While a look has not come back for 15 s the pool counts as failed, without being closed: its disk hangs,
//!   and nothing that waits for it could be closed. It counts again when the look comes back well.
//! * **Closing.** A failed pool is dropped, so that its locks and descriptors go and whoever repairs the file system can unmount it. Calls
//!   that run keep theirs until they end; until then it is not opened anew, which its own lock would refuse. Nothing is unmounted by
//!   force and no device is taken away: volumes in use keep what they have. What is beneath the pool (an image whose file system shut
//!   down must be unmounted and mounted again) is the business of the [`PoolSource`], at the next attempt.
//! * **Trying again.** After a second, then after twice as long each time, at most after a minute: a disk that comes back is noticed
//!   within a minute, and one that never does costs an attempt a minute. At once when somebody asks for it ([`PoolSet::suspect`]): a volume
//!   was taken down that may have been all that held what has to be made anew beneath the pool. What opens joins without a restart of the
//!   process, and is recovered like at any start; a restart at any point finds the same.
//! * **One pool, one place.** A second place with the id of an open member is refused: one of the two is a copy of the disk, and which
//!   of them is right is not for this program to say. At the start the earlier place wins, since places are opened in their order;
//!   later the one that serves.
//! * **Names.** A name is unique over the pools of a node, but a failed pool cannot be asked. What it held when it was last looked
//!   at is remembered here ([`PoolSet::failed_owner`]), and such a name is answered by nobody until the pool is back. Of a pool that this
//!   process never had open nothing is known: a new volume is then made elsewhere, since the other choice is that no volume is
//!   made anywhere as long as a disk is missing. It is a choice between two faults, and the smaller one: an orchestrator's names are made of
//!   its objects' unique ids and asked for again only until they were answered, so two pools have one name only if the pool died
//!   between making a volume and its answer and the process ended before it came back. The older one then is a
//!   volume that nobody was told of; both are kept, and a warning names them.
//!
//! * **Figures.** A look also takes the pool's figures ([`PoolSet::figures`]), for whoever wants to know how it is without waiting for it.
//!
//! The set never deletes, formats or repairs anything. All methods but [`PoolSet::start`] and [`PoolSet::close`] return at once: no state is
//! guarded by a lock that is held while a disk is waited for.

mod member;
pub mod offer;
mod pools;
mod state;
mod watcher;

pub use self::member::{Absent, FailedPool, Member, MemberFigures, OpenedPool, Pace, PoolSource};
pub use self::pools::PoolSet;

#[cfg(test)]
pub(crate) mod tests;
