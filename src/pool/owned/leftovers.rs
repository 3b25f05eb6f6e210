//! Whether failed calls may have left anything to `settle`.

use std::sync::atomic::{AtomicBool, AtomicU64};

use super::recovery::Settled;

/// Whether failed calls may have left anything.
#[derive(Debug)]
pub(super) struct Leftovers {
    /// How many commits had failed when what they left was last settled.
    pub(super) settled_at: AtomicU64,
    /// Whether anything else was left.
    pub(super) others: AtomicBool,
}

impl Leftovers {
    /// What the recovery left, and nothing else yet.
    pub(super) fn of(recovered: Settled) -> Self {
        Self { settled_at: AtomicU64::new(0), others: AtomicBool::new(recovered == Settled::InPart) }
    }
}
