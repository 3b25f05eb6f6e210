//! `windlass node`: pools of this machine, served as a CSI plugin.
//!
//! With `--standalone` one process serves everything on one private socket: Identity, Controller and Node of CSI, and the
//! internal Pools and Transfers services. Order at the start: paths and names checked, pools opened and recovered, socket bound,
//! `ready unix:///...` printed, calls taken. Whatever is wrong with the command line shows before the socket exists;
//! also a root whose mounts nobody else would see, which is refused unless it is allowed: that of a container without propagation.
//!
//! A pool that does not open is no reason not to serve the others, nor not to start: its disk may come later, and it is tried
//! again until then (`pool::set`). Until one is open the node says that it is not ready, and why. Only when no pool opens and
//! each of them is served by another process the command ends with that: a second node was started by mistake.
//!
//! Under a kubelet (`--kubelet-registration`): the node registers itself once its socket is served and each pool was tried
//! (`node::registration`), and answers exec probes (`node probe`). When the pools are no longer those that the kubelet was told of,
//! it ends with an exit code of its own, to be started anew, so that the kubelet asks again (`pool::set::offer` says when; the header
//! of that module also how often at most). Which pools a node has may come from one file for all nodes (`--pool-config`); a node that has none
//! serves all the same, with no topology but its name and with no room: it was chosen to run there.
//!
//! The agent's layer stands over the node's in the same process. With `--no-repositories` it is left out, and nothing of this process
//! speaks to an object store: no Transfers service, no witness for snapshots of other pools, and requests that name a repository are
//! refused.
//!
//! Events that `kubectl describe` shows are made by nobody here: this process has no access to the API server. In this profile the stock
//! sidecars make them of our answers (a refused creation, an expansion that failed), and the kubelet of what NodeStageVolume and
//! NodePublishVolume answer, so each refusal says the field and the reason, in a text that does not change from one repetition to the next. What
//! no request asks about (a pool that is nearly full, a file system that was checked) is in the log and in `pool status`.
//!
//! At SIGTERM or SIGINT: no more calls are taken, transfers are cancelled and undo what they must, calls that run may end, the
//! socket goes, the pools are released. What still hangs then, in the kernel or in a program, is left behind within 26 s in all, and
//! recovered like after a crash. Mounts and devices stay: pods go on while the driver restarts. After SIGKILL the next
//! start finds everything by looking (loop devices by inode, mounts in mountinfo) and finishes or undoes what the catalogue says
//! was begun.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use csi_proto::windlass::v1::pools_server::PoolsServer;
use csi_proto::windlass::v1::transfers_server::TransfersServer;
use tokio_util::sync::CancellationToken;

use crate::agent::AgentLayer;
use crate::csi::NodeName;
use crate::csi::server::{self, PrivateSocket, SocketError};
use crate::failpoint;
use crate::mount::path::Root;
use crate::mount::system::SystemMounter;
use crate::mount::{self, MountError, Mounter, Propagation};
use crate::node::blocks::PoolBlocks;
use crate::node::pools_service::PoolsService;
use crate::node::quiesce::MountQuiesce;
use crate::node::registration::{Registration, RegistrationError};
use crate::node::{self, NodeLayer, NodeOptions, Repositories};
use crate::pool::Quiesce;
use crate::pool::set::offer::OfferPace;
use crate::pool::set::{Pace, PoolSet, PoolSource};
use crate::repository::Workspace;

use super::endpoint::EndpointArgs;
use super::exit::{CliError, Exit};
use super::node_name::node_name;
use super::open_pool::{LastError, PoolPath, SERVED, require_root};
use super::output::print_text;
use super::pool_config::{PoolConfig, config_error};

mod changes;
pub mod probe;

/// `node` and its verbs.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct NodeCommand {
    #[command(subcommand)]
    verb: Option<NodeVerb>,
    #[command(flatten)]
    serve: NodeArgs,
}

/// What can be done with a node besides being one.
#[derive(Debug, Subcommand)]
pub enum NodeVerb {
    /// Ask a running node whether it is well: exit code 0 if it is, else 1
    Probe(probe::ProbeArgs),
}

