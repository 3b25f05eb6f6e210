//! A repository into a new volume.
//!
//! Order: slot, repository and image opened, hidden target made, answer; then, detached from the call: the pipeline, a look
//! at what was restored (`transfer::fit`: an image that nothing is known of may be of no use on this pool's devices), and the commit
//! that makes the volume visible. The target is invisible and its name claimed from the moment it is made; whatever ends
//! the restore before its commit (failure, cancellation, a panic) deletes it, and a crash leaves that to the pool's next
//! start. The commit is the only step that anybody sees.
//!
//! A repository that is locked is waited for. The call is answered then, and all that comes after the lock is detached from it: the
//! progress says for whom the restore waits, it can be cancelled, and what the call would have been refused for is why the
//! restore fails.
//!
//! **With holes**, where that was asked for, the volume is committed as well, for somebody is to look at what is left; but under a
//! [name](damaged_name) that says what it is, so that nothing that asks for a volume by its name gets it for a good one. What it
//! holds is not looked at: its file system may be what the holes are in.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

use csi_proto::windlass::v1 as windlass;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::block::{FileSink, FileSource};
use crate::csi::validate::size;

use crate::pool::PoolError;
use crate::pool::owned::{OwnedPool, RestoreStart, RestoreTarget};
use crate::pool::record::Volume;
use crate::repository::RepositoryError;
use crate::repository::tree::FileSelector;
use crate::transfer::fit::{self, Misfit};
use crate::transfer::metadata::{Metadata, Mode};
use crate::transfer::{
    self, Budget, Holes, Image, Locking, OnDamage, Progress, Reading, RestoreError, RestoreOptions, RestoreReport, Target,
};
use crate::types::{
    AccessMode, CapacityRange, DataChecksum, FsType, KubernetesNames, LogicalBlockSize, NewVolume, ObjectName, SnapshotHandle,
    VolumeHandle, VolumeId, VolumeMode, VolumeSize,
};

use super::registry::{Done, Ended, Kind};
use super::{Transfers, export, message, status};

/// Starts a restore and returns its id. Must run detached from the call: between the making of the target and the start of
/// the transfer it must not be dropped.
///
/// # Errors
/// The status of whatever is wrong with the request.
pub(super) async fn start(transfers: &Transfers, request: windlass::StartRestoreRequest) -> Result<String, Status> {
    let pool = message::pool(transfers, &request.pool_id).await?;
    let budget = export::budget(request.workers, request.memory_bytes)?;
    let name = ObjectName::try_from(request.volume_name.clone())
        .map_err(|error| Status::invalid_argument(format!("volume_name: {error}")))?;
    if request.repository_snapshot.is_empty() {
        return Err(Status::invalid_argument("repository_snapshot: is required; `latest` is the newest"));
    }
    let which = match request.file_path.as_str() {
        "" => FileSelector::Only,
        path => FileSelector::Path(path.to_owned()),
    };
    let choice = message::choice(request.repository_snapshot.clone(), request.filter.clone().unwrap_or_default())?;
    let slot = transfers.registry.slot(Kind::Restore).map_err(status::no_slot)?;
    let repository = message::open(request.repository.clone()).await?;
    let repository = message::locked_for(transfers, &pool, repository, request.retry_lock_seconds);
    let reading = Reading {
        locking: if request.no_lock { Locking::None } else { Locking::Shared },
        on_damage: if request.skip_damaged { OnDamage::Skip } else { OnDamage::Fail },
    };
    let (progress, cancel, first_wait) = (slot.progress(), slot.cancellation(), Arc::new(Notify::new()));
    let (told, waits) = (progress.clone(), Arc::clone(&first_wait));
    let mut opening = Box::pin(async move {
        let waiting = |reason: &RepositoryError| {
            told.waits_for(Some(reason.to_string()));
            waits.notify_one();
        };
        let opened = Image::open_or_wait(&repository, choice, &which, reading, &waiting).await;
        told.waits_for(None);
        opened.map_err(|error| status::repository(&error))
    });
    let asked = Asked { pool, request, name, budget, progress, cancel: cancel.clone() };
    let opened = tokio::select! {
        opened = &mut opening => Some(opened?),
        () = first_wait.notified() => None,
    };
    Ok(match opened {
        Some(image) => {
            let (restore, target) = asked.begin(image).await?;
            slot.spawn(restore.run(target))
        }
        None => slot.spawn(async move {
            let opened = cancel.run_until_cancelled(opening).await.ok_or(Ended::Cancelled)?;
            let begun = asked.begin(opened.map_err(|refusal| status::late(&refusal))?).await;
            let (restore, target) = begun.map_err(|refusal| status::late(&refusal))?;
            restore.run(target).await
        }),
    })
}

