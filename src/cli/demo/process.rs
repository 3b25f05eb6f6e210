//! A node of our own: this binary again, as `windlass node`, on a socket and beneath a root that nobody else knows.
//!
//! A process of its own, because the point is to show the product, not its parts. It has a process group of its own, so that
//! an interrupt typed at the terminal reaches the demo alone, which then ends the node in order.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::cli::client::Node;
use crate::cli::endpoint::Endpoint;
use crate::cli::exit::{CliError, Exit};
use crate::types::error::chain;

/// A node is ready within a second; recovery of a pool with thousands of objects may take several.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A node stops within the 20 s that it gives to calls that run, and what its transfers need to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// Lines of its log that are shown when it fails.
const SHOWN_LINES: usize = 15;

/// A running node.
#[derive(Debug)]
pub struct NodeProcess {
    child: Child,
    log: PathBuf,
}

impl NodeProcess {
    /// Starts a node over one pool and waits until it serves.
    ///
    /// # Errors
    /// With the end of its log when it ends or is not ready in time; [`Exit::Interrupted`].
    pub async fn start(
        endpoint: &Endpoint,
        pool: &Path,
        root: &Path,
        log: &Path,
        interrupt: &CancellationToken,
    ) -> Result<(Self, Node), CliError> {
        let failed = |error: std::io::Error| CliError::because(Exit::Failed, "cannot start a node", error);
        let log_file = File::options().create(true).append(true).open(log).map_err(failed)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("node").arg("--standalone").arg("--endpoint").arg(endpoint.to_string()).arg("--node-id").arg("demo");
        command.arg("--pool").arg(pool).arg("--root").arg(root);
        // The demo looks at its volumes itself, in the same mount namespace.
        command.arg("--allow-private-mounts");
        // The environment may hold credentials of another repository: no business of this node.
        for variable in std::env::vars_os().map(|(name, _)| name) {
            let name = variable.to_string_lossy();
            if ["AWS_", "RESTIC_", "CSI_", "WINDLASS_"].iter().any(|prefix| name.starts_with(prefix)) && name != "WINDLASS_LOG" {
                command.env_remove(&variable);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file).process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let stdout = child.stdout.take();
        let mut process = Self { child, log: log.to_owned() };
        let mut line = String::new();
        let ready = async {
            match stdout {
                Some(stdout) => BufReader::new(stdout).read_line(&mut line).await,
                None => Ok(0),
            }
        };
        let waited = tokio::select! {
            result = tokio::time::timeout(START_TIMEOUT, ready) => result,
            () = interrupt.cancelled() => {
                process.stop().await?;
                return Err(CliError::interrupted("the node was interrupted while it started"));
            }
        };
        let reason = match waited {
            Ok(Ok(_)) if line.trim_end() == format!("ready {endpoint}") => {
                return Ok((process, Node::connect(endpoint).await?));
            }
            Ok(Ok(0)) => "it ended before it was ready".to_owned(),
            Ok(Ok(_)) => format!("it said `{}`", line.trim_end()),
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("it was not ready within {} s", START_TIMEOUT.as_secs()),
        };
        let _ = process.child.start_kill();
        let _ = process.child.wait().await;
        Err(process.failure("the node did not start", reason))
    }

    /// Ends the node in order: SIGTERM, and SIGKILL if it does not end.
    ///
    /// # Errors
    /// When it ended with anything but success.
    pub async fn stop(mut self) -> Result<(), CliError> {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // ESRCH: it has ended by itself, which the wait reports.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        match tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.failure("the node ended badly", describe(status))),
            Ok(Err(error)) => Err(self.failure("the node cannot be waited for", chain(&error))),
            Err(_) => {
                let _ = self.child.start_kill();
                let _ = self.child.wait().await;
                Err(self.failure("the node did not stop", format!("not within {} s; it was killed", STOP_TIMEOUT.as_secs())))
            }
        }
    }

    fn failure(&self, what: &str, reason: String) -> CliError {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n  ");
        CliError::because(Exit::Failed, what, reason).advise(format!("the end of its log was:\n  {end}"))
    }
}

fn describe(status: ExitStatus) -> String {
    status.to_string()
}
