//! Names within the pool's directory. Every path the pool touches is made here, from ids and fixed names.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::block::file_ops;
use crate::pool::PoolError;
use crate::types::{Object, SnapshotId, VolumeId};

/// The file within an object's subvolume.
pub(super) const DATA: &str = "data";

const VOLUMES: &str = "volumes";
const SNAPSHOTS: &str = "snapshots";
const CATALOGUE: &str = "catalogue.redb";
/// What an interrupted creation of the catalogue leaves.
const UNFINISHED_CATALOGUE: &str = "catalogue.new";
/// Its second copy.
const COPY: &str = "catalogue.copy";
/// What an interrupted enlargement of the copy leaves.
const UNFINISHED_COPY: &str = "catalogue.copy-new";
/// A catalogue that another one was put in the place of.
const REPLACED: &str = "catalogue.replaced";
const LOCK: &str = "lock";
/// Made by mkfs of some file systems.
const LOST_AND_FOUND: &str = "lost+found";
const TEMPORARY: &str = ".tmp-";

/// What to do about a catalogue that is lost.
pub(super) const ADOPT: &str = "`windlass pool adopt` shows what can be had back, and takes it over on order";

/// The pool's directory.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

/// One entry of an object directory.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) name: Name,
}

/// What a name in an object directory means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Object(Object),
    Temporary,
    Foreign,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Volumes,
    Snapshots,
}

impl Layout {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn catalogue(&self) -> PathBuf {
        self.root.join(CATALOGUE)
    }

    /// The second copy of the catalogue.
    pub(super) fn copy(&self) -> PathBuf {
        self.root.join(COPY)
    }

    /// Where an adoption keeps the catalogue that was there.
    pub(super) fn replaced(&self) -> PathBuf {
        self.root.join(REPLACED)
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join(LOCK)
    }

    pub(super) fn directories(&self) -> [PathBuf; 2] {
        [self.root.join(VOLUMES), self.root.join(SNAPSHOTS)]
    }

    /// The directory an object lies in.
    pub(super) fn parent(&self, object: Object) -> PathBuf {
        self.root.join(match object {
            Object::Volume(_) => VOLUMES,
            Object::Snapshot(_) => SNAPSHOTS,
        })
    }

    pub(super) fn name(object: Object) -> String {
        match object {
            Object::Volume(id) => id.to_string(),
            Object::Snapshot(id) => id.to_string(),
        }
    }

    pub(super) fn temporary_name(object: Object) -> String {
        format!("{TEMPORARY}{}", Self::name(object))
    }

    pub(super) fn object(&self, object: Object) -> PathBuf {
        self.parent(object).join(Self::name(object))
    }

    pub(super) fn temporary(&self, object: Object) -> PathBuf {
        self.parent(object).join(Self::temporary_name(object))
    }