/// A restore that is asked for, before its image is open.
struct Asked {
    pool: Arc<OwnedPool>,
    request: windlass::StartRestoreRequest,
    name: ObjectName,
    budget: Budget,
    progress: Progress,
    cancel: CancellationToken,
}

impl Asked {
    /// Makes the hidden target. Must run to its end: between the making of the target and the start of the transfer it must not be dropped.
    ///
    /// # Errors
    /// The status of whatever is wrong with the request; the image is closed then.
    async fn begin(self, image: Image) -> Result<(Restore, RestoreTarget), Status> {
        let Self { pool, request, name, budget, progress, cancel } = self;
        let planned = block_size(&request, pool.logical_block_size()).and_then(|blocks| {
            check_block_size(image.metadata(), blocks)?;
            Ok((plan(&request, name.clone(), image.size_bytes(), image.metadata())?, blocks))
        });
        let begun = match planned {
            Ok((volume, blocks)) => {
                let wanted = claimed(volume.mode, image.metadata());
                begin(&pool, volume).await.map(|target| (target, wanted, blocks))
            }
            Err(refusal) => Err(refusal),
        };
        match begun {
            Ok((target, wanted, blocks)) => Ok((Restore { pool, image, name, wanted, blocks, budget, progress, cancel }, target)),
            Err(refusal) => {
                image.close().await;
                Err(refusal)
            }
        }
    }
}

/// The volume to make: as large as its image or as was asked for, and in the mode that was asked for or exported.
///
/// # Errors
/// INVALID_ARGUMENT for what contradicts itself or the image; OUT_OF_RANGE for a size that cannot be.
fn plan(
    request: &windlass::StartRestoreRequest,
    name: ObjectName,
    image_bytes: u64,
    metadata: Option<&Metadata>,
) -> Result<NewVolume, Status> {
    let mode = mode(request, metadata)?;
    let asked =
        u64::try_from(request.capacity_bytes).map_err(|_| Status::invalid_argument("capacity_bytes: must not be negative"))?;
    if asked != 0 && asked < image_bytes {
        return Err(Status::out_of_range(format!("capacity_bytes: the image has {image_bytes} bytes, more than {asked}")));
    }
    let volume =
        VolumeSize::at_least(asked.max(image_bytes)).map_err(|error| Status::out_of_range(format!("capacity_bytes: {error}")))?;
    Ok(NewVolume {
        name,
        capacity: CapacityRange::exactly(volume),
        minimum: size::minimum(mode).min(volume),
        mode,
        access_modes: vec![
            AccessMode::SingleNodeWriter,
            AccessMode::SingleNodeReaderOnly,
            AccessMode::SingleNodeSingleWriter,
            AccessMode::SingleNodeMultiWriter,
        ],
        mount_flags: Vec::new(),
        // Recorded with the volume, as a class's would be.
        parameters: match request.logical_block_bytes {
            0 => BTreeMap::new(),
            bytes => BTreeMap::from([(LogicalBlockSize::PARAMETER.to_owned(), bytes.to_string())]),
        },
        checksum: DataChecksum::Off,
        source: None,
        foreign_source: metadata.and_then(|metadata| metadata.snapshot_handle.clone()).filter(|handle| is_handle(handle)),
        kubernetes: KubernetesNames::default(),
    })
}

/// Whether a text from a repository is the handle of a snapshot: whatever else it is would be no content source.
fn is_handle(text: &str) -> bool {
    text.parse::<SnapshotHandle>().is_ok()
}

/// The logical block size that is asked for, or the pool's own.
///
/// # Errors
/// INVALID_ARGUMENT for any other than the two there are.
fn block_size(request: &windlass::StartRestoreRequest, own: LogicalBlockSize) -> Result<LogicalBlockSize, Status> {
    match request.logical_block_bytes {
        0 => Ok(own),
        bytes => LogicalBlockSize::from_bytes(bytes)
            .ok_or_else(|| Status::invalid_argument("logical_block_bytes: must be 512 or 4096")),
    }
}

