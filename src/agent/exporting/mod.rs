//! Exporting snapshot classes: snapshots that are in a repository when they say "ready".
//!
//! A VolumeSnapshotClass with the parameter `repository` asks for it ([`ExportOrder`]), and its secrets say which repository and open it.
//!
//! # CreateSnapshot
//! 1. The secrets are read. What is wrong with them by themselves is told before anything is cut.
//! 2. The layer below cuts, or answers from its record: with the same answer, "not ready" until the catalogue says that the repository
//!    holds the snapshot. The parameters are in that record, so there is no moment at which it looks like a local one.
//! 3. The task is recorded, and the call that cut is answered at once: whoever waits for the cut goes on.
//! 4. In the background, as a [transfer](super::transfers): the repository is opened (or made, if the class says so), the snapshot
//!    exported, the export recorded. The record is what makes it ready, and it is durable in the repository before.
//! 5. The sidecar asks again, and brings the credentials again. A call that finds the export running waits for its end, to just under its
//!    own deadline: a sidecar that has backed off asks every five minutes otherwise. As many are held as transfers run
//!    ([`MAX_RUNNING`](super::transfers::MAX_RUNNING)), of the ten calls that a sidecar has; others are answered at once.
//!
//! **Turns.** An export that finds as many transfers running as may waits in this process, with its credentials, for its turn: exports of
//! classes with `priority: high` first, `low` last, and restores before all. No call is held for one that waits.
//!
//! **What goes wrong** is recorded with the task and told [once](told), by a text that is the same when the next attempt fails so too (a sidecar
//! makes an event of each new one), as UNAVAILABLE: the cut is there, so no code may be a final one. Other calls are answered "not ready",
//! without which no sidecar could delete the snapshot. A call that comes when the [pause](turn::pause) is over begins the next attempt;
//! nothing else does, since nobody else has credentials.
//!
//! **After a crash** of this process the task says "running" and nobody runs it: the next call begins an attempt. What earlier attempts
//! have stored is indexed and is not stored again, nor read again where the agent has a cache
//! ([`transfer::export`](mod@crate::transfer::export)). One that died between the end of the export and its record finds its export in the
//! repository by the snapshot's handle, and only records it: a snapshot is in the repository once.
//!
//! # DeleteSnapshot
//! A running export is cancelled first, and its end awaited. Then every export that bears the snapshot's handle is forgotten in the
//! repository, which is not asked if it was never opened for this snapshot, and what is kept here of one that is not finished goes too.
//! Then the layer below deletes. A repository that does not let itself be opened, or refuses, is an error, and the snapshot stays;
//! repeated, the call goes on where it ended.
//!
//! **Never**: a repository is made where one was known before, or unless the class says so; credentials are kept longer than a transfer.

mod attempt;
mod deadline;
mod fault;
mod place;
mod told;
mod turn;
mod withdraw;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tonic::Status;

use crate::blocks::SnapshotCopies;
use crate::csi::locks::{Guard, Hold, Key, Locks};
use crate::csi::status as code;
use crate::types::span::Subject;
use crate::types::{ExportOrder, ExportTask, ObjectName, SnapshotHandle, TaskState, Timestamp};

use super::secrets::RepositorySecret;
use super::transfers::context::Context;
use super::transfers::registry::{Precedence, SlotError, TransferKind, is_final, is_waiting};
use super::transfers::status;
use super::wakening::Wakening;
use attempt::Attempt;
use told::{Failure, Told};
use turn::Turn;

pub(super) use deadline::patience;
pub(super) use place::open as open_or_make;

const SNAPSHOT_ID: &str = "snapshot_id";

/// The exports that classes asked for. Clones are the same.
#[derive(Clone)]
pub(super) struct Exporting {
    context: Context,
    /// The transfers of those that run in this process.
    running: Arc<Mutex<BTreeMap<SnapshotHandle, String>>>,
    told: Arc<Told>,
    locks: Locks,
    /// Whoever waits for places of transfers.
    wakening: Wakening,
}

/// Where an export that was asked for stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The repository holds it.
    Complete,
    /// Not yet.
    UnderWay,
}

impl Exporting {
    /// None yet. The end of each wakes `wakening`.
    pub(super) fn new(context: Context, wakening: Wakening) -> Self {
        Self { context, running: Arc::default(), told: Arc::default(), locks: Locks::default(), wakening }
    }

    /// The order among the parameters of a class, those of the sidecars left out.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a value of no meaning.
    pub(super) fn order(parameters: &HashMap<String, String>) -> Result<Option<ExportOrder>, Status> {
        let ours = ExportOrder::PARAMETERS.into_iter();
        let ours = ours.filter_map(|key| Some((key.to_owned(), parameters.get(key)?.clone()))).collect();
        ExportOrder::parse(&ours).map_err(|error| Status::invalid_argument(format!("parameters.{}: {error}", error.key)))
    }

    /// The repository that the secrets of a CreateSnapshot name; `None` when they name none, and none is needed any more, since the export is
    /// complete, or this was told already.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for secrets that name none, while there is no snapshot; UNAVAILABLE, once, when there is one.
    pub(super) async fn secret(&self, name: &str, secrets: HashMap<String, String>) -> Result<Option<RepositorySecret>, Status> {
        let error = match RepositorySecret::parse(secrets) {
            Ok(secret) => return Ok(Some(secret)),
            Err(error) => error.to_string(),
        };
        // A name that is none is for the layer below to refuse.
        let Ok(name) = ObjectName::try_from(name.to_owned()) else { return Err(Status::invalid_argument(error)) };
        let blocks = &self.context.blocks;
        let told = |error| status::blocks("name", &error);
        match blocks.find_snapshot(&name).await.map_err(told)? {
            None => Err(Status::invalid_argument(error)),
            Some(snapshot) if !blocks.copies(snapshot).await.map_err(told)?.is_to_be_exported() => Ok(None),
            Some(snapshot) => self.tell(snapshot, Failure { reason: error, at: None }).map(|_| None),
        }
    }

