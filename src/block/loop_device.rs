//! Loop devices: a file as a block device.
//!
//! * **One attachment a file.** The kernel would bind a second device to the same file, with a page cache of its own, and
//!   both would write. [`attach`](attach()) looks first (`search`): the path's end in sysfs narrows, the inode decides. Two processes
//!   are kept apart by the lock on the pool, two threads of this one by a claim on the file that refuses the second.
//! * **Devices of others are not opened**, for that may hang as long as a file system does; and no lock is held while
//!   anything is looked at. A hung file system stops what is asked of its own files only.
//! * **No autoclear.** A device must survive this process: pods go on while the driver restarts. Whoever starts finds the
//!   devices again.
//! * **Direct I/O** is read back after it was asked for: the kernel falls back without a word.
//! * **Detaching** is confirmed by looking. `LOOP_CLR_FD` of a device that is open elsewhere succeeds and does nothing but mark
//!   it for later, so that its file would vanish under a later mount. [`detach`](detach()) first claims the device exclusively, which a
//!   mounted or otherwise claimed one refuses; and when somebody still has it open, takes the mark back. What is in use stays
//!   exactly as it was.
//! * A crash leaves devices attached or not, never half: configuring is one call. What was attached before a crash is found by
//!   inode and either used or detached by the layer above.
//!
//! Device nodes that are missing (a container's /dev does not follow the host's) are made. A free device whose name in /dev
//! is taken by another device's node is passed over.

mod attach;
mod detach;
mod model;
mod node;
mod raw;
mod search;
mod settings;

pub use self::attach::{attach, attach_named};
pub use self::detach::{detach, detach_from};
pub use self::model::{BackingFile, DirectIo, LoopDevice, LoopError, LoopOptions};
pub use self::search::{beneath, find, find_named, recall};
pub use self::settings::{end_direct_io, refresh_capacity};
