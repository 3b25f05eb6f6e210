//! A running `windlass node --standalone`.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::csi::Csi;
use super::program::{wait_child, windlass};

/// Longest time from start to `ready`: recovery of a small pool takes far less.
const START_BOUND: Duration = Duration::from_secs(60);
/// Longest time a clean stop may take.
const STOP_BOUND: Duration = Duration::from_secs(30);

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

/// A node process. Dropping it kills it.
pub struct Node {
    options: NodeOptions,
    child: Child,
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
        let endpoint = format!("unix://{}", options.socket.display());
        let log: File = OpenOptions::new().create(true).append(true).open(&options.log).unwrap();
        let mut command = windlass();
        // Whoever uses the volumes of a test is in its own mount namespace.
        command
            .args(["node", "--allow-private-mounts", "--standalone", "--endpoint", &endpoint, "--node-id", "test-node", "--root"])
            .arg(&options.root);
        for pool in &options.pools {
            command.arg("--pool").arg(pool);
        }
        command.envs(options.environment.iter().cloned());
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().map_err(|error| error.to_string())?;
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let first = lines.recv_timeout(START_BOUND);
        let node = Self { options: options.clone(), child };
        match first {
            Ok(line) if line == format!("ready {endpoint}") => Ok(node),
            Ok(line) => Err(format!("the node said `{line}` instead of `ready {endpoint}`\n{}", node.log_end())),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Err(format!("the node did not become ready within {START_BOUND:?}\n{}", node.log_end()))
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(format!("the node ended before it was ready\n{}", node.log_end())),
        }
    }

    /// A client of its socket.
    pub fn csi(&self) -> Csi {
        Csi::connect(&self.options.socket)
    }

    /// Its endpoint, as the command line takes it.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.options.socket.display())
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until the process has ended by itself; `None` when it still runs after `bound`.
    pub fn wait_death(&mut self, bound: Duration) -> Option<ExitStatus> {
        let start = std::time::Instant::now();
        while start.elapsed() < bound {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            windlass::types::poll::pause(Duration::from_millis(2));
        }
        None
    }

    /// SIGTERM, and waits for a clean stop.
    ///
    /// # Panics
    /// When it does not stop in time or not with exit code 0.
    pub fn stop(mut self) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        let status = wait_child("the node to stop", &mut self.child, STOP_BOUND);
        assert!(status.success(), "the node stopped with {status}\n{}", self.log_end());
    }

    /// Its resident memory in bytes: now, and the most that it ever was.
    pub fn resident_bytes(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
        };
        (kib("VmRSS:"), kib("VmHWM:"))
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// The last lines of its log.
    pub fn log_end(&self) -> String {
        log_end(&self.options.log)
    }
}

/// The last lines of a log file.
pub fn log_end(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    format!("--- end of the node's log\n{}\n---", lines[lines.len().saturating_sub(40)..].join("\n"))
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log_end());
        }
    }
}
