//! A server that is another program. It ends with its test, also when that is killed.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};

/// A running server.
pub struct Program {
    process: Child,
    /// The line by which it said that it is ready.
    pub ready: String,
}

impl Drop for Program {
    fn drop(&mut self) {
        // One that has ended already needs no end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where the set-up puts a tool.
///
/// # Panics
/// When it is not there.
pub fn tool(name: &str) -> PathBuf {
    // As cargo and e2e/target.sh read it.
    let built = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(built).join("tools").join(name);
    assert!(path.exists(), "{} is missing: run `e2e/setup.sh stores`", path.display());
    path
}

impl Program {
    /// Runs `program` with what `arrange` gives it, and without this process's environment, until it prints a line with `ready` in it.
    ///
    /// # Panics
    /// When it ends before that.
    pub fn start(program: &Path, ready: &str, arrange: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        arrange(&mut command);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (said, heard) = channel();
        follow(process.stdout.take().unwrap(), said.clone());
        follow(process.stderr.take().unwrap(), said);
        let mut all = String::new();
        // The channel ends with the program.
        let found = heard.iter().find(|line| {
            all = all.clone() + line + "\n";
            line.contains(ready)
        });
        let mut server = Self { process, ready: String::new() };
        server.ready = found.unwrap_or_else(|| panic!("{} did not start:\n{all}", program.display()));
        server
    }
}

/// Reads to the end, so that a full pipe never holds the server up, even if nobody listens any more.
fn follow(output: impl Read + Send + 'static, said: Sender<String>) {
    let lines = BufReader::new(output).lines().map_while(Result::ok);
    std::thread::spawn(move || lines.for_each(|line| drop(said.send(line))));
}
