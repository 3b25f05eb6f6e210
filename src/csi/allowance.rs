//! How many calls may run at once on a socket.
//!
//! Each call works on one blocking thread at a time, of which the process has 512 ([`RUNTIME_THREADS`]) for everything. Calls of a
//! kind share an allowance, so that no kind can take the threads of another: above all, what takes volumes down does not wait
//! behind what puts them up. A call beyond its allowance waits; so many may wait that the volumes of a full node come up at
//! once after a boot; more are refused.
//!
//! A call counts until its answer was sent whole *and* its work has ended: work outlives a caller that goes away, and the
//! next call would come on top of it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Blocking threads of the runtime, which is tokio's default.
pub const RUNTIME_THREADS: usize = 512;
/// Of these, for transfers, of which a few run at once with threads of their own for most of what they do.
const THREADS_OF_TRANSFERS: usize = 64;
const _: () = assert!(
    Kind::Teardown.allowance() + Kind::Question.allowance() + Kind::Stream.allowance() + Kind::Ordinary.allowance()
        <= RUNTIME_THREADS - THREADS_OF_TRANSFERS
);
/// Calls of each kind that may wait: a node has some hundred pods (the kubelet's most is 250 unless it is told another), with a few
/// volumes each.
pub const WAITING: usize = 1024;

/// What calls are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Takes down: unpublishes, unstages, deletes, cancels.
    Teardown,
    /// Asks what this is and whether it is well.
    Question,
    /// Answers with a stream, for as long as the client reads.
    Stream,
    /// Everything else.
    Ordinary,
}

impl Kind {
    /// The kind of a method, by its path (`/csi.v1.Node/NodeStageVolume`).
    pub fn of(path: &str) -> Self {
        let (service, method) = path.rsplit_once('/').unwrap_or(("", path));
        match method {
            "NodeUnpublishVolume" | "NodeUnstageVolume" | "ControllerUnpublishVolume" => Self::Teardown,
            "DeleteVolume" | "DeleteSnapshot" | "DeleteVolumeGroupSnapshot" | "CancelTransfer" => Self::Teardown,
            "WatchTransfer" => Self::Stream,
            "NodeGetInfo" => Self::Question,
            _ if method.ends_with("GetCapabilities") => Self::Question,
            _ if service == "/csi.v1.Identity" => Self::Question,
            _ if service == "/csi.v1.SnapshotMetadata" => Self::Stream,
            _ => Self::Ordinary,
        }
    }

    /// How many may run at once.
    pub const fn allowance(self) -> usize {
        match self {
            Self::Teardown => 128,
            Self::Question => 64,
            Self::Stream => 64,
            Self::Ordinary => 192,
        }
    }
}

/// The allowances of one socket.
#[derive(Debug, Clone)]
pub struct Allowances {
    teardown: Allowance,
    question: Allowance,
    stream: Allowance,
    ordinary: Allowance,
}

#[derive(Debug, Clone)]
struct Allowance {
    running: Arc<Semaphore>,
    /// Those that run and those that wait.
    admitted: Arc<Semaphore>,
}

/// A call that was let in, and may have to wait for its turn.
#[derive(Debug)]
pub struct Admitted {
    running: Arc<Semaphore>,
    place: OwnedSemaphorePermit,
}

