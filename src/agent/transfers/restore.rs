//! A repository into a new volume.
//!
//! Order: slot, repository and image opened, hidden target made, answer; then, detached from the call: the pipeline, a look
//! at what was restored (`transfer::fit`: an image that nothing is known of may be of no use on this pool's devices), and the commit
//! that makes the volume visible. The target is invisible and its name claimed from the moment it is made. The commit is the only step that
//! anybody sees.
//!
//! **What ends it before its commit** deletes the target: failure, cancellation, a panic. A crash leaves that to the node. A restore that a
//! CreateVolume asked for is asked for again, and goes on with what is there: so its target is kept ([`OnLoss::Keep`]) when this process ends,
//! in whatever way, when the node does, and after a failure that may end by itself ([`is_passing`]). What it holds is looked at then,
//! all of it, and what is right is not fetched again ([`Target::Partial`]).
//!
//! **Of a volume that was never formatted** there is nothing to restore, and nobody has made a file system in it. The image's metadata says so;
//! the node makes a volume of it that is formatted when it is first staged, if it finds that indeed nothing was written. Metadata of older
//! versions says nothing, and older nodes do not understand what they are told: the volume has content then, and is never formatted.
//!
//! A repository that is locked is waited for. The call is answered then, and all that comes after the lock is detached from it: the
//! progress says for whom the restore waits, it can be cancelled, and what the call would have been refused for is why the
//! restore fails.
//!
//! **With holes**, where that was asked for, the volume is committed as well, for somebody is to look at what is left; but under a
//! [name](plan::damaged_name) that says what it is, so that nothing that asks for a volume by its name gets it for a good one. What it
//! holds is not looked at: its file system may be what the holes are in.

mod claim;
mod plan;

use std::io;
use std::sync::Arc;

use csi_proto::windlass::v1 as windlass;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::Instrument;

use crate::blocks::{Blocks, BlocksError, CommitName, FileSource, OpenPool, RestoreTarget, TargetStart};
use crate::repository::RepositoryError;
use crate::repository::time::{parse_rfc3339, rfc3339};
use crate::repository::tree::FileSelector;
use crate::transfer::fit::{self, Misfit};
use crate::transfer::metadata::Metadata;
use crate::transfer::{
    self, Budget, Holes, Image, Locking, OnDamage, Progress, Reading, RestoreError, RestoreOptions, RestoreReport, Target,
};
use crate::types::error::chain;
use crate::types::span::Subject;
use crate::types::{FsType, LogicalBlockSize, NewVolume, ObjectName, OnLoss, TargetContent, VolumeHandle};

use super::context::Context;
use super::registry::{TransferFailure, TransferKind, TransferResult};
use super::{export, message, status};

pub(in crate::agent) use claim::VolumeClaim;

/// Starts a restore and returns its id. Must run detached from the call: between the making of the target and the start of
/// the transfer it must not be dropped.
///
/// # Errors
/// The status of whatever is wrong with the request.
pub(super) async fn start(context: &Context, request: windlass::StartRestoreRequest) -> Result<String, Status> {
    let blocks = Arc::clone(&context.blocks);
    let pool = blocks.pool(&request.pool_id).await.map_err(|error| status::blocks("pool_id", &error))?;
    let budget = export::budget(request.workers, request.memory_bytes)?;
    let name = ObjectName::try_from(request.volume_name.clone())
        .map_err(|error| Status::invalid_argument(format!("volume_name: {error}")))?;
    if request.repository_snapshot.is_empty() {
        return Err(Status::invalid_argument("repository_snapshot: is required; `latest` is the newest"));
    }
    let which = match request.file_path.as_str() {
        "" => FileSelector::Only,
        path => FileSelector::Path(path.to_owned()),
    };
    let choice = message::choice(request.repository_snapshot.clone(), request.filter.clone().unwrap_or_default())?;
    let slot = context.registry.slot(TransferKind::Restore).map_err(status::no_slot)?;
    let repository = message::open(request.repository.clone(), &context.workspace, &slot.progress()).await?;
    let repository = message::locked_for(context, pool.id, repository, request.retry_lock_seconds);
    let reading = Reading {
        locking: if request.no_lock { Locking::None } else { Locking::Shared },
        on_damage: if request.skip_damaged { OnDamage::Skip } else { OnDamage::Fail },
    };
    let (progress, cancel, first_wait) = (slot.progress(), slot.cancellation(), Arc::new(Notify::new()));
    let (shown, begins_to_wait) = (progress.clone(), Arc::clone(&first_wait));
    let mut opening = Box::pin(async move {
        let waiting = |reason: &RepositoryError| {
            shown.waits_for(Some(chain(reason)));
            begins_to_wait.notify_one();
        };
        let opened = Image::open_or_wait(&repository, choice, &which, reading, &waiting).await;
        shown.waits_for(None);
        opened.map_err(|error| status::repository(&error))
    });
    let wish = Wish::Asked(request);
    let (cancel_order, stopping) = (cancel.clone(), slot.stopping());
    let order = RestoreOrder { blocks, pool, wish, name, budget, progress, cancel: cancel_order, stopping };
    let opened = tokio::select! {
        opened = &mut opening => Some(opened?),
        () = first_wait.notified() => None,
    };
    Ok(match opened {
        Some(image) => {
            let (restore, target) = order.begin(image).await?;
            slot.spawn(restore.run(target))
        }
        None => slot.spawn(async move {
            let opened = cancel.run_until_cancelled(opening).await.ok_or(TransferFailure::Cancelled)?;
            order.run(opened.map_err(|refusal| status::late(&refusal))?).await
        }),
    })
}

