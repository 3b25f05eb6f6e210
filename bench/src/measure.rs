//! What a command takes: time, processor time, peak memory.
//!
//! The command runs as the only child of a process of ours that does nothing else ([`run`]). That process asks the system what its
//! children used, so the figures are those of `wait4`, and the peak is the command's own: a process starts with its parent's
//! memory for an instant, and a large parent would be what is measured. The processor time that the kernel spends elsewhere
//! on a command's behalf (the threads of a loop device) is in nobody's figures, but in everyone's time.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

use crate::error::{BenchError, While};

/// What one run of a command took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// From its start to its end, in seconds.
    pub wall_seconds: f64,
    /// In user and kernel mode, of all its threads and children, in seconds.
    pub cpu_seconds: f64,
    /// Peak of resident memory in bytes.
    pub peak_bytes: u64,
}

/// A command with all that its run depends on.
#[derive(Debug, Clone)]
pub struct Invocation {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    directory: Option<PathBuf>,
}

impl Invocation {
    /// A program without arguments.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), arguments: Vec::new(), environment: Vec::new(), directory: None }
    }

    /// Adds words that are separated by blanks.
    pub fn words(mut self, words: &str) -> Self {
        self.arguments.extend(words.split_whitespace().map(OsString::from));
        self
    }

    /// Adds one argument.
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets a variable of the environment.
    pub fn variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Sets the working directory.
    pub fn within(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    /// As one types it, with `root`, if that is any, written as `$WORK`.
    pub fn shown(&self, root: &Path) -> String {
        let root = root.to_string_lossy();
        let program = self.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let arguments = self.arguments.iter().map(|argument| match argument.to_string_lossy() {
            text if root.is_empty() => text.into_owned(),
            text => text.replace(&*root, "$WORK"),
        });
        std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ")
    }

    /// Runs it to its end without measuring; its output.
    ///
    /// # Errors
    /// When it does not start, or fails.
    pub fn output(&self) -> Result<String, BenchError> {
        let output = self.command(Command::new(&self.program)).output().while_doing(|| self.starting())?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(self.failed(output.status, &String::from_utf8_lossy(&output.stderr)))
    }

    /// Runs it to its end and measures it. What it prints goes to `log`.
    ///
    /// # Errors
    /// When it does not start, or fails; the end of its output is in the error.
    pub fn measure(&self, log: &Path) -> Result<Usage, BenchError> {
        let what = || format!("measuring {}", self.program.display());
        let own = std::env::current_exe().while_doing(what)?;
        let result = log.with_extension("usage");
        let mut command = Command::new(own);
        command.arg("measure").arg("--result").arg(&result).arg("--log").arg(log).arg("--").arg(&self.program);
        let status = self.command(command).status().while_doing(what)?;
        if !status.success() {
            let printed = fs::read(log).unwrap_or_default();
            return Err(self.failed(status, &String::from_utf8_lossy(&printed)));
        }
        serde_json::from_slice(&fs::read(&result).while_doing(what)?).while_doing(what)
    }

    fn command(&self, mut command: Command) -> Command {
        command.args(&self.arguments).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }

    fn starting(&self) -> String {
        format!("starting {}", self.program.display())
    }

    fn failed(&self, status: std::process::ExitStatus, printed: &str) -> BenchError {
        let lines: Vec<&str> = printed.trim().lines().collect();
        let end = lines[lines.len().saturating_sub(4)..].join(" / ");
        BenchError::new(format!("{}: {status}: {end}", self.shown(Path::new(""))))
    }
}

/// The arguments of `measure`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Where to write what it took
    #[arg(long, value_name = "FILE")]
    result: PathBuf,
    /// Where its output goes
    #[arg(long, value_name = "FILE")]
    log: PathBuf,
    /// The command
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Runs a command as the only child of this process, and writes down what it took.
///
/// # Errors
/// When it does not start, or fails.
pub fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let Some((program, words)) = arguments.command.split_first() else { return Err(BenchError::new("no command was given")) };
    let what = || format!("measuring {}", program.display());
    let log = File::create(&arguments.log).while_doing(what)?;
    let errors = log.try_clone().while_doing(what)?;
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(log).stderr(errors);
    let started = Instant::now();
    let status = command.status().while_doing(what)?;
    let wall_seconds = started.elapsed().as_secs_f64();
    let used = getrusage(UsageWho::RUSAGE_CHILDREN).while_doing(what)?;
    if !status.success() {
        return Err(BenchError::new(format!("{}: {status}", what())));
    }
    let usage = Usage {
        wall_seconds,
        cpu_seconds: seconds(used.user_time()) + seconds(used.system_time()),
        peak_bytes: used.max_rss().cast_unsigned() << 10,
    };
    let text = serde_json::to_string(&usage).while_doing(what)?;
    fs::write(&arguments.result, text).while_doing(what)
}

fn seconds(time: TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_types_it() {
        let invocation = Invocation::new("/usr/bin/restic").words("-r").argument("/w/state/repo").words("backup volume.img");
        assert_eq!(invocation.shown(Path::new("/w")), "restic -r $WORK/state/repo backup volume.img");
    }

    #[test]
    fn a_command_that_fails_says_how_it_ended_and_what_it_printed() {
        let error = Invocation::new("/bin/sh").words("-c").argument("echo no room >&2; exit 3").output().unwrap_err().chain();
        assert!(error.contains("no room") && error.contains('3'), "{error}");
    }

    #[test]
    fn what_a_child_used_is_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let (result, log) = (folder.path().join("result"), folder.path().join("log"));
        let script = "dd if=/dev/zero of=/dev/null bs=64M count=1; echo done";
        let command = ["/bin/sh", "-c", script].map(OsString::from).to_vec();
        run(&Arguments { result: result.clone(), log: log.clone(), command }).unwrap();
        let usage: Usage = serde_json::from_slice(&fs::read(result).unwrap()).unwrap();
        assert!(usage.wall_seconds > 0.0 && usage.cpu_seconds > 0.0, "{usage:?}");
        assert!(usage.peak_bytes >= 64 << 20, "{usage:?}");
        assert!(fs::read_to_string(log).unwrap().contains("done"));
    }
}