/// What was written through a device of smaller blocks may not be usable through one of larger blocks: a partition table counts
/// in them. Our own file systems have sectors of 4 KiB and fit every pool.
///
/// # Errors
/// FAILED_PRECONDITION.
fn check_block_size(metadata: Option<&Metadata>, pool: LogicalBlockSize) -> Result<(), Status> {
    let Some(metadata) = metadata else { return Ok(()) };
    match metadata.logical_block_bytes {
        Some(exported) if exported < pool.bytes() && metadata.mode != Some(Mode::Filesystem) => {
            Err(Status::failed_precondition(format!(
                "logical_block_bytes: the volume's blocks of {} bytes would be larger than the exported volume's of {exported}",
                pool.bytes()
            )))
        }
        _ => Ok(()),
    }
}

fn mode(request: &windlass::StartRestoreRequest, metadata: Option<&Metadata>) -> Result<VolumeMode, Status> {
    let exported = metadata.and_then(|metadata| metadata.filesystem.as_deref()).and_then(|name| name.parse::<FsType>().ok());
    match (request.block, request.fs_type.as_str()) {
        (true, "") => Ok(VolumeMode::Block),
        (true, _) => Err(Status::invalid_argument("fs_type: must be empty for a raw block device")),
        (false, "") => match (exported, metadata.and_then(|metadata| metadata.mode)) {
            (Some(fs_type), _) => Ok(VolumeMode::Filesystem(fs_type)),
            (None, Some(Mode::Block)) => Ok(VolumeMode::Block),
            (None, _) => Err(Status::invalid_argument(
                "fs_type: is required, for the snapshot does not say what the image holds; or set block",
            )),
        },
        (false, asked) => {
            let asked: FsType = asked.parse().map_err(|error| Status::invalid_argument(format!("fs_type: {error}")))?;
            match exported {
                Some(exported) if exported != asked => {
                    Err(Status::invalid_argument(format!("fs_type: the image holds {exported}, not {asked}")))
                }
                _ => Ok(VolumeMode::Filesystem(asked)),
            }
        }
    }
}

/// The file system that the request alone says is in the image. What was exported as a file system is restored whatever became of
/// it: there may be something to repair.
fn claimed(mode: VolumeMode, metadata: Option<&Metadata>) -> Option<FsType> {
    match mode {
        VolumeMode::Filesystem(fs_type) if metadata.and_then(|metadata| metadata.filesystem.as_deref()).is_none() => {
            Some(fs_type)
        }
        VolumeMode::Filesystem(_) | VolumeMode::Block => None,
    }
}

/// Makes the hidden target.
///
/// # Errors
/// ALREADY_EXISTS when the name is taken, whatever by: a volume that is there is never taken for a restored one.
async fn begin(pool: &Arc<OwnedPool>, volume: NewVolume) -> Result<RestoreTarget, Status> {
    let (pool, name) = (Arc::clone(pool), volume.name.clone());
    let begun = tokio::task::spawn_blocking(move || pool.begin_restore(&volume)).await;
    let begun = begun.map_err(|error| Status::internal(format!("the target was lost: {error}")))?;
    match begun.map_err(|error| status::pool("volume_name", &error))? {
        RestoreStart::Target(target) => Ok(target),
        RestoreStart::Existing(_) => Err(Status::already_exists(format!("volume_name: there is a volume `{name}` already"))),
    }
}

/// A restore with all it needs but its target.
struct Restore {
    pool: Arc<OwnedPool>,
    image: Image,
    /// What the volume is called if it is whole.
    name: ObjectName,
    /// The file system that must be in it.
    wanted: Option<FsType>,
    /// Logical block size of the volume.
    blocks: LogicalBlockSize,
    budget: Budget,
    progress: Progress,
    cancel: CancellationToken,
}

impl Restore {
    async fn run(self, target: RestoreTarget) -> Result<Done, Ended> {
        let (pool, id, size, name) = (Arc::clone(&self.pool), target.volume(), target.size(), self.name.clone());
        let (restored, wanted, blocks) = (target.file().try_clone(), self.wanted, self.blocks);
        let metadata_lost = self.image.lost_metadata().unwrap_or_default().to_owned();
        // In a task of its own, so that a panic in it ends in the abort below.
        let copied = tokio::spawn(self.copy(target)).await;
        let copied = match copied {
            Ok(Ok(report)) => Ok(report),
            Ok(Err(error)) => Err(status::restore(&error)),
            Err(error) => Err(Ended::inside(format!("the restore ended early: {error}"))),
        };
        let fitting = match copied {
            Ok(report) if report.holes.is_empty() => look(restored, size, wanted, blocks).await.map(|()| report),
            copied => {
                // There is no commit while it can be written to.
                drop(restored);
                copied
            }
        };
        let committed = match fitting {
            Ok(report) => commit(&pool, id, name, &report.holes).await.map(|volume| (report, volume)),
            Err(ended) => Err(ended),
        };
        match committed {
            Ok((report, volume)) => Ok(Done::Restore(windlass::RestoreResult {
                volume_id: VolumeHandle { pool: pool.id(), volume: id }.to_string(),
                size_bytes: size.bytes(),
                data_bytes: report.written_bytes,
                zero_bytes: size.bytes().saturating_sub(report.written_bytes),
                volume_name: volume.name.to_string(),
                hole_bytes: report.holes.bytes,
                unlisted_hole_bytes: report.holes.unlisted_bytes,
                holes: report.holes.listed.into_iter().map(message::hole).collect(),
                metadata_lost,
            })),
            Err(ended) => {
                abort(&pool, id).await;
                Err(ended)
            }
        }
    }

