//! A store that rides out faults: a layer over any other.
//!
//! Each call is repeated while its error [is transient](StoreError::is_transient), with growing random pauses, until it has failed for
//! [`Patience::limit`]. The same limit holds for the whole store: once it has been away for that long, every call is tried
//! once, and a transfer that fails gives its lock back without another quarter of an hour. How long and how many is decided in
//! [`retry`](super::retry); here is what waits and calls.
//!
//! # Why repeating is safe
//! All calls but one are idempotent: objects are named by their bytes, and what is deleted need not exist. A conditional put whose
//! answer was lost finds its own object when it is repeated: it has succeeded if the bytes there are its own.
//!
//! # Fewer at a time
//! A store that is too busy ([`StoreError::Busy`]), or on which puts break off, gets half as many at a time as ran, and later more again.
//! A call that pauses holds no place. A put that waits for one holds its bytes, which the transfer has accounted for.
//!
//! # Cancellation
//! Waits are part of the call: dropping it ends them at once.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::contract::Store;
use super::error::StoreError;
use super::key::{Key, Kind, Listed, PutMode};
use super::retry::{Crowd, Ended, News, Patience, Place, Presence};
use crate::scratch::Spill;
use crate::telemetry::metrics::StoreMetrics;
use crate::types::error::chain;

/// Most puts, and most reads, at a time: more than any transfer begins.
const MOST_AT_A_TIME: usize = 64;

/// The record of one store: whether it answers, and the calls that wait for it.
#[derive(Debug)]
pub struct Patient {
    patience: Patience,
    presence: Mutex<Presence>,
    puts: Gate,
    reads: Gate,
    metrics: StoreMetrics,
}

/// A store whose calls ride out faults of the one below.
#[derive(Debug)]
pub struct PatientStore {
    inner: Arc<dyn Store>,
    patient: Arc<Patient>,
}

impl PatientStore {
    /// `inner`, which is waited for by `patient`.
    pub fn new(inner: Arc<dyn Store>, patient: Arc<Patient>) -> Self {
        Self { inner, patient }
    }
}

impl Patient {
    /// The record of a store that was not called yet, which is waited for as `patience` says.
    pub fn new(patience: Patience) -> Self {
        Self {
            patience,
            presence: Mutex::default(),
            // A store that refuses before it has all of a body closes the connection, and the refusal is lost with it.
            puts: Gate::new(StoreError::is_transient),
            reads: Gate::new(|error| matches!(error, StoreError::Busy { .. })),
            metrics: StoreMetrics::default(),
        }
    }

    /// The same, that counts there what it repeats.
    #[must_use]
    pub fn counting_in(self, metrics: StoreMetrics) -> Self {
        Self { metrics, ..self }
    }

    /// Runs one step of a put that has several.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub async fn put<'a, T>(&self, call: impl Fn() -> BoxFuture<'a, Result<T, StoreError>>) -> Result<T, StoreError> {
        self.repeat(Some(&self.puts), call).await.0
    }

    async fn read<'a, T>(&self, call: impl Fn() -> BoxFuture<'a, Result<T, StoreError>>) -> Result<T, StoreError> {
        self.repeat(Some(&self.reads), call).await.0
    }

    async fn ask<'a, T>(&self, call: impl Fn() -> BoxFuture<'a, Result<T, StoreError>>) -> Result<T, StoreError> {
        self.repeat(None, call).await.0
    }

    fn presence(&self) -> MutexGuard<'_, Presence> {
        // Copied in and out in single steps: a panic elsewhere leaves it whole.
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, news: Option<News>, error: Option<&StoreError>) {
        match (news, error) {
            (Some(News::Away(lasting)), Some(error)) => tracing::warn!(
                error = %chain(error),
                seconds = lasting.as_secs(),
                giving_up_after_seconds = self.patience.limit.as_secs(),
                "the repository's store does not answer; trying again"
            ),
            (Some(News::Back(lasting)), _) => {
                tracing::info!(seconds = lasting.as_secs(), "the repository's store answers again")
            }
            _ => {}
        }
    }

    /// Calls until the answer is final. Returns how often it failed before.
    async fn repeat<'a, T>(
        &self,
        gate: Option<&Gate>,
        call: impl Fn() -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> (Result<T, StoreError>, u32) {
        let (mut failures, mut first) = (0, None);
        loop {
            let result = match gate {
                Some(gate) => gate.pass(call()).await,
                None => call().await,
            };
            let now = Instant::now();
            let error = match result {
                Err(error) if error.is_transient() => error,
                result => {
                    let news = self.presence().answered(now);
                    self.say(news, None);
                    return (result, failures);
                }
            };
            failures += 1;
            let (news, away) = {
                let mut presence = self.presence();
                // No call pauses or takes longer than its limit, so a call that still waits is heard of within that time.
                let news = presence.failed(now, self.patience.limit);
                (news, presence.away_since().map_or(Duration::ZERO, |since| now.duration_since(since)))
            };
            self.say(news, Some(&error));
            let failing = now.duration_since(*first.get_or_insert(now)).max(away);
            match self.patience.pause(failures, failing, rand::random()) {
                // The time is the bound itself; nothing else is waited for.
                Some(pause) => {
                    self.metrics.repeated(error.kind());
                    _ = tokio::time::timeout(pause, std::future::pending::<()>()).await;
                }
                None => return (Err(error.after(failing)), failures),
            }
        }
    }
}

