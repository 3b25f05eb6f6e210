//! A running `windlass node --standalone`.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use super::csi::Csi;
use super::process::Process;
use super::program::windlass;

/// How a node is started.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The socket's path.
    pub socket: PathBuf,
    /// Pools: directories or image files.
    pub pools: Vec<PathBuf>,
    /// All paths of requests lie beneath this directory.
    pub root: PathBuf,
    /// Where its log goes; appended to.
    pub log: PathBuf,
    /// Variables set for the process.
    pub environment: Vec<(String, String)>,
}

impl NodeOptions {
    /// Its endpoint, as the command line takes it.
    fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }
}

/// A node process. Dropping it kills it.
pub struct Node {
    options: NodeOptions,
    process: Process,
}

impl Node {
    /// Starts the process and waits until it serves.
    ///
    /// # Panics
    /// When it ends or stays silent instead; with the end of its log.
    pub fn start(options: &NodeOptions) -> Self {
        Self::try_start(options).unwrap_or_else(|text| panic!("{text}"))
    }

    /// Starts the process and waits until it serves, or ends.
    ///
    /// # Errors
    /// What happened instead, with the end of its log.
    pub fn try_start(options: &NodeOptions) -> Result<Self, String> {
        let endpoint = options.endpoint();
        let mut command = windlass();
        // Whoever uses the volumes of a test is in its own mount namespace.
        command
            .args(["node", "--allow-private-mounts", "--standalone", "--endpoint", &endpoint, "--node-id", "test-node", "--root"])
            .arg(&options.root);
        for pool in &options.pools {
            command.arg("--pool").arg(pool);
        }
        command.envs(options.environment.iter().cloned());
        let process = Process::start(command, &options.log, &[format!("ready {endpoint}")])?;
        Ok(Self { options: options.clone(), process })
    }

    /// A client of its socket.
    pub fn csi(&self) -> Csi {
        Csi::connect(&self.options.socket)
    }

    /// Its endpoint, as the command line takes it.
    pub fn endpoint(&self) -> String {
        self.options.endpoint()
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(self) {
        self.process.kill();
    }

    /// Waits until the process has ended by itself; `None` when it still runs after `bound`.
    pub fn wait_death(&mut self, bound: Duration) -> Option<ExitStatus> {
        self.process.wait_death(bound)
    }

    /// SIGTERM, and waits for a clean stop.
    ///
    /// # Panics
    /// When it does not stop in time or not with exit code 0.
    pub fn stop(self) {
        self.process.stop();
    }

    /// Its resident memory in bytes: now, and the most that it ever was.
    pub fn resident_bytes(&self) -> (u64, u64) {
        let kib = |field: &str| self.process.status(field).trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
        (kib("VmRSS"), kib("VmHWM"))
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        self.process.descriptors()
    }

    /// The last lines of its log.
    pub fn log_end(&self) -> String {
        self.process.log_end()
    }
}
