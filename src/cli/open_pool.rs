//! Opening and making pools at a path, whatever is there: a directory, an image file with a file system in it, or a block device.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use csi_proto::windlass::v1 as windlass;

use crate::block::loop_device::LoopError;
use crate::mount::MountError;
use crate::mount::image::{self, Grown, ImageError, ImageFileSystem};
use crate::node::pool_records;
use crate::pool::adopt::{AdoptOrder, AdoptReport};
use crate::pool::owned::OwnedPool;
use crate::pool::properties::PoolProperties;
use crate::pool::set::{OpenedPool, PoolSource};
use crate::pool::thin::RepairReport;
use crate::pool::thin::devices::LabelsError;
use crate::pool::thin::examine::Activity;
use crate::pool::thin::format::{CreateOptions, DevicePaths};
use crate::pool::thin::label::State;
use crate::pool::{PoolError, Quiesce, reflink, thin};
use crate::types::error::chain;
use crate::types::{FsType, PoolId};

use super::exit::{CliError, Exit};

/// An opened pool. The image, if it lies in one, stays locked as long as this lives, and mounted beyond that.
#[derive(Debug)]
pub struct OpenPool {
    pub pool: Arc<OwnedPool>,
    image: Option<ImageFileSystem>,
}

impl OpenPool {
    /// Opens the pool at `path` and recovers it. Blocks.
    ///
    /// # Errors
    /// [`Exit::NotFound`] when there is none; [`Exit::Refused`] when another process owns it, its file system cannot share
    /// extents, or what is on its device does not fit together; [`Exit::Failed`].
    pub fn open(path: &Path, quiesce: Arc<dyn Quiesce>) -> Result<Self, CliError> {
        let what = || format!("cannot open the pool {}", path.display());
        if path.is_dir() {
            let pool = reflink::open_pool(path, quiesce).map_err(|error| pool_error(what(), error))?;
            return Ok(Self { pool: Arc::new(pool), image: None });
        }
        if std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device()) {
            let pool = thin::open_pool(path, quiesce).map_err(|error| device_error(what(), error))?;
            return Ok(Self { pool: Arc::new(pool), image: None });
        }
        let mut image = image::open(path).map_err(|error| image_error(what(), error))?;
        let pool = match reflink::open_pool(image.directory(), quiesce) {
            Ok(pool) => pool,
            Err(error) => {
                // One that shut down lets nothing be opened, and what was looked for in it seems not to be there.
                if matches!(error, PoolError::Io { .. }) || File::open(image.directory()).is_err() {
                    take_down(&image);
                }
                return Err(pool_error(what(), error));
            }
        };
        image.follow_growth().map_err(|error| image_error(what(), error))?;
        Ok(Self { pool: Arc::new(pool), image: Some(image) })
    }
}

/// Unmounts and detaches an image whose pool did not open because the file system does not work: one that shut down works again only
/// when it is mounted anew, which the next attempt does. While volumes in it are in use it stays.
fn take_down(image: &ImageFileSystem) {
    if let Err(error) = image.close() {
        tracing::warn!(image = %image.image().display(), error = %chain(&error), "a file system that does not work cannot be unmounted yet");
    }
}

/// The place of a pool as the command line names it.
pub struct PoolPath {
    path: PathBuf,
    quiesce: Arc<dyn Quiesce>,
    /// Why the last attempt failed, for whoever started the process.
    last: LastError,
}

/// Why the last attempt to open a pool failed; nothing when it did not. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct LastError(Arc<Mutex<Option<CliError>>>);

