//! Hidden targets of restores that an agent writes to.
//!
//! Begin runs to its end when its caller goes away meanwhile; what it made is deleted then. A target is in the table until it is settled: by
//! a commit, by an abort, or by the end of its stream, whichever comes first; they exclude each other. Before each of them the
//! node's own copy of its descriptor is closed, and with it goes the token.
//!
//! The end of the stream lets go of the target: it is deleted, or kept for the next equal request, as its beginner said. That is done again until
//! it worked: at first soon, since the agent's last descriptor is closed
//! within moments if it has died, then rarely ([`Retry`]). One that was to be kept, and that somebody can still write to after
//! [`KEEPING`] attempts, is deleted. It counts as held meanwhile, so an agent that keeps descriptors on purpose fills
//! its own share and nothing else. What is left when the node stops is settled by its next start.
//!
//! A kept target is none of this table, and has neither secret nor token: the pool bounds how many there are and for how long. Who takes it over
//! gets new ones, and the old ones were gone before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use csi_proto::windlass::v1 as proto;
use csi_proto::windlass::v1::begin_target_response::Start;
use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio_util::sync::CancellationToken;

use super::holds::Hold;
use super::offers::{Descriptor, Offers};
use super::peer::Peer;
use super::target_file::TargetFile;
use super::work::Work;
use crate::blocks::wire::secret::Secret;
use crate::blocks::{Blocks, BlocksError, CommitName, TargetStart, wire};
use crate::csi::call::Lost;
use crate::types::error::chain;
use crate::types::{NewVolume, OnLoss, PoolId, VolumeHandle};

/// The targets of a node. Clones are the same.
#[derive(Clone)]
pub(super) struct Targets {
    blocks: Arc<dyn Blocks>,
    offers: Offers,
    work: Work,
    stop: CancellationToken,
    held: Arc<Mutex<HashMap<Secret, HeldTarget>>>,
}

/// How often it is tried to keep a target before it is deleted: for some eight seconds.
const KEEPING: u32 = 5;

/// What is asked for.
pub(super) struct Wanted {
    pub(super) pool: PoolId,
    pub(super) volume: NewVolume,
    pub(super) on_loss: OnLoss,
}

/// A target of the table. Clones are the same.
#[derive(Clone)]
struct HeldTarget {
    volume: VolumeHandle,
    on_loss: OnLoss,
    token: Secret,
    file: TargetFile,
    /// Whoever settles it has this.
    stage: Arc<tokio::sync::Mutex<Stage>>,
    _hold: Arc<Hold>,
}

/// What has become of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Hidden,
    /// Committed, deleted, or let go of.
    Settled,
}

/// What came of a begin.
pub(super) enum Begun {
    /// A target, and what its stream must hold.
    Target(proto::BeginTargetResponse, TargetEnd),
    /// A volume that is there already.
    Existing(VolumeHandle),
}

/// What the stream of a target holds: dropping it lets go of the target, unless it is settled.
pub(super) struct TargetEnd {
    targets: Targets,
    id: Secret,
}

/// How long is waited before a target is deleted again: twice as long each time, up to a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Retry(Duration);

impl Retry {
    const FIRST: Self = Self(Duration::from_millis(250));
    const MOST: Duration = Duration::from_secs(60);

    fn next(self) -> Self {
        Self((self.0 * 2).min(Self::MOST))
    }
}

impl Targets {
    pub(super) fn new(blocks: Arc<dyn Blocks>, offers: Offers, work: Work, stop: CancellationToken) -> Self {
        Self { blocks, offers, work, stop, held: Arc::default() }
    }

    /// Begins a target, and offers its descriptor to `peer`.
    ///
    /// # Errors
    /// Those of [`Blocks::begin`].
    pub(super) async fn begin(&self, wanted: Wanted, peer: Option<Peer>, hold: Hold) -> Result<Begun, BlocksError> {
        let (answer, answered) = oneshot::channel();
        let targets = self.clone();
        let work = async move {
            let begun = targets.begin_and_hold(wanted, peer, hold).await;
            // When nobody waits any more it comes back, and goes.
            let _ = answer.send(begun);
        };
        self.work.spawn(work);
        answered.await.unwrap_or_else(|_| Err(Lost.into()))
    }

    async fn begin_and_hold(&self, wanted: Wanted, peer: Option<Peer>, hold: Hold) -> Result<Begun, BlocksError> {
        let (id, token) = (random()?, random()?);
        let thread = self.work.thread().await;
        let Wanted { pool, volume, on_loss } = wanted;
        let begun = self.blocks.begin(pool, volume, on_loss).await?;
        drop(thread);
        let target = match begun {
            TargetStart::Existing(volume) => return Ok(Begun::Existing(volume)),
            TargetStart::Target(target) => target,
        };
        let message = proto::HeldTarget {
            target_id: id.to_vec(),
            descriptor_token: token.to_vec(),
            volume_id: target.volume.to_string(),
            size_bytes: target.size.bytes(),
        };
        let content = wire::target::content(target.content);
        let message = proto::BeginTargetResponse { content, start: Some(Start::Target(message)) };
        let (volume, file) = (target.volume, TargetFile::new(target.file));
        let stage = Arc::new(tokio::sync::Mutex::new(Stage::Hidden));
        let held = HeldTarget { volume, on_loss, token, file: file.clone(), stage, _hold: Arc::new(hold) };
        self.table().insert(id, held);
        let end = TargetEnd { targets: self.clone(), id };
        self.offers.make(token, Descriptor::Target(file), peer);
        Ok(Begun::Target(message, end))
    }