    /// A path as it is shown to people.
    pub(super) fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }

    pub(super) fn make_directories(&self) -> Result<(), PoolError> {
        for directory in self.directories() {
            match fs::DirBuilder::new().mode(0o700).create(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(PoolError::io(format!("make {}", directory.display()), error));
                }
                _ => {}
            }
        }
        file_ops::sync_dir(&self.root).map_err(|error| PoolError::io(format!("sync {}", self.root.display()), error))
    }

    /// Refuses a directory that holds a pool or anything that is not ours.
    pub(super) fn check_unused(&self) -> Result<(), PoolError> {
        let refuse = |why: String| Err(PoolError::Format(format!("{}: {why}; nothing was changed", self.root.display()).into()));
        if fs::symlink_metadata(self.catalogue()).is_ok() {
            return refuse("holds a pool already".to_owned());
        }
        if fs::symlink_metadata(self.copy()).is_ok() {
            return refuse(format!("held a pool, whose catalogue is gone and has a second copy; {ADOPT}"));
        }
        if let Some(name) = self.foreign()?.first() {
            return refuse(format!("is not empty (it has `{name}`), and a pool wants a directory of its own"));
        }
        for directory in self.directories() {
            if directory.exists() && !self.list(&directory)?.is_empty() {
                return refuse(format!("has no catalogue, but something in `{}`", self.shown(&directory)));
            }
        }
        Ok(())
    }

    /// Refuses a directory in which no pool was made.
    pub(super) fn check_used(&self) -> Result<(), PoolError> {
        self.check_objects()?;
        if self.catalogue().is_file() {
            return Ok(());
        }
        let root = self.root.display();
        let has_objects = || self.directories().iter().any(|directory| self.list(directory).is_ok_and(|found| !found.is_empty()));
        if fs::symlink_metadata(self.copy()).is_ok() || has_objects() {
            return Err(PoolError::CatalogueLost(format!(
                "{root}: there was a pool here, and its catalogue is missing; {ADOPT}"
            )));
        }
        Err(no_pool(&self.root))
    }

    /// Refuses a directory in which no objects of a pool can lie.
    pub(super) fn check_objects(&self) -> Result<(), PoolError> {
        if self.directories().iter().all(|directory| directory.is_dir()) { Ok(()) } else { Err(no_pool(&self.root)) }
    }

    /// Names in the pool's directory itself that are not ours.
    pub(super) fn foreign(&self) -> Result<Vec<String>, PoolError> {
        const OURS: [&str; 9] =
            [VOLUMES, SNAPSHOTS, CATALOGUE, UNFINISHED_CATALOGUE, COPY, UNFINISHED_COPY, REPLACED, LOCK, LOST_AND_FOUND];
        let names = self.list(&self.root)?;
        Ok(names.into_iter().filter(|path| !OURS.iter().any(|ours| path.ends_with(ours))).map(|path| self.shown(&path)).collect())
    }

    /// Everything in one of the object directories.
    pub(super) fn entries(&self, directory: &Path) -> Result<Vec<Entry>, PoolError> {
        let kind = if directory.ends_with(VOLUMES) { Kind::Volumes } else { Kind::Snapshots };
        let name =
            |path: &Path| path.file_name().and_then(|name| name.to_str()).map_or(Name::Foreign, |name| meaning(kind, name));
        Ok(self.list(directory)?.into_iter().map(|path| Entry { name: name(&path), path }).collect())
    }

    fn list(&self, directory: &Path) -> Result<Vec<PathBuf>, PoolError> {
        let list = || -> io::Result<Vec<PathBuf>> { fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect() };
        let mut paths = list().map_err(|error| PoolError::io(format!("list {}", directory.display()), error))?;
        paths.sort_unstable();
        Ok(paths)
    }
}

/// Whether a path, however the pool's directory was reached, is that of the file of a volume.
pub(in crate::pool) fn is_file_of(path: &Path, volume: VolumeId) -> bool {
    let object = if path.ends_with(DATA) { path.parent() } else { Some(path) };
    let volume = Path::new(VOLUMES).join(volume.to_string());
    object.is_some_and(|object| object.ends_with(volume))
}

fn no_pool(root: &Path) -> PoolError {
    let root = root.display();
    PoolError::Format(format!("{root}: there is no pool here; make one with: windlass pool create {root}").into())
}

fn meaning(kind: Kind, name: &str) -> Name {
    let id = |text: &str| match kind {
        Kind::Volumes => text.parse::<VolumeId>().ok().map(Object::Volume),
        Kind::Snapshots => text.parse::<SnapshotId>().ok().map(Object::Snapshot),
    };
    match name.strip_prefix(TEMPORARY) {
        Some(rest) if id(rest).is_some() => Name::Temporary,
        Some(_) => Name::Foreign,
        None => id(name).map_or(Name::Foreign, Name::Object),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_we_would_give_are_ours() {
        let id = VolumeId::random();
        assert_eq!(meaning(Kind::Volumes, &id.to_string()), Name::Object(Object::Volume(id)));
        assert_eq!(meaning(Kind::Volumes, &format!(".tmp-{id}")), Name::Temporary);
        for name in ["notes.txt", ".tmp-notes", &id.to_string().to_uppercase(), &format!("{id}.bak"), ""] {
            assert_eq!(meaning(Kind::Volumes, name), Name::Foreign, "{name}");
        }
    }
}