impl LastError {
    /// Takes it.
    pub fn take(&self) -> Option<CliError> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<CliError>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolPath {
    /// The pool at `path`, which may not be there yet.
    pub fn new(path: PathBuf, quiesce: Arc<dyn Quiesce>) -> Self {
        Self { path, quiesce, last: LastError::default() }
    }

    /// Where the reason of the last failure will be.
    pub fn last_error(&self) -> LastError {
        self.last.clone()
    }
}

impl PoolSource for PoolPath {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn open(&self) -> Result<OpenedPool, String> {
        match OpenPool::open(&self.path, Arc::clone(&self.quiesce)) {
            Ok(OpenPool { pool, image }) => {
                *self.last.lock() = None;
                Ok(OpenedPool { pool, foundation: Box::new(image) })
            }
            Err(error) => {
                let reason = chain(&error);
                *self.last.lock() = Some(error);
                Err(reason)
            }
        }
    }
}

/// Makes a pool in a directory, which is made if it does not exist. Blocks.
///
/// # Errors
/// [`Exit::Refused`] when there is something already, or its file system cannot share extents; [`Exit::Failed`].
pub fn create_in_directory(directory: &Path, properties: &PoolProperties) -> Result<PoolId, CliError> {
    let was_there = directory.symlink_metadata().is_ok();
    reflink::create_pool_with(directory, properties).map_err(|error| {
        if !was_there {
            // Made by this call; one that is not empty by now is kept.
            let _ = std::fs::remove_dir(directory);
        }
        pool_error(format!("cannot make a pool in {}", directory.display()), error)
    })
}

/// Makes an image file with a file system in it and a pool in that, and takes it down again: whoever serves it mounts it.
/// Blocks. If it fails when the image was made already, the image is removed again.
///
/// # Errors
/// [`Exit::Refused`] when something is there already, there is no room, or it is in use; [`Exit::Usage`] for a size that cannot
/// be, or when this is not root; [`Exit::Failed`].
pub fn create_in_image(path: &Path, bytes: u64, fs_type: FsType, properties: &PoolProperties) -> Result<PoolId, CliError> {
    let what = || format!("cannot make a pool in the image {}", path.display());
    require_root(&what())?;
    image::create(path, bytes, fs_type).map_err(|error| image_error(what(), error))?;
    let made = image::open(path).map_err(|error| image_error(what(), error)).and_then(|mounted| {
        let made = create_in_directory(mounted.directory(), properties);
        let closed = mounted.close().map_err(|error| image_error(what(), error));
        made.and_then(|id| closed.map(|()| id))
    });
    if made.is_err() {
        // Made by this call a moment ago, and nothing is in it.
        let _ = std::fs::remove_file(path);
    }
    made
}

/// Whether a pool lies in a directory, which need not be there; if not, one can be made in it. Blocks.
///
/// # Errors
/// [`Exit::Refused`] when something else lies there; [`Exit::Failed`].
pub fn directory_holds_pool(directory: &Path) -> Result<bool, CliError> {
    reflink::holds_pool(directory).map_err(|error| pool_error(format!("cannot use {}", directory.display()), error))
}

/// Makes a pool in an image whose file system is empty: that of [`create_in_image`] when it was interrupted. One that holds a pool is left
/// as it is, and `None` returned. Blocks.
///
/// # Errors
/// [`Exit::Refused`] when it holds something else, or a node serves it; [`Exit::Failed`].
pub fn complete_image(path: &Path, properties: &PoolProperties) -> Result<Option<PoolId>, CliError> {
    let what = || format!("cannot use the image {}", path.display());
    let image = image::open(path).map_err(|error| image_error(what(), error))?;
    let made = match directory_holds_pool(image.directory()) {
        Ok(true) => return Ok(None),
        Ok(false) => create_in_directory(image.directory(), properties).map(Some),
        Err(error) => Err(error),
    };
    if let Err(error) = image.close() {
        tracing::debug!(image = %path.display(), error = %chain(&error), "the image stays mounted");
    }
    made
}

/// Whether the device at `path` carries a pool that was made to the end; if not, and nothing else is on it, one can be made. Blocks.
///
/// # Errors
/// [`Exit::Refused`] for a pool that cannot be used as it is; [`Exit::Failed`].
pub fn device_holds_pool(path: &Path) -> Result<bool, CliError> {
    let what = || format!("cannot use {}", path.display());
    match thin::devices::look(path).map_err(|error| device_error(what(), error))? {
        Ok(judgement) => Ok(judgement.label.state == State::Ready),
        Err(LabelsError::Absent) => Ok(false),
        Err(error) => Err(CliError::because(Exit::Refused, what(), error)
            .advise(format!("`windlass pool import --device {}` says more", path.display()))),
    }
}

/// What is recorded in a pool that nobody serves. The pool is not changed; of an image the file system is mounted while it is read, and its
/// journal replayed. Blocks.
///
/// # Errors
/// [`Exit::Refused`] while it is served; [`Exit::NotFound`] when there is none; [`Exit::Failed`].
pub fn read_records(path: &Path) -> Result<Vec<windlass::ObjectRecord>, CliError> {
    let what = || format!("cannot read the pool {}", path.display());
    let of = |directory: &Path| {
        let (id, volumes, snapshots) = reflink::read_records(directory).map_err(|error| pool_error(what(), error))?;
        Ok(pool_records::of_records(id, &volumes, &snapshots))
    };
    if path.is_dir() {
        return of(path);
    }
    require_root(&what())?;
    if std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device()) {
        let found = thin::examine::examine(path).map_err(|error| device_error(what(), error))?;
        let catalogue = found.catalogue.map_err(|reason| {
            let error = CliError::because(Exit::Refused, what(), reason);
            if found.activity == Activity::Active { error.advise(SERVED) } else { error }
        })?;
        return Ok(pool_records::of_records(found.pool, &catalogue.volumes, &catalogue.snapshots));
    }
    let image = image::open(path).map_err(|error| image_error(what(), error))?;
    let records = of(image.directory());
    if let Err(error) = image.close() {
        tracing::debug!(image = %path.display(), error = %chain(&error), "the image stays mounted");
    }
    records
}

