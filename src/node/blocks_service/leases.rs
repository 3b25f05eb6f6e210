//! Snapshots that are leased, and the lists of ranges that are open on them.
//!
//! A lease is in the table from its first message until its stream ends; only the table, and work that runs at that moment, keeps the snapshot
//! from being deleted. A list belongs to its lease: between two messages its ranges lie in the lease, and the stream that sends
//! them has no more than a key. So the end of the lease ends them, however slowly the agent reads, and an agent that reads nothing holds no
//! thread.
//!
//! Ranges are listed on blocking threads, one message at a time, when the agent has room for it. At the end of a lease its files are closed on
//! such a thread, too.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use csi_proto::windlass::v1 as proto;

use super::holds::Hold;
use super::offers::{Descriptor, Offers};
use super::page;
use super::peer::Peer;
use super::status::refusal;
use super::work::Work;
use crate::blocks::wire::secret::Secret;
use crate::blocks::{Blocks, BlocksError, SnapshotLease, wire};
use crate::csi::call::detached;
use crate::csi::plugin::Answers;
use crate::types::{RangeStream, SnapshotHandle, SnapshotId};

/// The leases of a node. Clones are the same.
#[derive(Clone)]
pub(super) struct Leases {
    blocks: Arc<dyn Blocks>,
    offers: Offers,
    work: Work,
    held: Arc<Mutex<HashMap<Secret, Arc<HeldLease>>>>,
}

/// A lease of the table.
struct HeldLease {
    lists: Mutex<HashMap<u64, Option<RangeStream>>>,
    next_list: AtomicU64,
    lease: Arc<dyn SnapshotLease>,
    // Dropped last: it counts until the snapshot is let go.
    _hold: Hold,
}

/// What the stream of a lease holds: dropping it ends the lease.
pub(super) struct LeaseEnd {
    leases: Leases,
    id: Secret,
    token: Secret,
}

impl Leases {
    pub(super) fn new(blocks: Arc<dyn Blocks>, offers: Offers, work: Work) -> Self {
        Self { blocks, offers, work, held: Arc::default() }
    }

    /// Leases a snapshot, and offers its descriptor to `peer`.
    ///
    /// # Errors
    /// Those of [`Blocks::lease`].
    pub(super) async fn lease(
        &self,
        snapshot: SnapshotHandle,
        peer: Option<Peer>,
        hold: Hold,
    ) -> Result<(proto::LeaseSnapshotResponse, LeaseEnd), BlocksError> {
        let (id, token) = (random()?, random()?);
        let thread = self.work.thread().await;
        let lease = self.blocks.lease(snapshot).await?;
        drop(thread);
        let message = proto::LeaseSnapshotResponse {
            lease_id: id.to_vec(),
            descriptor_token: token.to_vec(),
            snapshot: Some(wire::snapshot::message(lease.snapshot())),
        };
        // From here on whatever ends, ends the lease.
        let end = LeaseEnd { leases: self.clone(), id, token };
        self.offers.make(token, Descriptor::Lease(Arc::clone(&lease)), peer);
        let held = HeldLease { lists: Mutex::default(), next_list: AtomicU64::new(0), lease, _hold: hold };
        self.table().insert(id, Arc::new(held));
        Ok((message, end))
    }

    /// The messages of a list of ranges: what is allocated, or what has changed since `base`.
    ///
    /// # Errors
    /// [`BlocksError::Unavailable`] for a lease that is none any more, [`BlocksError::Busy`] when as many lists are open on it as may be; those of
    /// [`SnapshotLease`].
    pub(super) async fn list(
        &self,
        lease_id: &Secret,
        base: Option<SnapshotId>,
    ) -> Result<Answers<proto::ListRangesResponse>, BlocksError> {
        let held = self.table().get(lease_id).cloned().ok_or_else(ended)?;
        let list = List::open(&held, &self.work)?;
        let thread = self.work.thread().await;
        let ranges = match base {
            None => held.lease.allocated().await?,
            Some(base) => held.lease.changed_since(base).await?,
        };
        drop(thread);
        held.put(list.key, Some(ranges));
        let messages = futures::stream::unfold(Some(list), |list| async move {
            let list = list?;
            match list.next().await {
                Ok((message, true)) => Some((Ok(message), None)),
                Ok((message, false)) => Some((Ok(message), Some(list))),
                Err(error) => Some((Err(refusal(error)), None)),
            }
        });
        Ok(Box::pin(messages))
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Secret, Arc<HeldLease>>> {
        // Leases go in and out whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LeaseEnd {
    fn drop(&mut self) {
        let (offered, held) = (self.leases.offers.withdraw(&self.token), self.leases.table().remove(&self.id));
        // Closes files, and lets a base go, which may evict it.
        self.leases.work.let_go((offered, held));
    }
}

impl HeldLease {
    fn lists(&self) -> MutexGuard<'_, HashMap<u64, Option<RangeStream>>> {
        // Lists go in and out whole.
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, list: u64, ranges: Option<RangeStream>) {
        if let Some(place) = self.lists().get_mut(&list) {
            *place = ranges;
        }
    }
}

/// A list of a lease, by its key.
struct List {
    held: Weak<HeldLease>,
    key: u64,
    work: Work,
}

impl List {
    fn open(held: &Arc<HeldLease>, work: &Work) -> Result<Self, BlocksError> {
        let mut lists = held.lists();
        if lists.len() >= wire::LISTS_OF_A_LEASE {
            return Err(BlocksError::Busy(format!("{} lists of ranges are open on this lease, which is the most", lists.len())));
        }
        let key = held.next_list.fetch_add(1, Ordering::Relaxed);
        lists.insert(key, None);
        Ok(Self { held: Arc::downgrade(held), key, work: work.clone() })
    }

    /// The next message, and whether it is the last.
    async fn next(&self) -> Result<(proto::ListRangesResponse, bool), BlocksError> {
        let _thread = self.work.thread().await;
        let held = self.held.upgrade().ok_or_else(ended)?;
        let key = self.key;
        detached(move || {
            let ranges = held.lists().get_mut(&key).and_then(Option::take).ok_or_else(ended)?;
            let (message, rest) = page::next(ranges).map_err(|error| failed(&error))?;
            let is_last = rest.is_none();
            held.put(key, rest);
            Ok((message, is_last))
        })
        .await
    }
}

impl Drop for List {
    fn drop(&mut self) {
        let Some(held) = self.held.upgrade() else { return };
        let ranges = held.lists().remove(&self.key);
        self.work.let_go((ranges, held));
    }
}

fn random() -> Result<Secret, BlocksError> {
    Secret::random().map_err(|error| BlocksError::Failed(format!("the system gives no random bytes: {error}")))
}

fn ended() -> BlocksError {
    BlocksError::Unavailable("the lease has ended, or never was one of this node".to_owned())
}

fn failed(error: &io::Error) -> BlocksError {
    BlocksError::Failed(crate::types::error::chain(error))
}