    /// Sees to it that a snapshot of a class with an order, which is cut, is exported; begins it if need be. A call that does not begin it
    /// may be held for `patience`.
    ///
    /// # Errors
    /// UNAVAILABLE, once, when the last attempt has failed; ABORTED beside another call for this snapshot; as for [`status::blocks`].
    pub(super) async fn follow(
        &self,
        snapshot: SnapshotHandle,
        order: ExportOrder,
        secret: RepositorySecret,
        patience: Duration,
    ) -> Result<Progress, Status> {
        let known = {
            let _alone = self.lock(snapshot)?;
            let known = self.copies(snapshot).await?;
            if known.copies.is_task_finished() {
                self.told.forget(snapshot);
                return Ok(Progress::Complete);
            }
            if !self.is_running(snapshot) {
                match turn::turn(known.copies.task.as_ref(), &secret.location.to_string(), Timestamp::now()) {
                    Turn::Wait(failure) => return self.tell(snapshot, failure),
                    Turn::Begin(task) => self.begin(&known, order, secret, task).await?,
                }
            }
            known
        };
        if known.copies.task.is_none() {
            // This call cut.
            return Ok(Progress::UnderWay);
        }
        if !self.is_waiting(snapshot) {
            self.await_end(snapshot, patience).await;
        }
        match self.copies(snapshot).await?.copies.task.map(|task| task.state) {
            Some(TaskState::Finished) => {
                self.told.forget(snapshot);
                Ok(Progress::Complete)
            }
            Some(TaskState::Failed { reason, at }) => self.tell(snapshot, Failure { reason, at: Some(at) }),
            Some(TaskState::Pending | TaskState::Running) | None => Ok(Progress::UnderWay),
        }
    }

    /// Answers a call with a failure: as an error once, and then as "not ready".
    fn tell(&self, snapshot: SnapshotHandle, failure: Failure) -> Result<Progress, Status> {
        if self.told.is_news(snapshot, &failure) { Err(Status::unavailable(failure.reason)) } else { Ok(Progress::UnderWay) }
    }

    /// Begins an attempt, which waits for its turn, by its priority, while as many transfers run as may. While as many wait as may, the
    /// task waits for a later call.
    async fn begin(
        &self,
        known: &SnapshotCopies,
        order: ExportOrder,
        secret: RepositorySecret,
        task: ExportTask,
    ) -> Result<(), Status> {
        let snapshot = known.snapshot;
        if known.copies.task.as_ref() != Some(&task) {
            // Before anything is begun, so that a call after a crash here knows that it is not the one that cut.
            let noted = self.context.blocks.put_task(snapshot, task.clone()).await;
            noted.map_err(|error| status::blocks(SNAPSHOT_ID, &error))?;
        }
        let slot = match self.context.registry.slot_or_turn(TransferKind::Export, Precedence::Export(order.priority)) {
            Ok(slot) => slot,
            Err(SlotError::Full) => return Ok(()),
            Err(error @ SlotError::Stopping) => return Err(status::no_slot(error)),
        };
        slot.is_about(Subject::Snapshot(snapshot));
        let context = self.context.clone();
        let (progress, cancel) = (slot.progress(), slot.cancellation());
        let attempt = Attempt { context, snapshot, order, secret, task, progress, cancel };
        let (running, wakening) = (Arc::clone(&self.running), self.wakening.clone());
        // Held until its id is noted, so that the attempt's end, which takes it away, comes after.
        let mut noted = self.running();
        let id = slot.spawn(async move {
            let ended = attempt.run().await;
            running.lock().unwrap_or_else(PoisonError::into_inner).remove(&snapshot);
            wakening.wake();
            ended
        });
        noted.insert(snapshot, id);
        Ok(())
    }

    /// Waits until the export of a snapshot is over, and at most so long; whether it is.
    async fn await_end(&self, snapshot: SnapshotHandle, patience: Duration) -> bool {
        let id = self.running().get(&snapshot).cloned();
        let Some(mut watched) = id.and_then(|id| self.context.registry.watch(&id)) else { return true };
        let ended = async {
            while !is_final(&watched.now()) {
                watched.changed().await;
            }
        };
        tokio::time::timeout(patience, ended).await.is_ok()
    }

    /// Whether the export of a snapshot runs.
    pub(super) fn is_running(&self, snapshot: SnapshotHandle) -> bool {
        let id = self.running().get(&snapshot).cloned();
        // One that has panicked is final and did not take itself away.
        id.and_then(|id| self.context.registry.watch(&id)).is_some_and(|mut watched| !is_final(&watched.now()))
    }

    /// Whether it waits for its turn.
    fn is_waiting(&self, snapshot: SnapshotHandle) -> bool {
        let id = self.running().get(&snapshot).cloned();
        id.and_then(|id| self.context.registry.watch(&id)).is_some_and(|mut watched| is_waiting(&watched.now()))
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<SnapshotHandle, String>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn copies(&self, snapshot: SnapshotHandle) -> Result<SnapshotCopies, Status> {
        self.context.blocks.copies(snapshot).await.map_err(|error| status::blocks(SNAPSHOT_ID, &error))
    }

    /// Lets one call at a time decide about a snapshot.
    fn lock(&self, snapshot: SnapshotHandle) -> Result<Guard, Status> {
        let taken = self.locks.take(SNAPSHOT_ID, Key::Snapshot(snapshot), Hold::Exclusive);
        taken.map_err(|error| Status::new(code::request(&error), error.to_string()))
    }
}