/// Lets so many calls through at a time as a [`Crowd`] says.
#[derive(Debug)]
struct Gate {
    crowd: Mutex<Crowd>,
    moved: Notify,
    /// Whether an error may mean that there are too many.
    blames_the_crowd: fn(&StoreError) -> bool,
}

impl Gate {
    fn new(blames_the_crowd: fn(&StoreError) -> bool) -> Self {
        Self { crowd: Mutex::new(Crowd::new(MOST_AT_A_TIME)), moved: Notify::new(), blames_the_crowd }
    }

    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        self.crowd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pass<T>(&self, call: BoxFuture<'_, Result<T, StoreError>>) -> Result<T, StoreError> {
        let mut inside = loop {
            let moved = self.moved.notified();
            let place = self.crowd().enter();
            match place {
                Some(place) => break Inside { gate: self, place: Some(place), ended: Ended::Otherwise },
                None => moved.await,
            }
        };
        let result = call.await;
        inside.ended = match &result {
            Ok(_) => Ended::Well,
            Err(error) if (self.blames_the_crowd)(error) => Ended::Busy,
            Err(_) => Ended::Otherwise,
        };
        result
    }
}

/// A call that passed a gate; gives its place back when it is dropped.
struct Inside<'a> {
    gate: &'a Gate,
    place: Option<Place>,
    ended: Ended,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            let mut crowd = self.gate.crowd();
            let before = crowd.room();
            crowd.leave(place, self.ended);
            if self.ended == Ended::Busy && crowd.room() != before {
                tracing::debug!(at_a_time = crowd.room(), "the repository's store is busy; fewer calls at a time");
            }
        }
        // Everybody looks: the room may have grown by more than this place.
        self.gate.moved.notify_waiters();
    }
}

impl Store for PatientStore {
    fn prepare(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.patient.ask(|| self.inner.prepare()))
    }

    fn put(&self, key: Key, bytes: Bytes, mode: PutMode) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let puts = Some(&self.patient.puts);
            match self.patient.repeat(puts, || self.inner.put(key, bytes.clone(), mode)).await {
                (Err(StoreError::AlreadyExists { object }), 1..) => {
                    if self.get(key).await? == bytes {
                        Ok(())
                    } else {
                        Err(StoreError::AlreadyExists { object })
                    }
                }
                (result, _) => result,
            }
        })
    }

    /// Without a place of its own: stores that put a long object in several steps ask for one for each.
    fn put_spill(&self, key: Key, bytes: Arc<Spill>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.patient.ask(move || self.inner.put_spill(key, Arc::clone(&bytes))))
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(self.patient.read(move || self.inner.get(key)))
    }

    fn get_range(&self, key: Key, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(self.patient.read(move || self.inner.get_range(key, range.clone())))
    }

    fn list(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Listed>, StoreError>> {
        Box::pin(self.patient.ask(move || self.inner.list(kind)))
    }

    fn size(&self, key: Key) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        Box::pin(self.patient.ask(move || self.inner.size(key)))
    }

    fn delete(&self, key: Key) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.patient.ask(move || self.inner.delete(key)))
    }

    fn sweep(&self, older_than: Duration) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(self.patient.ask(move || self.inner.sweep(older_than)))
    }

    fn away_since(&self) -> Option<SystemTime> {
        let since = self.patient.presence().away_since()?;
        SystemTime::now().checked_sub(since.elapsed())
    }
}

#[cfg(test)]
mod tests;
