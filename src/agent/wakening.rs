//! What wakes somebody who waits for something to do.

use std::sync::Arc;

use tokio::sync::Notify;

/// Wakes one who waits, now or when it waits next. Clones wake the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Wakening(Arc<Notify>);

impl Wakening {
    /// Something may be due.
    pub(super) fn wake(&self) {
        self.0.notify_one();
    }

    /// Returns when somebody has woken it since the last time.
    pub(super) async fn woken(&self) {
        self.0.notified().await;
    }
}
