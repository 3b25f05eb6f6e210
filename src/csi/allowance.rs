//! How many calls may run at once on a socket.
//!
//! Each call works on one blocking thread at a time, of which the process has 512 ([`RUNTIME_THREADS`]) for everything. Calls of a
//! kind share an allowance, so that no kind can take the threads of another: above all, what takes volumes down does not wait
//! behind what puts them up. A call beyond its allowance waits; so many may wait that the volumes of a full node come up at
//! once after a boot; more are refused.
//!
//! Sockets share nothing: whoever floods one takes no thread of the other. So all sockets of a process together must fit its threads. A
//! process has either one socket, with all that may be had ([`SocketShare::Whole`]), or two, a kubelet's and an agent's, whose allowances add up to
//! no more than that: half each, and of streams nearly all to the agent, since no method of a kubelet's
//! streams. Both sums are checked when this is compiled.
//!
//! A call counts until its answer was sent whole *and* its work has ended: work outlives a caller that goes away, and the
//! next call would come on top of it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Blocking threads of the runtime, which is tokio's default.
pub const RUNTIME_THREADS: usize = 512;
/// Of these, for transfers, of which a few run at once with threads of their own for most of what they do.
const THREADS_OF_TRANSFERS: usize = 64;
const THREADS_OF_CALLS: usize = RUNTIME_THREADS - THREADS_OF_TRANSFERS;
const _: () = assert!(SocketShare::Whole.calls() <= THREADS_OF_CALLS);
const _: () = assert!(SocketShare::Kubelet.calls() + SocketShare::Agent.calls() <= THREADS_OF_CALLS);
const _: () = assert!(SocketShare::Kubelet.connections() + SocketShare::Agent.connections() <= SocketShare::Whole.connections());
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
    /// Answers with a stream that lasts as long as an agent holds a lease or a target: apart from other streams, behind which no export or restore
    /// is to wait.
    Held,
    /// Lists the ranges of what an agent holds: apart from what is held, or those who hold all that may be held would wait for each other.
    Ranges,
    /// Everything else.
    Ordinary,
}

impl Kind {
    /// The kind of a method, by its path (`/csi.v1.Node/NodeStageVolume`).
    pub fn of(path: &str) -> Self {
        let (service, method) = path.rsplit_once('/').unwrap_or(("", path));
        match method {
            "NodeUnpublishVolume" | "NodeUnstageVolume" | "ControllerUnpublishVolume" => Self::Teardown,
            "DeleteVolume" | "DeleteSnapshot" | "DeleteVolumeGroupSnapshot" | "CancelTransfer" | "AbortTarget" => Self::Teardown,
            "LeaseSnapshot" | "BeginTarget" => Self::Held,
            "ListAllocated" | "ListChanged" => Self::Ranges,
            "WatchTransfer" => Self::Stream,
            "NodeGetInfo" | "GetMetrics" => Self::Question,
            _ if method.ends_with("GetCapabilities") => Self::Question,
            _ if service == "/csi.v1.Identity" => Self::Question,
            _ if service == "/csi.v1.SnapshotMetadata" => Self::Stream,
            _ => Self::Ordinary,
        }
    }

    /// How many may run at once on a socket with this share.
    pub const fn allowance(self, share: SocketShare) -> usize {
        match (share, self) {
            (SocketShare::Whole, Self::Teardown) => 128,
            (SocketShare::Whole, Self::Question | Self::Stream) => 64,
            (SocketShare::Whole, Self::Ordinary) => 192,
            // Nothing is held there, and who asks for it all the same is counted with other streams.
            (SocketShare::Whole | SocketShare::Kubelet, Self::Held | Self::Ranges) => 0,
            (SocketShare::Kubelet | SocketShare::Agent, Self::Teardown) => 60,
            (SocketShare::Kubelet | SocketShare::Agent, Self::Question) => 32,
            (SocketShare::Kubelet, Self::Stream) => 8,
            (SocketShare::Agent, Self::Stream | Self::Held) => 24,
            // Half of what is held are targets, or has been listed.
            (SocketShare::Agent, Self::Ranges) => 16,
            (SocketShare::Kubelet | SocketShare::Agent, Self::Ordinary) => 96,
        }
    }
}

/// What a socket may take of its process's threads and descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SocketShare {
    /// All that calls may take: it is the only socket.
    #[default]
    Whole,
    /// That of a kubelet, beside an agent's.
    Kubelet,
    /// That of an agent, beside a kubelet's.
    Agent,
}

impl SocketShare {
    /// Calls of all kinds at once.
    const fn calls(self) -> usize {
        Kind::Teardown.allowance(self)
            + Kind::Question.allowance(self)
            + Kind::Stream.allowance(self)
            + Kind::Held.allowance(self)
            + Kind::Ranges.allowance(self)
            + Kind::Ordinary.allowance(self)
    }

