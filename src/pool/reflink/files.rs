//! Objects as plain files that share extents by FICLONE.
//!
//! Everything new is made under a temporary name, synced, renamed, and the directory synced: complete and durable under its
//! name, or swept.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::layout::{Entry, Layout, Name};
use crate::block::{file_ops, reflink};
use crate::failpoint;
use crate::pool::{Found, PoolError};
use crate::types::{Object, VolumeSize};

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> PoolError {
    let action = format!("{what} {}", path.display());
    move |error| PoolError::io(action, error)
}

pub(super) fn create(layout: &Layout, object: Object, size: VolumeSize) -> Result<(), PoolError> {
    finish_or_sweep(layout, object, || {
        let file = new_temporary(layout, object)?;
        file_ops::set_len_sync(&file, size.bytes()).map_err(failed("set the size of", &layout.temporary(object)))
    })
}

/// Clones every source, then settles all of them: the moment of the cut is the clones alone. `took` is told how long they took, and
/// may refuse.
pub(super) fn snapshot(
    layout: &Layout,
    cuts: &[(File, Object)],
    took: impl FnOnce(Duration) -> Result<(), PoolError>,
) -> Result<(), PoolError> {
    let mut clones = Vec::new();
    let start = Instant::now();
    for (source, object) in cuts {
        let file = new_temporary(layout, *object)?;
        reflink::clone_file(source, &file).map_err(failed("clone into", &layout.temporary(*object)))?;
        clones.push((file, *object));
        failpoint::hit("reflink.clone.after");
    }
    took(start.elapsed())?;
    for (file, object) in &clones {
        file.sync_all().map_err(failed("sync", &layout.temporary(*object)))?;
    }
    clones.iter().try_for_each(|(_, object)| publish(layout, *object))
}

pub(super) fn copy(
    layout: &Layout,
    source: &File,
    object: Object,
    size: VolumeSize,
    took: impl FnOnce(Duration) -> Result<(), PoolError>,
) -> Result<(), PoolError> {
    finish_or_sweep(layout, object, || {
        let file = new_temporary(layout, object)?;
        let path = layout.temporary(object);
        let start = Instant::now();
        reflink::clone_file(source, &file).map_err(failed("clone into", &path))?;
        took(start.elapsed())?;
        failpoint::hit("reflink.clone.after");
        file_ops::set_len_sync(&file, size.bytes()).map_err(failed("set the size of", &path))
    })
}

pub(super) fn delete(layout: &Layout, object: Object) -> Result<(), PoolError> {
    for path in [layout.temporary(object), layout.object(object)] {
        remove(&path)?;
    }
    failpoint::hit("reflink.unlink.after");
    sync(&layout.parent(object))
}

pub(super) fn examine(layout: &Layout, entry: &Entry) -> Result<Option<Found>, PoolError> {
    let foreign = || Ok(Some(Found::Foreign(layout.shown(&entry.path))));
    let metadata = fs::symlink_metadata(&entry.path).map_err(failed("look at", &entry.path))?;
    if !metadata.is_file() {
        return foreign();
    }
    match entry.name {
        Name::Object(object) => Ok(Some(Found::Object { object, size: metadata.len() })),
        Name::Temporary => {
            tracing::info!(path = %entry.path.display(), "swept the remains of an interrupted operation");
            remove(&entry.path).map(|()| None)
        }
        Name::Foreign => foreign(),
    }
}

fn finish_or_sweep(layout: &Layout, object: Object, make: impl FnOnce() -> Result<(), PoolError>) -> Result<(), PoolError> {
    make().and_then(|()| publish(layout, object)).inspect_err(|_| {
        // If this fails as well, the next scan sweeps it.
        let _ = remove(&layout.temporary(object));
    })
}

fn new_temporary(layout: &Layout, object: Object) -> Result<File, PoolError> {
    let path = layout.temporary(object);
    remove(&path)?;
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
    file.map_err(failed("make", &path))
}

fn publish(layout: &Layout, object: Object) -> Result<(), PoolError> {
    let path = layout.object(object);
    failpoint::around("reflink.rename", || fs::rename(layout.temporary(object), &path)).map_err(failed("rename to", &path))?;
    sync(&layout.parent(object))
}

fn remove(path: &Path) -> Result<(), PoolError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn sync(directory: &Path) -> Result<(), PoolError> {
    file_ops::sync_dir(directory).map_err(failed("sync", directory))
}
