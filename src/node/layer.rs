//! The node layer: a complete CSI plugin over the pools of one node.
//!
//! [`NodeLayer`] owns the pools, the door to the mount table, and the locks, and implements the Identity, Controller,
//! SnapshotMetadata and Node services. A call is checked first (`validate`), then its work runs on a blocking thread of its own that outlives the call: a
//! caller that goes away leaves work that ends by itself, and the repetition finds either the lock held (ABORTED) or the
//! result. Nothing is remembered here from call to call: the catalogue, mountinfo and the kernel's devices are looked at anew
//! each time, so a restart at any point changes nothing.
//!
//! Never done here: an answer "not found" for a pool that is not ours, a format of anything that may have content (invariant 1), a
//! lazy unmount, a recursive delete.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tonic::Status;
use tonic::service::Routes;

use crate::csi::error::{Fault, RequestError, no_such};
use crate::csi::locks::{Guard, Hold, Key, Locks};
use crate::csi::server;
use crate::csi::topology::NodeName;
use crate::csi::validate::parameters::VolumeParameters;
use crate::mount::Mounter;
use crate::mount::path::Root;
use crate::pool::kernel_devices::{KernelDevices, SystemDevices};
use crate::pool::owned::OwnedPool;
use crate::pool::record::{Snapshot, Volume};
use crate::pool::set::PoolSet;
use crate::types::{ExportOrder, PoolId, SnapshotHandle, VolumeHandle};

use super::error::CallError;
use super::status;

/// How long a look at a mounted file system's fill state may take: the kubelet asks every minute and must not pile up.
const STATISTICS_TIMEOUT: Duration = Duration::from_secs(10);

/// What a node layer is told about its surroundings.
#[derive(Debug)]
pub struct NodeOptions {
    /// Name of this node.
    pub node: NodeName,
    /// Everything that requests name lies beneath it.
    pub root: Root,
    /// The boot in which this runs (`mount::boot_id`): records of another are void.
    pub boot_id: String,
    /// How long a look at a file system's fill state may take; `None` for the default of 10 s.
    pub statistics_timeout: Option<Duration>,
}

/// The CSI services over the pools of one node. Clones are the same layer.
#[derive(Clone)]
pub struct NodeLayer {
    pub(super) pools: PoolSet,
    pub(super) mounter: Arc<dyn Mounter>,
    pub(super) devices: Arc<dyn KernelDevices>,
    pub(super) root: Arc<Root>,
    pub(super) node: NodeName,
    pub(super) boot_id: Arc<str>,
    pub(super) statistics_timeout: Duration,
    pub(super) locks: Locks,
    repositories: Repositories,
    /// The pools that NodeGetInfo answers, once they are fixed; `None` when it answers those that are open.
    offer: Option<Arc<OnceLock<Vec<PoolId>>>>,
}

/// A volume and its pool, locked.
pub(super) struct LockedVolume {
    pub(super) pool: Arc<OwnedPool>,
    pub(super) recorded: Volume,
    _lock: Guard,
}

/// Who opens the repositories that requests name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Repositories {
    /// What stands over this layer in this process.
    #[default]
    Served,
    /// The agent, a process of its own: what does S3 and TLS does not run as root. It keeps the secrets of the requests that it passes on.
    ByAgent,
    /// Nobody.
    NotServed,
}

impl NodeLayer {
    /// A layer over `pools`. While none of them is open it is not ready, and says so.
    pub fn new(pools: impl Into<PoolSet>, mounter: Arc<dyn Mounter>, options: NodeOptions) -> Self {
        let NodeOptions { node, root, boot_id, statistics_timeout } = options;
        let statistics_timeout = statistics_timeout.unwrap_or(STATISTICS_TIMEOUT);
        Self {
            pools: pools.into(),
            mounter,
            devices: Arc::new(SystemDevices),
            root: Arc::new(root),
            node,
            boot_id: boot_id.into(),
            statistics_timeout,
            locks: Locks::default(),
            repositories: Repositories::Served,
            offer: None,
        }
    }

    /// The same layer, that refuses requests which name a repository or ask for an export to one.
    pub fn without_repositories(self) -> Self {
        Self { repositories: Repositories::NotServed, ..self }
    }

    /// The same layer beneath an agent that is another process: it refuses requests which name a repository, for they came past the agent.
    pub fn with_repositories_by_agent(self) -> Self {
        Self { repositories: Repositories::ByAgent, ..self }
    }

    /// The same layer, that answers NodeGetInfo with the same pools as long as it lives: those that are open when it is first asked. All who ask
    /// then know the same, and whoever runs the layer can tell when it is no longer true ([`NodeLayer::offered`]).
    pub fn with_fixed_offer(self) -> Self {
        Self { offer: Some(Arc::default()), ..self }
    }

    /// The pools that NodeGetInfo has answered; `None` while nobody has asked, or when its answer is not fixed.
    pub fn offered(&self) -> Option<Vec<PoolId>> {
        self.offer.as_ref().and_then(|offer| offer.get().cloned())
    }

    /// The pools that this node says it has.
    pub(super) fn offer(&self) -> Vec<PoolId> {
        match &self.offer {
            Some(offer) => offer.get_or_init(|| self.pool_ids()).clone(),
            None => self.pool_ids(),
        }
    }