/// Enlarges an image file, and the file system in it unless a node serves it, which does so by itself. Blocks.
///
/// # Errors
/// [`Exit::NotFound`]; [`Exit::Refused`] when there is no room around it or it is no pool image; [`Exit::Usage`] for a size that
/// cannot be, or when this is not root; [`Exit::Failed`].
pub fn grow_image(path: &Path, bytes: u64) -> Result<Grown, CliError> {
    let what = format!("cannot grow the image {}", path.display());
    require_root(&what)?;
    image::grow(path, bytes).map_err(|error| image_error(what, error))
}

/// Shows what can be had back of the pool in a directory, or takes it over. Blocks.
///
/// # Errors
/// [`Exit::Refused`] while it is served, when there is none, or the order does not fit it; [`Exit::Usage`] for what is no directory;
/// [`Exit::NotFound`], [`Exit::Failed`].
pub fn adopt_directory(directory: &Path, order: &AdoptOrder) -> Result<AdoptReport, CliError> {
    let what = format!("cannot adopt the pool in {}", directory.display());
    if directory.exists() && !directory.is_dir() {
        return Err(CliError::because(Exit::Usage, what, "it must be a directory").advise(
            "give an image file by --image; a pool on a block device keeps its records there and nowhere else, and has nothing to be adopted from",
        ));
    }
    reflink::adopt(directory, order).map_err(|error| match error {
        PoolError::CatalogueLost(_) => CliError::because(Exit::Refused, what, error)
            .advise("say which pool it is, by --pool-id: the topology label topology.windlass.dev/pool-ID of its node has it"),
        PoolError::NoSpace(_) => CliError::because(Exit::Refused, what, error)
            .advise("a new catalogue needs 8 MiB: enlarge the pool, or move the damaged catalogue.redb to another disk, and repeat the command"),
        PoolError::Format(_) => CliError::because(Exit::Refused, what, error),
        error => pool_error(what, error),
    })
}