impl NodeCommand {
    /// Whether it runs until it is told to end.
    pub fn serves(&self) -> bool {
        self.verb.is_none()
    }

    /// The verb; without one, how to serve.
    ///
    /// # Errors
    /// The arguments of a node that serves.
    pub fn verb(self) -> Result<NodeVerb, Box<NodeArgs>> {
        self.verb.ok_or_else(|| Box::new(self.serve))
    }
}

/// Arguments of `node`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Serve everything on one socket, for one machine without Kubernetes
    #[arg(long)]
    standalone: bool,
    /// Pool: a directory on XFS or Btrfs, an image file, or a block device; may be given more than once
    #[arg(long = "pool", value_name = "PATH", required_unless_present = "pool_config", conflicts_with = "pool_config")]
    pools: Vec<PathBuf>,
    /// File that says which pools each node has; those of this node are served, which may be none
    #[arg(long, value_name = "FILE")]
    pool_config: Option<PathBuf>,
    /// Open no repositories: no transfers, and requests that name one are refused
    #[arg(long)]
    no_repositories: bool,
    /// Register with the kubelet by a socket in this directory, its plugins_registry
    #[arg(long, value_name = "DIRECTORY", requires = "kubelet_endpoint")]
    kubelet_registration: Option<PathBuf>,
    /// Path at which the kubelet finds the socket of --endpoint
    #[arg(long, value_name = "PATH", requires = "kubelet_registration")]
    kubelet_endpoint: Option<PathBuf>,
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
    let registration = registration(&args)?;
    let repositories = if args.no_repositories { Repositories::NotServed } else { Repositories::Served };
    let opening = tokio::task::spawn_blocking(move || open(&args)).await;
    let opened = opening.unwrap_or_else(|error| Err(CliError::because(Exit::Failed, "cannot open the pools", error)))?;
    let socket =
        PrivateSocket::bind(endpoint.path()).map_err(|error| socket_error(format!("cannot serve on {endpoint}"), error))?;

    let Opened { layer, pools } = opened;
    let layer = match repositories {
        Repositories::Served => layer,
        Repositories::NotServed => layer.without_repositories(),
    };
    let layer = if registration.is_some() { layer.with_fixed_offer() } else { layer };
    let (routes, transfers) = match repositories {
        Repositories::Served => {
            let blocks = Arc::new(PoolBlocks::new(pools.clone()));
            let agent = Arc::new(
                AgentLayer::new(layer.clone(), blocks, layer.node().as_str()).with_workspace(Workspace::from_environment()),
            );
            let transfers = agent.transfers().clone();
            let routes = server::routes(&agent).add_service(server::node_service(&Arc::new(layer.clone())));
            (routes.add_service(TransfersServer::new(transfers.clone())), Some(transfers))
        }
        Repositories::NotServed => (node::routes(&layer), None),
    };
    let routes = routes.add_service(PoolsServer::new(PoolsService::new(pools.clone())).max_encoding_message_size(usize::MAX));
    print_text(&format!("ready {endpoint}"))?;

    // Whatever ends first ends the others.
    let end = stop.child_token();
    let ending = async {
        end.cancelled().await;
        tracing::info!("stopping");
        if let Some(transfers) = &transfers {
            transfers.stop().await;
        }
    };
    let reason = async {
        let reason = tokio::select! {
            () = end.cancelled() => None,
            error = under_kubelet(registration, &layer, &pools, &end, OfferPace::default()) => Some(error),
        };
        end.cancel();
        reason
    };
    let serving = async {
        let served = server::serve(socket, routes, end.clone()).await;
        end.cancel();
        served
    };
    // Transfers end while calls do: whoever follows one is such a call.
    let (served, (), reason) = tokio::join!(serving, ending, reason);
    // A panic in it leaves what the end of the process closes anyway.
    let _ = tokio::task::spawn_blocking(move || pools.close()).await;
    served.map_err(|error| CliError::because(Exit::Failed, format!("cannot serve on {endpoint}"), error))?;
    tracing::info!("stopped; mounts and devices stay");
    reason.map_or(Ok(()), Err)
}

