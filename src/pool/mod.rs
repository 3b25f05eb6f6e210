//! Storage pools: where volumes and snapshots live, and the record of what was promised about them.
//!
//! Two things, one above the other:
//!
//! * [`Pool`], a handful of verbs on stored objects, each one durable kernel operation that is safe to repeat. It knows ids
//!   and sizes, no names and no promises. Implementations: files that share extents (`reflink`), a device-mapper thin pool (`thin`),
//!   in memory (`memory`). What a pool must remember about an object goes into the catalogue, in the commits of the owner.
//! * [`OwnedPool`](owned::OwnedPool), a pool that this process owns: lock held, catalogue open, recovered. It runs every
//!   change as intent, act, commit; answers repeated requests from the record (`Created | Existing`); and carries the verbs of
//!   the internal Blocks service: lease, hidden restore target with commit, export records. It keeps deleted snapshots that
//!   somebody may ask for the changes since (anchors).
//! * [`PoolSet`](set::PoolSet), the pools of a node, each of which may fail and come back without the others.
//!
//! All calls block; the layers above run them on blocking threads.

pub mod adopt;
pub mod backend;
pub mod catalogue;
mod error;
mod health;
pub mod idempotent;
pub mod intent;
pub mod kernel_devices;
pub mod locks;
#[cfg(any(test, feature = "doubles"))]
pub mod memory;
pub mod owned;
pub mod properties;
pub mod quiesce;
pub mod record;
pub mod reflink;
pub mod set;
pub mod stopped;
pub mod thin;
mod usage;

pub use self::backend::{Attachment, Cut, Found, ObjectSpec, Pool, PoolKind};
pub use self::error::{CatalogueFault, Cause, PoolError, Refusal};
pub use self::health::{Changes, PoolHealth};
pub use self::quiesce::{FREEZE_DEADLINE, Held, Quiesce, QuiesceError, Release};
pub use self::usage::{Demand, MetadataUsage, ObjectUsage, PoolUsage};
