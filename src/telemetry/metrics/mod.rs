//! The metrics of a process.
//!
//! # Who owns what
//! [`Metrics`] is the registry of one process and makes its text. What is counted is counted where it happens, in handles that are handed to
//! whoever does it when it is opened ([`CallMetrics`], [`StoreMetrics`], [`TransferMetrics`]): there is no global, so two layers in one test
//! count apart. A handle by `default()` counts too, and nobody reads it. What is state of somebody else and not an event (pools) is encoded by a
//! [`Collector`] of its owner, from memory.
//!
//! # Families
//! Each family has a [`Description`] in [`families`], and can only be registered by it: name, kind, labels and help stand once.
//! `docs/metrics.md` has the same table, and `tests/metrics.rs` holds the two together.
//!
//! # Node and agent in one text
//! A node has no network, so its agent fetches its text and serves both as one target ([`merge`]). Every sample carries a label `process`
//! (`node`, `agent`, or `standalone` when one process is both), and families are named once, whoever has them: a rule about descriptors or
//! calls is written once, holds for both, and for a process that is both. Names of their own for each process would need no merge,
//! and every rule and panel twice.
//!
//! # Bounds
//! Labels have values from closed sets (methods of our protocols, gRPC codes, outcomes), or one for each pool; those of claims, which are
//! as many as there are volumes, are asked for by an option, and bounded by whoever encodes them. No label has a text of a request, an error
//! or a credential (invariant 10). A text is at most [`MAX_TEXT_BYTES`].
//!
//! # Hung disks
//! Making the text reads memory and `/proc/self`. It is made on a thread of its own: the runtime's blocking threads may all wait for a disk,
//! which is when metrics are wanted most.

mod calls;
mod description;
pub mod families;
mod merge;
mod process;
mod register;
mod registry;
mod stores;
mod transfers;

pub use calls::CallMetrics;
pub use description::{Description, FamilyEncoder, Kind};
pub use merge::{MergeError, merge};
pub use prometheus_client::collector::Collector;
pub use prometheus_client::encoding::DescriptorEncoder;
pub use registry::{Metrics, ProcessName, TextError};
pub use stores::StoreMetrics;
pub use transfers::{EndedTransfer, FinishedExport, TransferMetrics, TransferOutcome};

/// Longest text of a process: half a hundred thousand series of claims and all the rest.
pub const MAX_TEXT_BYTES: usize = 16 << 20;