    /// Commits a target.
    ///
    /// # Errors
    /// [`BlocksError::Missing`] when it is none any more; those of [`Blocks::commit`], after which it is as it was, but for its token.
    pub(super) async fn commit(&self, id: Option<Secret>, volume: VolumeHandle, name: CommitName) -> Result<(), BlocksError> {
        let blocks = Arc::clone(&self.blocks);
        self.settle(id, volume, async move { blocks.commit(volume, name).await }).await
    }

    /// Deletes a target.
    ///
    /// # Errors
    /// [`BlocksError::Missing`] when it is none any more; those of [`Blocks::abort`], after which it is as it was, but for its token.
    pub(super) async fn abort(&self, id: Option<Secret>, volume: VolumeHandle) -> Result<(), BlocksError> {
        let blocks = Arc::clone(&self.blocks);
        self.settle(id, volume, async move { blocks.abort(volume).await }).await
    }

    /// Does `work` on a hidden target, which is settled if that succeeds. The work goes on when the caller goes away.
    async fn settle(
        &self,
        id: Option<Secret>,
        volume: VolumeHandle,
        work: impl Future<Output = Result<(), BlocksError>> + Send + 'static,
    ) -> Result<(), BlocksError> {
        let found = id.and_then(|id| Some((id, self.table().get(&id).cloned()?)));
        let Some((id, target)) = found.filter(|(_, target)| target.volume == volume) else {
            return Err(self.absent(volume).await);
        };
        let Ok(mut stage) = Arc::clone(&target.stage).try_lock_owned() else {
            return Err(BlocksError::Busy("the target is being committed or deleted".to_owned()));
        };
        let targets = self.clone();
        let done = self.work.spawn(async move {
            if *stage == Stage::Settled {
                return Err(no_such(volume));
            }
            targets.close(&target);
            work.await?;
            targets.settled(&id, &mut stage);
            Ok(())
        });
        done.await.unwrap_or_else(|_| Err(Lost.into()))
    }

    /// What to say of a target that is not in the table: only a pool that is here says that something is missing.
    async fn absent(&self, volume: VolumeHandle) -> BlocksError {
        match self.blocks.pool(&volume.pool.to_string()).await {
            Ok(_) => no_such(volume),
            Err(BlocksError::Missing(_)) => {
                BlocksError::Unavailable(format!("belongs to pool {}, which is not on this node", volume.pool.label()))
            }
            Err(error) => error,
        }
    }

    /// Closes the node's own copy of the descriptor; nobody gets it any more.
    fn close(&self, target: &HeldTarget) {
        drop(self.offers.withdraw(&target.token));
        target.file.close();
    }

    fn settled(&self, id: &Secret, stage: &mut OwnedMutexGuard<Stage>) {
        **stage = Stage::Settled;
        drop(self.table().remove(id));
    }

    /// Lets go of a target whose stream has ended, unless it is settled by then.
    async fn end(self, id: Secret) {
        let Some(target) = self.table().get(&id).cloned() else { return };
        let mut stage = Arc::clone(&target.stage).lock_owned().await;
        if *stage == Stage::Settled {
            return;
        }
        let volume = target.volume;
        tracing::info!(%volume, on_loss = ?target.on_loss, "nobody holds this target any more");
        self.close(&target);
        let (mut retry, mut attempts) = (Retry::FIRST, 0);
        loop {
            let ended = match target.on_loss {
                OnLoss::Keep if attempts < KEEPING => self.blocks.let_go(volume).await,
                OnLoss::Keep | OnLoss::Delete => self.blocks.abort(volume).await,
            };
            let Err(error) = ended else { break };
            attempts += 1;
            tracing::warn!(%volume, error = %chain(&error), seconds = retry.0.as_secs_f64(), "a target stays hidden; letting go of it is tried again");
            if tokio::time::timeout(retry.0, self.stop.cancelled()).await.is_ok() {
                tracing::warn!(%volume, "the node stops; its next start settles the target");
                return;
            }
            retry = retry.next();
        }
        self.settled(&id, &mut stage);
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Secret, HeldTarget>> {
        // Targets go in and out whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TargetEnd {
    fn drop(&mut self) {
        let targets = self.targets.clone();
        self.targets.work.spawn(targets.end(self.id));
    }
}

fn random() -> Result<Secret, BlocksError> {
    Secret::random().map_err(|error| BlocksError::Failed(format!("the system gives no random bytes: {error}")))
}

fn no_such(volume: VolumeHandle) -> BlocksError {
    BlocksError::Missing(format!("there is no target {volume} that this agent holds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeping_is_tried_for_some_seconds() {
        let waited: Duration = std::iter::successors(Some(Retry::FIRST), |retry| Some(retry.next()))
            .take(KEEPING as usize)
            .map(|retry| retry.0)
            .sum();
        assert!((5..10).contains(&waited.as_secs()), "{waited:?}");
    }

    #[test]
    fn deleting_is_tried_soon_then_rarely() {
        let mut retry = Retry::FIRST;
        let mut waited = Duration::ZERO;
        for _ in 0..6 {
            waited += retry.0;
            retry = retry.next();
        }
        assert!(waited < Duration::from_secs(20), "{waited:?}");
        for _ in 0..10 {
            retry = retry.next();
        }
        assert_eq!(retry.0, Retry::MOST);
    }
}
