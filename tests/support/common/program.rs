//! Running other people's programs, and our own, to their end.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::wait_for;
#[allow(unused_imports, reason = "each test binary uses a part of this")]
pub use crate::basics::built_tool;

/// Longest time a program may take that a test waits for: generous, since it only bounds a hang.
pub const BOUND: Duration = Duration::from_secs(300);

/// What a program left when it ended.
#[derive(Debug)]
pub struct Ended {
    /// The command line, for messages.
    pub command: String,
    /// Exit code; absent when it died of a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Ended {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The same, if the program succeeded.
    ///
    /// # Panics
    /// When it failed; with everything it printed.
    pub fn success(self) -> Self {
        assert!(self.code == Some(0), "{} ended with {:?}\n{}\n{}", self.command, self.code, self.text(), self.stderr);
        self
    }

    /// Standard error, if the program failed by itself.
    ///
    /// # Panics
    /// When it succeeded or died of a signal.
    pub fn failure(self) -> String {
        assert!(
            self.code.is_some_and(|code| code != 0),
            "{} should have failed and ended with {:?}\n{}\n{}",
            self.command,
            self.code,
            self.text(),
            self.stderr
        );
        self.stderr
    }
}

/// A command line of `program` with nothing on its standard input.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// A command line of the program under test. Its environment is empty of what could change its mind.
pub fn windlass() -> Command {
    let mut command = command(env!("CARGO_BIN_EXE_windlass"));
    for variable in
        ["CSI_ENDPOINT", "WINDLASS_ENDPOINT", "WINDLASS_LOG", "RESTIC_REPOSITORY", "RESTIC_PASSWORD", "RESTIC_PASSWORD_FILE"]
    {
        command.env_remove(variable);
    }
    command
}

/// Runs a command line to its end.
///
/// # Panics
/// When it cannot be started, or takes longer than [`BOUND`].
pub fn run(command: &mut Command) -> Ended {
    let line = format!("{command:?}");
    // Output goes to files, so that a program that prints more than a pipe holds does not wait for us.
    let stdout = tempfile::NamedTempFile::new().unwrap();
    let stderr = tempfile::NamedTempFile::new().unwrap();
    let mut child = command
        .stdout(File::create(stdout.path()).unwrap())
        .stderr(File::create(stderr.path()).unwrap())
        .spawn()
        .unwrap_or_else(|error| panic!("{line}: {error}"));
    let start = std::time::Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > BOUND {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{line} did not end within {BOUND:?}\n{}", std::fs::read_to_string(stderr.path()).unwrap_or_default());
        }
        windlass::types::poll::pause(Duration::from_millis(5));
    };
    Ended {
        command: line,
        code: status.code(),
        stdout: std::fs::read(stdout.path()).unwrap(),
        stderr: String::from_utf8_lossy(&std::fs::read(stderr.path()).unwrap()).into_owned(),
    }
}

/// Runs a command line that must succeed.
///
/// # Panics
/// When it does not.
pub fn run_ok(command: &mut Command) -> Ended {
    run(command).success()
}

/// Longest time that short visitors (udev's probes, a walk over all mounts) keep a mount busy.
pub const VISITORS: Duration = Duration::from_secs(10);

/// Unmounts a test's own mount.
///
/// # Panics
/// When it stays busy.
pub fn unmount(at: &Path) {
    let what = format!("{} to be unmounted", at.display());
    wait_for(&what, VISITORS, || (run(command("umount").arg(at)).code == Some(0)).then_some(()));
}

/// Waits for a child to end.
///
/// # Panics
/// When it does not end within `bound`; it is killed then.
pub fn wait_child(what: &str, child: &mut std::process::Child, bound: Duration) -> std::process::ExitStatus {
    let start = std::time::Instant::now();
    wait_for(what, bound + Duration::from_secs(5), || {
        if start.elapsed() > bound {
            let _ = child.kill();
        }
        child.try_wait().unwrap()
    })
}

/// The output of a finished command as [`Ended`], for callers that ran it themselves.
pub fn ended(command: String, output: Output) -> Ended {
    Ended {
        command,
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
