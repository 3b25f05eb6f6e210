//! Volumes from snapshots whose bytes are in a repository.
//!
//! CreateVolume with such a snapshot as its source is a restore. The local copy comes first: while there is one the layer below copies it,
//! at once. Otherwise, with the secrets of the repository:
//!
//! 1. The request is checked, and a pool of this node chosen that the topology and the class allow: one that has kept what an earlier call
//!    has restored, else the roomiest.
//! 2. In the background, as a [transfer](super::transfers), which outlives the call: the repository is opened, the export with the
//!    snapshot's handle found, a hidden target made, filled, looked at, and committed. Nobody sees the volume before.
//! 3. The call waits for it, to just under its deadline, and is told ABORTED with a text that does not change: the provisioner asks
//!    again, and again after its claim was deleted. The same call finds the same restore by the volume's name.
//! 4. When there is a volume of this name the layer below answers, from its record, which says what it was restored from. When there is none
//!    any more it was deleted, and the next call begins another restore.
//!
//! What a restore that failed says is told once, and the next call begins another. A failure that is final leaves nothing. When this process
//! ends, by a crash or in an orderly way, or the node's does, or the store is in the way, the hidden target is kept for an hour, and the next
//! equal call goes on with it, in the pool that has it: all of what it holds is looked at, and only what is missing is fetched.
//!
//! A volume of a protected class that has no content source may begin with the newest export of its claim: see `newest`.
//!
//! **Never**: "not found" of a snapshot by the word of a repository; only the pool that owns it says so.

mod claim;
mod fault;
mod newest;
mod place;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use csi_proto::csi::v1 as proto;
use csi_proto::windlass::v1::{TransferProgress, TransferState};
use tonic::{Code, Status};

use crate::blocks::BlocksError;
use crate::repository::forget::{Filter, TagList};
use crate::repository::tree::FileSelector;
use crate::repository::{RepositoryError, SnapshotChoice};
use crate::transfer::image::{Image, Locking};
use crate::transfer::{Budget, OnDamage, Reading};
use crate::types::span::Subject;
use crate::types::{LocalCopy, ObjectName, SnapshotHandle};

use super::events::{TransferReporter, Work, text};
use super::secrets::RepositorySecret;
use super::transfers::context::{Context, handle_tag};
use super::transfers::registry::{Precedence, SlotError, TransferFailure, TransferKind, TransferResult, is_final, is_waiting};
use super::transfers::restore::{RestoreOrder, Wish};
use super::transfers::{message, status};
use claim::CheckedClaim;
use newest::Newest;

/// What a call is told whose restore is not done. Always the same: a sidecar makes an event of each new text.
const RUNNING: &str = "volume_content_source: the volume is being restored from its repository; call again";

/// What a restored volume holds.
enum Content {
    /// This snapshot.
    Snapshot(SnapshotHandle),
    /// The newest export of a claim.
    Newest(Newest),
}

/// The restores that calls asked for. Clones are the same.
#[derive(Clone)]
pub(super) struct Restoring {
    context: Context,
    /// The transfer of each volume's name. Those that the registry has forgotten are taken away with the next one.
    by_name: Arc<Mutex<BTreeMap<ObjectName, String>>>,
}

impl Restoring {
    pub(super) fn new(context: Context) -> Self {
        Self { context, by_name: Arc::default() }
    }

    /// Refuses a class that is to be protected where nobody could.
    ///
    /// # Errors
    /// FAILED_PRECONDITION.
    pub(super) fn check_protection(&self, request: &proto::CreateVolumeRequest) -> Result<(), Status> {
        newest::check_protection(&self.context, request)
    }

    /// The export that the class of a CreateVolume wants it to begin with; `None` when the request is not for that, or the volume is there.
    ///
    /// # Errors
    /// UNAVAILABLE and the like when it cannot be told whether the volume is there.
    pub(super) async fn newest(&self, request: &proto::CreateVolumeRequest) -> Result<Option<Newest>, Status> {
        // A name that is none is for the layer below to refuse.
        let (Some(newest), Ok(name)) = (newest::wanted(request), ObjectName::try_from(request.name.clone())) else {
            return Ok(None);
        };
        let succeeded = self.succeeded(&name);
        let found = self.context.blocks.find_volume(&name).await.map_err(|error| status::blocks("name", &error))?;
        if found.is_some() {
            return Ok(None);
        }
        // A restore had made one by the time before the look, so it was deleted since, and its name is free.
        succeeded.iter().for_each(|id| self.forget(&name, id));
        Ok(Some(newest))
    }

