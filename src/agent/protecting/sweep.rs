//! A sweep: what was decided about each protected volume is done.
//!
//! First all cuts, which are quick and are to be on time; then the exports, of which only the beginning is waited for; what goes last,
//! within [`LEAVE_WITHIN`], for it waits for stores. What one volume meets keeps no other from its turn; a repository that does not
//! answer is asked once in a sweep.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use csi_proto::csi::v1 as proto;
use tonic::{Code, Request, Status};

use crate::agent::events::{Event, EventObject, EventReason, Repetition};
use crate::agent::exporting::Exporting;
use crate::agent::secrets::RepositorySecret;
use crate::agent::transfers::MAX_RUNNING;
use crate::agent::transfers::context::Context;
use crate::blocks::{BlocksError, PoolState, ProtectedVolume, Protection, ProtectionQuery, ProtectionSnapshot};
use crate::csi::plugin::Plugin;
use crate::types::error::chain;
use crate::types::{ExportTask, PoolId, SnapshotHandle, TaskState, Timestamp};

use super::decide::{self, Leaving, Plan};
use super::secrets::{NamedSecretError, read_named};
use super::slot::Slot;
use super::status::ProtectionStatus;

/// Between two sweeps at most: pools come and go, and clocks are put.
pub(in crate::agent) const AT_LEAST_EVERY: Duration = Duration::from_secs(60);
/// Exports of protections that run at once.
pub(super) const AT_ONCE: usize = MAX_RUNNING - 1;

/// How long what goes may take in one sweep: about as long as one store that does not answer is waited for. The rest goes with the next one.
const LEAVE_WITHIN: Duration = Duration::from_secs(60);

/// What a sweep works with.
pub(in crate::agent) struct Sweep<'a, P> {
    pub(in crate::agent) below: &'a P,
    pub(in crate::agent) context: &'a Context,
    pub(in crate::agent) exporting: &'a Exporting,
}

/// The Secrets that were read in a sweep, by their names.
type Secrets = BTreeMap<String, Result<HashMap<String, String>, NamedSecretError>>;

