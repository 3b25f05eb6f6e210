//! The pool of a bench in the test's own process, and a node's services over it: for tests that look beneath the calls.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::sync::Arc;

use windlass::csi::NodeName;
use windlass::mount::Mounter;
use windlass::mount::image::{self, ImageFileSystem};
use windlass::mount::path::Root;
use windlass::mount::system::SystemMounter;
use windlass::node::quiesce::MountQuiesce;
use windlass::node::{NodeLayer, NodeOptions};
use windlass::pool::owned::OwnedPool;
use windlass::pool::{reflink, thin};
use windlass::types::VolumeId;

use super::fixture::{Bench, PoolFileSystem};

/// A pool that this process owns. The bench must outlive it, and all that holds the pool.
pub struct OpenPool {
    /// Which kind it is.
    pub kind: PoolFileSystem,
    /// The pool. Dropped before what it lies in.
    pub pool: Arc<OwnedPool>,
    image: Option<ImageFileSystem>,
    root: PathBuf,
}

impl OpenPool {
    /// Opens the pool of a bench, as a node does.
    ///
    /// # Panics
    /// When that fails.
    pub fn new(bench: &Bench, kind: PoolFileSystem) -> Self {
        let quiesce = Arc::new(MountQuiesce::new(mounter()));
        let (image, pool) = match kind {
            PoolFileSystem::Thin => (None, thin::open_pool(&bench.pool(), quiesce).unwrap()),
            PoolFileSystem::Xfs | PoolFileSystem::Btrfs => {
                let image = image::open(&bench.pool()).unwrap();
                let pool = reflink::open_pool(image.directory(), quiesce).unwrap();
                (Some(image), pool)
            }
        };
        Self { kind, pool: Arc::new(pool), image, root: bench.root() }
    }

    /// The services of a node over it.
    ///
    /// # Panics
    /// When there is no node of this name or place.
    pub fn layer(&self, node: &str) -> NodeLayer {
        self.layer_over(vec![Arc::clone(&self.pool)], node)
    }

    /// The services of the same node when it does not have the pool any more.
    ///
    /// # Panics
    /// When there is no node of this name or place.
    pub fn layer_without_pool(&self, node: &str) -> NodeLayer {
        self.layer_over(Vec::new(), node)
    }

    fn layer_over(&self, pools: Vec<Arc<OwnedPool>>, node: &str) -> NodeLayer {
        let options = NodeOptions {
            node: NodeName::try_from(node.to_owned()).unwrap(),
            root: Root::open(&self.root).unwrap(),
            boot_id: windlass::mount::boot_id().unwrap(),
            statistics_timeout: None,
        };
        NodeLayer::new(pools, mounter(), options)
    }

    /// The file beneath a volume, by which it can be written to when it has no device; a thin pool has none.
    ///
    /// # Panics
    /// When there is no such volume.
    pub fn file_of(&self, volume: VolumeId) -> Option<File> {
        let directory = self.image.as_ref()?.directory();
        let path = directory.join("volumes").join(volume.to_string());
        let path = if self.kind == PoolFileSystem::Btrfs { path.join("data") } else { path };
        Some(OpenOptions::new().read(true).write(true).open(path).unwrap())
    }
}

fn mounter() -> Arc<dyn Mounter> {
    Arc::new(SystemMounter::new())
}
