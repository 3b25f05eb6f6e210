//! What the command line says of an agent: its node, its socket, and where it may write.

use std::path::PathBuf;

use clap::Args;
use nix::unistd::Gid;

use super::confine::AllowedUser;
use crate::cli::endpoint::{Endpoint, EndpointArgs};
use crate::cli::exit::CliError;
use crate::cli::metrics::MetricsArgs;
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
    /// [`crate::cli::exit::Exit::Usage`] when the command line does not say.
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
