//! Protected volumes: cut, exported and rotated by the storage itself.
//!
//! A StorageClass with the parameter `protect` asks for it ([`ProtectionOrder`](crate::types::ProtectionOrder)), which is recorded with each
//! of its volumes. No object of Kubernetes is needed for a snapshot of a protection; it is one like any other all the same: it is listed,
//! has a handle, and a volume can be made from it.
//!
//! # A sweep
//! All that is done is done by a sweep over the protected volumes of the node, which begins when something is due, when a volume was made or
//! deleted, when an export ends, and at least once in [`AT_LEAST_EVERY`]. It decides from the records alone (`decide`), so a crash at any
//! point changes nothing but the time: the next sweep sees what is there.
//!
//! 1. *Cut* what is due, of volumes that were ever put to use. The name of the snapshot is that of the volume and of the moment of the schedule (`slot`), so a cut that is
//!    repeated after a crash is answered from the record. After a time in which nobody was there one cut makes up for all that were missed.
//! 2. *Export* the newest cut of each volume that no repository holds yet, as [`exporting`](super::exporting) does for a class of
//!    snapshots: resumable, once in the repository, the failure recorded with its task. The credentials are read from the Secret that the
//!    class names, for each attempt anew, and are kept no longer. Volumes whose last success is oldest come first. All but one of the
//!    transfers that may run at once may be of protections ([`AT_ONCE`](sweep::AT_ONCE)): a restore that somebody waits for finds a place.
//! 3. *Take away* what is not kept. Which of the finished ones that are is said by the repository's own policy (`retention`); the others are
//!    forgotten in the repository first and deleted here then, as DeleteSnapshot does it. A crash between the two leaves the record, and
//!    with it the next sweep's decision. A cut that was never exported and that a newer one follows goes too.
//!
//! Local copies go as the class says (`localCopy`), by pressure unless it says otherwise; what the next export builds upon is kept.
//!
//! # Failures
//! A cut that is due and cannot be made (a full pool) is told by an event on the claim, and tried again by the next sweep; so is what cannot
//! be taken away. Those of exports are recorded with the task of the cut, told by the protection's status, and tried again after a [pause](decide::pause) of half a
//! minute at first and a quarter of an hour at most, and in any case with the next cut. While a repository is away at most two cuts of a
//! volume wait: the one that may be in the repository in part, and the newest.
//!
//! # A volume that is deleted
//! Its schedule ends. Its exports stay in the repository, which is what they are for: a volume that is made anew for the same claim begins
//! with the newest of them, if its class says so. Its cuts are deleted here; an export that runs is let to its end before.
//!
//! **Never**: a snapshot is taken away that no protection has made, nor the newest that is finished; an export of another volume, or one
//! that somebody else has made, is not touched, whatever its claim is called; a Secret is kept or recorded.

mod decide;
mod retention;
mod secrets;
mod slot;
mod status;
mod sweep;

pub(in crate::agent) use secrets::{NamedSecretError, read_named};
pub use status::ProtectionStatus;
pub(in crate::agent) use sweep::{AT_LEAST_EVERY, Sweep};
