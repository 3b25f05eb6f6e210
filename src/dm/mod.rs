//! Device-mapper: thin pools driven by ioctl, and their metadata read from the disk.
//!
//! Owns the calls to `/dev/mapper/control` and the device nodes under `/dev/windlass`; knows device-mapper's tables, messages and
//! status lines as types, and nothing of pools, volumes or catalogues. Uses `block` and `types` only. No process is started and
//! no library of lvm2 is used: on the machines this runs on, a snapshot by ioctl costs a thirtieth of the same by command.
//!
//! * [`DeviceMapper`] is the binding: one method a verb, each one system call (or a bounded number of them: a reply that did not
//!   fit is asked for again, a busy device is looked at again for a moment). Everything blocks, and is called from threads that
//!   may. It may be shared between threads: the kernel serialises what must be.
//! * What crosses the border to the kernel is bytes. [`reply`] takes them apart with bounds checks and without `unsafe`; the one
//!   unsafe block is the call itself, in `raw`.
//! * What the kernel does is in its tables, not in this process: a crash leaves devices as they are, and whoever starts next
//!   learns of them by [`DeviceMapper::list`]. Messages to a thin pool are durable when they return.
//! * **udev** is told by flags with every event that nobody else is to look into our devices (a tenant's bytes must not
//!   become the host's volume group), and is never waited for: its semaphores would be those of another IPC namespace. The
//!   nodes that we use are our own ([`node`]).
//! * What this never does: retry without a bound, remove what is open, follow a symbolic link, touch a device it was not told of.

mod blocks;
mod call;
mod control;
mod control_node;
mod error;
mod event;
mod line;
mod message;
pub mod metadata;
mod name;
pub mod node;
#[allow(unsafe_code, reason = "the ioctl; its one block states why it is sound")]
mod raw;
pub mod reply;
mod request;
mod status;
mod table;
pub mod units;

pub use self::blocks::{DataBlocks, HeldRoot, MetadataBlocks, TransactionId};
pub use self::control::{DeviceMapper, FileSystem, Flush, Removal, SuspendOptions};
pub use self::error::DmError;
pub use self::event::{EventWaiter, Stopper, Woken};
pub use self::line::LineError;
pub use self::message::PoolMessage;
pub use self::name::{DeviceNumber, DmName, DmUuid, NameError};
pub use self::node::{DeviceNodes, NodeError};
pub use self::reply::{DeviceInfo, InterfaceVersion, ListedDevice, Malformed};
pub use self::status::{PoolMode, PoolState, ThinPoolStatus, ThinStatus};
pub use self::table::{Discard, NoSpace, PoolFeatures, Target, TargetKind, Zeroing};
