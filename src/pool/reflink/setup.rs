//! Making a pool in a directory, opening it, and looking at one that nobody serves.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use super::layout::{self, Layout};
use super::lock::{absolute, exclusive, lock};
use super::pool::ReflinkPool;
use super::sharing::try_sharing;
use crate::pool::catalogue::{Catalogue, copy};
use crate::pool::owned::OwnedPool;
use crate::pool::properties::PoolProperties;
use crate::pool::record::{Snapshot, Volume};
use crate::pool::{PoolError, Quiesce};
use crate::types::PoolId;

/// Whether a pool lies in `directory`, which need not be there; if not, one can be made in it. Changes nothing.
///
/// # Errors
/// [`PoolError::CatalogueLost`] for the remains of one; [`PoolError::Format`] when something else lies there; [`PoolError::Io`].
pub fn holds_pool(directory: &Path) -> Result<bool, PoolError> {
    match fs::symlink_metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(PoolError::io(format!("look at {}", directory.display()), error)),
        Ok(_) => {}
    }
    let layout = Layout::new(absolute(directory)?);
    if fs::symlink_metadata(layout.catalogue()).is_ok() {
        return layout.check_used().map(|()| true);
    }
    layout.check_unused().map(|()| false)
}

/// What is recorded in the pool in `directory`, which nobody may be serving: its id, volumes and snapshots. Changes nothing.
///
/// # Errors
/// [`PoolError::Owned`] while it is served; [`PoolError::Format`] when there is none; [`PoolError::CatalogueLost`], [`PoolError::Io`].
pub fn read_records(directory: &Path) -> Result<(PoolId, Vec<Volume>, Vec<Snapshot>), PoolError> {
    let layout = Layout::new(absolute(directory)?);
    layout.check_used()?;
    // Only kept while the catalogue is read, and not made if it is not there: nobody serves it then.
    let _lock = match File::open(layout.lock()) {
        Ok(file) => Some(exclusive(file, &layout)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(PoolError::io(format!("open {}", layout.lock().display()), error)),
    };
    let catalogue = Catalogue::read(&layout.catalogue())?;
    Ok((catalogue.id(), catalogue.volumes()?, catalogue.snapshots()?))
}

/// Makes a new pool in a directory, which is made if only it is missing. Interrupted, it may be called again.
///
/// # Errors
/// [`PoolError::Format`] when the directory holds a pool or anything else; [`PoolError::Unsupported`] when its file system
/// cannot share extents; [`PoolError::Owned`], [`PoolError::NoSpace`], [`PoolError::Io`].
pub fn create_pool(directory: &Path) -> Result<PoolId, PoolError> {
    create_pool_with(directory, &PoolProperties::default())
}

/// Makes a new pool with these properties, as for [`create_pool`].
pub fn create_pool_with(directory: &Path, properties: &PoolProperties) -> Result<PoolId, PoolError> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(PoolError::io(format!("make the directory {}", directory.display()), error));
        }
        _ => {}
    }
    let layout = Layout::new(absolute(directory)?);
    layout.check_unused()?;
    try_sharing(layout.root())?;
    let _lock = lock(&layout)?;
    // Again, now that nobody else can be at it.
    layout.check_unused()?;
    layout.make_directories()?;
    let id = PoolId::random();
    Catalogue::create(&layout.catalogue(), id)?.set_properties(properties)?;
    tracing::info!(pool = %id, directory = %layout.root().display(), "pool made");
    Ok(id)
}

/// Opens the pool in a directory and recovers it.
///
/// # Errors
/// [`PoolError::Owned`] when another process has it; [`PoolError::Format`] when there is none or it is of a newer format;
/// [`PoolError::CatalogueLost`] when its catalogue is missing, damaged or of an earlier moment: see [`adopt`];
/// [`PoolError::Unsupported`], [`PoolError::Io`], [`PoolError::Catalogue`].
pub fn open_pool(directory: &Path, quiesce: Arc<dyn Quiesce>) -> Result<OwnedPool, PoolError> {
    let pool = ReflinkPool::open(directory)?;
    let copy = pool.layout.copy();
    let opened = Catalogue::open(&pool.layout.catalogue());
    // Before anything is recovered by it.
    let checked = opened.and_then(|catalogue| copy::check_not_behind(&catalogue, &copy).map(|()| catalogue));
    let catalogue = checked.map_err(|error| match error {
        PoolError::CatalogueLost(text) => PoolError::CatalogueLost(format!("{text}; {}", layout::ADOPT)),
        error => error,
    })?;
    OwnedPool::open(Arc::new(pool), catalogue, quiesce)?.watched()?.copied_to(copy)
}
