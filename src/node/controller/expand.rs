//! ControllerExpandVolume: the stored object grows, and with it its device if it has one. The file system on it grows in
//! NodeExpandVolume, or when it is staged next.

use csi_proto::csi::v1 as proto;

use crate::csi::error::{RequestError, no_such};
use crate::csi::locks::{Hold, Key};
use crate::csi::validate::capability::{self, Capability};
use crate::csi::validate::{self, size};
use crate::node::answer;
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;
use crate::types::{CapacityRange, Object, VolumeHandle, VolumeMode};

const VOLUME_ID: &str = "volume_id";

pub(super) struct Checked {
    handle: Option<VolumeHandle>,
    range: CapacityRange,
    capability: Option<Capability>,
}

pub(super) fn check(request: proto::ControllerExpandVolumeRequest) -> Result<Checked, RequestError> {
    let handle = validate::volume_handle(VOLUME_ID, &request.volume_id)?;
    if request.capacity_range.is_none_or(|range| range.required_bytes == 0 && range.limit_bytes == 0) {
        return Err(RequestError::invalid("capacity_range", "must be set"));
    }
    let range = size::capacity(request.capacity_range.as_ref())?;
    validate::map("secrets", &request.secrets)?;
    let capability = request.volume_capability.as_ref().map(|entry| capability::capability("volume_capability", Some(entry)));
    Ok(Checked { handle, range, capability: capability.transpose()? })
}

pub(super) fn expand(layer: &NodeLayer, checked: Checked) -> Result<proto::ControllerExpandVolumeResponse, CallError> {
    let handle = checked.handle.ok_or_else(|| no_such(VOLUME_ID))?;
    let pool = layer.pool(VOLUME_ID, handle.pool)?;
    let _lock = layer.locks.take(VOLUME_ID, Key::Volume(handle), Hold::Exclusive)?;
    let (_, volume) = layer.volume(VOLUME_ID, handle)?;
    if checked.capability.is_some_and(|capability| !capability.access_type.fits(volume.mode)) {
        return Err(RequestError::invalid(
            "volume_capability.access_type",
            "is another file system than the volume was made with",
        )
        .into());
    }
    let large_enough = checked.range.required().is_none_or(|required| volume.size.bytes() >= required);
    let volume = if checked.range.limit().is_some_and(|limit| limit < volume.size.bytes()) {
        let reason = format!("must not be less than {}, the present size: a volume never shrinks", volume.size.bytes());
        return Err(RequestError::out_of_range("capacity_range.limit_bytes", reason).into());
    } else if large_enough {
        volume
    } else {
        pool.grow_volume(handle.volume, checked.range)?
    };
    let node_expansion_required = match volume.mode {
        VolumeMode::Filesystem(_) => true,
        VolumeMode::Block => pool.attachment(Object::Volume(volume.id))?.is_some(),
    };
    Ok(proto::ControllerExpandVolumeResponse { capacity_bytes: answer::size(volume.size), node_expansion_required })
}
