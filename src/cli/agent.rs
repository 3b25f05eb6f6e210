//! `windlass agent`: what needs a network and credentials, over a node, in a process without privilege.
//!
//! It stands on the agent's socket of a node (`--node-endpoint`), which it calls for everything that concerns disks, and by whose companion it
//! gets descriptors of what it may read and write. It serves Identity, Controller, GroupController and SnapshotMetadata of CSI to the
//! sidecars, Transfers to whoever asks for exports and restores, and passes the Pools service on. It opens no device, mounts nothing, and has no
//! use for a capability: it runs as a user of its own and refuses to be root. Its root file system may be read-only; it writes to its
//! socket's directory, to the scratch directory and to the cache.
//!
//! **The node may come later, end, and come again**: the agent waits, says so once in its log, answers UNAVAILABLE and that it is not ready, and
//! never ends for it. What it held (leases, targets) ended with the connection; transfers that held it fail and say why; the next one works.
//! **The agent may be killed at any time**: the node sees its connection end and lets go of what it held. Transfers are not resumed by this process
//! alone: whoever asked for one asks again.
//!
//! **A cluster** is told by events how transfers go, with `--kubernetes` and not without: the process then needs the token of its pod's account.
//! Nothing waits for the API server, and nothing fails because it is away.
//!
//! **Secrets** are in this process and nowhere else: in memory, as long as a transfer runs. So nobody may read its memory: it makes itself
//! undumpable, for debuggers of its user too, and leaves no core. Both are done before there is a second thread.
//!
//! At SIGTERM or SIGINT: no more calls are taken, transfers are cancelled and undo what they must, the socket goes. What is still to be told to the
//! cluster gets two seconds. Within 26 s in all, as a node does.

use clap::{Args, Subcommand};

use super::exit::CliError;
use super::probe::ProbeArgs;

use args::AgentArgs;

mod args;
mod confine;
mod serve;

pub use serve::run;

/// `agent` and its verbs.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct AgentCommand {
    #[command(subcommand)]
    verb: Option<AgentVerb>,
    #[command(flatten)]
    serve: AgentArgs,
}

/// What can be done with an agent besides being one.
#[derive(Debug, Subcommand)]
pub enum AgentVerb {
    /// Ask a running agent whether it and its node are well: exit code 0 if they are, else 1
    Probe(ProbeArgs),
}

impl AgentCommand {
    /// Whether it runs until it is told to end.
    pub fn serves(&self) -> bool {
        self.verb.is_none()
    }

    /// Gives up what the process does not need, while it has one thread.
    ///
    /// # Errors
    /// [`CliError`] when it is root and was not told to be, or the system does not let it.
    pub fn prepare(&self) -> Result<(), CliError> {
        if self.serves() { confine::confine(self.serve.user()) } else { Ok(()) }
    }

    /// The verb; without one, how to serve.
    ///
    /// # Errors
    /// The arguments of an agent that serves.
    pub fn verb(self) -> Result<AgentVerb, Box<AgentArgs>> {
        self.verb.ok_or_else(|| Box::new(self.serve))
    }
}
