//! What the command line says of a node: its pools, its name, and on which sockets it serves what.

use std::path::PathBuf;

use clap::Args;
use nix::unistd::{Gid, Uid};

use crate::cli::endpoint::{Endpoint, EndpointArgs};
use crate::cli::exit::CliError;
use crate::cli::metrics::MetricsArgs;

/// Arguments of `node`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Serve everything on one socket, for one machine without Kubernetes
    #[arg(long)]
    pub standalone: bool,
    /// Pool: a directory on XFS or Btrfs, an image file, or a block device; may be given more than once
    #[arg(long = "pool", value_name = "PATH", required_unless_present = "pool_config", conflicts_with = "pool_config")]
    pub pools: Vec<PathBuf>,
    /// File that says which pools each node has; those of this node are served, which may be none
    #[arg(long, value_name = "FILE")]
    pub pool_config: Option<PathBuf>,
    /// Open no repositories: no transfers, and requests that name one are refused
    #[arg(long, conflicts_with = "agent_endpoint")]
    pub no_repositories: bool,
    /// Register with the kubelet by a socket in this directory, its plugins_registry
    #[arg(long, value_name = "DIRECTORY", requires = "kubelet_endpoint")]
    pub kubelet_registration: Option<PathBuf>,
    /// Path at which the kubelet finds the socket of --endpoint
    #[arg(long, value_name = "PATH", requires = "kubelet_registration")]
    pub kubelet_endpoint: Option<PathBuf>,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node_id: Option<String>,
    /// Paths in requests must lie beneath this directory
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/lib/kubelet")]
    pub root: PathBuf,
    /// Start although mounts beneath --root are not seen outside of this process's mount namespace
    #[arg(long)]
    pub allow_private_mounts: bool,
    #[command(flatten)]
    pub metrics: MetricsArgs,
    /// Have metrics for each PersistentVolumeClaim, such as the age of its last export: as many series as there are
    #[arg(long)]
    pub metrics_per_claim: bool,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    #[command(flatten)]
    pub agent: AgentSocketArgs,
}

/// The socket of an agent that is a process of its own.
#[derive(Debug, Args)]
pub struct AgentSocketArgs {
    /// Serve an agent on this socket, all but mounting; --endpoint serves the kubelet alone
    #[arg(long, value_name = "unix:///PATH", conflicts_with = "standalone", requires_all = ["agent_user", "agent_group"])]
    agent_endpoint: Option<Endpoint>,
    /// User id of the agent: nobody else but root stays connected to its socket
    #[arg(long, value_name = "UID", requires = "agent_endpoint")]
    agent_user: Option<u32>,
    /// Group id that the agent's socket belongs to
    #[arg(long, value_name = "GID", requires = "agent_endpoint")]
    agent_group: Option<u32>,
    /// Do not enter an empty network namespace, for the reason given, such as "forbidden here"; it is logged
    #[arg(long, value_name = "REASON", requires = "agent_endpoint")]
    keep_network: Option<String>,
}

/// Which sockets a node serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sockets {
    /// Everything on one, with repositories or without.
    Standalone,
    /// The kubelet's, and an agent's.
    Apart(AgentSocket),
}

/// Where an agent is served, and who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSocket {
    /// Its socket.
    pub endpoint: Endpoint,
    /// The only user beside root that is served.
    pub user: Uid,
    /// The group that may connect.
    pub group: Gid,
}

/// Whether a node gives its network up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// It enters an empty namespace.
    Leave,
    /// It stays where it was started, for this reason; `None` when it was not asked to leave.
    Keep(Option<String>),
}

impl NodeArgs {
    /// Which sockets are to be served.
    ///
    /// # Errors
    /// [`crate::cli::exit::Exit::Usage`] when the command line does not say.
    pub fn sockets(&self) -> Result<Sockets, CliError> {
        let agent = &self.agent;
        if self.metrics.is_given() && agent.agent_endpoint.is_some() {
            return Err(CliError::usage("--metrics-address: a node without network cannot be scraped")
                .advise("give it to its agent, which serves the metrics of both"));
        }
        match (self.standalone, &agent.agent_endpoint, agent.agent_user, agent.agent_group) {
            (true, ..) => Ok(Sockets::Standalone),
            (false, Some(endpoint), Some(user), Some(group)) => Ok(Sockets::Apart(AgentSocket {
                endpoint: endpoint.clone(),
                user: Uid::from_raw(user),
                group: Gid::from_raw(group),
            })),
            _ => Err(CliError::usage("neither --standalone nor --agent-endpoint says on which sockets to serve").advise(
                "add --standalone to serve everything on one private socket, or --agent-endpoint, --agent-user and --agent-group to \
                 serve a kubelet and an agent apart",
            )),
        }
    }

    /// Whether the process is to leave the network that it was started in.
    pub fn network(&self) -> Network {
        match (&self.agent.agent_endpoint, &self.agent.keep_network) {
            (Some(_), None) => Network::Leave,
            (_, reason) => Network::Keep(reason.clone()),
        }
    }
}
