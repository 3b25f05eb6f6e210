//! Making volumes, empty or with the content of another object.

use std::collections::BTreeSet;

use super::copies::check_here;
use super::pool::OwnedPool;
use crate::failpoint;
use crate::pool::intent::{Intent, IntentId};
use crate::pool::locks::{Key, Locked, Pin};
use crate::pool::record::{Consumer, Outcome, Volume, VolumeHistory};
use crate::pool::{Demand, FREEZE_DEADLINE, ObjectSpec, PoolError, idempotent};
use crate::types::error::chain;
use crate::types::{DataChecksum, FormatState, LogicalBlockSize, NewVolume, Object, Timestamp, VolumeId, VolumeSize};

/// What matters of a content source.
struct Source {
    size: VolumeSize,
    checksum: DataChecksum,
    logical_block_size: LogicalBlockSize,
}

impl OwnedPool {
    /// Makes a volume, or answers from the record of an equal earlier request.
    ///
    /// A copy of a volume that is attached is as consistent as a snapshot: it is held still meanwhile.
    ///
    /// # Errors
    /// [`PoolError::NameTaken`], [`PoolError::SourceMissing`], [`PoolError::Size`], [`PoolError::NoSpace`], [`PoolError::Busy`],
    /// [`PoolError::Unsupported`], [`PoolError::GivenUp`], [`PoolError::TooSlow`], [`PoolError::Quiesce`], [`PoolError::CannotQuiesce`]: nothing is left behind. [`PoolError::Io`],
    /// [`PoolError::Catalogue`]: to be repeated.
    pub fn create_volume(&self, request: &NewVolume) -> Result<Outcome<Volume>, PoolError> {
        self.settle();
        let _name = self.locks.lock([Key::VolumeName(request.name.clone())])?;
        if let Some(existing) = self.catalogue.volume_by_name(&request.name)? {
            idempotent::check_volume(&existing, request)?;
            return Ok(Outcome::Existing(existing));
        }
        self.free_name(&request.name)?;
        let _source = request.source.map(|source| self.claim_source(source)).transpose()?;
        let mut volume = self.plan_volume(request, "volume")?;
        let _locked = self.lock_objects([Object::Volume(volume.id)])?;
        let copied = match volume.source {
            Some(Object::Volume(source)) => BTreeSet::from([source]),
            _ => BTreeSet::new(),
        };
        let devices = self.written_devices(&copied)?;
        if let (Some(source), false) = (volume.source, devices.is_empty()) {
            self.pool.check_stall(&[source], FREEZE_DEADLINE)?;
        }
        let planned = Intent::CreateVolume { volume: volume.clone(), holds: devices.keys().copied().collect() };
        let total = self.pool.usage()?.total;
        let intent = self.catalogue.commit("create_volume.intent", |change| {
            self.check_promise(change, total, volume.size.bytes())?;
            self.pool.register(change, &[(Object::Volume(volume.id), volume.size)])?;
            change.add_intent(&planned)
        })?;
        let spec = ObjectSpec { size: volume.size, checksum: volume.checksum };
        let made = match volume.source {
            None => failpoint::around("pool.create", || self.pool.create(volume.id, spec)),
            Some(source) => self.while_held(&devices, (intent, &planned), || {
                failpoint::around("pool.copy", || self.pool.copy(source, volume.id, spec, FREEZE_DEADLINE))
            }),
        };
        if let Err(error) = made {
            return Err(self.undo_creation(intent, &[Object::Volume(volume.id)], error));
        }
        if let Some(source) = volume.source {
            volume.format = self.format_of_copy(source);
        }
        let used = self.catalogue.commit("create_volume.commit", |change| {
            change.put_volume(&volume)?;
            change.drop_intent(intent)?;
            match volume.source {
                Some(Object::Snapshot(id)) if change.add_use(id, &Consumer::Source)? => change.snapshot(id),
                _ => Ok(None),
            }
        })?;
        if let Some(snapshot) = used {
            self.evict_surplus(snapshot.source);
        }
        tracing::info!(volume = %volume.id, name = %volume.name, size = volume.size.bytes(), source = ?volume.source, "volume made");
        Ok(Outcome::Created(volume))
    }

    /// The record of a new volume, its size chosen and everything checked that can be before anything is made.
    pub(super) fn plan_volume(&self, request: &NewVolume, what: &str) -> Result<Volume, PoolError> {
        let source = request.source.map(|source| self.source(source)).transpose()?;
        if let Some(source) = &source {
            check_checksum(source, request.checksum)?;
        }
        let logical_block_size = self.choose_block_size(request, source.as_ref())?;
        let size = choose_size(request, source.as_ref())?;
        self.check_fits(size)?;
        self.check_room(Demand::Volume, &format!("new {what}"))?;
        self.make_promises_of_kept(size.bytes())?;
        let mut access_modes = request.access_modes.clone();
        access_modes.sort_unstable();
        access_modes.dedup();
        Ok(Volume {
            id: VolumeId::random(),
            name: request.name.clone(),
            size,
            created_size: size,
            logical_block_size,
            mode: request.mode,
            access_modes,
            mount_flags: request.mount_flags.clone(),
            parameters: request.parameters.clone(),
            checksum: request.checksum,
            source: request.source,
            foreign_source: request.foreign_source.clone(),
            kubernetes: request.kubernetes.clone(),
            // Until the copy is made, and it is known whether there is content in it.
            format: if request.source.is_some() { FormatState::Copied } else { FormatState::Never },
            created: Timestamp::now(),
            history: VolumeHistory::default(),
        })
    }