impl<P: Plugin> Sweep<'_, P> {
    /// Does what is due at this time; when something is due next.
    pub(in crate::agent) async fn run(&self, now: Timestamp) -> Timestamp {
        let mut volumes = self.volumes().await;
        if self.cut_all(&volumes, now).await > 0 {
            volumes = self.volumes().await;
        }
        // Whoever waits longest comes first, and nobody is passed over for ever.
        volumes.sort_by_cached_key(last_success);
        let is_running = |snapshot| self.exporting.is_running(snapshot);
        let plans: Vec<Plan> = volumes.iter().map(|volume| decide::plan(volume, now, is_running)).collect();
        let mut secrets = Secrets::new();
        self.export_all(&volumes, &plans, &mut secrets, now).await;
        let leaving = self.leave_all(&volumes, &plans, &mut secrets);
        if tokio::time::timeout(LEAVE_WITHIN, leaving).await.is_err() {
            tracing::info!("not all snapshots that go from repositories have gone in time; the next sweep goes on");
        }
        let later = Timestamp { seconds: now.seconds.saturating_add(AT_LEAST_EVERY.as_secs()), ..now };
        plans.iter().filter_map(|plan| plan.next).min().map_or(later, |next| next.min(later))
    }

    /// How each protection does.
    pub(in crate::agent) async fn statuses(&self, now: Timestamp) -> Vec<ProtectionStatus> {
        self.volumes().await.iter().filter_map(|volume| ProtectionStatus::of(volume, now)).collect()
    }

    /// The protected volumes of all pools that are there.
    async fn volumes(&self) -> Vec<ProtectedVolume> {
        let mut volumes = Vec::new();
        for state in self.context.blocks.state().await {
            let PoolState::Open { pool, .. } = state else { continue };
            match self.volumes_of(pool.id).await {
                Ok(mut of_pool) => volumes.append(&mut of_pool),
                Err(error) => {
                    tracing::warn!(pool = %pool.id, error = %chain(&error), "a pool does not tell its protected volumes");
                }
            }
        }
        volumes
    }

    async fn volumes_of(&self, pool: PoolId) -> Result<Vec<ProtectedVolume>, BlocksError> {
        let mut query = ProtectionQuery { pool, after: None, limit: ProtectionQuery::MAX };
        let mut volumes = Vec::new();
        loop {
            let mut page = self.context.blocks.protected(query).await?;
            volumes.append(&mut page.volumes);
            match page.next {
                Some(next) => query.after = Some(next),
                None => return Ok(volumes),
            }
        }
    }

    /// Cuts what is due; how many were cut.
    async fn cut_all(&self, volumes: &[ProtectedVolume], now: Timestamp) -> usize {
        let mut count = 0;
        for volume in volumes {
            let plan = decide::plan(volume, now, |snapshot| self.exporting.is_running(snapshot));
            let (Some(slot), Some(protection)) = (plan.cut, &volume.protection) else { continue };
            match self.cut(volume, protection, slot).await {
                Ok(()) => count += 1,
                // It is due until it is made, so the next sweep tries again.
                Err(status) => {
                    self.tell_kind(protection, "the volume was not cut when that was due", &status);
                    tracing::warn!(volume = %volume.volume, code = ?status.code(), reason = status.message(), "a cut that is due was not made");
                }
            }
        }
        count
    }

    async fn cut(&self, volume: &ProtectedVolume, protection: &Protection, slot: Slot) -> Result<(), Status> {
        let name = slot.name(volume.volume.volume).ok_or_else(|| Status::internal("a cut has no name"))?;
        let request = proto::CreateSnapshotRequest {
            source_volume_id: volume.volume.to_string(),
            name: name.into(),
            parameters: protection.order.export.parameters().into_iter().collect(),
            ..Default::default()
        };
        self.below.create_snapshot(Request::new(request)).await.map(drop)
    }

    /// Begins the exports whose turn it is, as many as may run.
    async fn export_all(&self, volumes: &[ProtectedVolume], plans: &[Plan], secrets: &mut Secrets, now: Timestamp) {
        let cuts = volumes.iter().flat_map(|volume| &volume.snapshots);
        let running = cuts.filter(|cut| self.exporting.is_running(cut.copies.snapshot)).count();
        let mut places = AT_ONCE.saturating_sub(running);
        for (volume, plan) in volumes.iter().zip(plans) {
            let (Some(snapshot), Some(protection)) = (plan.export, &volume.protection) else { continue };
            if places == 0 {
                return;
            }
            let Some(cut) = volume.snapshots.iter().find(|cut| cut.copies.snapshot == snapshot) else { continue };
            match self.secret_of(protection, secrets).await {
                Ok(secret) => match self.exporting.follow(snapshot, protection.order.export, secret, Duration::ZERO).await {
                    Ok(_) if self.exporting.is_running(snapshot) => places -= 1,
                    // It has ended already; or others have all places, and the end of one of them begins the next sweep.
                    Ok(_) => {}
                    Err(status) => {
                        tracing::info!(%snapshot, code = ?status.code(), reason = status.message(), "an export was not begun");
                    }
                },
                Err(reason) => {
                    self.note_failure(cut, &reason, now).await;
                    self.tell(protection, EventReason::ExportFailed, reason, Repetition::OfText);
                }
            }
        }
    }

    /// The repository of a protection; or why there is none, in words for people.
    async fn secret_of(&self, protection: &Protection, secrets: &mut Secrets) -> Result<RepositorySecret, String> {
        let told = |reason: &dyn std::fmt::Display| format!("export: {reason}");
        let template = protection.order.secret.as_ref().ok_or_else(|| told(&NamedSecretError::NoSource))?;
        let name = template.resolve(protection.kubernetes.claim.as_ref()).map_err(|error| told(&error))?;
        let read = match secrets.get(&name.to_string()) {
            Some(read) => read.clone(),
            None => {
                // An API server that did not answer once is not waited for again for each of a hundred Secrets.
                let is_away = secrets.values().any(|read| matches!(read, Err(NamedSecretError::Unreachable(_))));
                let read = match is_away {
                    true => Err(NamedSecretError::Unreachable(name.clone())),
                    false => read_named(self.context, &name).await,
                };
                secrets.insert(name.to_string(), read.clone());
                read
            }
        };
        RepositorySecret::parse(read.map_err(|error| told(&error))?).map_err(|error| told(&error))
    }

    /// Records an attempt that failed before it began.
    async fn note_failure(&self, cut: &ProtectionSnapshot, reason: &str, now: Timestamp) {
        let snapshot = cut.copies.snapshot;
        tracing::warn!(%snapshot, reason, "an export of a protection was not begun");
        let known = cut.copies.copies.task.clone();
        // It is not known where the repository lies.
        let task = known.unwrap_or_else(|| ExportTask::new("unknown".to_owned(), now));
        let (attempts, state) = (task.attempts.saturating_add(1), TaskState::failed(reason, now));
        if let Err(error) = self.context.blocks.put_task(snapshot, ExportTask { attempts, state, ..task }).await {
            tracing::warn!(%snapshot, error = %chain(&error), "it is not recorded why an export was not begun");
        }
    }

    /// Tells the users of a volume what was not done. Exports that have begun tell it themselves.
    fn tell(&self, protection: &Protection, reason: EventReason, text: String, repetition: Repetition) {
        let Some(claim) = protection.kubernetes.claim.clone() else { return };
        self.context.events.publish(Event { object: EventObject::Claim(claim), reason, text, repetition });
    }

    /// The same of what a call was refused for. All refusals of one kind are one event, for their texts have figures that change.
    fn tell_kind(&self, protection: &Protection, what: &str, refusal: &Status) {
        // Something else must end first, and nobody has to do anything about it.
        if refusal.code() == Code::Aborted {
            return;
        }
        let (text, series) = (format!("{what}: {}", refusal.message()), format!("{what}, {:?}", refusal.code()));
        self.tell(protection, EventReason::ProtectionFailed, text, Repetition::OfSeries(series));
    }

    /// Takes away what goes.
    async fn leave_all(&self, volumes: &[ProtectedVolume], plans: &[Plan], secrets: &mut Secrets) {
        let mut silent: BTreeSet<String> = BTreeSet::new();
        for (volume, plan) in volumes.iter().zip(plans) {
            let mut is_told = false;
            for leaving in &plan.leaving {
                let (snapshot, left) = match leaving {
                    Leaving::Local(snapshot) => (*snapshot, self.leave_here(*snapshot).await),
                    Leaving::Everywhere(snapshot) => {
                        (*snapshot, self.leave_everywhere(volume, *snapshot, secrets, &mut silent).await)
                    }
                };
                if let Err(status) = left {
                    // What the others meet is mostly the same, or that it was met already.
                    if let Some(protection) = volume.protection.as_ref().filter(|_| !std::mem::replace(&mut is_told, true)) {
                        self.tell_kind(protection, "a snapshot that is not to be kept is still there", &status);
                    }
                    tracing::info!(%snapshot, code = ?status.code(), reason = status.message(), "a snapshot that goes is still there");
                }
            }
        }
    }

    /// Deletes a snapshot here. What the repository has of it stays there.
    async fn leave_here(&self, snapshot: SnapshotHandle) -> Result<(), Status> {
        let _alone = self.exporting.hold_idle(snapshot)?;
        self.delete(snapshot).await
    }

    /// Forgets a snapshot in the repository and deletes it here then.
    async fn leave_everywhere(
        &self,
        volume: &ProtectedVolume,
        snapshot: SnapshotHandle,
        secrets: &mut Secrets,
        silent: &mut BTreeSet<String>,
    ) -> Result<(), Status> {
        let Some(protection) = &volume.protection else { return self.leave_here(snapshot).await };
        let secret = self.secret_of(protection, secrets).await.map_err(Status::unavailable)?;
        let location = secret.location.to_string();
        let task = volume.snapshots.iter().find(|cut| cut.copies.snapshot == snapshot);
        let task = task.and_then(|cut| cut.copies.copies.task.as_ref());
        if task.is_some_and(|task| task.location != location) {
            // The Secret names another repository by now. What the former one holds stays there: nobody here can open it any more.
            return self.leave_here(snapshot).await;
        }
        if silent.contains(&location) {
            return Err(Status::unavailable("its repository has not answered in this sweep"));
        }
        let withdrawn = self.exporting.withdraw_with(snapshot, secret).await;
        if withdrawn.is_err() {
            silent.insert(location);
        }
        let _alone = withdrawn?;
        self.delete(snapshot).await
    }

    async fn delete(&self, snapshot: SnapshotHandle) -> Result<(), Status> {
        let request = proto::DeleteSnapshotRequest { snapshot_id: snapshot.to_string(), ..Default::default() };
        self.below.delete_snapshot(Request::new(request)).await.map(drop)
    }
}

/// When the newest export of a volume was cut; of one without an export, when the volume was made.
fn last_success(volume: &ProtectedVolume) -> Option<Timestamp> {
    let finished = volume.snapshots.iter().filter(|cut| cut.copies.copies.is_task_finished());
    finished.map(|cut| cut.created).max().or(volume.protection.as_ref().map(|protection| protection.created))
}
