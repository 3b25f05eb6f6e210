//! A file system in an image file: a pool on machines whose own file system cannot share extents.
//!
//! [`create`] makes the image under a temporary name beside its own and renames it when the file system in it is whole and
//! durable, so an image that exists is complete. A crash leaves `.NAME.creating`, which the next attempt overwrites. The image
//! is sparse: it takes from the file system around it what it holds. Whether that could hold all of it is checked once,
//! at creation and growth; keeping it so is up to whoever shares that file system. [`grow`] enlarges an image, in use or not
//! (`growth`).
//!
//! [`open`] locks the image, attaches it and mounts it at `IMAGE.mount`, each step only if it is not done: the loop device is
//! found by the image's inode, the mount in mountinfo. So it does not matter at which step an earlier process ended. The mount
//! outlives the process on purpose, because volumes in it are in use by pods while the driver restarts;
//! [`ImageFileSystem::close`] is what takes it down, in reverse order, and refuses while anything in it is in use.
//!
//! The lock is a flock on the image: it holds across mount namespaces and ends with the process. It is taken on a
//! description of its own, not on the one that is attached: the kernel keeps that one open, lock included, as long as the
//! device exists.

mod create;
mod error;
mod follower;
mod growth;
mod mounted;
mod names;

pub use self::create::create;
pub use self::error::{ImageError, MINIMUM_BYTES};
pub use self::growth::{Grown, grow, open};
pub use self::mounted::{ImageFileSystem, mount_point};
