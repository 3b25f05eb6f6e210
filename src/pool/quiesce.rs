//! Holding volumes still while they are cut.
//!
//! The pool knows devices, not mounts; what it means to hold a device still (write out and freeze the file system on it, or
//! flush it) is the layer's above. The contract between the two, which is invariant 4:
//!
//! * [`Quiesce::hold`] returns when everything acknowledged so far has reached the devices and nothing more will, until the
//!   hold ends. All devices are held together. From then on a watchdog of the implementation counts `deadline`, and ends
//!   the hold itself when it passes, whatever the thread that holds does.
//! * [`Held::release`] ends the hold and says whether it had lasted until then. [`Release::Expired`] means that the devices may
//!   have been written to before the cut returned: the cut is thrown away.
//! * Dropping a hold ends it as well.
//! * What somebody else holds still already is left to them; [`Held::foreign`] names it, and whoever cuts records it before the cut.
//! * [`Quiesce::release_leftovers`] is for the start of a process: the catalogue says that an earlier one was about to hold
//!   these devices, and of none that it found them held by somebody else. It ends the hold if one is left.

use std::path::PathBuf;
use std::time::Duration;

use super::{Cause, PoolError};

/// Longest time a file system stays frozen for a cut (DESIGN, invariant 4).
pub const FREEZE_DEADLINE: Duration = Duration::from_secs(10);

/// Why devices could not be held still, or not be released. What the causes are is for people.
#[derive(Debug, thiserror::Error)]
pub enum QuiesceError {
    /// Ends by itself: another attempt may succeed.
    #[error("it does not work at this moment")]
    Transient(#[source] Cause),
    /// Stays until somebody acts: a file system that shut down, or that cannot be frozen.
    #[error("it does not work")]
    Lasting(#[source] Cause),
}

impl From<QuiesceError> for PoolError {
    fn from(error: QuiesceError) -> Self {
        match error {
            QuiesceError::Transient(cause) => Self::Quiesce(cause),
            QuiesceError::Lasting(cause) => Self::CannotQuiesce(cause),
        }
    }
}

/// The ability to hold devices still. Implemented over the mount table by the layer above.
pub trait Quiesce: Send + Sync {
    /// Holds all `devices` still, for at most `deadline` counted from the first freeze.
    ///
    /// # Errors
    /// [`QuiesceError`]; none of the devices is held then.
    fn hold(&self, devices: &[PathBuf], deadline: Duration) -> Result<Box<dyn Held>, QuiesceError>;

    /// Ends holds that a dead process may have left on these devices. None left is success.
    ///
    /// # Errors
    /// [`QuiesceError`] when a device may still be held.
    fn release_leftovers(&self, devices: &[PathBuf]) -> Result<(), QuiesceError>;
}

/// A hold in effect. Dropping it ends it too.
pub trait Held: Send {
    /// Those of the devices that somebody else was holding still already: they stay so when this hold ends.
    fn foreign(&self) -> &[PathBuf];

    /// Ends the hold.
    fn release(self: Box<Self>) -> Release;
}

/// Whether a hold had lasted until it was released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Nothing was written between the hold and its release.
    InTime,
    /// The deadline passed and the watchdog ended the hold before.
    Expired,
}

/// For pools none of whose devices is ever mounted by this process: tests, and commands that only look.
#[derive(Debug, Clone, Copy, Default)]
pub struct NothingToHold;

struct HoldsNothing;

impl Quiesce for NothingToHold {
    fn hold(&self, _devices: &[PathBuf], _deadline: Duration) -> Result<Box<dyn Held>, QuiesceError> {
        Ok(Box::new(HoldsNothing))
    }

    fn release_leftovers(&self, _devices: &[PathBuf]) -> Result<(), QuiesceError> {
        Ok(())
    }
}

impl Held for HoldsNothing {
    fn foreign(&self) -> &[PathBuf] {
        &[]
    }

    fn release(self: Box<Self>) -> Release {
        Release::InTime
    }
}
