//! `windlass node`: pools of this machine, served as a CSI plugin.
//!
//! With `--standalone` one process serves everything on one private socket: Identity, Controller and Node of CSI, and the
//! internal Pools and Transfers services. Order at the start: paths and names checked, pools opened and recovered, socket bound,
//! `ready unix:///...` printed, calls taken. Whatever is wrong with the command line shows before the socket exists;
//! also a root whose mounts nobody else would see, which is refused unless it is allowed: that of a container without propagation.
//!
//! A pool that does not open is no reason not to serve the others, nor not to start: its disk may come later, and it is tried
//! again until then (`pool::set`). Until one is open the node says that it is unhealthy, and why. Only when no pool opens and
//! each of them is served by another process the command ends with that: a second node was started by mistake.
//!
//! At SIGTERM or SIGINT: no more calls are taken, transfers are cancelled and undo what they must, calls that run may end, the
//! socket goes, the pools are released. What still hangs then, in the kernel or in a program, is left behind within 26 s in all, and
//! recovered like after a crash. Mounts and devices stay: pods go on while the driver restarts. After SIGKILL the next
//! start finds everything by looking (loop devices by inode, mounts in mountinfo) and finishes or undoes what the catalogue says
//! was begun.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use csi_proto::windlass::v1::pools_server::PoolsServer;
use csi_proto::windlass::v1::transfers_server::TransfersServer;
use tokio_util::sync::CancellationToken;

use crate::csi::pools_service::PoolsService;
use crate::csi::quiesce::MountQuiesce;
use crate::csi::server::{self, PrivateSocket, SocketError};
use crate::csi::transfers::{RepositoryWitness, Transfers};
use crate::csi::{NodeLayer, NodeName, NodeOptions};
use crate::failpoint;
use crate::mount::path::Root;
use crate::mount::system::SystemMounter;
use crate::mount::{self, MountError, Mounter, Propagation};
use crate::pool::Quiesce;
use crate::pool::set::{Pace, PoolSet, PoolSource};

use super::endpoint::EndpointArgs;
use super::exit::{CliError, Exit};
use super::open_pool::{LastError, PoolPath, SERVED, require_root};
use super::output::print_text;

/// Arguments of `node`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Serve everything on one socket, for one machine without Kubernetes
    #[arg(long)]
    standalone: bool,
    /// Pool: a directory on XFS or Btrfs, an image file, or a block device; may be given more than once
    #[arg(long = "pool", value_name = "PATH", required = true)]
    pools: Vec<PathBuf>,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    node_id: Option<String>,
    /// Paths in requests must lie beneath this directory
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/lib/kubelet")]
    root: PathBuf,
    /// Start although mounts beneath --root are not seen outside of this process's mount namespace
    #[arg(long)]
    allow_private_mounts: bool,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// Serves until `stop` is cancelled.
///
/// # Errors
/// [`CliError`] for whatever keeps it from serving; a stop on request is none.
pub async fn run(args: NodeArgs, stop: &CancellationToken) -> Result<(), CliError> {
    if !args.standalone {
        return Err(CliError::usage(
            "only --standalone is there yet: separate sockets for kubelet and agent come with Kubernetes",
        )
        .advise("add --standalone to serve everything on one private socket"));
    }
    require_root("cannot serve pools")?;
    if failpoint::ENABLED {
        tracing::warn!("this build can be made to fail on purpose; it is for tests, not for use");
    }
    let endpoint = args.endpoint.endpoint();
    let opening = tokio::task::spawn_blocking(move || open(&args)).await;
    let opened = opening.unwrap_or_else(|error| Err(CliError::because(Exit::Failed, "cannot open the pools", error)))?;
    let socket =
        PrivateSocket::bind(endpoint.path()).map_err(|error| socket_error(format!("cannot serve on {endpoint}"), error))?;

    let pools = opened.pools;
    let transfers = Transfers::new(pools.clone(), opened.layer.node().as_str());
    let routes = server::routes(&opened.layer)
        .add_service(PoolsServer::new(PoolsService::new(pools.clone())).max_encoding_message_size(usize::MAX))
        .add_service(TransfersServer::new(transfers.clone()));
    print_text(&format!("ready {endpoint}"))?;
    let ending = async {
        stop.cancelled().await;
        tracing::info!("stopping");
        transfers.stop().await;
    };
    // Transfers end while calls do: whoever follows one is such a call.
    let (served, ()) = tokio::join!(server::serve(socket, routes, stop.clone()), async {
        ending.await;
    });
    // A panic in it leaves what the end of the process closes anyway.
    let _ = tokio::task::spawn_blocking(move || pools.close()).await;
    served.map_err(|error| CliError::because(Exit::Failed, format!("cannot serve on {endpoint}"), error))?;
    tracing::info!("stopped; mounts and devices stay");
    Ok(())
}

