//! Paths of requests, confined beneath one directory.
//!
//! A request names paths as text. Between looking at a path and using it anybody who can write to one of its directories may
//! put a symbolic link there, and a privileged process follows it out. So a path is resolved once, by openat2 with
//! RESOLVE_BENEATH, NO_SYMLINKS and NO_MAGICLINKS, and what is used from then on is the descriptor: [`Confined::target`] is a
//! path through it that no rename can redirect.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{MountError, Propagation, mountinfo};

/// A directory beneath which all paths of requests lie.
#[derive(Debug)]
pub struct Root {
    given: PathBuf,
    real: PathBuf,
    directory: File,
}

/// An existing file or directory beneath a [`Root`], held by its descriptor.
#[derive(Debug)]
pub struct Confined {
    parent: File,
    name: OsString,
    file: File,
    real: PathBuf,
}

/// What [`Root::create`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// An empty directory (mode 0750).
    Directory,
    /// An empty file (mode 0640), on which a device node can be bound.
    File,
}

impl Root {
    /// Opens an existing directory as the root. It may be reached through symbolic links itself.
    ///
    /// # Errors
    /// [`MountError::NotFound`], [`MountError::Io`]; [`MountError::Path`] when the path is relative or the root of the machine.
    pub fn open(path: &Path) -> Result<Self, MountError> {
        let refused = |reason| MountError::Path { path: path.to_owned(), reason };
        if !path.is_absolute() {
            return Err(refused("must be absolute"));
        }
        let real = path.canonicalize().map_err(|error| not_found(path, "open", error))?;
        if real.parent().is_none() {
            return Err(refused("the root of all paths must not be /"));
        }
        let directory = File::open(&real).map_err(|error| not_found(path, "open", error))?;
        if !directory.metadata().map_err(MountError::io(path.display().to_string()))?.is_dir() {
            return Err(refused("must be a directory"));
        }
        Ok(Self { given: path.to_owned(), real, directory })
    }

    /// The root as it was given.
    pub fn path(&self) -> &Path {
        &self.given
    }

