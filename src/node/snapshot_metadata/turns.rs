//! What a stream holds between two messages, taken away when its client reads no more.
//!
//! A client that is connected and does not read would keep its snapshot from being deleted for ever. So whoever holds something
//! between two turns gets back what was put here only if the next turn comes in time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, interval_at};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A client has to read a message in this time, or in twice this time at most. It may copy what a message names before it reads the
/// next, and one range may be a whole volume: 12 hours are 2 TiB at 50 MB/s.
pub(super) const PATIENCE: Duration = Duration::from_secs(12 * 60 * 60);

#[derive(Debug)]
enum Held<T> {
    /// Until the next turn.
    Waiting(T),
    /// A turn has it, or there is nothing more.
    Taken,
    /// The next turn did not come in time.
    Expired,
}

/// What is held, for the one stream whose turns these are. Dropping it lets go of it.
#[derive(Debug)]
pub(super) struct Turns<T> {
    state: Arc<State<T>>,
    _watched: DropGuard,
}

#[derive(Debug)]
struct State<T> {
    held: Mutex<(Held<T>, u64)>,
}

impl<T: Send + 'static> Turns<T> {
    /// Holds something until the first turn. Must be called within the runtime.
    pub(super) fn new(held: T, patience: Duration) -> Self {
        let state = Arc::new(State { held: Mutex::new((Held::Waiting(held), 0)) });
        let ended = CancellationToken::new();
        tokio::spawn(watch(Arc::clone(&state), patience, ended.clone()));
        Self { state, _watched: ended.drop_guard() }
    }

    /// Begins a turn; `None` when it did not come in time, or another has not ended.
    pub(super) fn take(&self) -> Option<T> {
        let mut held = self.state.lock();
        match std::mem::replace(&mut held.0, Held::Taken) {
            Held::Waiting(taken) => Some(taken),
            Held::Taken => None,
            Held::Expired => {
                held.0 = Held::Expired;
                None
            }
        }
    }

    /// Ends a turn.
    pub(super) fn put(&self, rest: T) {
        let mut held = self.state.lock();
        *held = (Held::Waiting(rest), held.1 + 1);
    }
}

impl<T> State<T> {
    fn lock(&self) -> MutexGuard<'_, (Held<T>, u64)> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes away what has waited since `turn`.
    fn expire(&self, turn: u64) -> Option<T> {
        let mut held = self.lock();
        if held.1 != turn || !matches!(held.0, Held::Waiting(_)) {
            return None;
        }
        match std::mem::replace(&mut held.0, Held::Expired) {
            Held::Waiting(expired) => Some(expired),
            Held::Taken | Held::Expired => None,
        }
    }
}

async fn watch<T: Send + 'static>(state: Arc<State<T>>, patience: Duration, ended: CancellationToken) {
    let mut ticks = interval_at(Instant::now() + patience, patience);
    let mut turn = 0;
    loop {
        tokio::select! {
            () = ended.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Some(expired) = state.expire(turn) {
            tracing::warn!(seconds = patience.as_secs(), "a client of a metadata stream reads no more; its snapshot is let go");
            // May close files.
            let _ = tokio::task::spawn_blocking(move || drop(expired)).await;
            return;
        }
        turn = state.lock().1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const BOUND: Duration = Duration::from_secs(30);

    /// Says when it is dropped.
    struct Snapshot(mpsc::Sender<()>);

    impl Drop for Snapshot {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_nobody_comes_for_is_let_go() {
        let (sender, dropped) = mpsc::channel();
        let turns = Turns::new(Snapshot(sender), SHORT);
        tokio::task::spawn_blocking(move || dropped.recv_timeout(BOUND)).await.unwrap().unwrap();
        assert!(turns.take().is_none());
        assert!(turns.take().is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_waits_after_a_turn_is_let_go_too_and_what_a_turn_has_is_not() {
        let (sender, dropped) = mpsc::channel();
        let turns = Turns::new(Snapshot(sender), SHORT);
        let taken = turns.take().unwrap();
        assert!(turns.take().is_none());
        let dropped = tokio::task::spawn_blocking(move || {
            assert_eq!(dropped.recv_timeout(10 * SHORT), Err(mpsc::RecvTimeoutError::Timeout));
            dropped
        });
        let dropped = dropped.await.unwrap();
        turns.put(taken);
        tokio::task::spawn_blocking(move || dropped.recv_timeout(BOUND)).await.unwrap().unwrap();
        assert!(turns.take().is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stream_that_ends_lets_go_at_once() {
        let (sender, dropped) = mpsc::channel();
        let turns = Turns::new(Snapshot(sender), PATIENCE);
        let taken = turns.take().unwrap();
        turns.put(taken);
        drop(turns);
        tokio::task::spawn_blocking(move || dropped.recv_timeout(BOUND)).await.unwrap().unwrap();
    }
}