/// What a restored volume is to be.
pub(in crate::agent) enum Wish {
    /// What somebody asked this service for.
    Asked(windlass::StartRestoreRequest),
    /// What a CreateVolume asked for.
    Claimed(VolumeClaim),
}

impl Wish {
    fn block_size(&self, own: LogicalBlockSize) -> Result<LogicalBlockSize, Status> {
        match self {
            Self::Asked(request) => plan::block_size(request, own),
            Self::Claimed(claim) => Ok(claim.parameters.logical_block_size.unwrap_or(own)),
        }
    }

    /// What becomes of its target when nobody holds it any more: only the call of a provisioner comes again.
    fn on_loss(&self) -> OnLoss {
        match self {
            Self::Asked(_) => OnLoss::Delete,
            Self::Claimed(_) => OnLoss::Keep,
        }
    }

    fn plan(&self, name: ObjectName, image_bytes: u64, metadata: Option<&Metadata>) -> Result<NewVolume, Status> {
        match self {
            Self::Asked(request) => plan::plan(request, name, image_bytes, metadata),
            Self::Claimed(claim) => claim.plan(name, image_bytes, metadata),
        }
    }
}

/// A restore that was ordered, before its image is open.
pub(in crate::agent) struct RestoreOrder {
    pub(in crate::agent) blocks: Arc<dyn Blocks>,
    pub(in crate::agent) pool: OpenPool,
    pub(in crate::agent) wish: Wish,
    pub(in crate::agent) name: ObjectName,
    pub(in crate::agent) budget: Budget,
    pub(in crate::agent) progress: Progress,
    pub(in crate::agent) cancel: CancellationToken,
    /// Cancelled when the process is to end.
    pub(in crate::agent) stopping: CancellationToken,
}

impl RestoreOrder {
    /// Makes the target and fills it.
    pub(in crate::agent) async fn run(self, image: Image) -> Result<TransferResult, TransferFailure> {
        let (restore, target) = self.begin(image).await.map_err(|refusal| status::late(&refusal))?;
        restore.run(target).await
    }

    /// Makes the hidden target. Must run to its end: between the making of the target and the start of the transfer it must not be dropped.
    ///
    /// # Errors
    /// The status of whatever is wrong with the request; the image is closed then.
    async fn begin(self, image: Image) -> Result<(Restore, RestoreTarget), Status> {
        match self.make_target(&image).await {
            Ok((target, expected)) => {
                let on_loss = self.wish.on_loss();
                let Self { blocks, name, budget, progress, cancel, stopping, .. } = self;
                Ok((Restore { blocks, image, name, expected, on_loss, budget, progress, cancel, stopping }, target))
            }
            Err(refusal) => {
                image.close().await;
                Err(refusal)
            }
        }
    }