    /// Refuses secrets that name a repository, if this process opens none.
    pub(super) fn check_secrets(&self, secrets: &HashMap<String, String>) -> Result<(), RequestError> {
        const REPOSITORY: &str = "RESTIC_REPOSITORY";
        let why = match self.repositories {
            _ if !secrets.contains_key(REPOSITORY) => return Ok(()),
            Repositories::Served => return Ok(()),
            Repositories::ByAgent => "only this node's agent opens it: send the call to the socket that `windlass agent` serves",
            Repositories::NotServed => "this node serves none (--no-repositories): use a class without a secret for it",
        };
        Err(RequestError::precondition("secrets", format!("{REPOSITORY} names a repository, but {why}")))
    }

    /// Refuses the parameters of a class whose snapshots nobody here would export: they would never be ready.
    pub(super) fn check_order(&self, parameters: &BTreeMap<String, String>) -> Result<(), RequestError> {
        if self.repositories != Repositories::NotServed || !parameters.contains_key(ExportOrder::REPOSITORY) {
            return Ok(());
        }
        let reason = "it asks for an export, but this node serves no repositories (--no-repositories): use a class without it";
        Err(RequestError::precondition(format!("parameters.{}", ExportOrder::REPOSITORY), reason))
    }

    /// Refuses a class that is protected where nobody protects.
    pub(super) fn check_protection(&self, parameters: &VolumeParameters) -> Result<(), RequestError> {
        if self.repositories != Repositories::NotServed || parameters.protection.is_none() {
            return Ok(());
        }
        let reason = "its class is protected, but this node serves no repositories (--no-repositories): use a class without it";
        Err(RequestError::precondition("parameters", reason))
    }

    /// The status of a read that brought secrets: a repository might know a snapshot whose pool is not here, if one were served.
    pub(super) fn read_by_secret(&self, error: CallError, secrets: &HashMap<String, String>) -> Status {
        let elsewhere = matches!(&error, CallError::Request(error) if error.fault == Fault::PoolElsewhere);
        let refusal = if elsewhere { self.check_secrets(secrets).err() } else { None };
        status::read(refusal.map_or(error, CallError::from))
    }

    /// The same layer, that finds devices of volumes there instead of in the kernel of this machine.
    pub fn with_devices(self, devices: Arc<dyn KernelDevices>) -> Self {
        Self { devices, ..self }
    }

    /// The pools of this node that are open.
    pub fn pools(&self) -> Vec<Arc<OwnedPool>> {
        self.pools.pools()
    }

    /// Name of this node.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// Ids of the pools that are open.
    pub(super) fn pool_ids(&self) -> Vec<PoolId> {
        self.pools().iter().map(|pool| pool.id()).collect()
    }

    /// The pool with this id.
    ///
    /// # Errors
    /// [`crate::csi::error::Fault::PoolElsewhere`]: whether the object exists is for its owner to say, once it can be asked.
    pub(super) fn pool(&self, field: &'static str, id: PoolId) -> Result<Arc<OwnedPool>, RequestError> {
        self.pools.get(id).map_err(|absent| RequestError::pool_elsewhere(field, absent.to_string()))
    }

    /// Refuses lists that would lack what a failed pool holds (invariant 8).
    pub(super) fn check_complete(&self) -> Result<(), RequestError> {
        match self.pools.failed().first() {
            None => Ok(()),
            Some(failed) => Err(RequestError::pool_elsewhere("list", format!("would be incomplete: {failed}"))),
        }
    }

    /// A volume and its pool.
    ///
    /// # Errors
    /// Not found, said by its pool; [`crate::csi::error::Fault::PoolElsewhere`]; whatever the pool reports.
    pub(super) fn volume(&self, field: &'static str, handle: VolumeHandle) -> Result<(Arc<OwnedPool>, Volume), CallError> {
        let pool = self.pool(field, handle.pool)?;
        let volume = pool.volume(handle.volume)?.ok_or_else(|| no_such(field))?;
        Ok((pool, volume))
    }

    /// A volume, which no other call works on until this is dropped.
    ///
    /// # Errors
    /// As for `volume`; [`crate::csi::error::Fault::InFlight`].
    pub(super) fn lock_volume(&self, field: &'static str, handle: VolumeHandle) -> Result<LockedVolume, CallError> {
        let pool = self.pool(field, handle.pool)?;
        let lock = self.locks.take(field, Key::Volume(handle), Hold::Exclusive)?;
        let (_, recorded) = self.volume(field, handle)?;
        Ok(LockedVolume { pool, recorded, _lock: lock })
    }

    /// A snapshot and its pool.
    ///
    /// # Errors
    /// As for `volume`.
    pub(super) fn snapshot(&self, field: &'static str, handle: SnapshotHandle) -> Result<(Arc<OwnedPool>, Snapshot), CallError> {
        let pool = self.pool(field, handle.pool)?;
        let snapshot = pool.snapshot(handle.snapshot)?.ok_or_else(|| no_such(field))?;
        Ok((pool, snapshot))
    }
}

/// All services of a node on one socket, to which more may be added.
pub fn routes(layer: &NodeLayer) -> Routes {
    let layer = Arc::new(layer.clone());
    server::routes(&layer).add_service(server::node_service(&layer))
}