    /// Whether a CreateVolume is to be answered by the layer below: it has no snapshot as its source, or one whose bytes are on this node,
    /// or the volume is there, or only the layer below can say what is wrong.
    pub(super) async fn is_for_the_layer_below(
        &self,
        request: &proto::CreateVolumeRequest,
        secrets: &HashMap<String, String>,
    ) -> Result<bool, Status> {
        let Some(snapshot) = source(request) else { return Ok(true) };
        let Ok(name) = ObjectName::try_from(request.name.clone()) else { return Ok(true) };
        let blocks = &self.context.blocks;
        let succeeded = self.succeeded(&name);
        match blocks.find_volume(&name).await {
            // A restore had made one by the time before the look, so it was deleted since, and its name is free.
            Ok(None) => succeeded.iter().for_each(|id| self.forget(&name, id)),
            // Also when a pool that cannot be asked has it.
            Ok(Some(_)) | Err(_) => return Ok(true),
        }
        match blocks.copies(snapshot).await {
            Ok(known) if known.copies.local == LocalCopy::Kept => Ok(true),
            Ok(_) if secrets.is_empty() => Err(Status::failed_precondition(
                "secrets: the snapshot is in its repository only; the StorageClass must name the provisioner secret that opens it",
            )),
            Ok(_) => Ok(false),
            // A repository may have what another node's pool has; without one its owner is waited for.
            Err(BlocksError::Unavailable(_)) => Ok(secrets.is_empty()),
            Err(_) => Ok(true),
        }
    }

    /// Restores the volume of a request that is not for the layer below; begins it if need be, and waits for its end as long as `patience`.
    /// When this returns, the layer below answers the request.
    ///
    /// # Errors
    /// ABORTED while the restore runs; UNAVAILABLE while too many transfers do; why it failed, once; for what is wrong with the request, as
    /// the layer below.
    pub(super) async fn restore(
        &self,
        request: &proto::CreateVolumeRequest,
        secrets: HashMap<String, String>,
        patience: Duration,
    ) -> Result<(), Status> {
        let checked = CheckedClaim::of(request)?;
        let Some(source) = checked.claim.source else {
            return Err(Status::invalid_argument("volume_content_source: must name a snapshot"));
        };
        let name = checked.name.clone();
        let id = match self.known(&name) {
            Some(id) => id,
            None => {
                let secret = RepositorySecret::parse(secrets);
                let secret = secret.map_err(|error| Status::invalid_argument(error.to_string()))?;
                self.begin(checked, request, secret, Content::Snapshot(source)).await?
            }
        };
        self.await_end(&name, &id, patience).await
    }

    /// The same for a volume that begins with the newest export of its claim. When this returns and there is no volume, there is no export,
    /// and it begins empty.
    ///
    /// # Errors
    /// As there; FAILED_PRECONDITION without an export where the class asks for one, and without the Secret that it names.
    pub(super) async fn restore_newest(
        &self,
        request: &proto::CreateVolumeRequest,
        newest: Newest,
        secrets: HashMap<String, String>,
        patience: Duration,
    ) -> Result<(), Status> {
        let checked = CheckedClaim::of(request)?;
        let name = checked.name.clone();
        let id = match self.known(&name) {
            Some(id) => id,
            None => {
                let secret = newest::secret(&self.context, &newest, secrets).await?;
                self.begin(checked, request, secret, Content::Newest(newest)).await?
            }
        };
        self.await_end(&name, &id, patience).await
    }

    /// The transfer of this name that runs, or has ended and nobody was told.
    fn known(&self, name: &ObjectName) -> Option<String> {
        let id = self.by_name().get(name).cloned();
        id.filter(|id| self.context.registry.watch(id).is_some())
    }

    /// Waits for the end of a transfer, and tells it.
    async fn await_end(&self, name: &ObjectName, id: &str, patience: Duration) -> Result<(), Status> {
        let Some(mut watched) = self.context.registry.watch(id) else { return Err(Status::aborted(RUNNING)) };
        if is_waiting(&watched.now()) {
            // The provisioner has ten calls for all volumes.
            return Err(Status::aborted(RUNNING));
        }
        let ended = async {
            loop {
                let now = watched.now();
                if is_final(&now) {
                    return now;
                }
                watched.changed().await;
            }
        };
        let ended = tokio::time::timeout(patience, ended).await.map_err(|_| Status::aborted(RUNNING))?;
        self.by_name().remove(name);
        told(&ended)
    }