    /// The source's, or what the class asks for, or the pool's own.
    fn choose_block_size(&self, request: &NewVolume, source: Option<&Source>) -> Result<LogicalBlockSize, PoolError> {
        let wanted = request.parameters.get(LogicalBlockSize::PARAMETER).and_then(|value| LogicalBlockSize::parse(value));
        let own = self.pool.logical_block_size();
        match (source, wanted) {
            (Some(source), Some(wanted)) if wanted != source.logical_block_size => Err(PoolError::Unsupported(
                format!(
                    "the source has logical blocks of {} bytes, and so has a copy of it: ask for those, or for none",
                    source.logical_block_size.bytes()
                )
                .into(),
            )),
            (Some(source), _) => Ok(source.logical_block_size),
            (None, Some(wanted)) if !self.pool.offers(wanted) => Err(PoolError::Unsupported(
                format!("volumes of this pool have the logical blocks of its disk, of {} bytes", own.bytes()).into(),
            )),
            (None, wanted) => Ok(wanted.unwrap_or(own)),
        }
    }

    /// Whether a copy that was just made may be formatted (invariant 1): if its source was never formatted nor given out writable, the
    /// copy holds nothing but what this pool put there, and is itself never formatted.
    ///
    /// Asked after the copy is made. Whoever may write to the source is recorded first, so what is in the copy was recorded before.
    fn format_of_copy(&self, source: Object) -> FormatState {
        let found = match source {
            Object::Volume(id) => self.catalogue.volume(id).map(|found| found.map(|volume| volume.format)),
            Object::Snapshot(id) => self.catalogue.snapshot(id).map(|found| found.map(|snapshot| snapshot.format)),
        };
        match found {
            Ok(Some(FormatState::Never)) => FormatState::Never,
            Ok(Some(FormatState::Formatting | FormatState::Copied | FormatState::Content) | None) | Err(_) => FormatState::Copied,
        }
    }

    fn source(&self, source: Object) -> Result<Source, PoolError> {
        let found = match source {
            Object::Volume(id) => match self.catalogue.volume(id)? {
                Some(volume) => {
                    self.check_sound(source)?;
                    let volume = self.settle_size(volume)?;
                    Some(Source { size: volume.size, checksum: volume.checksum, logical_block_size: volume.logical_block_size })
                }
                None => None,
            },
            Object::Snapshot(id) => match self.catalogue.snapshot(id)? {
                Some(snapshot) => {
                    check_here(&snapshot)?;
                    Some(Source {
                        size: snapshot.size,
                        checksum: snapshot.checksum,
                        logical_block_size: snapshot.logical_block_size,
                    })
                }
                None => None,
            },
        };
        let found = found.ok_or(PoolError::SourceMissing(source))?;
        self.check_sound(source)?;
        if found.logical_block_size > self.pool.logical_block_size() {
            return Err(PoolError::Unsupported(format!("{source} has larger logical blocks than this pool's volumes").into()));
        }
        Ok(found)
    }

    /// Keeps the source as it is while it is copied: a snapshot is pinned (it never changes, and may be copied many times at
    /// once), a volume is locked.
    fn claim_source(&self, source: Object) -> Result<Claim, PoolError> {
        Ok(match source {
            Object::Snapshot(id) => Claim::Pinned(self.locks.pin(id)?),
            Object::Volume(_) => Claim::Locked(self.lock_objects([source])?),
        })
    }

    /// Undoes a creation whose act failed with `error`, and gives the error to report. What cannot be undone now is undone before
    /// the next change, for the intent stays; then the error is [`PoolError::Unfinished`], so that nobody takes it for the end.
    pub(super) fn undo_creation(&self, intent: IntentId, objects: &[Object], error: PoolError) -> PoolError {
        match self.try_undo(intent, objects) {
            Ok(()) => error,
            Err(left) => {
                tracing::error!(error = %chain(&left), "a failed creation could not be undone yet");
                self.note_unsettled();
                PoolError::Unfinished(Box::new(error))
            }
        }
    }

    fn try_undo(&self, intent: IntentId, objects: &[Object]) -> Result<(), PoolError> {
        for &object in objects {
            failpoint::around("pool.undo", || self.pool.delete(object))?;
        }
        self.catalogue.commit("undo", |change| {
            objects.iter().try_for_each(|&object| self.pool.unregister(change, object))?;
            change.drop_intent(intent)
        })
    }
}

/// Held for its drop.
enum Claim {
    #[allow(dead_code, reason = "held for its drop")]
    Pinned(Pin),
    #[allow(dead_code, reason = "held for its drop")]
    Locked(Locked),
}

/// Copies share extents, and those either have checksums or have not.
fn check_checksum(source: &Source, wanted: DataChecksum) -> Result<(), PoolError> {
    if source.checksum == wanted {
        return Ok(());
    }
    let text = match wanted {
        DataChecksum::On => "the source has no checksums, so a copy of it cannot have them: ask for a volume without",
        DataChecksum::Off => "the source has checksums, so a copy of it has them too: ask for a volume with checksums",
    };
    Err(PoolError::Unsupported(text.into()))
}

fn choose_size(request: &NewVolume, source: Option<&Source>) -> Result<VolumeSize, PoolError> {
    let minimum = source.map_or(request.minimum, |source| source.size.max(request.minimum));
    let default = source.map_or(VolumeSize::DEFAULT, |source| source.size);
    request.capacity.choose(minimum, default).ok_or_else(|| {
        let of = if source.is_some() { "its content source" } else { "its mode" };
        let bound = |bytes: Option<u64>| bytes.map_or("any".to_owned(), |bytes| bytes.to_string());
        PoolError::Size(format!(
            "no size that is a multiple of {} and at least {} ({of}) lies between {} and {} bytes",
            VolumeSize::GRANULARITY,
            minimum.bytes(),
            bound(request.capacity.required()),
            bound(request.capacity.limit()),
        ))
    })
}
