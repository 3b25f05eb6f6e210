//! What the agent tells people of a transfer, beside the object of Kubernetes that it concerns.
//!
//! Statuses of calls have fixed texts, since a sidecar makes an event of each new one. How far a transfer has come is told here: on the
//! PersistentVolumeClaim, the VolumeSnapshot and the VolumeSnapshotContent, by the names that are recorded with volume and snapshot.
//!
//! The agent owns the words ([`Event`], [`EventReason`]) and the trait [`EventSink`]; who speaks to an API server implements it. An event
//! is never more than an account: [`EventSink::publish`] returns at once, and whether anybody gets to see the event changes nothing.
//!
//! [`TransferReporter`] tells how one transfer goes; `steps` says when there is anything to say, and `text` in which words.
//!
//! **Never**: an event holds a secret (invariant 10). Texts are made of fixed words, numbers and checked names.

mod event;
mod reporter;
mod sink;
mod steps;
pub(super) mod text;

pub use event::{Event, EventObject, EventReason, Importance, Repetition};
pub(super) use reporter::{TransferReporter, Work};
pub use sink::{EventSink, Silence};