    /// The target, and what must be in it when it is whole.
    async fn make_target(&self, image: &Image) -> Result<(RestoreTarget, Expected), Status> {
        let device = self.wish.block_size(self.pool.logical_block_size)?;
        plan::check_block_size(image.metadata(), device)?;
        let volume = self.wish.plan(self.name.clone(), image.size_bytes(), image.metadata())?;
        let file_system = plan::claimed(volume.mode, image.metadata());
        let begun = self.blocks.begin(self.pool.id, volume, self.wish.on_loss()).await;
        match begun.map_err(|error| status::blocks("volume_name", &error))? {
            TargetStart::Target(target) => Ok((target, Expected { file_system, device })),
            // Whatever it holds, it is never taken for a restored one.
            TargetStart::Existing(_) => {
                Err(Status::already_exists(format!("volume_name: there is a volume `{}` already", self.name)))
            }
        }
    }
}

/// What a restored volume must be of use for.
#[derive(Debug, Clone, Copy)]
struct Expected {
    /// The file system that must be in it, if only the request speaks of one.
    file_system: Option<FsType>,
    /// Logical block size of its devices.
    device: LogicalBlockSize,
}

/// A restore with all it needs but its target.
struct Restore {
    blocks: Arc<dyn Blocks>,
    image: Image,
    /// What the volume is called if it is whole.
    name: ObjectName,
    expected: Expected,
    on_loss: OnLoss,
    budget: Budget,
    progress: Progress,
    cancel: CancellationToken,
    stopping: CancellationToken,
}

impl Restore {
    async fn run(self, target: RestoreTarget) -> Result<TransferResult, TransferFailure> {
        let (blocks, volume, size, name) = (Arc::clone(&self.blocks), target.volume, target.size, self.name.clone());
        Subject::Volume(volume).note();
        if let Some(Metadata { pvc_namespace: Some(namespace), pvc_name: Some(claim), .. }) = self.image.metadata() {
            Subject::Claim(&format_args!("{namespace}/{claim}")).note();
        }
        let (written, expected) = (target.source(), self.expected);
        let (on_loss, stopping) = (self.on_loss, self.stopping.clone());
        let metadata_lost = self.image.lost_metadata().unwrap_or_default().to_owned();
        let whole = match self.image.metadata() {
            Some(metadata) if metadata.unformatted => CommitName::AsBegunUnformatted,
            _ => CommitName::AsBegun,
        };
        let stored = self.image.snapshot();
        let (repository_snapshot, taken) = (stored.id.to_string(), parse_rfc3339(&stored.snapshot.time));
        // In a task of its own, so that a panic in it ends in the abort below.
        let copied = tokio::spawn(self.copy(target).in_current_span()).await;
        let copied = match copied {
            Ok(Ok(report)) => Ok(report),
            Ok(Err(error)) => Err(status::restore(&error)),
            Err(error) => Err(TransferFailure::inside(format!("the restore ended early: {error}"))),
        };
        let looked_at = match copied {
            Ok(report) if report.holes.is_empty() => look(written, expected).await.map(|()| report),
            copied => {
                // There is no commit while it can be written to.
                drop(written);
                copied
            }
        };
        let committed = match looked_at {
            Ok(report) => commit(blocks.as_ref(), volume, name, (&report.holes, whole)).await.map(|name| (report, name)),
            Err(failure) => Err(failure),
        };
        match committed {
            Ok((report, name)) => Ok(TransferResult::Restore(windlass::RestoreResult {
                volume_id: volume.to_string(),
                size_bytes: size.bytes(),
                data_bytes: report.written_bytes,
                zero_bytes: size.bytes().saturating_sub(report.written_bytes + report.present_bytes),
                present_bytes: report.present_bytes,
                volume_name: name.to_string(),
                hole_bytes: report.holes.bytes,
                unlisted_hole_bytes: report.holes.unlisted_bytes,
                holes: report.holes.listed.into_iter().map(message::hole).collect(),
                metadata_lost,
                repository_snapshot,
                snapshot_time: taken.map(rfc3339).unwrap_or_default(),
            })),
            Err(failure) => {
                let goes_on = on_loss == OnLoss::Keep && is_passing(&failure, &stopping);
                if !(goes_on && let_go(blocks.as_ref(), volume).await) {
                    abort(blocks.as_ref(), volume).await;
                }
                Err(failure)
            }
        }
    }

