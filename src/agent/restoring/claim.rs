//! The request, checked as the node checks it.

use csi_proto::csi::v1 as proto;
use tonic::Status;

use crate::agent::transfers::restore::VolumeClaim;
use crate::csi::error::RequestError;
use crate::csi::status;
use crate::csi::validate::source::{self, ContentSource};
use crate::csi::validate::{self, capability, parameters, size};
use crate::types::ObjectName;

/// A checked CreateVolume, and the name that it is told from others by.
pub(super) struct CheckedClaim {
    pub(super) name: ObjectName,
    pub(super) claim: VolumeClaim,
}

impl CheckedClaim {
    /// # Errors
    /// INVALID_ARGUMENT and the like for what the node would refuse too.
    pub(super) fn of(request: &proto::CreateVolumeRequest) -> Result<Self, Status> {
        check(request).map_err(|error| Status::new(status::request(&error), error.to_string()))
    }
}

fn check(request: &proto::CreateVolumeRequest) -> Result<CheckedClaim, RequestError> {
    const SOURCE: &str = "volume_content_source";
    validate::map("mutable_parameters", &request.mutable_parameters)?;
    validate::no_mutable_parameters(&request.mutable_parameters)?;
    let source = match source::content_source(request.volume_content_source.as_ref())? {
        Some(ContentSource::Snapshot(source)) => Some(source),
        Some(ContentSource::Volume(_)) => return Err(RequestError::invalid(SOURCE, "must name a snapshot")),
        None => None,
    };
    Ok(CheckedClaim {
        name: validate::name("name", &request.name)?,
        claim: VolumeClaim {
            source,
            capacity: size::capacity(request.capacity_range.as_ref())?,
            capabilities: capability::capabilities(&request.volume_capabilities)?,
            parameters: parameters::volume(&request.parameters)?,
        },
    })
}
