//! A process of the program under test that serves until it is stopped.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::program::wait_child;

/// Longest time from the start to the last line that says that it serves, and of a clean stop.
const BOUND: Duration = Duration::from_secs(60);

/// A process that serves. Dropping it kills it.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a process, whose log is appended to the file, and waits until it has said these lines.
    ///
    /// # Errors
    /// What it said or did instead, with the end of its log.
    pub fn start(mut command: Command, log: &Path, ready: &[String]) -> Result<Self, String> {
        let stderr: File = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().map_err(|error| error.to_string())?;
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let process = Self { child, log: log.to_owned() };
        for expected in ready {
            let instead = match lines.recv_timeout(BOUND) {
                Ok(line) if line == *expected => continue,
                Ok(line) => format!("said `{line}` instead of `{expected}`"),
                Err(mpsc::RecvTimeoutError::Timeout) => format!("did not say `{expected}` within {BOUND:?}"),
                Err(mpsc::RecvTimeoutError::Disconnected) => format!("ended before it said `{expected}`"),
            };
            return Err(format!("the process {instead}\n{}", process.log_end()));
        }
        Ok(process)
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

    /// What its descriptors lead to.
    pub fn open_files(&self) -> Vec<PathBuf> {
        let directory = fs::read_dir(format!("/proc/{}/fd", self.id())).unwrap();
        directory.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).collect()
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.id())).unwrap().count()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended by itself; `None` when it still runs after `bound`.
    pub fn wait_death(&mut self, bound: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < bound {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            windlass::types::poll::pause(Duration::from_millis(2));
        }
        None
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
        assert!(status.success(), "it stopped with {status}\n{}", self.log_end());
    }

    /// The last lines of its log.
    pub fn log_end(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(40)..].join("\n");
        format!("--- end of {}\n{last}\n---", self.log.display())
    }
}

impl Drop for Process {
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
