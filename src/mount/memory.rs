//! A double of the mount table, for tests without root.
//!
//! It keeps what a kernel would: which device is formatted how, what is mounted where and in which order, what is frozen. Targets
//! are real files and directories (of a temporary folder), so that what makes and removes them is tested too; devices are
//! paths that need not exist. It is as strict as the kernel: a busy device is busy, a blank one does not mount.

mod mounter;
mod state;
mod verbs;

pub use self::mounter::MemoryMounter;
pub use self::state::{Call, Failure, Verb};

#[cfg(test)]
mod tests;
