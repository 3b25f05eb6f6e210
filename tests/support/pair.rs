//! A node and an agent as processes apart: the node as root with its two sockets, the agent as a user without capabilities.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::common::csi::Csi;
use super::common::fixture::Bench;
use super::common::node::log_end;
use super::common::program::{command, wait_child, windlass};

/// User and group of the agent.
pub const AGENT: u32 = 65532;
/// Somebody else, who is in the agent's group.
pub const STRANGER: u32 = 65533;
/// Longest time from the start to `ready`, and of a clean stop.
const BOUND: Duration = Duration::from_secs(60);

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
    pub fn start_node(&self) -> Server {
        self.start(self.node_command(), "node", &[self.kubelets(), self.for_agent()])
    }

    /// Starts a process, which logs by this name, and waits until it serves these sockets.
    pub fn start(&self, command: Command, name: &str, sockets: &[PathBuf]) -> Server {
        let ready: Vec<String> = sockets.iter().map(|socket| format!("ready {}", endpoint(socket))).collect();
        Server::start(command, &self.log(name), &ready)
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
    pub fn start_agent(&self) -> Server {
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

/// A node or agent that serves. Dropping it kills it.
pub struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts a process and waits until it has said these lines.
    ///
    /// # Panics
    /// When it says or does something else.
    fn start(mut command: Command, log: &Path, ready: &[String]) -> Self {
        let stderr: File = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let server = Self { child, log: log.to_owned() };
        for expected in ready {
            let line = lines.recv_timeout(BOUND);
            assert_eq!(line.as_ref(), Ok(expected), "{}", log_end(log));
        }
        server
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A field of its `/proc/PID/status`.
    pub fn status(&self, field: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
        value.trim().to_owned()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What its descriptors lead to.
    pub fn open_files(&self) -> Vec<PathBuf> {
        let directory = fs::read_dir(format!("/proc/{}/fd", self.id())).unwrap();
        directory.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).collect()
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for a clean stop.
    ///
    /// # Panics
    /// When it does not stop in time or not with exit code 0.
    pub fn stop(mut self) {
        kill(Pid::from_raw(i32::try_from(self.id()).unwrap()), Signal::SIGTERM).unwrap();
        let status = wait_child("the process to stop", &mut self.child, BOUND);
        assert!(status.success(), "it stopped with {status}\n{}", log_end(&self.log));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}: {}", self.log.display(), log_end(&self.log));
        }
    }
}
