//! Which failures a caller was told of.
//!
//! A sidecar marks its object while a call for it fails by a code that is not final, and does not delete one that is marked: it waits for an
//! answer. So a failure is an error once. Until there is another one, the snapshot is just not ready, which takes the mark away; what was told
//! stays in the object's status. Only so can a snapshot be deleted whose repository is never mended.
//!
//! In memory only: after a restart of this process each failure is told once more.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::types::{SnapshotHandle, Timestamp};

/// What was told last of each snapshot whose export does not succeed; of one whose export is complete, or that is deleted, nothing is kept.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<BTreeMap<SnapshotHandle, Failure>>);

/// Why an export does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) reason: String,
    /// When its last attempt failed; none where no attempt could be begun.
    pub(super) at: Option<Timestamp>,
}

impl Told {
    /// Whether this failure is news.
    pub(super) fn is_news(&self, snapshot: SnapshotHandle, failure: &Failure) -> bool {
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(snapshot, failure.clone());
        before.as_ref() != Some(failure)
    }

    /// Nothing more is told of this snapshot.
    pub(super) fn forget(&self, snapshot: SnapshotHandle) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&snapshot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PoolId, SnapshotId};

    #[test]
    fn a_failure_is_news_once_and_so_is_the_next_one() {
        let handle =
            |number| SnapshotHandle { pool: PoolId::from_bytes([1; 16]), snapshot: SnapshotId::from_bytes([number; 16]) };
        let failure = |seconds| Failure { reason: "so".to_owned(), at: Some(Timestamp { seconds, nanoseconds: 0 }) };
        let told = Told::default();
        let news = |number, failure: &Failure| told.is_news(handle(number), failure);
        assert!(news(1, &failure(5)) && news(2, &failure(5)), "each snapshot has its own");
        assert!(!news(1, &failure(5)) && !news(2, &failure(5)));
        assert!(news(1, &failure(6)), "another attempt has failed, for the same reason");
        assert!(news(1, &Failure { at: None, ..failure(6) }) && !news(1, &Failure { at: None, ..failure(6) }));
        told.forget(handle(1));
        assert!(news(1, &Failure { at: None, ..failure(6) }));
    }
}