    async fn begin(
        &self,
        checked: CheckedClaim,
        request: &proto::CreateVolumeRequest,
        secret: RepositorySecret,
        content: Content,
    ) -> Result<String, Status> {
        let states = self.context.blocks.state().await;
        let requirement = request.accessibility_requirements.as_ref();
        let pool = place::choose(&self.context.node, &states, requirement, (&checked.claim.parameters, &checked.name))?;
        let mut by_name = self.by_name();
        if let Some(id) = by_name.get(&checked.name).filter(|id| self.context.registry.watch(id).is_some()) {
            // Another call for it was faster.
            return Ok(id.clone());
        }
        let slot =
            self.context.registry.slot_or_turn(TransferKind::Restore, Precedence::Restore).map_err(|error| match error {
                SlotError::Full => {
                    Status::unavailable("volume_content_source: as many transfers run and wait as may; call again")
                }
                SlotError::Stopping => status::no_slot(error),
            })?;
        match &content {
            Content::Snapshot(snapshot) => slot.is_about(Subject::Snapshot(*snapshot)),
            Content::Newest(newest) => slot.is_about(Subject::Claim(&newest.claim)),
        }
        let name = checked.name;
        let names = &checked.claim.parameters.kubernetes;
        let told = TransferReporter::new(&self.context.events, Work::Restore, names, name.to_string());
        let order = RestoreOrder {
            blocks: Arc::clone(&self.context.blocks),
            pool,
            wish: Wish::Claimed(checked.claim),
            name: name.clone(),
            budget: Budget::for_this_machine(),
            progress: slot.progress(),
            cancel: slot.cancellation(),
            stopping: slot.stopping(),
        };
        by_name.retain(|_, id| self.context.registry.watch(id).is_some());
        let (progress, context) = (slot.progress(), self.context.clone());
        let id = slot.spawn(async move {
            told.started();
            let work = async {
                match content {
                    Content::Snapshot(snapshot) => run(context, secret, snapshot, order).await,
                    Content::Newest(newest) => newest::run(context, secret, newest, order).await,
                }
            };
            let ended = told.follow(&progress, work).await;
            match &ended {
                Ok(TransferResult::Restore(result)) if result.volume_id.is_empty() => told.finished(newest::EMPTY),
                Ok(TransferResult::Restore(result)) => told.finished(&text::restored(result)),
                Ok(TransferResult::Export(_)) | Err(TransferFailure::Cancelled) => {}
                Err(failure) => told.failed(fault::text(failure)),
            }
            ended
        });
        by_name.insert(name, id.clone());
        Ok(id)
    }

    /// The restore of this name, if it has succeeded: its volume is recorded then.
    fn succeeded(&self, name: &ObjectName) -> Option<String> {
        let id = self.by_name().get(name).cloned()?;
        let ended = self.context.registry.watch(&id)?.now();
        // One that had nothing to restore has made none.
        let has_made = ended.restore_result.as_ref().is_some_and(|result| !result.volume_id.is_empty());
        (ended.state() == TransferState::Succeeded && has_made).then_some(id)
    }

    /// Forgets a restore, unless another one of its name was begun.
    fn forget(&self, name: &ObjectName, id: &str) {
        let mut by_name = self.by_name();
        if by_name.get(name).is_some_and(|known| known == id) {
            by_name.remove(name);
        }
    }

    fn by_name(&self) -> MutexGuard<'_, BTreeMap<ObjectName, String>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The snapshot that a request names as its source.
fn source(request: &proto::CreateVolumeRequest) -> Option<SnapshotHandle> {
    use proto::volume_content_source::Type;
    match request.volume_content_source.as_ref()?.r#type.as_ref()? {
        Type::Snapshot(snapshot) => snapshot.snapshot_id.parse().ok(),
        Type::Volume(_) => None,
    }
}

/// The transfer.
async fn run(
    context: Context,
    secret: RepositorySecret,
    snapshot: SnapshotHandle,
    order: RestoreOrder,
) -> Result<TransferResult, TransferFailure> {
    let (cancel, progress) = (order.cancel.clone(), order.progress.clone());
    let opening = async {
        let RepositorySecret { location, password, environment } = secret;
        let store = context.workspace.connect(&location, &environment)?;
        progress.watch(&store);
        let repository = context.workspace.open(store, &location, &password).await?;
        let repository = message::locked_for(&context, order.pool.id, repository, None);
        let tags = vec![TagList::from(handle_tag(snapshot).as_str())];
        let filter = Filter { tags, ..Filter::default() };
        let choice = SnapshotChoice { filter, ..SnapshotChoice::from("latest") };
        let reading = Reading { locking: Locking::Shared, on_damage: OnDamage::Fail };
        let waiting = |reason: &RepositoryError| progress.waits_for(Some(reason.to_string()));
        let opened = Image::open_or_wait(&repository, choice, &FileSelector::Only, reading, &waiting).await;
        progress.waits_for(None);
        opened
    };
    let opened = cancel.run_until_cancelled(opening).await.ok_or(TransferFailure::Cancelled)?;
    let image = opened.map_err(|error: RepositoryError| status::late(&status::repository(&error)))?;
    order.run(image).await
}

/// What a call is told of a restore that has ended.
fn told(ended: &TransferProgress) -> Result<(), Status> {
    match ended.state() {
        TransferState::Succeeded => Ok(()),
        TransferState::Canceled => Err(Status::aborted("volume_content_source: the restore was cancelled; call again")),
        TransferState::Refused => Err(Status::failed_precondition(ended.message.clone())),
        _ => {
            let code = i32::try_from(ended.failure_code).map_or(Code::Internal, Code::from_i32);
            Err(match code {
                // That the snapshot does not exist is for its pool to say.
                Code::NotFound | Code::Ok => Status::failed_precondition(ended.message.clone()),
                code => Status::new(code, ended.message.clone()),
            })
        }
    }
}
