//! The start of a node: paths and names are checked, then the pools are opened and recovered, before any socket exists.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::NodeArgs;
use crate::cli::exit::{CliError, Exit};
use crate::cli::node_name::node_name;
use crate::cli::open_pool::{LastError, PoolPath, SERVED};
use crate::cli::pool_config::{PoolConfig, config_error};
use crate::csi::NodeName;
use crate::mount::path::Root;
use crate::mount::system::SystemMounter;
use crate::mount::{self, MountError, Mounter, Propagation};
use crate::node::quiesce::MountQuiesce;
use crate::node::{NodeLayer, NodeOptions};
use crate::pool::Quiesce;
use crate::pool::set::{Pace, PoolSet, PoolSource};

/// What a node holds while it serves.
pub struct Opened {
    /// Its services.
    pub layer: NodeLayer,
    /// Its pools, opened and closed with the process.
    pub pools: PoolSet,
}

/// Opens the pools of this node. Blocks.
///
/// # Errors
/// [`CliError`] for a command line that names what is not there, for a root whose mounts nobody would see, and when other processes serve all of
/// the pools.
pub fn open(args: &NodeArgs) -> Result<Opened, CliError> {
    let node = node_name(args.node_id.as_deref())?;
    let root = Root::open(&args.root).map_err(|error| {
        let error = CliError::because(Exit::Usage, format!("--root {} cannot be used", args.root.display()), error);
        error.advise("name an existing directory beneath which volumes are staged and published")
    })?;
    let propagation = root.propagation().map_err(|error| {
        CliError::because(Exit::Failed, format!("cannot tell where mounts beneath {} are seen", args.root.display()), error)
    })?;
    match propagation {
        Propagation::Shared => {}
        Propagation::Private if args.allow_private_mounts => {
            tracing::warn!(root = %args.root.display(), "volumes are not seen outside of this process's mount namespace");
        }
        Propagation::Private => return Err(private_mounts(&args.root)),
    }
    let boot_id =
        mount::boot_id().map_err(|error: MountError| CliError::because(Exit::Failed, "cannot tell which boot this is", error))?;
    let mounter: Arc<dyn Mounter> = Arc::new(SystemMounter::new());
    let quiesce: Arc<dyn Quiesce> = Arc::new(MountQuiesce::new(Arc::clone(&mounter)));
    let places = pool_paths(args, &node)?;
    let paths: Vec<_> = places.into_iter().map(|path| PoolPath::new(path, Arc::clone(&quiesce))).collect();
    let errors: Vec<_> = paths.iter().map(PoolPath::last_error).collect();
    let sources = paths.into_iter().map(|path| Box::new(path) as Box<dyn PoolSource>).collect();
    let pools = PoolSet::start(sources, Pace::default())
        .map_err(|error| CliError::because(Exit::Failed, "cannot watch over the pools", error))?;
    if errors.is_empty() {
        tracing::warn!("no pool is configured for this node; it serves none");
    } else if pools.pools().is_empty() {
        let errors: Vec<Option<CliError>> = errors.iter().map(LastError::take).collect();
        if let Some(error) = mistake(errors) {
            pools.close();
            return Err(error);
        }
        tracing::warn!("no pool is open; the node is not ready until one is");
    }
    let layer = NodeLayer::new(pools.clone(), mounter, NodeOptions { node, root, boot_id, statistics_timeout: None });
    Ok(Opened { layer, pools })
}

/// Where the pools of this node are.
fn pool_paths(args: &NodeArgs, node: &NodeName) -> Result<Vec<PathBuf>, CliError> {
    let Some(file) = &args.pool_config else { return Ok(args.pools.clone()) };
    let own = PoolConfig::read(file)?.of_node(node.as_str()).map_err(|error| config_error(file, error))?;
    Ok(own.into_iter().map(|pool| pool.place.path().to_owned()).collect())
}

/// The first of the reasons why no pool opened, if all of them say that another process serves it.
fn mistake(errors: Vec<Option<CliError>>) -> Option<CliError> {
    let served = |error: &Option<CliError>| error.as_ref().is_some_and(|error| error.advice() == Some(SERVED));
    if errors.iter().all(served) { errors.into_iter().flatten().next() } else { None }
}

/// The refusal of a root whose mounts nobody else sees: every call would succeed, and a pod would write to the disk of its node.
fn private_mounts(root: &Path) -> CliError {
    let what = format!(
        "the mount that holds --root {} is not shared, so volumes would not be seen outside of this process's mount namespace",
        root.display()
    );
    CliError::new(Exit::Refused, what).advise(
        "share it (in a pod `mountPropagation: Bidirectional`, elsewhere `mount --make-rshared`), or add --allow-private-mounts if \
         whoever uses the volumes is in the same mount namespace",
    )
}
