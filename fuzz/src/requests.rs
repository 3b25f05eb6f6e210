//! Requests of the Controller and Node services, as bytes from the wire, against their checks: pure, so nothing is made.
//!
//! What passes keeps within the limits of CSI; what does not names the field, and never shows a secret.

use csi_proto::csi::v1 as proto;
use prost::Message;
use windlass::csi::validate::{self, capability, parameters, path, size, source};
use windlass::types::VolumeSize;

/// A secret of fewer bytes may occur in a message by chance.
const LONG: usize = 16;

fn named<T, E: std::fmt::Display>(field: &str, result: Result<T, E>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(field), "`{field}` is not named: {text}");
            None
        }
    }
}

fn secrets(secrets: &std::collections::HashMap<String, String>) {
    if let Err(error) = validate::map("secrets", secrets) {
        let text = error.to_string();
        let shown = secrets.values().find(|value| value.len() >= LONG && text.contains(value.as_str()));
        assert!(text.contains("secrets") && shown.is_none(), "{text}");
    }
}

/// Checks a request.
pub fn run(data: &[u8]) {
    let Some((&which, wire)) = data.split_first() else { return };
    match which % 4 {
        0 => {
            let Ok(request) = proto::CreateVolumeRequest::decode(wire) else { return };
            create_volume(&request);
        }
        1 => {
            let Ok(request) = proto::CreateSnapshotRequest::decode(wire) else { return };
            secrets(&request.secrets);
            named("source_volume_id", validate::volume_handle("source_volume_id", &request.source_volume_id));
            if let Some(checked) = named("parameters", parameters::snapshot(&request.parameters)) {
                assert!(checked.recorded.is_empty());
            }
        }
        2 => {
            let Ok(request) = proto::NodePublishVolumeRequest::decode(wire) else { return };
            publish(&request);
        }
        _ => {
            let Ok(request) = proto::ValidateVolumeCapabilitiesRequest::decode(wire) else { return };
            named("volume_capabilities", capability::capabilities(&request.volume_capabilities));
            named("parameters", parameters::volume(&request.parameters));
            named("mutable_parameters", validate::no_mutable_parameters(&request.mutable_parameters));
        }
    }
}

fn create_volume(request: &proto::CreateVolumeRequest) {
    if let Some(name) = named("name", validate::name("name", &request.name)) {
        assert_eq!(name.as_str(), request.name);
    }
    secrets(&request.secrets);
    if let Some(checked) = named("parameters", parameters::volume(&request.parameters)) {
        let bytes: usize = checked.recorded.iter().map(|(key, value)| key.len() + value.len()).sum();
        assert!(bytes <= validate::MAX_MAP_BYTES);
        assert!(checked.recorded.keys().all(|key| !key.starts_with("csi.storage.k8s.io/")));
    }
    if let Some(set) = named("volume_capabilities", capability::capabilities(&request.volume_capabilities)) {
        assert!(!set.access_modes.is_empty() && set.access_modes.len() <= request.volume_capabilities.len());
        assert!(set.access_modes.is_sorted());
        assert!(set.access_type.flags().iter().all(|flag| !flag.is_empty() && !flag.contains('\0')));
    }
    named("volume_content_source", source::content_source(request.volume_content_source.as_ref()));
    if let Some(range) = named("capacity_range", size::capacity(request.capacity_range.as_ref())) {
        let asked = request.capacity_range.unwrap_or_default();
        assert!(asked.required_bytes >= 0 && asked.limit_bytes >= 0);
        assert!(asked.required_bytes as u64 <= VolumeSize::MAX.bytes());
        assert_eq!(range.limit(), (asked.limit_bytes > 0).then_some(asked.limit_bytes as u64));
    }
}

fn publish(request: &proto::NodePublishVolumeRequest) {
    named("volume_id", validate::volume_handle("volume_id", &request.volume_id));
    named("volume_capability", capability::capability("volume_capability", request.volume_capability.as_ref()));
    secrets(&request.secrets);
    named("volume_context", validate::map("volume_context", &request.volume_context));
    for (field, text) in [("staging_target_path", &request.staging_target_path), ("target_path", &request.target_path)] {
        if let Some(path) = named(field, path::absolute(field, text)) {
            let plain =
                |part: std::path::Component<'_>| matches!(part, std::path::Component::RootDir | std::path::Component::Normal(_));
            assert!(path.is_absolute() && path.components().all(plain), "{text:?}");
        }
    }
}

/// Requests as sidecars send them.
pub fn seeds() -> Vec<Vec<u8>> {
    use proto::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode::Mode};
    use proto::volume_content_source::{SnapshotSource, Type, VolumeSource};
    let mode = |mode: Mode| Some(AccessMode { mode: mode.into() });
    let mount = MountVolume { fs_type: "ext4".to_owned(), mount_flags: vec!["noatime".to_owned()], ..Default::default() };
    let capabilities = [
        proto::VolumeCapability { access_type: Some(AccessType::Mount(mount)), access_mode: mode(Mode::SingleNodeWriter) },
        proto::VolumeCapability {
            access_type: Some(AccessType::Block(BlockVolume {})),
            access_mode: mode(Mode::MultiNodeReaderOnly),
        },
    ];
    let handle = "-aeaqcaibaeaqcaibaeaqcaibae-aeaqcaibaeaqcaibaeaqcaibae";
    let (volume, snapshot) = (format!("v{handle}"), format!("s{handle}"));
    let secrets = [("key".to_owned(), "hunter2 ".repeat(600))];
    let entries = [("pool", "/data"), ("checksum", "true"), ("deltaAnchors", "4"), ("csi.storage.k8s.io/fstype", "xfs")];
    let known: std::collections::HashMap<_, _> = entries.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let mut seeds = Vec::new();
    let sources = [
        None,
        Some(Type::Snapshot(SnapshotSource { snapshot_id: snapshot })),
        Some(Type::Volume(VolumeSource { volume_id: volume.clone() })),
    ];
    for (number, source) in sources.into_iter().enumerate() {
        let request = proto::CreateVolumeRequest {
            name: "pvc-1".to_owned(),
            capacity_range: Some(proto::CapacityRange { required_bytes: 1 << 30, limit_bytes: 1 << 31 }),
            volume_capabilities: capabilities[number % 2..].to_vec(),
            parameters: known.clone(),
            secrets: secrets.clone().into(),
            volume_content_source: Some(proto::VolumeContentSource { r#type: source }),
            ..Default::default()
        };
        seeds.push([&[0], &request.encode_to_vec()[..]].concat());
    }
    let request = proto::CreateSnapshotRequest {
        name: "snapshot-1".to_owned(),
        source_volume_id: volume.clone(),
        secrets: secrets.clone().into(),
        parameters: [("csi.storage.k8s.io/volumesnapshot/name".to_owned(), "x".to_owned())].into(),
        ..Default::default()
    };
    seeds.push([&[1], &request.encode_to_vec()[..]].concat());
    let request = proto::NodePublishVolumeRequest {
        volume_id: volume.clone(),
        staging_target_path: "/var/lib/kubelet//x/".to_owned(),
        target_path: "/var/lib/kubelet/../x".to_owned(),
        volume_capability: Some(capabilities[0].clone()),
        secrets: secrets.into(),
        ..Default::default()
    };
    seeds.push([&[2], &request.encode_to_vec()[..]].concat());
    let request = proto::ValidateVolumeCapabilitiesRequest {
        volume_id: volume,
        volume_capabilities: capabilities.to_vec(),
        parameters: known,
        ..Default::default()
    };
    seeds.push([&[3], &request.encode_to_vec()[..]].concat());
    seeds
}