    /// Where it is seen what is mounted beneath: that of the mount that holds it.
    pub fn propagation(&self) -> Result<Propagation, MountError> {
        let path = format!("/proc/self/fdinfo/{}", self.directory.as_raw_fd());
        let text = std::fs::read_to_string(&path).map_err(MountError::io(path.clone()))?;
        let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse::<u64>().ok());
        let entries = mountinfo::read()?;
        match entries.iter().find(|entry| Some(entry.id) == id) {
            Some(entry) => Ok(entry.propagation()),
            None => Err(MountError::io(format!("mount of {}", self.given.display()))(io::ErrorKind::NotFound.into())),
        }
    }

    /// Resolves an existing path.
    ///
    /// # Errors
    /// [`MountError::Path`] for a path that is not absolute, not beneath the root, has `..` in it or a symbolic link on its
    /// way; [`MountError::NotFound`]; [`MountError::Io`].
    pub fn resolve(&self, path: &Path) -> Result<Confined, MountError> {
        let relative = self.relative(path)?;
        let (parent, name) = self.parent_of(path, &relative)?;
        let file = open_beneath(&parent, Path::new(&name), OFlag::O_PATH).map_err(|error| refine(path, error))?;
        Ok(Confined { parent, name, file, real: self.real.join(relative) })
    }

    /// Makes an empty directory or file, whose parent exists. One that exists is taken as it is (if it is of that kind, and
    /// whatever may be mounted there).
    ///
    /// # Errors
    /// As for [`Root::resolve`]; [`MountError::Path`] when something else is there.
    pub fn create(&self, path: &Path, kind: NodeKind) -> Result<Confined, MountError> {
        let relative = self.relative(path)?;
        let (parent, name) = self.parent_of(path, &relative)?;
        let made = match kind {
            NodeKind::Directory => mkdirat(&parent, name.as_os_str(), Mode::from_bits_truncate(0o750)),
            NodeKind::File => {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
                nix::fcntl::openat(&parent, name.as_os_str(), flags, Mode::from_bits_truncate(0o640)).map(drop)
            }
        };
        match made {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(error) => return Err(refine(path, error)),
        }
        let file = open_beneath(&parent, Path::new(&name), OFlag::O_PATH).map_err(|error| refine(path, error))?;
        let confined = Confined { parent, name, file, real: self.real.join(relative) };
        // Where a device node is bound, the file beneath shows as a device.
        if confined.is_directory()? != (kind == NodeKind::Directory) {
            let reason = match kind {
                NodeKind::Directory => "exists, and must be a directory",
                NodeKind::File => "exists and is a directory",
            };
            return Err(MountError::Path { path: path.to_owned(), reason });
        }
        Ok(confined)
    }

    /// Removes a file or an empty directory. Absent is success, a missing parent too.
    ///
    /// # Errors
    /// As for [`Root::resolve`]; [`MountError::Busy`] when something is mounted there or the directory has entries: what is in
    /// a volume is never removed by path.
    pub fn remove(&self, path: &Path) -> Result<(), MountError> {
        let relative = self.relative(path)?;
        let (parent, name) = match self.parent_of(path, &relative) {
            Ok(found) => found,
            Err(MountError::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let removed = match unlinkat(&parent, name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
            Err(nix::Error::EISDIR) => unlinkat(&parent, name.as_os_str(), UnlinkatFlags::RemoveDir),
            result => result,
        };
        match removed {
            Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
            Err(nix::Error::EBUSY | nix::Error::ENOTEMPTY | nix::Error::EEXIST) => Err(MountError::Busy(path.to_owned())),
            Err(error) => Err(refine(path, error)),
        }
    }

    /// Checks the text of a path and gives the part beneath the root.
    fn relative(&self, path: &Path) -> Result<PathBuf, MountError> {
        let refused = |reason| MountError::Path { path: path.to_owned(), reason };
        if !path.is_absolute() {
            return Err(refused("must be absolute"));
        }
        if path.components().any(|component| matches!(component, Component::ParentDir)) {
            return Err(refused("must not contain `..`"));
        }
        let relative = path.strip_prefix(&self.given).or_else(|_| path.strip_prefix(&self.real));
        match relative {
            Ok(relative) if relative.components().next().is_some() => Ok(relative.components().collect()),
            _ => Err(refused("lies outside the directory that requests may name")),
        }
    }

    fn parent_of(&self, path: &Path, relative: &Path) -> Result<(File, OsString), MountError> {
        let name = relative.file_name().map(OsStr::to_owned);
        let name = name.ok_or_else(|| MountError::Path { path: path.to_owned(), reason: "has no last component" })?;
        let parent = match relative.parent() {
            Some(parent) if parent.components().next().is_some() => parent,
            _ => Path::new("."),
        };
        let parent = open_beneath(&self.directory, parent, OFlag::O_PATH | OFlag::O_DIRECTORY);
        Ok((parent.map_err(|error| refine(path, error))?, name))
    }
}

impl Confined {
    /// A path through the descriptor, which names this very file or directory as long as this value lives: for mounting
    /// on it, binding it, looking at it.
    pub fn target(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// Lets go of the file itself and gives a path to it through its parent's descriptor: for unmounting, which a descriptor
    /// of the mounted directory would prevent.
    pub fn into_unmount_target(self) -> UnmountTarget {
        UnmountTarget { parent: self.parent, name: self.name }
    }

    /// The path as mountinfo shows it.
    pub fn real_path(&self) -> &Path {
        &self.real
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> Result<bool, MountError> {
        let metadata = self.file.metadata().map_err(MountError::io(format!("look at {}", self.real.display())))?;
        Ok(metadata.is_dir())
    }

    /// The O_PATH descriptor.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// What is unmounted: a name in a directory that is held by its descriptor.
#[derive(Debug)]
pub struct UnmountTarget {
    parent: File,
    name: OsString,
}

impl UnmountTarget {
    /// The path to unmount. Valid as long as this value lives; its last component must not be followed if it is a link.
    pub fn path(&self) -> PathBuf {
        Path::new(&format!("/proc/self/fd/{}", self.parent.as_raw_fd())).join(&self.name)
    }
}

/// The path that a path through a descriptor of this process stands for; others as they are.
pub(super) fn through_descriptor(path: &Path) -> PathBuf {
    let Ok(rest) = path.strip_prefix("/proc/self/fd") else { return path.to_owned() };
    let mut components = rest.components();
    let Some(descriptor) = components.next() else { return path.to_owned() };
    match std::fs::read_link(Path::new("/proc/self/fd").join(descriptor)) {
        Ok(real) if components.as_path().as_os_str().is_empty() => real,
        Ok(real) => real.join(components.as_path()),
        Err(_) => path.to_owned(),
    }
}

fn open_beneath(directory: &File, path: &Path, flags: OFlag) -> nix::Result<File> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
    loop {
        match openat2(directory, path, how) {
            // A rename elsewhere in the tree while it was resolved: the kernel asks to try again.
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
            result => return result.map(File::from),
        }
    }
}

fn refine(path: &Path, error: nix::Error) -> MountError {
    let refused = |reason| MountError::Path { path: path.to_owned(), reason };
    match error {
        nix::Error::ELOOP => refused("has a symbolic link in it"),
        nix::Error::EXDEV => refused("lies outside the directory that requests may name"),
        nix::Error::ENOTDIR => refused("leads through something that is not a directory"),
        error => not_found(path, "resolve", error.into()),
    }
}

fn not_found(path: &Path, action: &str, error: io::Error) -> MountError {
    if error.kind() == io::ErrorKind::NotFound {
        return MountError::NotFound(path.to_owned());
    }
    MountError::io(format!("{action} {}", path.display()))(error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("pods/a")).unwrap();
        let root = Root::open(directory.path()).unwrap();
        (directory, root)
    }

    #[test]
    fn paths_that_leave_the_root_are_refused() {
        let (directory, root) = root();
        let inside = |path: &str| directory.path().join(path);
        for path in [
            PathBuf::from("/etc"),
            PathBuf::from("relative"),
            PathBuf::new(),
            directory.path().to_owned(),
            inside("pods/../../x"),
            inside(".."),
            PathBuf::from(format!("{}-other/x", directory.path().display())),
        ] {
            assert!(matches!(root.resolve(&path), Err(MountError::Path { .. })), "{path:?}");
            assert!(matches!(root.create(&path, NodeKind::Directory), Err(MountError::Path { .. })), "{path:?}");
            assert!(matches!(root.remove(&path), Err(MountError::Path { .. })), "{path:?}");
        }
    }

    #[test]
    fn symbolic_links_are_refused_wherever_they_are() {
        let (directory, root) = root();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), directory.path().join("pods/link")).unwrap();
        symlink("a", directory.path().join("pods/inner")).unwrap();
        for path in ["pods/link", "pods/link/x", "pods/inner", "pods/inner/x"] {
            let path = directory.path().join(path);
            assert!(matches!(root.create(&path, NodeKind::Directory), Err(MountError::Path { .. })), "{path:?}");
            assert!(matches!(root.resolve(&path), Err(MountError::Path { .. })), "{path:?}");
        }
        assert!(matches!(root.remove(&directory.path().join("pods/link/x")), Err(MountError::Path { .. })));
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn targets_are_made_found_and_removed_and_all_of_that_again() {
        let (directory, root) = root();
        let path = directory.path().join("pods/a/mount");
        for _ in 0..2 {
            let made = root.create(&path, NodeKind::Directory).unwrap();
            assert!(made.is_directory().unwrap());
            assert_eq!(made.real_path(), path.canonicalize().unwrap());
        }
        assert!(matches!(root.create(&path, NodeKind::File), Err(MountError::Path { .. })));
        let found = root.resolve(&path).unwrap();
        let inode = std::fs::metadata(found.target()).unwrap().ino();
        assert_eq!(inode, std::fs::metadata(&path).unwrap().ino());
        std::fs::rename(&path, directory.path().join("moved")).unwrap();
        assert_eq!(inode, std::fs::metadata(found.target()).unwrap().ino());
        std::fs::rename(directory.path().join("moved"), &path).unwrap();
        assert_eq!(through_descriptor(&found.target()), path.canonicalize().unwrap());
        let unmount = found.into_unmount_target();
        assert_eq!(through_descriptor(&unmount.path()), path.canonicalize().unwrap());
        for _ in 0..2 {
            root.remove(&path).unwrap();
        }
        assert!(matches!(root.resolve(&path), Err(MountError::NotFound(_))));
        root.create(&path, NodeKind::File).unwrap();
        assert!(matches!(root.create(&path, NodeKind::Directory), Err(MountError::Path { .. })));
        root.remove(&path).unwrap();
        root.remove(&directory.path().join("never/was")).unwrap();
    }

    #[test]
    fn a_directory_with_something_in_it_is_not_removed() {
        let (directory, root) = root();
        assert!(matches!(root.remove(&directory.path().join("pods")), Err(MountError::Busy(_))));
        assert!(directory.path().join("pods/a").is_dir());
    }

    #[test]
    fn a_missing_parent_is_not_made() {
        let (directory, root) = root();
        let error = root.create(&directory.path().join("missing/target"), NodeKind::Directory).unwrap_err();
        assert!(matches!(error, MountError::NotFound(_)));
    }

    #[test]
    fn a_root_behind_a_link_accepts_both_names() {
        let (directory, _) = root();
        let elsewhere = tempfile::tempdir().unwrap();
        let link = elsewhere.path().join("root");
        symlink(directory.path(), &link).unwrap();
        let root = Root::open(&link).unwrap();
        let by_link = root.resolve(&link.join("pods/a")).unwrap();
        let by_name = root.resolve(&directory.path().canonicalize().unwrap().join("pods/a")).unwrap();
        assert_eq!(by_link.real_path(), by_name.real_path());
    }
}
