//! Power cuts: a disk whose every write was logged (dm-log-writes), and what of it a power cut at any moment would have left.
//!
//! Three steps, the first on a machine with device-mapper, the others wherever the file systems in question can be mounted:
//!
//! 1. A workload runs on a logged disk ([`scene`]), and marks on the disk itself what it was promised ([`mark`]).
//! 2. [`log`] reads the log, [`replay`] makes images of the disk from it: at each flush, with everything that came before it
//!    and nothing that came after; and between two flushes, with any part of what was under way.
//! 3. Each image is opened as after a power cut, and what was promised before the cut has to be there.
//!
//! [`workload`] is a random sequence of operations on a pool, the same for the same seed, with a model of what it should leave;
//! [`verify`] compares a recovered pool with that model. Both know nothing of what the pool lies on.

#![allow(dead_code, reason = "each test binary uses a part of this")]

pub mod log;
pub mod mark;
pub mod replay;
pub mod scene;
pub mod verify;
pub mod workload;
