//! Where a run works: a folder of its own, with a file system in a file that can share extents.
//!
//! The folder lies in memory where there is room, so that disks do not decide. Images lie on an XFS in a sparse file there, since
//! tmpfs can neither share extents nor list them; repositories and restored files lie in the folder itself. Everything is
//! removed at the end, also after an interrupt or an error; what a killed run left is removed by the next one.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::statvfs::statvfs;

use crate::error::{BenchError, While};

const PREFIX: &str = "windlass-bench-";

/// A folder that is removed at the end.
#[derive(Debug)]
pub struct Place {
    root: PathBuf,
    images: Option<Mounted>,
}

impl Place {
    /// A folder in `parent`, else in memory if `needed` bytes are free there, else in the directory for temporary files.
    ///
    /// # Errors
    /// When it cannot be made, or no file system that shares extents can be mounted in it.
    pub fn make(parent: Option<&Path>, needed: u64) -> Result<Self, BenchError> {
        let parent = match parent {
            Some(parent) => parent.to_owned(),
            None => choose(needed),
        };
        sweep(&parent);
        let root = parent.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir_all(&root).while_doing(|| format!("making {}", root.display()))?;
        let mut place = Self { root, images: None };
        let (file, folder) = (place.root.join("images.xfs"), place.root.join("images"));
        fs::create_dir(&folder)
            .and_then(|()| fs::File::create_new(&file))
            .and_then(|file| file.set_len(32 << 30))
            .while_doing(|| format!("making {}", file.display()))?;
        command("mkfs.xfs", &["-q", "-m", "reflink=1"], &[&file])?;
        place.images = Some(Mounted::mount(&file, &folder, "loop,discard,noatime")?);
        Ok(place)
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where images lie: files there can share extents.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.images = None;
        // Only what was made here; what is still mounted is not entered.
        let removed = Command::new("rm").args(["-rf", "--one-file-system", "--"]).arg(&self.root).status();
        if !removed.is_ok_and(|status| status.success()) {
            eprintln!("windlass-bench: {} is left", self.root.display());
        }
    }
}

/// A mounted image, unmounted at the end.
#[derive(Debug)]
pub struct Mounted(Option<PathBuf>);

impl Mounted {
    /// Mounts `image` at `folder`.
    ///
    /// # Errors
    /// When `mount` fails.
    pub fn mount(image: &Path, folder: &Path, options: &str) -> Result<Self, BenchError> {
        fs::create_dir_all(folder).while_doing(|| format!("making {}", folder.display()))?;
        command("mount", &["-o", options], &[image, folder])?;
        Ok(Self(Some(folder.to_owned())))
    }

    /// Unmounts it: then everything is in the image.
    ///
    /// # Errors
    /// When `umount` fails.
    pub fn unmount(mut self) -> Result<(), BenchError> {
        self.0.take().map_or(Ok(()), |folder| command("umount", &[], &[&folder]))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(folder) = self.0.take()
            && let Err(error) = command("umount", &[], &[&folder])
        {
            eprintln!("windlass-bench: {error}");
        }
    }
}

/// Runs a program of the system to its end.
///
/// # Errors
/// When it does not start, or says that it failed.
pub fn command(program: &str, arguments: &[&str], paths: &[&Path]) -> Result<(), BenchError> {
    let paths = paths.iter().map(|path| path.as_os_str());
    let output = Command::new(program).args(arguments.iter().map(OsStr::new).chain(paths)).output();
    let output = output.while_doing(|| format!("starting {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(BenchError::new(format!("{program}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())))
}

/// A folder beside what cargo makes, as `e2e/target.sh` has it: in `CARGO_TARGET_DIR`, or in `target`.
pub fn beside_the_build(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").filter(|target| !target.is_empty());
    target.map_or_else(|| PathBuf::from("target"), PathBuf::from).join(name)
}

/// In memory if `needed` bytes are free there, else where temporary files go.
pub fn choose(needed: u64) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let free = statvfs(memory).map_or(0, |stats| stats.blocks_available().saturating_mul(stats.fragment_size()));
    let available = available_memory().unwrap_or(0);
    if free >= needed && available >= needed + (1 << 30) { memory.to_owned() } else { std::env::temp_dir() }
}

/// Memory that can be used without pushing anything out, in bytes.
fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Removes what runs that are gone left.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(process) = name.strip_prefix(PREFIX).and_then(|number| number.parse::<u32>().ok()) else { continue };
        if !Path::new("/proc").join(process.to_string()).exists() {
            let mounted = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
            for point in mounted
                .lines()
                .filter_map(|line| line.split(' ').nth(1))
                .filter(|point| Path::new(point).starts_with(entry.path()))
            {
                let _ = command("umount", &["-l"], &[Path::new(point)]);
            }
            drop(Place { root: entry.path(), images: None });
        }
    }
}
