//! ValidateVolumeCapabilities: what the volume cannot do is an answer, not an error.

use csi_proto::csi::v1 as proto;

use crate::csi::error::{RequestError, no_such};
use crate::csi::validate::{self, capability, parameters};
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;
use crate::pool::record::Volume;
use crate::types::VolumeHandle;

const VOLUME_ID: &str = "volume_id";
/// The orchestrator adds keys of its own to the context it stores.
const FOREIGN_CONTEXT: [&str; 2] = ["storage.kubernetes.io/", "csi.storage.k8s.io/"];

pub(super) struct Checked {
    handle: Option<VolumeHandle>,
    request: proto::ValidateVolumeCapabilitiesRequest,
}

pub(super) fn check(request: proto::ValidateVolumeCapabilitiesRequest) -> Result<Checked, RequestError> {
    let handle = validate::volume_handle(VOLUME_ID, &request.volume_id)?;
    if request.volume_capabilities.is_empty() {
        return Err(RequestError::invalid("volume_capabilities", "must not be empty"));
    }
    validate::map("volume_context", &request.volume_context)?;
    validate::map("parameters", &request.parameters)?;
    validate::map("mutable_parameters", &request.mutable_parameters)?;
    validate::map("secrets", &request.secrets)?;
    Ok(Checked { handle, request })
}

pub(super) fn confirm(
    layer: &NodeLayer,
    Checked { handle, request }: Checked,
) -> Result<proto::ValidateVolumeCapabilitiesResponse, CallError> {
    let (_, volume) = layer.volume(VOLUME_ID, handle.ok_or_else(|| no_such(VOLUME_ID))?)?;
    Ok(match differences(&volume, &request) {
        Err(error) => proto::ValidateVolumeCapabilitiesResponse { confirmed: None, message: error.to_string() },
        Ok(()) => proto::ValidateVolumeCapabilitiesResponse {
            confirmed: Some(proto::validate_volume_capabilities_response::Confirmed {
                volume_context: request.volume_context,
                volume_capabilities: request.volume_capabilities,
                parameters: request.parameters,
                mutable_parameters: request.mutable_parameters,
            }),
            message: String::new(),
        },
    })
}

/// What the volume does not have of what is asked about.
fn differences(volume: &Volume, request: &proto::ValidateVolumeCapabilitiesRequest) -> Result<(), RequestError> {
    let differs = |field, reason: &str| Err(RequestError::unsupported(field, reason));
    // Each by itself: a volume may be given out as a file system here and as a raw device there.
    for (index, entry) in request.volume_capabilities.iter().enumerate() {
        let wanted = capability::capability(&format!("volume_capabilities[{index}]"), Some(entry))?;
        if !wanted.access_type.fits(volume.mode) {
            return differs("volume_capabilities.access_type", "is another file system than the volume was made with");
        }
        if !capability::serves(&volume.access_modes, wanted.access_mode) {
            return differs("volume_capabilities.access_mode", "asks for more access than the volume was created with");
        }
    }
    if !request.parameters.is_empty() && parameters::class(&request.parameters)?.recorded != volume.parameters {
        return differs("parameters", "are not those that the volume was made with");
    }
    validate::no_mutable_parameters(&request.mutable_parameters)?;
    let ours = |key: &&String| !FOREIGN_CONTEXT.iter().any(|prefix| key.starts_with(prefix));
    if request.volume_context.keys().any(|key| ours(&key)) {
        return differs("volume_context", "is not that of the volume, which has none");
    }
    Ok(())
}
