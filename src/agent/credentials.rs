//! The secrets that a call brings. They end here: no layer below gets them.

use std::collections::HashMap;

use csi_proto::csi::v1 as proto;
use tonic::{Request, Status};

use crate::csi::{status, validate};

/// A request of a layer.
pub(super) trait Credentialed {
    /// Its secrets, if requests of its kind may bring any.
    fn secrets(&mut self) -> Option<&mut HashMap<String, String>>;
}

macro_rules! bring_secrets {
    ($($request:ident),* $(,)?) => {
        $(
            impl Credentialed for proto::$request {
                fn secrets(&mut self) -> Option<&mut HashMap<String, String>> {
                    Some(&mut self.secrets)
                }
            }
        )*
    };
}

macro_rules! bring_none {
    ($($request:ident),* $(,)?) => {
        $(
            impl Credentialed for proto::$request {
                fn secrets(&mut self) -> Option<&mut HashMap<String, String>> {
                    None
                }
            }
        )*
    };
}

bring_secrets! {
    CreateVolumeRequest,
    DeleteVolumeRequest,
    ControllerPublishVolumeRequest,
    ControllerUnpublishVolumeRequest,
    ValidateVolumeCapabilitiesRequest,
    ControllerListVolumeHealthRequest,
    ControllerGetVolumeHealthRequest,
    ControllerModifyVolumeRequest,
    CreateSnapshotRequest,
    DeleteSnapshotRequest,
    ListSnapshotsRequest,
    GetSnapshotRequest,
    ControllerExpandVolumeRequest,
    CreateVolumeGroupSnapshotRequest,
    DeleteVolumeGroupSnapshotRequest,
    GetVolumeGroupSnapshotRequest,
    GetMetadataAllocatedRequest,
    GetMetadataDeltaRequest,
}

bring_none! {
    GetPluginInfoRequest,
    GetPluginCapabilitiesRequest,
    ProbeRequest,
    ListVolumesRequest,
    GetCapacityRequest,
    ControllerGetCapabilitiesRequest,
    ControllerGetVolumeRequest,
    GroupControllerGetCapabilitiesRequest,
}

/// A request without its secrets, and they.
///
/// # Errors
/// INVALID_ARGUMENT for more than a request may bring.
pub(super) fn split<Q: Credentialed>(mut request: Request<Q>) -> Result<(Request<Q>, HashMap<String, String>), Status> {
    let secrets = request.get_mut().secrets().map(std::mem::take).unwrap_or_default();
    match validate::map("secrets", &secrets) {
        Ok(()) => Ok((request, secrets)),
        Err(error) => Err(Status::new(status::request(&error), error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use tonic::Code;

    use super::*;

    fn check<Q: Credentialed + Default + Debug + PartialEq>() {
        let mut bare = Request::new(Q::default());
        bare.metadata_mut().insert("grpc-timeout", "1S".parse().unwrap());
        if let Some(secrets) = bare.get_mut().secrets() {
            secrets.insert("RESTIC_PASSWORD".to_owned(), "hush".to_owned());
            let (passed_on, secrets) = split(bare).unwrap();
            assert_eq!(secrets["RESTIC_PASSWORD"], "hush");
            assert!(passed_on.metadata().contains_key("grpc-timeout"), "its deadline stays");
            assert_eq!(passed_on.into_inner(), Q::default());
            let many = (0..100_000).map(|number| (number.to_string(), String::new())).collect();
            let mut request = Q::default();
            *request.secrets().unwrap() = many;
            assert_eq!(split(Request::new(request)).unwrap_err().code(), Code::InvalidArgument);
        }
    }

    #[test]
    fn a_request_is_passed_on_without_its_secrets_whatever_it_asks_for() {
        check::<proto::CreateVolumeRequest>();
        check::<proto::DeleteVolumeRequest>();
        check::<proto::ControllerPublishVolumeRequest>();
        check::<proto::ControllerUnpublishVolumeRequest>();
        check::<proto::ValidateVolumeCapabilitiesRequest>();
        check::<proto::ControllerListVolumeHealthRequest>();
        check::<proto::ControllerGetVolumeHealthRequest>();
        check::<proto::ControllerModifyVolumeRequest>();
        check::<proto::CreateSnapshotRequest>();
        check::<proto::DeleteSnapshotRequest>();
        check::<proto::ListSnapshotsRequest>();
        check::<proto::GetSnapshotRequest>();
        check::<proto::ControllerExpandVolumeRequest>();
        check::<proto::CreateVolumeGroupSnapshotRequest>();
        check::<proto::DeleteVolumeGroupSnapshotRequest>();
        check::<proto::GetVolumeGroupSnapshotRequest>();
        check::<proto::GetMetadataAllocatedRequest>();
        check::<proto::GetMetadataDeltaRequest>();
    }
}