    async fn copy(mut self, target: RestoreTarget) -> Result<RestoreReport, RestoreError> {
        let size = target.size().bytes();
        // Volumes are multiples of 4096 bytes whatever their devices' blocks are.
        let sink = FileSink::new(target.into_file(), size, LogicalBlockSize::B4096).map_err(RestoreError::Flush);
        let options = RestoreOptions { target: Target::Fresh, budget: self.budget };
        let result = match sink {
            Ok(sink) => transfer::restore(&mut self.image, Arc::new(sink), &options, &self.progress, &self.cancel).await,
            Err(error) => Err(error),
        };
        self.image.let_go(&self.cancel).await;
        result
    }
}

/// Looks at what was restored before anybody else can.
async fn look(
    restored: io::Result<File>,
    size: VolumeSize,
    wanted: Option<FsType>,
    device: LogicalBlockSize,
) -> Result<(), Ended> {
    let looked = tokio::task::spawn_blocking(move || {
        let image = FileSource::new(restored?, size.bytes(), LogicalBlockSize::B4096)?;
        fit::check(&image, wanted, device)
    });
    match looked.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error @ (Misfit::FileSystem { .. } | Misfit::Blocks { .. }))) => Err(Ended::Refused(error.to_string())),
        Ok(Err(error @ Misfit::Io(_))) => Err(Ended::inside(error.to_string())),
        Err(error) => Err(Ended::inside(format!("the look at the image ended early: {error}"))),
    }
}

/// Makes the volume visible: under its name if it is whole, else under one that says that it is not.
async fn commit(pool: &Arc<OwnedPool>, id: VolumeId, name: ObjectName, holes: &Holes) -> Result<Volume, Ended> {
    let (pool, is_whole) = (Arc::clone(pool), holes.is_empty());
    let committed = tokio::task::spawn_blocking(move || match is_whole {
        true => pool.commit_restore(id),
        false => commit_damaged(&pool, id, &name),
    })
    .await;
    match committed {
        Ok(Ok(volume)) => Ok(volume),
        Ok(Err(error)) => Err(Ended::inside(format!("the restored volume cannot be committed: {}", status::chain(&error)))),
        Err(error) => Err(Ended::inside(format!("the commit ended early: {error}"))),
    }
}

/// Names that are tried for a volume with holes. Hours of work are not lost for a name.
const DAMAGED_NAMES: u32 = 1000;

fn commit_damaged(pool: &OwnedPool, id: VolumeId, name: &ObjectName) -> Result<Volume, PoolError> {
    let mut number = 1;
    loop {
        match pool.commit_restore_as(id, damaged_name(name, number)) {
            Err(PoolError::NameTaken { .. } | PoolError::Busy(_)) if number < DAMAGED_NAMES => number += 1,
            committed => return committed,
        }
    }
}

/// The name of a volume with holes: that of the whole one, cut if need be, and what it is.
fn damaged_name(name: &ObjectName, number: u32) -> ObjectName {
    let suffix = if number == 1 { "-damaged".to_owned() } else { format!("-damaged-{number}") };
    let mut stem = name.as_str().to_owned();
    while stem.len() + suffix.len() > ObjectName::MAX_BYTES {
        stem.pop();
    }
    // What is cut off a name and what is put behind it leave it one.
    ObjectName::try_from(stem + &suffix).unwrap_or_else(|_| name.clone())
}

