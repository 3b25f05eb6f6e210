//! What makes events known: one task, which applies what the index says.
//!
//! # An event
//! 1. [`EventSink::publish`] takes it into the index, which is bounded, and returns.
//! 2. The task asks for the uid of the object that it concerns (without which `kubectl describe` does not show it), and makes the event.
//!    The name of the event was chosen before: tried again after an answer that was lost, it is there already, which is success.
//! 3. A repetition is a patch of that event. Has the server none of this name any more, it is made anew.
//!
//! **A server that is away**, hangs or has no time is asked again, in pauses that grow to half a minute, one call at a time, as long as the
//! event is worth it ([`WAITS_SECONDS`](super::index::WAITS_SECONDS)). **One that refuses** an event has the last word. What is dropped is
//! counted. The log has one line when events begin not to be published, and one when they are again. Nobody waits for any of it.
//!
//! **At the end** of the process what waits gets two seconds. **After a crash** what waited is lost; what is told anew is a new object.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::index::{Index, Turn};
use super::object;
use crate::agent::events::{Event, EventObject, EventSink};
use crate::k8s::client::{CALL_DEADLINE, CallFault, Cluster, call};
use crate::types::Timestamp;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// A call.
    pub call: Duration,
    /// The first pause after a call that the server did not answer, doubled each time.
    pub first_pause: Duration,
    /// The longest pause: a server that is back is noticed so soon, and one that is away is not held up by this node's events.
    pub longest_pause: Duration,
    /// What waits at the end, in all.
    pub last_words: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            call: CALL_DEADLINE,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(30),
            last_words: Duration::from_secs(2),
        }
    }
}

/// Publishes events of this node. Clones are the same.
#[derive(Clone)]
pub struct EventPublisher {
    shared: Arc<Shared>,
    worker: Arc<Mutex<Option<JoinHandle<()>>>>,
}

struct Shared {
    index: Mutex<Index>,
    /// Something waits.
    wake: Notify,
    closing: CancellationToken,
    pace: Pace,
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        // Each change is whole before anything of it can panic.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventPublisher {
    /// Begins to publish what is told of the node with this name.
    pub fn start(cluster: Cluster, node: &str, pace: Pace) -> Self {
        let (index, wake, closing) = (Mutex::default(), Notify::new(), CancellationToken::new());
        let shared = Arc::new(Shared { index, wake, closing, pace });
        let worker = Worker { shared: Arc::clone(&shared), cluster, node: node.to_owned(), trouble: None };
        Self { shared, worker: Arc::new(Mutex::new(Some(tokio::spawn(worker.run())))) }
    }

    /// Publishes what waits, within [`Pace::last_words`], and then nothing more.
    pub async fn close(&self) {
        self.shared.closing.cancel();
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut worker) = worker else { return };
        if tokio::time::timeout(self.shared.pace.last_words, &mut worker).await.is_err() {
            worker.abort();
            self.shared.index().drop_all();
        }
        match self.dropped() {
            0 => {}
            dropped => tracing::info!(dropped, "events that were not published in all"),
        }
    }

    /// Events that were not published, since the start.
    pub fn dropped(&self) -> u64 {
        self.shared.index().dropped()
    }
}

impl EventSink for EventPublisher {
    fn publish(&self, event: Event) {
        let name = object::name(&event.object, uuid::Uuid::new_v4());
        self.shared.index().push(event, name, Timestamp::now());
        self.shared.wake.notify_one();
    }
}

/// What publishes.
struct Worker {
    shared: Arc<Shared>,
    cluster: Cluster,
    node: String,
    /// Dropped when events began not to be published, while they are not.
    trouble: Option<u64>,
}

impl Worker {
    async fn run(mut self) {
        let (closing, pace) = (self.shared.closing.clone(), self.shared.pace);
        let mut pause = pace.first_pause;
        loop {
            let next = self.shared.index().next(Timestamp::now());
            let Some(mut turn) = next else {
                if closing.is_cancelled() {
                    return;
                }
                tokio::select! {
                    () = self.shared.wake.notified() => {}
                    () = closing.cancelled() => {}
                }
                continue;
            };
            match self.apply(&mut turn).await {
                Ok(()) => {
                    pause = pace.first_pause;
                    self.well();
                }
                Err(CallFault::Away(reason)) if !closing.is_cancelled() => {
                    self.wrong(&turn, &reason);
                    self.shared.index().put_back(turn);
                    // The end of a pause is no failure.
                    let _ = tokio::time::timeout(pause, closing.cancelled()).await;
                    pause = pause.saturating_mul(2).min(pace.longest_pause);
                }
                Err(fault) => {
                    self.wrong(&turn, &fault.text());
                    self.shared.index().drop_one();
                }
            }
        }
    }

    /// Makes an event, or patches the one that it repeats.
    async fn apply(&self, turn: &mut Turn) -> Result<(), CallFault> {
        let deadline = self.shared.pace.call;
        let about = turn.waiting.event.object.clone();
        let events: Api<v1::Event> = Api::namespaced(self.cluster.client(), object::namespace(&about));
        if let Some(known) = turn.repeats.clone() {
            let patch = Patch::Merge(object::repeated(turn));
            match call(deadline, events.patch(&known.name, &PatchParams::default(), &patch)).await {
                Ok(_) => {
                    self.shared.index().published(turn, &known.name);
                    return Ok(());
                }
                Err(CallFault::NotFound) => self.shared.index().lost(turn),
                Err(fault) => return Err(fault),
            }
        }
        let uid = self.uid(&about).await?;
        let event = object::created(turn, uid, &self.node);
        match call(deadline, events.create(&PostParams::default(), &event)).await {
            Ok(_) | Err(CallFault::Exists) => {
                self.shared.index().published(turn, &turn.waiting.name);
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }

    /// The uid of an object; `None` for one that is gone, or that may not be looked at: its event is told without.
    async fn uid(&self, about: &EventObject) -> Result<Option<String>, CallFault> {
        let resource = object::resource(about);
        let client = self.cluster.client();
        let api: Api<DynamicObject> = match about.namespace() {
            Some(namespace) => Api::namespaced_with(client, namespace.as_str(), &resource),
            None => Api::all_with(client, &resource),
        };
        match call(self.shared.pace.call, api.get_metadata(about.name().as_str())).await {
            Ok(found) => Ok(found.metadata.uid),
            Err(fault @ CallFault::Away(_)) => Err(fault),
            Err(fault) => {
                tracing::debug!(object = %about, reason = fault.text(), "an event is told without the uid of its object");
                Ok(None)
            }
        }
    }

    fn wrong(&mut self, turn: &Turn, reason: &str) {
        if self.trouble.is_none() {
            self.trouble = Some(self.shared.index().dropped());
            let (object, event) = (&turn.waiting.event.object, turn.waiting.event.reason.name());
            tracing::warn!(%object, event, reason, "events are not published; transfers go on");
        }
    }

    fn well(&mut self) {
        if let Some(before) = self.trouble.take() {
            let dropped = self.shared.index().dropped().saturating_sub(before);
            tracing::info!(dropped, "events are published again");
        }
    }
}
