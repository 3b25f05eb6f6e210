//! What the command line says of an agent: its node, its socket, and where it may write.

use std::path::PathBuf;

use clap::Args;
use nix::unistd::Gid;

use super::confine::AllowedUser;
use crate::cli::endpoint::{Endpoint, EndpointArgs};
use crate::cli::exit::{CliError, Exit};
use crate::cli::metrics::MetricsArgs;
use crate::k8s::Cluster;
use crate::repository::Workspace;

/// Arguments of `agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Socket that the node serves an agent on, its --agent-endpoint
    #[arg(long, value_name = "unix:///PATH", required = true)]
    node_endpoint: Option<Endpoint>,
    /// Group id whose members may connect to the socket of --endpoint [default: only this user]
    #[arg(long, value_name = "GID")]
    endpoint_group: Option<u32>,
    /// Name of the node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node_id: Option<String>,
    /// Directory for lists that do not fit the memory [default: WINDLASS_SCRATCH_DIR, else /var/tmp]
    #[arg(long, value_name = "DIRECTORY")]
    scratch_directory: Option<PathBuf>,
    /// Directory for what is read of repositories again [default: WINDLASS_CACHE_DIR, else as `windlass export` has it]
    #[arg(long, value_name = "DIRECTORY")]
    cache_directory: Option<PathBuf>,
    /// Tell the cluster of this pod by events how transfers go, with the token of the pod's account
    #[arg(long)]
    kubernetes: bool,
    /// Run as root all the same
    #[arg(long)]
    allow_root: bool,
    #[command(flatten)]
    pub metrics: MetricsArgs,
    #[command(flatten)]
    pub endpoint: EndpointArgs,
}

impl AgentArgs {
    /// Where the node is.
    ///
    /// # Errors
    /// [`Exit::Usage`] when the command line does not say.
    pub fn node_endpoint(&self) -> Result<Endpoint, CliError> {
        self.node_endpoint.clone().ok_or_else(|| CliError::usage("--node-endpoint is missing"))
    }

    /// The group that may connect.
    pub fn group(&self) -> Option<Gid> {
        self.endpoint_group.map(Gid::from_raw)
    }

    /// As whom it may run.
    pub fn user(&self) -> AllowedUser {
        if self.allow_root { AllowedUser::Any } else { AllowedUser::NotRoot }
    }

    /// The cluster that is told how transfers go, if any is.
    ///
    /// # Errors
    /// [`Exit::Usage`] when one is to be told and this process is not in a pod of one.
    pub fn cluster(&self) -> Result<Option<Cluster>, CliError> {
        if !self.kubernetes {
            return Ok(None);
        }
        Cluster::of_this_pod().map(Some).map_err(|error| {
            CliError::because(Exit::Usage, "--kubernetes cannot be obeyed", error).advise(
                "leave it out where there is no cluster; in a pod, mount the token of its account into the agent's container",
            )
        })
    }

    /// Where repositories keep their lists and copies.
    pub fn workspace(&self) -> Workspace {
        let workspace = Workspace::from_environment();
        let workspace = match &self.scratch_directory {
            Some(directory) => workspace.with_scratch_in(directory),
            None => workspace,
        };
        match &self.cache_directory {
            Some(directory) => workspace.with_cache_in(directory.clone()),
            None => workspace,
        }
    }
}