/// Deletes the target. A failure leaves it hidden until the pool's next start deletes it.
async fn abort(pool: &Arc<OwnedPool>, id: VolumeId) {
    let pool = Arc::clone(pool);
    let failure = match tokio::task::spawn_blocking(move || pool.abort_restore(id)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::warn!(volume = %id, error = failure, "an aborted restore stays hidden until the next start");
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn request() -> windlass::StartRestoreRequest {
        windlass::StartRestoreRequest::default()
    }

    fn planned(request: &windlass::StartRestoreRequest, metadata: Option<&Metadata>) -> Result<NewVolume, Code> {
        let name = ObjectName::try_from("restored".to_owned()).unwrap();
        plan(request, name, 1 << 30, metadata).map_err(|status| status.code())
    }

    fn exported(mode: Mode, filesystem: Option<&str>) -> Metadata {
        Metadata { mode: Some(mode), filesystem: filesystem.map(str::to_owned), ..Metadata::of_size(1 << 30) }
    }

    #[test]
    fn without_a_wish_the_volume_is_what_was_exported() {
        let xfs = exported(Mode::Filesystem, Some("xfs"));
        let volume = planned(&request(), Some(&xfs)).unwrap();
        assert_eq!((volume.mode, volume.capacity.required()), (VolumeMode::Filesystem(FsType::Xfs), Some(1 << 30)));
        assert_eq!(planned(&request(), Some(&exported(Mode::Block, None))).unwrap().mode, VolumeMode::Block);
        assert_eq!(planned(&request(), None).unwrap_err(), Code::InvalidArgument);
    }

    #[test]
    fn a_raw_image_of_smaller_blocks_is_refused_and_a_file_system_is_not() {
        let of = |mode| Metadata { logical_block_bytes: Some(512), ..exported(mode, None) };
        let refused = |mode, block| check_block_size(Some(&of(mode)), block).is_err();
        assert!(refused(Mode::Block, LogicalBlockSize::B4096));
        assert!(!refused(Mode::Block, LogicalBlockSize::B512));
        assert!(!refused(Mode::Filesystem, LogicalBlockSize::B4096));
        assert!(check_block_size(None, LogicalBlockSize::B4096).is_ok());
    }

    #[test]
    fn a_file_system_that_only_the_request_speaks_of_must_be_there() {
        let ext4 = VolumeMode::Filesystem(FsType::Ext4);
        assert_eq!(claimed(ext4, None), Some(FsType::Ext4));
        assert_eq!(claimed(ext4, Some(&exported(Mode::Block, None))), Some(FsType::Ext4));
        assert_eq!(claimed(ext4, Some(&exported(Mode::Filesystem, Some("ext4")))), None);
        assert_eq!(claimed(VolumeMode::Block, None), None);
    }

    #[test]
    fn a_volume_with_holes_has_a_name_that_says_so() {
        let name = |text: &str| ObjectName::try_from(text.to_owned()).unwrap();
        assert_eq!(damaged_name(&name("data"), 1).as_str(), "data-damaged");
        assert_eq!(damaged_name(&name("data"), 2).as_str(), "data-damaged-2");
        let longest = "\u{e4}".repeat(ObjectName::MAX_BYTES / 2);
        let damaged = damaged_name(&name(&longest), 12);
        assert!(damaged.as_str().ends_with("\u{e4}-damaged-12") && damaged.as_str().len() <= ObjectName::MAX_BYTES);
    }

    #[test]
    fn what_contradicts_the_image_is_refused() {
        let xfs = exported(Mode::Filesystem, Some("xfs"));
        let with = |fs_type: &str, block, capacity_bytes| windlass::StartRestoreRequest {
            fs_type: fs_type.to_owned(),
            block,
            capacity_bytes,
            ..request()
        };
        assert_eq!(planned(&with("ext4", false, 0), Some(&xfs)).unwrap_err(), Code::InvalidArgument);
        assert_eq!(planned(&with("ext4", false, 0), None).unwrap().mode, VolumeMode::Filesystem(FsType::Ext4));
        assert_eq!(planned(&with("ext4", true, 0), None).unwrap_err(), Code::InvalidArgument);
        assert_eq!(planned(&with("ntfs", false, 0), None).unwrap_err(), Code::InvalidArgument);
        assert_eq!(planned(&with("", true, 0), Some(&xfs)).unwrap().mode, VolumeMode::Block);
        assert_eq!(planned(&with("", true, -1), None).unwrap_err(), Code::InvalidArgument);
        assert_eq!(planned(&with("", true, 4096), None).unwrap_err(), Code::OutOfRange);
        assert_eq!(planned(&with("", true, 2 << 30), None).unwrap().capacity.required(), Some(2 << 30));
    }
}
