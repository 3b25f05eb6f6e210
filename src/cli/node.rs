//! `windlass node`: pools of this machine, served as a CSI plugin.
//!
//! Two ways to serve:
//!
//! * **Standalone** (`--standalone`): one process serves everything on one private socket, Identity, Controller and Node of CSI, and the
//!   internal Pools and Transfers services. The agent's layer stands over the node's in the same process. With `--no-repositories` it is left
//!   out, and nothing of this process speaks to an object store: no Transfers service, no witness for snapshots of other pools, and requests
//!   that name a repository are refused.
//! * **Apart** (`--agent-endpoint`): the agent is a process of its own (`windlass agent`), without privilege. The kubelet's socket
//!   (`--endpoint`, 0600) serves Identity and Node, and Pools to people on the node; the agent's (0660, the agent's group, and of its members
//!   the agent's user alone) serves all but Node. Each socket has threads and connections of its own, so whoever floods or leaves one does
//!   not disturb the other. No credentials ever reach this process, and before it has a second thread it leaves the network (`network`).
//!
//! Order at the start: paths and names checked, pools opened and recovered, sockets bound, `ready unix:///...` printed for each, calls taken.
//! Whatever is wrong with the command line shows before a socket exists;
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
//! Events that `kubectl describe` shows are made by nobody here: this process has no access to the API server. In this profile the stock
//! sidecars make them of our answers (a refused creation, an expansion that failed), and the kubelet of what NodeStageVolume and
//! NodePublishVolume answer, so each refusal says the field and the reason, in a text that does not change from one repetition to the next. What
//! no request asks about (a pool that is nearly full, a file system that was checked) is in the log and in `pool status`.
//!
//! At SIGTERM or SIGINT: no more calls are taken, transfers are cancelled and undo what they must, calls that run may end, the
//! sockets go, the pools are released. What still hangs then, in the kernel or in a program, is left behind within 26 s in all, and
//! recovered like after a crash. Mounts and devices stay: pods go on while the driver restarts. After SIGKILL the next
//! start finds everything by looking (loop devices by inode, mounts in mountinfo) and finishes or undoes what the catalogue says
//! was begun.

use clap::{Args, Subcommand};

use super::exit::CliError;
use super::probe::ProbeArgs;

use args::NodeArgs;

mod args;
mod changes;
mod kubelet;
mod network;
mod open;
mod serve;

pub use serve::run;

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
    Probe(ProbeArgs),
}

impl NodeCommand {
    /// Whether it runs until it is told to end.
    pub fn serves(&self) -> bool {
        self.verb.is_none()
    }

    /// Gives up what the process does not need, while it has one thread.
    ///
    /// # Errors
    /// [`CliError`] when the system does not let it; nothing was begun.
    pub fn prepare(&self) -> Result<(), CliError> {
        if self.serves() { network::leave(&self.serve.network()) } else { Ok(()) }
    }

    /// The verb; without one, how to serve.
    ///
    /// # Errors
    /// The arguments of a node that serves.
    pub fn verb(self) -> Result<NodeVerb, Box<NodeArgs>> {
        self.verb.ok_or_else(|| Box::new(self.serve))
    }
}