/// The registration that the command line asks for.
fn registration(args: &NodeArgs) -> Result<Option<Registration>, CliError> {
    let (Some(directory), Some(endpoint)) = (&args.kubelet_registration, &args.kubelet_endpoint) else { return Ok(None) };
    let registration = Registration::new(directory, endpoint).map_err(|error| {
        let option =
            if matches!(error, RegistrationError::Endpoint(_)) { "--kubelet-endpoint" } else { "--kubelet-registration" };
        CliError::because(Exit::Usage, format!("{option} cannot be used"), error)
    })?;
    Ok(Some(registration))
}

/// Keeps the node registered; ends with the reason why the process must end. Without a registration that is never, and so it is after
/// `end` was cancelled.
async fn under_kubelet(
    registration: Option<Registration>,
    layer: &NodeLayer,
    pools: &PoolSet,
    end: &CancellationToken,
    pace: OfferPace,
) -> CliError {
    let Some(registration) = registration else { return std::future::pending().await };
    changes::all_tried(pools).await;
    tokio::select! {
        kept = registration.keep(end) => match kept {
            Ok(()) => std::future::pending().await,
            Err(error) => CliError::because(Exit::Failed, "the node is not registered", error)
                .advise("the kubelet's log says more; the node is to be started anew"),
        },
        change = changes::differing(layer, pools, pace) => {
            tracing::warn!(%change, "the pools are not those that the kubelet was told of; the node ends to be started anew");
            CliError::new(Exit::Restart, format!("the pools of this node have changed: {change}"))
                .advise("start it again, so that the kubelet asks anew; mounts and devices stay")
        }
    }
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
    use std::time::Duration;

    use csi_proto::csi::v1::NodeGetInfoRequest;
    use csi_proto::csi::v1::node_server::Node;

    use super::*;
    use crate::mount::memory::MemoryMounter;
    use crate::pool::set::tests::{Disk, start};

    /// Only bounds a hang.
    const BOUND: Duration = Duration::from_secs(60);

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_whose_pool_opens_after_the_kubelet_asked_ends_with_a_code_of_its_own_and_is_registered_until_then() {
        let disk = Disk::new("late");
        disk.die();
        let pools = start(std::slice::from_ref(&disk));
        let place = tempfile::tempdir().unwrap();
        let options = NodeOptions {
            node: NodeName::try_from("here".to_owned()).unwrap(),
            root: Root::open(place.path()).unwrap(),
            boot_id: "boot".to_owned(),
            statistics_timeout: None,
        };
        let layer = NodeLayer::new(pools.clone(), Arc::new(MemoryMounter::new()), options).with_fixed_offer();
        let registration = Registration::new(place.path(), Path::new("/csi/csi.sock")).unwrap();
        let socket = registration.socket().to_owned();
        let pace = OfferPace { settle: Duration::ZERO, give_up: Duration::ZERO, between: Duration::ZERO };
        let end = CancellationToken::new();
        let (its_layer, its_pools) = (layer.clone(), pools.clone());
        let running = tokio::spawn(async move { under_kubelet(Some(registration), &its_layer, &its_pools, &end, pace).await });
        let appears = async {
            let mut looks = tokio::time::interval(Duration::from_millis(10));
            while !socket.exists() {
                looks.tick().await;
            }
        };
        tokio::time::timeout(BOUND, appears).await.expect("it does not register");
        layer.node_get_info(tonic::Request::new(NodeGetInfoRequest {})).await.unwrap();
        disk.come_back();
        let error = tokio::time::timeout(BOUND, running).await.expect("it does not end").unwrap();
        assert_eq!((error.exit(), error.exit().code()), (Exit::Restart, 6));
        assert!(crate::types::error::chain(&error).contains(&format!("opened since: {}", disk.id())), "{error}");
        assert!(!socket.exists(), "the kubelet is to notice");
        pools.close();
    }

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
