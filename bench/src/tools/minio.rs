//! MinIO on the loopback: the store of a bucket for as long as a case takes. A program of its own, whose objects lie in a folder.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{BenchError, While};

/// Its name among the tools.
pub const NAME: &str = "minio";
const BUCKET: &str = "bench";
/// It is ready within a second or two, also on a machine that is busy.
const READY_WITHIN: Duration = Duration::from_secs(60);
const STOPPED_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How a program reaches the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// `http://127.0.0.1:PORT`.
    pub endpoint: String,
    /// Name of the bucket.
    pub bucket: &'static str,
    /// Variables of the environment with the credentials.
    pub variables: [(&'static str, String); 3],
}

/// A server that runs. Dropping it kills it.
pub struct Minio {
    child: Child,
    port: u16,
    password: String,
}

/// The program among the tools, if it was built.
pub fn find(folder: &Path) -> Option<PathBuf> {
    Some(folder.join(NAME)).filter(|program| program.is_file())
}

impl Minio {
    /// Starts `program` over the folder `drive`, which is made, and waits until it serves; with an empty bucket.
    ///
    /// # Errors
    /// When it ends, or is not ready within a minute.
    pub fn start(program: &Path, drive: &Path, log: &Path) -> Result<Self, BenchError> {
        let what = || format!("starting {} (its log is {})", program.display(), log.display());
        fs::create_dir_all(drive).while_doing(what)?;
        let file = File::create(log).while_doing(what)?;
        let errors = file.try_clone().while_doing(what)?;
        let (port, console) = (free_port()?, free_port()?);
        // Whoever is on this machine may reach the port meanwhile.
        let password = format!("bench-{:016x}{:08x}", seed(), std::process::id());
        let mut command = Command::new(program);
        command.args(["server", "--quiet", "--address", &format!("{}:{port}", Ipv4Addr::LOCALHOST)]);
        command.args(["--console-address", &format!("{}:{console}", Ipv4Addr::LOCALHOST)]).arg(drive);
        // It looks for a newer release otherwise: nothing here leaves the machine.
        command.envs([("MINIO_UPDATE", "off"), ("MINIO_BROWSER", "off"), ("MINIO_ROOT_USER", NAME)]);
        command.env("MINIO_ROOT_PASSWORD", &password).env("HOME", drive.parent().unwrap_or(drive));
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        let child = command.spawn().while_doing(what)?;
        let mut server = Self { child, port, password };
        let begun = Instant::now();
        while !server.is_ready() {
            if let Some(status) = server.child.try_wait().while_doing(what)? {
                return Err(BenchError::new(format!("{}: it ended with {status}", what())));
            }
            if begun.elapsed() > READY_WITHIN {
                return Err(BenchError::new(format!("{}: it is not ready", what())));
            }
            windlass::types::poll::pause(LOOK_AGAIN);
        }
        // A folder in the drive is a bucket.
        fs::create_dir(drive.join(BUCKET)).while_doing(what)?;
        Ok(server)
    }

    /// How to reach it.
    pub fn access(&self) -> Access {
        Access {
            endpoint: format!("http://{}:{}", Ipv4Addr::LOCALHOST, self.port),
            bucket: BUCKET,
            variables: [
                ("AWS_ACCESS_KEY_ID", NAME.to_owned()),
                ("AWS_SECRET_ACCESS_KEY", self.password.clone()),
                ("AWS_REGION", "us-east-1".to_owned()),
            ],
        }
    }

    fn is_ready(&self) -> bool {
        let ask = || -> std::io::Result<bool> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
            stream.set_read_timeout(Some(READY_WITHIN))?;
            stream.write_all(b"GET /minio/health/ready HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer)?;
            Ok(answer.ends_with(b" 200"))
        };
        // Nobody listens yet.
        ask().unwrap_or(false)
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(mut self) -> Result<(), BenchError> {
        let what = || "stopping minio".to_owned();
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).while_doing(what)?;
        let begun = Instant::now();
        while self.child.try_wait().while_doing(what)?.is_none() {
            if begun.elapsed() > STOPPED_WITHIN {
                return Err(BenchError::new(format!("{}: it does not end", what())));
            }
            windlass::types::poll::pause(LOOK_AGAIN);
        }
        Ok(())
    }
}

impl Drop for Minio {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A port that nobody listens on now; another process may take it before the server does, which then does not start.
fn free_port() -> Result<u16, BenchError> {
    let what = || "looking for a free port".to_owned();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).while_doing(what)?;
    Ok(listener.local_addr().while_doing(what)?.port())
}

/// Different at each start.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(Instant::now())
}
