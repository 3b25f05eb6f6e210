//! A node of the product as a process of its own, and what the kernel says of its memory.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{BenchError, While};

/// A node stops within 26 s of its own accord.
const STOP_WITHIN: Duration = Duration::from_secs(40);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A node that runs. Dropping it kills it.
pub(super) struct Node {
    child: Child,
    log: PathBuf,
}

impl Node {
    /// Starts `windlass` over the pool in `image`, with its cache and scratch space in `folder`, and waits until it serves.
    pub(super) fn start(
        windlass: &Path,
        folder: &Path,
        image: &Path,
        socket: &Path,
        root: &Path,
        log: &Path,
    ) -> Result<Self, BenchError> {
        let what = || format!("starting a node (its log is {})", log.display());
        let file = File::create(log).while_doing(what)?;
        let mut command = Command::new(windlass);
        command.args(["node", "--standalone", "--node-id", "bench", "--allow-private-mounts", "--endpoint"]);
        command.arg(endpoint(socket)).arg("--pool").arg(image).arg("--root").arg(root);
        command.env("WINDLASS_CACHE_DIR", folder.join("cache")).env("WINDLASS_SCRATCH_DIR", folder);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        let mut child = command.spawn().while_doing(what)?;
        let stdout = child.stdout.take();
        let node = Self { child, log: log.to_owned() };
        let mut line = String::new();
        if let Some(stdout) = stdout {
            // It says that it is ready, or ends and says nothing.
            BufReader::new(stdout).read_line(&mut line).while_doing(what)?;
        }
        if line.starts_with("ready ") { Ok(node) } else { Err(BenchError::new(format!("{}: it is not ready", what()))) }
    }

    /// Bytes of it that are resident now.
    pub(super) fn resident(&self) -> Result<u64, BenchError> {
        self.status("VmRSS:")
    }

    /// The most that were since [`forget_peak`](Self::forget_peak).
    pub(super) fn peak(&self) -> Result<u64, BenchError> {
        self.status("VmHWM:")
    }

    /// Has the kernel begin its peak anew.
    pub(super) fn forget_peak(&self) -> Result<(), BenchError> {
        // proc_pid_clear_refs(5).
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").while_doing(|| "beginning a peak anew".to_owned())
    }

    fn status(&self, name: &str) -> Result<u64, BenchError> {
        let path = format!("/proc/{}/status", self.child.id());
        let status =
            fs::read_to_string(&path).while_doing(|| format!("reading {path}; did the node end? ({})", self.log.display()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|number| number.parse::<u64>().ok());
        kib.map(|kib| kib << 10).ok_or_else(|| BenchError::new(format!("{path} has no {name}")))
    }

    /// Ends it in order.
    pub(super) fn stop(mut self) -> Result<(), BenchError> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM).while_doing(|| "stopping the node".to_owned())?;
        let begun = Instant::now();
        loop {
            match self.child.try_wait().while_doing(|| "waiting for the node".to_owned())? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(BenchError::new(format!("the node ended with {status}: {}", self.log.display()))),
                None if begun.elapsed() > STOP_WITHIN => return Err(BenchError::new("the node does not stop")),
                None => windlass::types::poll::pause(LOOK_AGAIN),
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The endpoint of a socket, as the command line takes it.
pub(super) fn endpoint(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}
