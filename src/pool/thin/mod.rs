//! Thin pools: device-mapper's, owned whole, on a block device or two.
//!
//! ```text
//! owned::OwnedPool                 records, intents, recovery
//! pool::ThinPool                   the verbs
//!   thin_devices, cut              devices of objects; holding them still
//!   discarder                      deleting them, and giving their space back to the disk
//!   metadata, usage                walks over the pool's metadata; what each object takes
//!   stack, growth, monitor         catalogue, metadata, data and pool in the kernel; growing; watching
//! open, format, repair, take_down  taking over, making, repairing, leaving
//!   epoch                          whether a part was put back to an earlier state
//!   staged_metadata, tools          metadata made in a file and written over a pool's; thin-provisioning-tools
//! examine                          looking without changing
//! devices, label, layout, region   what is on the disk
//! ```
//!
//! * **Owns** the device (or two) whole, and every device-mapper device whose uuid carries the pool's id. Nothing of it is ever shared
//!   with LVM, which takes thin ids for its own that it did not make.
//! * **Carries** its id, layout and catalogue with it, so a disk in another machine is the same pool with the same volumes.
//! * **Says no early**: writes without space fail at once instead of hanging, and new volumes, then new snapshots are refused long
//!   before data or metadata run out.
//! * **Never** formats metadata, is never activated over metadata that are not its own, and never deletes what it has no record of.
//!
//! Each module's header has the order of its durable steps.

mod access;
mod cut;
pub mod devices;
mod discarder;
pub mod epoch;
pub mod examine;
pub mod format;
mod growth;
mod health;
mod ids;
pub mod label;
pub mod layout;
mod metadata;
mod monitor;
pub mod names;
mod open;
mod pool;
pub mod region;
mod repair;
mod stack;
mod staged_metadata;
mod take_down;
mod thin_devices;
mod tools;
mod usage;
mod verbs;

pub use open::{create_pool, create_pool_with, open_pool};
pub use pool::ThinPool;
pub use repair::{History, RepairOutcome, RepairReport, repair};
pub(super) use take_down::remove_device;
pub use take_down::take_down;