/// As [`adopt_directory`], of the pool in an image, which is taken down again.
///
/// # Errors
/// As for [`adopt_directory`]; [`Exit::Usage`] when this is not root.
pub fn adopt_image(path: &Path, order: &AdoptOrder) -> Result<AdoptReport, CliError> {
    let what = || format!("cannot adopt the pool in the image {}", path.display());
    require_root(&what())?;
    let image = image::open(path).map_err(|error| image_error(what(), error))?;
    let adopted = adopt_directory(image.directory(), order);
    if let Err(error) = image.close() {
        // As a node leaves it that ends while its volumes are in use.
        tracing::debug!(image = %path.display(), error = %chain(&error), "the image stays mounted");
    }
    adopted
}

/// Unmounts and detaches the image of a pool, whatever of that is still to be done. Blocks.
///
/// # Errors
/// [`Exit::Refused`] while a node serves it or something in it is in use; [`Exit::Usage`] when this is not root; [`Exit::NotFound`],
/// [`Exit::Failed`].
pub fn close_image(path: &Path) -> Result<(), CliError> {
    let what = || format!("cannot close the pool image {}", path.display());
    require_root(&what())?;
    let image = image::open(path).map_err(|error| image_error(what(), error))?;
    image.close().map_err(|error| image_error(what(), error))
}

/// Makes a thin pool on one block device or two. Blocks.
///
/// # Errors
/// [`Exit::Refused`] when a device is in use, too small, or carries something that was not given up, and without device-mapper;
/// [`Exit::Usage`] when this is not root; [`Exit::NotFound`], [`Exit::Failed`].
pub fn create_on_devices(options: &CreateOptions, properties: &PoolProperties) -> Result<PoolId, CliError> {
    let places = match &options.devices {
        DevicePaths::One(path) => path.display().to_string(),
        DevicePaths::Two { metadata, data } => format!("{} and {}", metadata.display(), data.display()),
    };
    let what = format!("cannot make a pool on {places}");
    require_root(&what)?;
    thin::create_pool_with(options, properties).map_err(|error| device_error(what, error))
}

/// Checks and repairs the metadata of the thin pool on a block device. Blocks.
///
/// # Errors
/// [`Exit::Refused`] while it is in use, when it cannot be repaired, or a program for it is missing; [`Exit::Usage`] when this is not
/// root; [`Exit::NotFound`], [`Exit::Failed`].
pub fn repair(device: &Path) -> Result<RepairReport, CliError> {
    let what = format!("cannot repair the pool on {}", device.display());
    require_root(&what)?;
    thin::repair(device).map_err(|error| device_error(what, error))
}

/// Mounting and attaching need it, and the system's own texts for that are of little help.
///
/// # Errors
/// [`Exit::Usage`] when this is not root.
pub fn require_root(what: &str) -> Result<(), CliError> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(CliError::because(Exit::Usage, what, "root is needed: devices are made and file systems mounted")
        .advise("run it as root, or in a privileged container"))
}

/// Advice when another process has the pool.
pub const SERVED: &str = "a node serves this pool; stop it first";

const MAKE_IMAGE: &str = "`windlass pool create --image PATH --size SIZE` makes an image file that can hold one";

/// What the failure of an image means, and what to do about it.
fn image_error(what: String, error: ImageError) -> CliError {
    let (exit, advice) = match &error {
        ImageError::Exists(_) => (Exit::Refused, Some("choose another path; what is there is never overwritten")),
        ImageError::Size { .. } => (Exit::Usage, Some("give a --size such as 10GiB")),
        ImageError::Shrinks { .. } => (Exit::Usage, Some("an image is only ever enlarged; a smaller pool is a new one")),
        ImageError::NoSpace { .. } => (Exit::Refused, Some("make room, or choose a smaller --size or another place")),
        ImageError::Unsuitable { .. } => (Exit::Refused, Some(MAKE_IMAGE)),
        ImageError::Locked(_) => (Exit::Refused, Some(SERVED)),
        ImageError::Attached { .. } => (Exit::Refused, None),
        ImageError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            (Exit::NotFound, Some("`windlass pool create` makes a pool, in a directory or an image file"))
        }
        ImageError::Mount(MountError::Busy(_)) | ImageError::Loop(LoopError::Busy(_)) => {
            (Exit::Refused, Some("something in it is in use: unpublish and unstage its volumes first, then repeat the command"))
        }
        ImageError::Mount(_) | ImageError::Loop(_) | ImageError::Io { .. } => (Exit::Failed, None),
    };
    advised(CliError::because(exit, what, error), advice)
}