/// What a node holds while it serves.
struct Opened {
    layer: NodeLayer,
    pools: PoolSet,
}

fn open(args: &NodeArgs) -> Result<Opened, CliError> {
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
    let paths: Vec<_> = args.pools.iter().map(|path| PoolPath::new(path.clone(), Arc::clone(&quiesce))).collect();
    let errors: Vec<_> = paths.iter().map(PoolPath::last_error).collect();
    let sources = paths.into_iter().map(|path| Box::new(path) as Box<dyn PoolSource>).collect();
    let pools = PoolSet::start(sources, Pace::default())
        .map_err(|error| CliError::because(Exit::Failed, "cannot watch over the pools", error))?;
    if pools.pools().is_empty() {
        let errors: Vec<Option<CliError>> = errors.iter().map(LastError::take).collect();
        if let Some(error) = mistake(errors) {
            pools.close();
            return Err(error);
        }
        tracing::warn!("no pool is open; the node is unhealthy until one is");
    }
    let layer = NodeLayer::new(pools.clone(), mounter, NodeOptions { node, root, boot_id, statistics_timeout: None })
        .with_witness(Arc::new(RepositoryWitness));
    Ok(Opened { layer, pools })
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

fn node_name(given: Option<&str>) -> Result<NodeName, CliError> {
    let name = match given {
        Some(name) => name.to_owned(),
        None => nix::sys::utsname::uname()
            .map_err(|error| CliError::because(Exit::Failed, "cannot tell the host's name", error))?
            .nodename()
            .to_string_lossy()
            .into_owned(),
    };
    NodeName::try_from(name)
        .map_err(|error| CliError::because(Exit::Usage, "this node has no usable name", error).advise("give one by --node-id"))
}

fn socket_error(what: String, error: SocketError) -> CliError {
    let (exit, advice) = match &error {
        SocketError::InUse(_) => (Exit::Refused, "another node serves there; stop it, or give another --endpoint"),
        SocketError::NotASocket(_) | SocketError::NoDirectory(_) => {
            (Exit::Usage, "give an --endpoint in an existing directory that only root can write to")
        }
        SocketError::Io { .. } => (Exit::Failed, "see what is at that path; `--endpoint` names another"),
    };
    CliError::because(exit, what, error).advise(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_usable_name_says_how_to_give_one() {
        assert_eq!(node_name(Some("worker-1")).unwrap().as_str(), "worker-1");
        let error = node_name(Some("no name")).unwrap_err();
        assert_eq!((error.exit(), error.advice()), (Exit::Usage, Some("give one by --node-id")));
    }

    #[test]
    fn a_socket_that_is_taken_is_refused_with_advice() {
        let error = socket_error("cannot serve".to_owned(), SocketError::InUse("/run/a.sock".into()));
        assert_eq!(error.exit(), Exit::Refused);
        assert!(error.advice().is_some_and(|advice| advice.contains("--endpoint")));
    }
}
