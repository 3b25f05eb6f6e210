//! The programs that are compared, each with the commands that a user would type.
//!
//! A tool has a folder of its own ([`State`]) for its repository and whatever else it keeps (caches, configuration): saved after a
//! full backup, and put back before each increment, so that every repetition begins alike. The image to back up is always
//! `volume.img` in a folder of its own: the name stays, the file behind it is the snapshot's, with its own inode and times. So
//! programs that compare those see a changed file, as they do with snapshots in real life, and read it.
//!
//! Nothing is told to leave out what it does by default, with three exceptions that are said in the results: `restic-tuned`, the
//! compression of borg and kopia (fastest zstd; kopia's default is none), and borg's chunks (fixed 4 MiB, made for disk images).

mod borg;
mod kopia;
pub mod minio;
mod restic;
mod rustic;
mod windlass;

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::data::place::command;
use crate::error::{BenchError, While};
use crate::measure::Invocation;

/// The password of every repository.
pub const PASSWORD: &str = "correct horse battery staple";
/// The name of the image in its folder.
pub const IMAGE: &str = "volume.img";

/// One way of using one program.
pub trait Tool {
    /// Its name in the results.
    fn name(&self) -> &'static str;

    /// What the program says of its version.
    fn version(&self) -> &str;

    /// Makes the repository.
    ///
    /// # Errors
    /// When the program fails.
    fn init(&self, state: &State) -> Result<(), BenchError>;

    /// Backs up an image.
    fn backup(&self, state: &State, backup: &Backup<'_>) -> Invocation;

    /// The same without decoding what was encoded, where the program can leave that out.
    fn backup_unverified(&self, _state: &State, _backup: &Backup<'_>) -> Option<Invocation> {
        None
    }

    /// Restores the newest backup into the empty folder `target`, as [`IMAGE`].
    fn restore(&self, state: &State, backup: &Backup<'_>, target: &Path) -> Invocation;

    /// Reads the repository and verifies every byte.
    fn check(&self, state: &State) -> Invocation;
}

/// What is backed up.
#[derive(Debug, Clone, Copy)]
pub struct Backup<'a> {
    /// The folder in which it is called [`IMAGE`].
    pub folder: &'a Path,
    /// The same file by its own name, beside its base: what a pool knows.
    pub snapshot: &'a Path,
    /// The snapshot that was backed up before, if any.
    pub base: Option<&'a Path>,
    /// A name for this backup, not used before in the repository.
    pub label: &'a str,
}

/// All that a tool keeps.
#[derive(Debug, Clone)]
pub struct State {
    root: PathBuf,
    saved: PathBuf,
}

impl State {
    /// The state of the tool `name` with backups of `data`: in use below `work`, saved below `saved`.
    pub fn new(work: &Path, saved: &Path, name: &str, data: &str) -> Self {
        // In use it always has the same path, which some tools remember.
        Self { root: work.join("state").join(name), saved: saved.join(data).join(name) }
    }

    /// Where the repository lies.
    pub fn repository(&self) -> PathBuf {
        self.root.join("repository")
    }

    /// Where everything else lies.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Bytes of all files of the repository.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn stored_bytes(&self) -> Result<u64, BenchError> {
        bytes_below(&self.repository()).while_doing(|| format!("measuring {}", self.repository().display()))
    }

    /// Removes what is there and begins anew.
    ///
    /// # Errors
    /// When that fails.
    pub fn renew(&self) -> Result<(), BenchError> {
        self.remove()?;
        fs::create_dir_all(self.cache()).while_doing(|| format!("making {}", self.root.display()))
    }

    /// Keeps a copy.
    ///
    /// # Errors
    /// When that fails.
    pub fn save(&self) -> Result<(), BenchError> {
        copy(&self.root, &self.saved)
    }

    /// Puts the copy back.
    ///
    /// # Errors
    /// When that fails.
    pub fn put_back(&self) -> Result<(), BenchError> {
        copy(&self.saved, &self.root)
    }

    /// True when a copy was kept.
    pub fn is_saved(&self) -> bool {
        self.saved.exists()
    }

    /// Removes what is in use.
    ///
    /// # Errors
    /// When that fails.
    pub fn remove(&self) -> Result<(), BenchError> {
        remove(&self.root)
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), BenchError> {
    remove(to)?;
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).while_doing(|| format!("making {}", parent.display()))?;
    }
    command("cp", &["-a", "--"], &[from, to])
}

fn remove(folder: &Path) -> Result<(), BenchError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(BenchError::because(format!("removing {}", folder.display()), error))
        }
        _ => Ok(()),
    }
}

fn bytes_below(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// Which tools take part.
pub struct Selection {
    /// Those that are there, in the order of the names.
    pub tools: Vec<Rc<dyn Tool>>,
    /// Names of those that are not.
    pub absent: Vec<String>,
}

/// Looks for the tools of these names, those that were built in `folder`.
///
/// # Errors
/// For a name that no tool has, or when restic is not there.
pub fn find(names: &[String], folder: &Path) -> Result<Selection, BenchError> {
    let mut selection = Selection { tools: Vec::new(), absent: Vec::new() };
    for name in names {
        let tool: Option<Rc<dyn Tool>> = match name.as_str() {
            "windlass" => Some(Rc::new(windlass::Windlass::find()?)),
            "restic" => Some(Rc::new(restic::Restic::find(folder, restic::Tuning::Default)?)),
            "restic-tuned" => Some(Rc::new(restic::Restic::find(folder, restic::Tuning::Fastest)?)),
            "borg" => borg::Borg::find().map(|tool| Rc::new(tool) as _),
            "rustic" => rustic::Rustic::find(folder).map(|tool| Rc::new(tool) as _),
            "kopia" => kopia::Kopia::find(folder).map(|tool| Rc::new(tool) as _),
            other => return Err(BenchError::new(format!("there is no tool `{other}`"))),
        };
        match tool {
            Some(tool) => selection.tools.push(tool),
            None => selection.absent.push(name.clone()),
        }
    }
    Ok(selection)
}

/// What a program prints for its version, without its own name; `None` when it is not there.
fn version(program: &Path, argument: &str) -> Option<String> {
    let output = Invocation::new(program).words(argument).output().ok()?;
    let line = output.lines().next()?.trim();
    let name = program.file_name()?.to_string_lossy().into_owned();
    Some(line.strip_prefix(&name).unwrap_or(line).trim().to_owned())
}