/// What the failure of a pool means, and what to do about it.
fn pool_error(what: String, error: PoolError) -> CliError {
    let (exit, advice) = match &error {
        PoolError::Owned(_) => (Exit::Refused, Some(SERVED)),
        PoolError::Unsupported(_) => (Exit::Refused, Some(MAKE_IMAGE)),
        PoolError::NoSpace(_) => (Exit::Refused, Some("make room, or choose another place")),
        PoolError::CatalogueLost(_) => {
            (Exit::Refused, Some("`windlass pool adopt` (with --image for an image file) changes nothing without --confirm"))
        }
        PoolError::Format(_) => (Exit::Refused, Some("a pool is made in an empty directory, by `windlass pool create`")),
        PoolError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            (Exit::NotFound, Some("`windlass pool create` makes a pool, in a directory or an image file"))
        }
        _ => (Exit::Failed, None),
    };
    advised(CliError::because(exit, what, error), advice)
}

/// What the failure of a pool on a block device means, and what to do about it. Its texts say themselves what was found.
pub fn device_error(what: String, error: PoolError) -> CliError {
    let (exit, advice) = match &error {
        PoolError::Owned(_) => (Exit::Refused, Some(SERVED)),
        PoolError::NoSpace(_) => (Exit::Refused, Some("give a larger device, or a smaller --metadata-size")),
        PoolError::InUse { .. } => (
            Exit::Refused,
            Some("unmount it, or let a node unpublish and unstage it (end the pods that use it); then stop the node"),
        ),
        PoolError::Unsupported(_) | PoolError::Format(_) | PoolError::CatalogueLost(_) => (Exit::Refused, None),
        PoolError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            (Exit::NotFound, Some("`windlass pool import` lists the block devices that carry a pool"))
        }
        _ => (Exit::Failed, None),
    };
    advised(CliError::because(exit, what, error), advice)
}

fn advised(error: CliError, advice: Option<&str>) -> CliError {
    match advice {
        Some(advice) => error.advise(advice),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::quiesce::NothingToHold;

    #[test]
    fn a_place_without_a_pool_is_refused_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        for (path, exit) in [(folder.path().to_owned(), Exit::Refused), (folder.path().join("pool.img"), Exit::NotFound)] {
            let error = OpenPool::open(&path, Arc::new(NothingToHold)).unwrap_err();
            assert_eq!(error.exit(), exit, "{error}");
            assert!(error.advice().is_some_and(|advice| advice.contains("windlass pool create")));
        }
    }

    #[test]
    fn a_pool_that_another_process_owns_is_refused() {
        let error = pool_error("cannot open".to_owned(), PoolError::Owned("/srv/pool".to_owned()));
        assert_eq!(error.exit(), Exit::Refused);
        let error = device_error("cannot open".to_owned(), PoolError::Owned("/dev/sdx".to_owned()));
        assert_eq!((error.exit(), error.advice()), (Exit::Refused, Some("a node serves this pool; stop it first")));
        let error = image_error("cannot open".to_owned(), ImageError::Locked("/srv/pool.img".into()));
        assert_eq!((error.exit(), error.advice()), (Exit::Refused, Some("a node serves this pool; stop it first")));
    }
}
