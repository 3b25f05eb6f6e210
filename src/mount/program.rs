//! Runs the programs that make and grow file systems.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::MountError;

/// Longest run of a program. Making a file system of the largest volume takes a minute or two; one that takes longer than this
/// stands still because its device does.
const LONGEST_RUN: Duration = Duration::from_secs(900);
/// Bytes of output that are kept, from its end: errors come last.
const KEPT_OUTPUT: usize = 4096;
/// Where the programs are, whatever this process was started with.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs `program` to its end, without input and with an environment of its own.
///
/// # Errors
/// [`MountError::Program`] when it ends with anything but 0 or runs too long (it is killed then); [`MountError::Io`] when it
/// cannot be started.
pub(super) fn run<S: AsRef<OsStr>>(program: &'static str, arguments: impl IntoIterator<Item = S>) -> Result<(), MountError> {
    run_at_most(LONGEST_RUN, program, arguments, &[0])
}

/// As [`run`], for a program that also succeeds with other exit codes than 0.
pub(super) fn run_accepting<S: AsRef<OsStr>>(
    program: &'static str,
    arguments: impl IntoIterator<Item = S>,
    accepted: &[i32],
) -> Result<(), MountError> {
    run_at_most(LONGEST_RUN, program, arguments, accepted)
}

/// As [`run_accepting`], for at most `limit`.
pub(super) fn run_within<S: AsRef<OsStr>>(
    limit: Duration,
    program: &'static str,
    arguments: impl IntoIterator<Item = S>,
    accepted: &[i32],
) -> Result<(), MountError> {
    run_at_most(limit, program, arguments, accepted)
}

fn run_at_most<S: AsRef<OsStr>>(
    limit: Duration,
    program: &'static str,
    arguments: impl IntoIterator<Item = S>,
    accepted: &[i32],
) -> Result<(), MountError> {
    let io = |source| MountError::io(format!("run {program}"))(source);
    let failed = |output: String| Err(MountError::Program { program, output });
    let (reader, writer) = io::pipe().map_err(io)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(writer.try_clone().map_err(io)?).stderr(writer);
    let mut child = command.spawn().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => MountError::Program { program, output: "it is not installed".to_owned() },
        _ => io(source),
    })?;
    // It holds our copies of the pipe's writing end, without which the pipe would never end.
    drop(command);
    let (sender, receiver) = mpsc::channel();
    // Ends with the pipe, which ends with the program and its children.
    std::thread::spawn(move || {
        // The receiver is gone when the program ran too long; nobody wants the output then.
        let _ = sender.send(read_end(reader));
    });
    match receiver.recv_timeout(limit) {
        Ok(output) => {
            let status = child.wait().map_err(io)?;
            if status.code().is_some_and(|code| accepted.contains(&code)) {
                return Ok(());
            }
            let output = output.map_err(io)?;
            failed(if output.is_empty() { status.to_string() } else { output })
        }
        Err(_) => {
            // A process that waits for a dead device does not end even so; whoever reaps it must not be us.
            let _ = child.kill();
            std::thread::spawn(move || child.wait());
            failed(format!("it did not end within {limit:?} and was killed"))
        }
    }
}

/// The last [`KEPT_OUTPUT`] bytes of what comes out of a pipe, as text.
fn read_end(mut pipe: impl Read) -> io::Result<String> {
    let mut kept = Vec::new();
    let mut chunk = [0; KEPT_OUTPUT];
    loop {
        match pipe.read(&mut chunk) {
            Ok(0) => return Ok(String::from_utf8_lossy(&kept).trim().to_owned()),
            Ok(length) => {
                kept.extend_from_slice(&chunk[..length]);
                let excess = kept.len().saturating_sub(KEPT_OUTPUT);
                kept.drain(..excess);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_carries_the_end_of_the_output() {
        let script = "seq 10000; echo last words >&2; exit 3";
        let Err(MountError::Program { output, .. }) = run("sh", ["-c", script]) else { panic!("it did not fail") };
        assert!(output.ends_with("10000\nlast words"));
        assert!(output.len() <= KEPT_OUTPUT);
    }

    #[test]
    fn the_environment_is_not_passed_on() {
        run("sh", ["-c", "test -z \"$HOME\" && test \"$LC_ALL\" = C"]).unwrap();
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let error = run_at_most(Duration::from_millis(50), "sleep", ["1000"], &[0]).unwrap_err();
        assert!(error.to_string().contains("did not end"));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run("no-such-program", [""; 0]).unwrap_err();
        assert_eq!(error.to_string(), "no-such-program failed: it is not installed");
    }
}
