//! Content sources.

use csi_proto::csi::v1 as proto;

use crate::csi::error::RequestError;
use crate::types::{Object, PoolId, SnapshotHandle, VolumeHandle};

/// Where the content of a new volume comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentSource {
    Snapshot(SnapshotHandle),
    Volume(VolumeHandle),
}

impl ContentSource {
    /// The field of the request that names it.
    pub fn field(self) -> &'static str {
        match self {
            Self::Snapshot(_) => SNAPSHOT_FIELD,
            Self::Volume(_) => VOLUME_FIELD,
        }
    }

    /// The pool that owns it.
    pub fn pool(self) -> PoolId {
        match self {
            Self::Snapshot(handle) => handle.pool,
            Self::Volume(handle) => handle.pool,
        }
    }

    /// Its handle, as requests name it.
    pub fn handle(self) -> String {
        match self {
            Self::Snapshot(handle) => handle.to_string(),
            Self::Volume(handle) => handle.to_string(),
        }
    }

    /// The object within its pool.
    pub fn object(self) -> Object {
        match self {
            Self::Snapshot(handle) => Object::Snapshot(handle.snapshot),
            Self::Volume(handle) => Object::Volume(handle.volume),
        }
    }
}

const SNAPSHOT_FIELD: &str = "volume_content_source.snapshot.snapshot_id";
const VOLUME_FIELD: &str = "volume_content_source.volume.volume_id";

/// The content source of a request, if it has one.
///
/// # Errors
/// Invalid when it names neither kind, or an id is empty or too long; not found when an id is none of ours.
pub fn content_source(source: Option<&proto::VolumeContentSource>) -> Result<Option<ContentSource>, RequestError> {
    use proto::volume_content_source::Type;
    let Some(source) = source else { return Ok(None) };
    let missing = |field| RequestError::not_found(field, "does not exist");
    match &source.r#type {
        None => Err(RequestError::invalid("volume_content_source", "must name a snapshot or a volume")),
        Some(Type::Snapshot(snapshot)) => {
            let handle = super::snapshot_handle(SNAPSHOT_FIELD, &snapshot.snapshot_id)?;
            Ok(Some(ContentSource::Snapshot(handle.ok_or_else(|| missing(SNAPSHOT_FIELD))?)))
        }
        Some(Type::Volume(volume)) => {
            let handle = super::volume_handle(VOLUME_FIELD, &volume.volume_id)?;
            Ok(Some(ContentSource::Volume(handle.ok_or_else(|| missing(VOLUME_FIELD))?)))
        }
    }
}