/// A call that runs. It counts until this is dropped.
#[derive(Debug)]
pub struct Running {
    _running: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

impl Default for Allowances {
    fn default() -> Self {
        let of = |kind: Kind| Allowance {
            running: Arc::new(Semaphore::new(kind.allowance())),
            admitted: Arc::new(Semaphore::new(kind.allowance() + WAITING)),
        };
        Self {
            teardown: of(Kind::Teardown),
            question: of(Kind::Question),
            stream: of(Kind::Stream),
            ordinary: of(Kind::Ordinary),
        }
    }
}

impl Allowances {
    /// Lets a call in; `None` when as many of its kind wait as may.
    pub fn admit(&self, kind: Kind) -> Option<Admitted> {
        let allowance = match kind {
            Kind::Teardown => &self.teardown,
            Kind::Question => &self.question,
            Kind::Stream => &self.stream,
            Kind::Ordinary => &self.ordinary,
        };
        let place = Arc::clone(&allowance.admitted).try_acquire_owned().ok()?;
        Some(Admitted { running: Arc::clone(&allowance.running), place })
    }
}

impl Admitted {
    /// Waits for the call's turn, in the order in which calls came. `None` never: the allowance lasts as long as its calls.
    pub async fn turn(self) -> Option<Running> {
        let running = self.running.acquire_owned().await.ok()?;
        Some(Running { _running: running, _place: self.place })
    }
}

tokio::task_local! {
    static CURRENT: Arc<Running>;
}

/// Runs a call's own future, within which [`current`] is the call.
pub async fn within<T>(call: Arc<Running>, work: impl Future<Output = T>) -> T {
    CURRENT.scope(call, work).await
}

/// The call that runs here, to be held by work that may outlive it; `None` outside of calls.
pub fn current() -> Option<Arc<Running>> {
    CURRENT.try_with(Arc::clone).ok()
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    #[test]
    fn methods_are_counted_by_what_they_do() {
        for (path, kind) in [
            ("/csi.v1.Node/NodeUnstageVolume", Kind::Teardown),
            ("/csi.v1.Controller/DeleteSnapshot", Kind::Teardown),
            ("/windlass.v1.Transfers/CancelTransfer", Kind::Teardown),
            ("/csi.v1.Identity/Probe", Kind::Question),
            ("/csi.v1.Node/NodeGetCapabilities", Kind::Question),
            ("/csi.v1.SnapshotMetadata/GetMetadataDelta", Kind::Stream),
            ("/windlass.v1.Transfers/WatchTransfer", Kind::Stream),
            ("/csi.v1.Node/NodeStageVolume", Kind::Ordinary),
            ("/csi.v1.Controller/GetCapacity", Kind::Ordinary),
            ("nonsense", Kind::Ordinary),
        ] {
            assert_eq!(Kind::of(path), kind, "{path}");
        }
    }

    #[tokio::test]
    async fn calls_beyond_the_allowance_wait_and_do_not_stand_in_the_way_of_other_kinds() {
        let allowances = Allowances::default();
        let mut running = Vec::new();
        for _ in 0..Kind::Ordinary.allowance() {
            running.push(allowances.admit(Kind::Ordinary).unwrap().turn().await.unwrap());
        }
        let mut waiting: Vec<_> = (0..WAITING).map(|_| Box::pin(allowances.admit(Kind::Ordinary).unwrap().turn())).collect();
        assert!(allowances.admit(Kind::Ordinary).is_none());
        assert!(futures::poll!(&mut waiting[0]).is_pending());
        assert!(allowances.admit(Kind::Teardown).unwrap().turn().await.is_some());
        running.pop();
        let first = futures::poll!(&mut waiting[0]);
        assert!(matches!(first, Poll::Ready(Some(_))));
        assert!(futures::poll!(&mut waiting[1]).is_pending());
        // A caller that goes away while it waits leaves its place to another.
        waiting.pop();
        assert!(allowances.admit(Kind::Ordinary).is_some());
    }

    #[tokio::test]
    async fn work_that_outlives_its_call_counts_on() {
        let allowances = Allowances::default();
        let call = Arc::new(allowances.admit(Kind::Teardown).unwrap().turn().await.unwrap());
        let held = within(Arc::clone(&call), async { current() }).await;
        drop(call);
        assert_eq!(allowances.teardown.running.available_permits(), Kind::Teardown.allowance() - 1);
        drop(held);
        assert_eq!(allowances.teardown.running.available_permits(), Kind::Teardown.allowance());
        assert!(current().is_none());
    }
}
