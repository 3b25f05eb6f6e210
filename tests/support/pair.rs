//! A node and an agent as processes apart: the node as root with its two sockets, the agent as a user without capabilities.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::common::csi::Csi;
use super::common::fixture::Bench;
use super::common::process::Process;
use super::common::program::{command, windlass};

/// User and group of the agent.
pub const AGENT: u32 = 65532;
/// Somebody else, who is in the agent's group.
pub const STRANGER: u32 = 65533;

/// Where the two processes meet.
pub struct Place {
    pub bench: Bench,
    /// The program, where every user can start it.
    program: PathBuf,
}

impl Place {
    /// A place over the pool of `bench`.
    pub fn new(bench: Bench) -> Self {
        let program = bench.path().join("windlass");
        fs::copy(env!("CARGO_BIN_EXE_windlass"), &program).unwrap();
        // Nobody but root lists what is in it; everybody may go through.
        fs::set_permissions(bench.path(), Permissions::from_mode(0o711)).unwrap();
        for (name, owner) in [("node", 0), ("agent", AGENT), ("scratch", AGENT), ("cache", AGENT)] {
            let directory = bench.path().join(name);
            fs::create_dir(&directory).unwrap();
            chown(&directory, Some(owner), Some(owner)).unwrap();
        }
        Self { bench, program }
    }

    /// The socket of the kubelet.
    pub fn kubelets(&self) -> PathBuf {
        self.bench.path().join("kubelet.sock")
    }

    /// The node's socket for its agent.
    pub fn for_agent(&self) -> PathBuf {
        self.bench.path().join("node/agent.sock")
    }

    /// The agent's socket.
    pub fn agents(&self) -> PathBuf {
        self.bench.path().join("agent/csi.sock")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.bench.path().join(format!("{name}.log"))
    }

    /// What a process has logged so far.
    pub fn logged(&self, name: &str) -> String {
        fs::read_to_string(self.log(name)).unwrap_or_default()
    }

    /// A command line of the node.
    pub fn node_command(&self) -> Command {
        let mut node = windlass();
        node.args(["node", "--allow-private-mounts", "--node-id", "test-node", "--endpoint"]).arg(endpoint(&self.kubelets()));
        node.arg("--root").arg(self.bench.root()).arg("--pool").arg(self.bench.pool());
        node.arg("--agent-endpoint").arg(endpoint(&self.for_agent()));
        node.args(["--agent-user", &AGENT.to_string(), "--agent-group", &AGENT.to_string()]);
        node
    }

    /// Starts the node.
    pub fn start_node(&self) -> Process {
        self.start(self.node_command(), "node", &[self.kubelets(), self.for_agent()])
    }

    /// Starts a process, which logs by this name, and waits until it serves these sockets.
    pub fn start(&self, command: Command, name: &str, sockets: &[PathBuf]) -> Process {
        let ready: Vec<String> = sockets.iter().map(|socket| format!("ready {}", endpoint(socket))).collect();
        Process::start(command, &self.log(name), &ready).unwrap_or_else(|text| panic!("{text}"))
    }

    /// A command line of the program, run by another user without a capability.
    pub fn as_user(&self, user: u32, group: u32) -> Command {
        let mut unprivileged = command("setpriv");
        unprivileged.arg(format!("--reuid={user}")).arg(format!("--regid={group}"));
        unprivileged
            .args(["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"])
            .arg(&self.program);
        for variable in ["CSI_ENDPOINT", "WINDLASS_ENDPOINT", "WINDLASS_LOG", "RESTIC_REPOSITORY", "RESTIC_PASSWORD_FILE", "HOME"]
        {
            unprivileged.env_remove(variable);
        }
        unprivileged
    }

    /// A command line of the agent.
    pub fn agent_command(&self) -> Command {
        let mut agent = self.as_user(AGENT, AGENT);
        agent.args(["agent", "--node-id", "test-node", "--node-endpoint"]).arg(endpoint(&self.for_agent()));
        agent.arg("--endpoint").arg(endpoint(&self.agents()));
        agent.arg("--scratch-directory").arg(self.bench.path().join("scratch"));
        agent.arg("--cache-directory").arg(self.bench.path().join("cache"));
        agent
    }

    /// Starts the agent.
    pub fn start_agent(&self) -> Process {
        self.start(self.agent_command(), "agent", &[self.agents()])
    }

    /// A client of the kubelet's socket.
    pub fn kubelet(&self) -> Csi {
        Csi::connect(&self.kubelets())
    }

    /// A client of the agent's socket.
    pub fn csi(&self) -> Csi {
        Csi::connect(&self.agents())
    }
}

/// A socket as the command line takes it.
pub fn endpoint(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}