    async fn copy(mut self, target: RestoreTarget) -> Result<RestoreReport, RestoreError> {
        let holds = match target.content {
            TargetContent::Zeros => Target::Fresh,
            TargetContent::Partial => Target::Partial,
        };
        let options = RestoreOptions { target: holds, budget: self.budget };
        let result = match target.into_sink() {
            Ok(sink) => transfer::restore(&mut self.image, Arc::new(sink), &options, &self.progress, &self.cancel).await,
            Err(error) => Err(RestoreError::Flush(error)),
        };
        self.image.let_go(&self.cancel).await;
        result
    }
}

/// Looks at what was restored before anybody else can, and closes it.
async fn look(written: io::Result<FileSource>, expected: Expected) -> Result<(), TransferFailure> {
    let looked = tokio::task::spawn_blocking(move || fit::check(&written?, expected.file_system, expected.device));
    match looked.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error @ (Misfit::FileSystem { .. } | Misfit::Blocks { .. }))) => Err(TransferFailure::Refused(chain(&error))),
        Ok(Err(error @ Misfit::Io(_))) => Err(TransferFailure::inside(chain(&error))),
        Err(error) => Err(TransferFailure::inside(format!("the look at the image ended early: {error}"))),
    }
}

/// Makes the volume visible: as `whole` says if it is that, else under a name that says that it is not. Returns its name.
async fn commit(
    blocks: &dyn Blocks,
    volume: VolumeHandle,
    name: ObjectName,
    (holes, whole): (&Holes, CommitName),
) -> Result<ObjectName, TransferFailure> {
    let committed = match holes.is_empty() {
        true => blocks.commit(volume, whole).await.map(|()| name),
        false => commit_damaged(blocks, volume, &name).await,
    };
    committed.map_err(|error| TransferFailure::inside(format!("the restored volume cannot be committed: {error}")))
}

/// Names that are tried for a volume with holes. Hours of work are not lost for a name.
const DAMAGED_NAMES: u32 = 1000;

async fn commit_damaged(blocks: &dyn Blocks, volume: VolumeHandle, name: &ObjectName) -> Result<ObjectName, BlocksError> {
    let mut number = 1;
    loop {
        let name = plan::damaged_name(name, number);
        match blocks.commit(volume, CommitName::Instead(name.clone())).await {
            Err(BlocksError::NameTaken(_) | BlocksError::Busy(_)) if number < DAMAGED_NAMES => number += 1,
            committed => return committed.map(|()| name),
        }
    }
}

/// Whether a restore that failed so may go on when it is asked for again, without anybody having done anything: the process ended, or the store or
/// a lock of the repository was in the way. One that somebody cancelled is given up; what is damaged or does not fit stays so; and after a
/// failure of the target itself nobody knows what its disk holds.
fn is_passing(failure: &TransferFailure, stopping: &CancellationToken) -> bool {
    match failure {
        TransferFailure::Cancelled => stopping.is_cancelled(),
        TransferFailure::Failed { code, .. } => matches!(code, Code::Unavailable | Code::Aborted),
        TransferFailure::Refused(_) => false,
    }
}

/// Leaves the target to the next restore that is asked for. False when it still is this one's.
async fn let_go(blocks: &dyn Blocks, volume: VolumeHandle) -> bool {
    let left = blocks.let_go(volume).await;
    left.inspect_err(|error| tracing::warn!(%volume, error = %chain(error), "an interrupted restore is not kept")).is_ok()
}

/// Deletes the target. A failure leaves it hidden until the pool's next start deletes it.
async fn abort(blocks: &dyn Blocks, volume: VolumeHandle) {
    if let Err(error) = blocks.abort(volume).await {
        tracing::warn!(%volume, error = %chain(&error), "an aborted restore stays hidden until the next start");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_end_by_itself_is_gone_on_with() {
        let (running, stopping) = (CancellationToken::new(), CancellationToken::new());
        stopping.cancel();
        assert!(is_passing(&TransferFailure::Cancelled, &stopping));
        assert!(!is_passing(&TransferFailure::Cancelled, &running), "somebody has cancelled it");
        assert!(!is_passing(&TransferFailure::Refused("it does not fit".to_owned()), &stopping));
        let failed = |code| is_passing(&TransferFailure::Failed { code, reason: String::new() }, &running);
        let passing: Vec<Code> = (1..=16).map(Code::from_i32).filter(|code| failed(*code)).collect();
        assert_eq!(passing, [Code::Aborted, Code::Unavailable]);
    }
}
