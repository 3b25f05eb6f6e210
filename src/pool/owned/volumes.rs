//! What is recorded about volumes beside their existence: format, publications, exports.

use std::path::Path;

use super::pool::OwnedPool;
use crate::pool::PoolError;
use crate::pool::record::{Consumer, Publication, PublicationKind, Volume};
use crate::types::{ExportRecord, FormatState, Object, ObjectName, SnapshotExport, VolumeId};

impl OwnedPool {
    /// A volume by id. Hidden restore targets are none.
    pub fn volume(&self, id: VolumeId) -> Result<Option<Volume>, PoolError> {
        self.catalogue.volume(id)
    }

    /// A volume by name.
    pub fn volume_by_name(&self, name: &ObjectName) -> Result<Option<Volume>, PoolError> {
        self.catalogue.volume_by_name(name)
    }

    /// All volumes, by ascending id.
    pub fn volumes(&self) -> Result<Vec<Volume>, PoolError> {
        self.catalogue.volumes()
    }

    /// Records whether a volume may still be formatted. [`FormatState::Content`] is final (invariant 1).
    ///
    /// # Errors
    /// [`PoolError::Missing`]; [`PoolError::Unsupported`] for a step back; [`PoolError::Catalogue`].
    pub fn set_format(&self, id: VolumeId, format: FormatState) -> Result<(), PoolError> {
        let known = self.catalogue.volume(id)?;
        if known.is_some_and(|volume| volume.format == format) {
            return Ok(());
        }
        self.catalogue.commit("set_format", |change| {
            let mut volume = change.volume(id)?.ok_or(PoolError::Missing(Object::Volume(id)))?;
            if !may_become(volume.format, format) {
                return Err(PoolError::Unsupported(
                    format!("volume {id} has content: it is never again taken for unformatted").into(),
                ));
            }
            volume.format = format;
            change.put_volume(&volume)
        })
    }

    /// Where a volume is staged and published, as recorded in this or an earlier boot.
    pub fn publications(&self, id: VolumeId) -> Result<Vec<Publication>, PoolError> {
        self.catalogue.publications(id)
    }

    /// Records a publication, in place of an earlier one of the same path; with a stage, how the volume is given out.
    pub fn put_publication(&self, id: VolumeId, publication: Publication) -> Result<(), PoolError> {
        self.catalogue.commit("put_publication", |change| {
            let mut volume = change.volume(id)?.ok_or(PoolError::Missing(Object::Volume(id)))?;
            if publication.kind == PublicationKind::Staged {
                let history = volume.history.staged(publication.mode, publication.access);
                if volume.history != history {
                    volume.history = history;
                    change.put_volume(&volume)?;
                }
            }
            let mut publications = change.publications(id)?;
            publications.retain(|known| known.path != publication.path);
            publications.push(publication);
            change.set_publications(id, &publications)
        })
    }

    /// Forgets the publication at a path. Absent is success.
    pub fn remove_publication(&self, id: VolumeId, path: &Path) -> Result<(), PoolError> {
        if !self.catalogue.publications(id)?.iter().any(|known| known.path == path) {
            return Ok(());
        }
        self.catalogue.commit("remove_publication", |change| {
            let mut publications = change.publications(id)?;
            publications.retain(|known| known.path != path);
            change.set_publications(id, &publications)
        })
    }

    /// Forgets publications of other boots, whose mounts went with them; returns the rest.
    pub(super) fn drop_stale_publications(&self, id: VolumeId) -> Result<Vec<Publication>, PoolError> {
        let all = self.catalogue.publications(id)?;
        if all.is_empty() {
            return Ok(all);
        }
        let boot = boot_id()?;
        let current: Vec<Publication> = all.iter().filter(|known| known.boot_id == boot).cloned().collect();
        if current.len() < all.len() {
            self.catalogue.commit("drop_stale_publications", |change| change.set_publications(id, &current))?;
        }
        Ok(current)
    }

    /// Records an export, in place of the last one of this volume to this repository, and in the same commit that the repository holds the
    /// snapshot, which ends the task that was to bring it there, and used it (see [`OwnedPool::record_use`]): the base of the export after it is never given up before it is known.
    ///
    /// # Errors
    /// [`PoolError::Missing`] when neither the volume nor the snapshot exists; [`PoolError::Catalogue`].
    pub fn put_export(&self, export: &ExportRecord) -> Result<(), PoolError> {
        self.catalogue.commit("put_export", |change| {
            if change.volume(export.volume)?.is_none() && change.snapshot(export.snapshot)?.is_none() {
                return Err(PoolError::Missing(Object::Snapshot(export.snapshot)));
            }
            change.add_use(export.snapshot, &Consumer::Repository(export.repository.clone()))?;
            if let Some(mut snapshot) = change.snapshot(export.snapshot)? {
                snapshot.copies.note_export(SnapshotExport {
                    repository: export.repository.clone(),
                    repository_snapshot: export.repository_snapshot.clone(),
                    size: export.size,
                    finished: export.finished,
                });
                change.put_snapshot(&snapshot)?;
            }
            change.put_export(export)
        })?;
        self.evict_surplus(export.volume);
        Ok(())
    }

    /// The last export of a volume to one repository.
    pub fn export(&self, repository: &str, volume: VolumeId) -> Result<Option<ExportRecord>, PoolError> {
        self.catalogue.export(repository, volume)
    }

    /// The last export of a volume to each repository.
    pub fn exports(&self, volume: VolumeId) -> Result<Vec<ExportRecord>, PoolError> {
        self.catalogue.exports(volume)
    }
}

/// Steps that invariant 1 allows.
fn may_become(from: FormatState, to: FormatState) -> bool {
    match from {
        FormatState::Never => true,
        FormatState::Formatting => matches!(to, FormatState::Formatting | FormatState::Content),
        FormatState::Copied => matches!(to, FormatState::Copied | FormatState::Content),
        FormatState::Content => to == FormatState::Content,
    }
}

/// The id of this boot.
pub(in crate::pool) fn boot_id() -> Result<String, PoolError> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(PATH).map_err(|source| PoolError::io(format!("read {PATH}"), source))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_final_and_a_format_does_not_go_back() {
        use FormatState::{Content, Copied, Formatting, Never};
        for (from, to, allowed) in [
            (Never, Never, true),
            (Never, Formatting, true),
            (Never, Content, true),
            (Formatting, Never, false),
            (Formatting, Formatting, true),
            (Formatting, Content, true),
            (Copied, Never, false),
            (Copied, Formatting, false),
            (Copied, Content, true),
            (Content, Copied, false),
            (Content, Never, false),
            (Content, Formatting, false),
            (Content, Content, true),
        ] {
            assert_eq!(may_become(from, to), allowed, "{from:?} to {to:?}");
        }
    }
}
