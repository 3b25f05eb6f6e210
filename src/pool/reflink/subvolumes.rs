//! Objects as Btrfs subvolumes, each with one file.
//!
//! A snapshot is made under its final name: the ioctl commits the transaction it is part of, so it is there whole and durable
//! or not at all. A volume takes several steps and is made under a temporary name. After renames and deletions the
//! transaction is committed explicitly.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::layout::{DATA, Entry, Layout, Name};
use crate::block::{btrfs, file_ops};
use crate::failpoint;
use crate::pool::{Cut, Found, ObjectSpec, PoolError};
use crate::types::{Access, DataChecksum, Object, VolumeSize};

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> PoolError {
    let action = format!("{what} {}", path.display());
    move |error| PoolError::io(action, error)
}

pub(super) fn create(layout: &Layout, object: Object, spec: ObjectSpec) -> Result<(), PoolError> {
    finish_or_sweep(layout, object, |parent, name| {
        let path = layout.temporary(object);
        btrfs::create_subvolume(parent, OsStr::new(name)).map_err(failed("make the subvolume", &path))?;
        failpoint::hit("reflink.subvolume.after");
        let data = path.join(DATA);
        let file =
            File::options().read(true).write(true).create_new(true).mode(0o600).open(&data).map_err(failed("make", &data))?;
        if spec.checksum == DataChecksum::Off {
            file_ops::set_no_cow(&file).map_err(failed("switch off copy-on-write of", &data))?;
        }
        file_ops::set_len_sync(&file, spec.size.bytes()).map_err(failed("set the size of", &data))
    })
}

pub(super) fn snapshot(layout: &Layout, cuts: &[Cut]) -> Result<(), PoolError> {
    for cut in cuts {
        delete(layout, Object::Snapshot(cut.snapshot))?;
    }
    for cut in cuts {
        let (source, object) = (Object::Volume(cut.source), Object::Snapshot(cut.snapshot));
        let subvolume = open_source(layout, source)?;
        let parent = open_directory(&layout.parent(object))?;
        btrfs::snapshot_subvolume(&subvolume, &parent, OsStr::new(&Layout::name(object)), Access::ReadOnly)
            .map_err(failed("make the snapshot", &layout.object(object)))?;
        failpoint::hit("reflink.subvolume_snapshot.after");
    }
    Ok(())
}

pub(super) fn copy(layout: &Layout, source: Object, object: Object, size: VolumeSize) -> Result<(), PoolError> {
    let subvolume = open_source(layout, source)?;
    finish_or_sweep(layout, object, |parent, name| {
        let path = layout.temporary(object);
        btrfs::snapshot_subvolume(&subvolume, parent, OsStr::new(name), Access::ReadWrite)
            .map_err(failed("make the snapshot", &path))?;
        failpoint::hit("reflink.subvolume_snapshot.after");
        let data = path.join(DATA);
        let file = File::options().write(true).open(&data).map_err(failed("open", &data))?;
        file_ops::set_len_sync(&file, size.bytes()).map_err(failed("set the size of", &data))
    })
}

pub(super) fn delete(layout: &Layout, object: Object) -> Result<(), PoolError> {
    let parent = open_directory(&layout.parent(object))?;
    let mut removed = false;
    for name in [Layout::temporary_name(object), Layout::name(object)] {
        removed |= remove(&parent, &layout.parent(object), &name)?;
    }
    if !removed {
        return Ok(());
    }
    failpoint::hit("reflink.subvolume_delete.after");
    commit(&parent, layout)
}

pub(super) fn examine(layout: &Layout, entry: &Entry) -> Result<Option<Found>, PoolError> {
    let foreign = || Ok(Some(Found::Foreign(layout.shown(&entry.path))));
    let metadata = fs::symlink_metadata(&entry.path).map_err(failed("look at", &entry.path))?;
    if !metadata.is_dir() || !is_subvolume(&entry.path)? {
        return foreign();
    }
    match (entry.name, entry.path.parent(), entry.path.file_name().and_then(OsStr::to_str)) {
        (Name::Object(object), ..) => {
            let data = entry.path.join(DATA);
            let size = match fs::symlink_metadata(&data) {
                Ok(metadata) if metadata.is_file() => metadata.len(),
                // Nothing usable: a record of it will be reported as damaged.
                Ok(_) => 0,
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                Err(error) => return Err(failed("look at", &data)(error)),
            };
            Ok(Some(Found::Object { object, size }))
        }
        (Name::Temporary, Some(directory), Some(name)) => {
            tracing::info!(path = %entry.path.display(), "swept the remains of an interrupted operation");
            remove(&open_directory(directory)?, directory, name).map(|_| None)
        }
        _ => foreign(),
    }
}

/// Runs `make` for the temporary name, then gives its result the final one; sweeps it when something fails.
fn finish_or_sweep(
    layout: &Layout,
    object: Object,
    make: impl FnOnce(&File, &str) -> Result<(), PoolError>,
) -> Result<(), PoolError> {
    let directory = layout.parent(object);
    let parent = open_directory(&directory)?;
    let name = Layout::temporary_name(object);
    remove(&parent, &directory, &name)?;
    let made = make(&parent, &name).and_then(|()| {
        let path = layout.object(object);
        failpoint::around("reflink.rename", || fs::rename(layout.temporary(object), &path))
            .map_err(failed("rename to", &path))?;
        commit(&parent, layout)
    });
    made.inspect_err(|_| {
        // If this fails as well, the next scan sweeps it.
        let _ = remove(&parent, &directory, &name);
    })
}

fn open_source(layout: &Layout, source: Object) -> Result<File, PoolError> {
    let path = layout.object(source);
    File::open(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => PoolError::SourceMissing(source),
        _ => failed("open", &path)(error),
    })
}

fn open_directory(path: &Path) -> Result<File, PoolError> {
    File::open(path).map_err(failed("open", path))
}

fn is_subvolume(path: &Path) -> Result<bool, PoolError> {
    btrfs::is_subvolume(&open_directory(path)?).map_err(failed("look at", path))
}

/// Removes a subvolume; whether there was one.
fn remove(parent: &File, directory: &Path, name: &str) -> Result<bool, PoolError> {
    match btrfs::delete_subvolume(parent, OsStr::new(name)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("delete the subvolume", &directory.join(name))(error)),
    }
}

fn commit(parent: &File, layout: &Layout) -> Result<(), PoolError> {
    btrfs::sync(parent).map_err(failed("commit", layout.root()))
}
