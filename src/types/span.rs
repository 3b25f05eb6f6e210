//! What a line of the log is about: the spans of calls and of transfers, and the ids in them.
//!
//! A span is entered where work of it goes on, on other threads too, so that each line of it carries the ids without naming them and one of
//! many transfers can be followed. Ids and names only: whatever else a request holds may be a secret.

use std::fmt::{self, Display};

use tracing::Span;
use tracing::field::{Empty, display};

use super::{SnapshotHandle, VolumeHandle};

/// Name of the span of a call that is worth a line.
pub const CALL: &str = "call";
/// Name of the span of a call that is repeated all the time and changes nothing.
pub const POLL: &str = "poll";

/// The span of a call of `method`. Of the highest level, so that warnings have it whatever else is filtered out.
pub fn call(method: &str) -> Span {
    tracing::error_span!("call", method, volume = Empty, snapshot = Empty, transfer = Empty, pvc = Empty)
}

/// The span of a call of `method` that is no news.
pub fn poll(method: &str) -> Span {
    tracing::error_span!("poll", method, volume = Empty, snapshot = Empty, transfer = Empty, pvc = Empty)
}

/// The span of a transfer. It is nobody's child: the transfer outlives the call that started it.
pub fn transfer(id: &str, kind: &str) -> Span {
    tracing::error_span!(parent: None, "transfer", transfer = id, kind, volume = Empty, snapshot = Empty, pvc = Empty)
}

/// Something that a call or a transfer is about.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    Volume(VolumeHandle),
    Snapshot(SnapshotHandle),
    Transfer(&'a str),
    /// A PersistentVolumeClaim, as NAMESPACE/NAME.
    Claim(&'a dyn Display),
}

impl Subject<'_> {
    /// Writes it into a span; into one without such a field it writes nothing.
    pub fn note_in(self, span: &Span) {
        match self {
            Self::Volume(handle) => span.record("volume", display(handle)),
            Self::Snapshot(handle) => span.record("snapshot", display(handle)),
            Self::Transfer(id) => span.record("transfer", id),
            Self::Claim(name) => span.record("pvc", display(name)),
        };
    }

    /// Writes it into the span of the call that is being answered.
    pub fn note(self) {
        self.note_in(&Span::current());
    }
}

impl fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(handle) => write!(f, "Volume({handle})"),
            Self::Snapshot(handle) => write!(f, "Snapshot({handle})"),
            Self::Transfer(id) => write!(f, "Transfer({id})"),
            Self::Claim(name) => write!(f, "Claim({name})"),
        }
    }
}