    /// Connections at once: the kubelet makes one for each call, some hundred at once when a full node comes up; sidecars, an agent and
    /// commands have one each. A process has 1024 descriptors unless it is given more, and the other half is for files and devices. Further
    /// clients wait in the kernel until one goes.
    pub const fn connections(self) -> usize {
        match self {
            Self::Whole => 512,
            Self::Kubelet => 384,
            Self::Agent => 128,
        }
    }
}

/// The allowances of one socket.
#[derive(Debug, Clone)]
pub struct Allowances {
    teardown: Allowance,
    question: Allowance,
    stream: Allowance,
    held: Allowance,
    ranges: Allowance,
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

impl Allowances {
    /// Those of a socket with this share, none of which are taken.
    pub fn new(share: SocketShare) -> Self {
        let of = |kind: Kind| Allowance {
            running: Arc::new(Semaphore::new(kind.allowance(share))),
            admitted: Arc::new(Semaphore::new(kind.allowance(share) + WAITING)),
        };
        let stream = of(Kind::Stream);
        Self {
            teardown: of(Kind::Teardown),
            question: of(Kind::Question),
            held: if Kind::Held.allowance(share) == 0 { stream.clone() } else { of(Kind::Held) },
            ranges: if Kind::Ranges.allowance(share) == 0 { stream.clone() } else { of(Kind::Ranges) },
            stream,
            ordinary: of(Kind::Ordinary),
        }
    }

    /// Lets a call in; `None` when as many of its kind wait as may.
    pub fn admit(&self, kind: Kind) -> Option<Admitted> {
        let allowance = match kind {
            Kind::Teardown => &self.teardown,
            Kind::Question => &self.question,
            Kind::Stream => &self.stream,
            Kind::Held => &self.held,
            Kind::Ranges => &self.ranges,
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
            ("/windlass.v1.Metrics/GetMetrics", Kind::Question),
            ("/csi.v1.SnapshotMetadata/GetMetadataDelta", Kind::Stream),
            ("/windlass.v1.Transfers/WatchTransfer", Kind::Stream),
            ("/windlass.v1.Blocks/LeaseSnapshot", Kind::Held),
            ("/windlass.v1.Blocks/ListChanged", Kind::Ranges),
            ("/windlass.v1.Blocks/AbortTarget", Kind::Teardown),
            ("/windlass.v1.Blocks/CommitTarget", Kind::Ordinary),
            ("/csi.v1.Node/NodeStageVolume", Kind::Ordinary),
            ("/csi.v1.Controller/GetCapacity", Kind::Ordinary),
            ("nonsense", Kind::Ordinary),
        ] {
            assert_eq!(Kind::of(path), kind, "{path}");
        }
    }

    #[tokio::test]
    async fn a_socket_on_which_every_place_is_taken_takes_none_of_the_other_sockets() {
        let (kubelet, agent) = (Allowances::new(SocketShare::Kubelet), Allowances::new(SocketShare::Agent));
        let mut running = Vec::new();
        for kind in [Kind::Teardown, Kind::Question, Kind::Stream, Kind::Held, Kind::Ranges, Kind::Ordinary] {
            for _ in 0..kind.allowance(SocketShare::Agent) {
                running.push(agent.admit(kind).unwrap().turn().await.unwrap());
            }
            assert!(futures::poll!(std::pin::pin!(agent.admit(kind).unwrap().turn())).is_pending(), "{kind:?}");
            let turn = futures::poll!(std::pin::pin!(kubelet.admit(kind).unwrap().turn()));
            assert!(matches!(turn, Poll::Ready(Some(_))), "{kind:?}");
        }
        assert_eq!(running.len(), SocketShare::Agent.calls());
    }

    #[tokio::test]
    async fn calls_beyond_the_allowance_wait_and_do_not_stand_in_the_way_of_other_kinds() {
        let allowances = Allowances::new(SocketShare::Whole);
        let mut running = Vec::new();
        for _ in 0..Kind::Ordinary.allowance(SocketShare::Whole) {
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
        let allowances = Allowances::new(SocketShare::Whole);
        let call = Arc::new(allowances.admit(Kind::Teardown).unwrap().turn().await.unwrap());
        let held = within(Arc::clone(&call), async { current() }).await;
        drop(call);
        assert_eq!(allowances.teardown.running.available_permits(), Kind::Teardown.allowance(SocketShare::Whole) - 1);
        drop(held);
        assert_eq!(allowances.teardown.running.available_permits(), Kind::Teardown.allowance(SocketShare::Whole));
        assert!(current().is_none());
    }
}
