//! Parameters of StorageClasses and VolumeSnapshotClasses.
//!
//! Of a VolumeSnapshotClass those that ask for an export are known ([`ExportOrder`]). Of a StorageClass known are those that protect its
//! volumes ([`ProtectionOrder`]), `pool` (a pool's name, its id or its path), `checksum` (`true` or `false`), `logicalBlockSize` (512 or 4096) and
//! `deltaAnchors` (how many deleted snapshots of a volume are kept to tell what changed since them). Everything that begins with
//! `csi.storage.k8s.io/` belongs to the sidecars and is let through, among it `fstype`, which is understood, and the names of Kubernetes'
//! objects, which are recorded and never compared. Any other key is
//! refused: a misspelt parameter that is ignored is found out too late.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use crate::csi::error::RequestError;
use crate::types::span::Subject;
use crate::types::{
    AnchorLimit, DataChecksum, ExportOrder, FsType, KubernetesName, KubernetesNames, LogicalBlockSize, NamespacedName, PoolId,
    PoolName, PoolNameError, ProtectionOrder, RestorePolicy,
};

/// Keys with this beginning belong to the sidecars.
const SIDECAR_PREFIX: &str = "csi.storage.k8s.io/";
const FS_TYPE: &str = "csi.storage.k8s.io/fstype";
const FIELD: &str = "parameters";

/// Which pool a StorageClass asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolSelector {
    /// The pool with this id.
    Id(PoolId),
    /// The pool at this path.
    Path(PathBuf),
    /// Any pool of this name.
    Name(PoolName),
}

/// Checked parameters of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeParameters {
    /// The pool asked for.
    pub pool: Option<PoolSelector>,
    /// Checksums or not.
    pub checksum: DataChecksum,
    /// Logical block size, if it is to be another than the pool's own.
    pub logical_block_size: Option<LogicalBlockSize>,
    /// The file system that the sidecars' key names.
    pub fs_type: Option<FsType>,
    /// What protects the volume, if anything does.
    pub protection: Option<ProtectionOrder>,
    /// What is recorded with the volume and compared when its creation is repeated: without the sidecars' keys.
    pub recorded: BTreeMap<String, String>,
    /// What the sidecar says that Kubernetes calls it.
    pub kubernetes: KubernetesNames,
}

/// Checked parameters of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotParameters {
    /// What is recorded and compared: without the sidecars' keys. The export that it asks for is read there.
    pub recorded: BTreeMap<String, String>,
    /// What the sidecar says that Kubernetes calls it.
    pub kubernetes: KubernetesNames,
}

fn pool(value: &str) -> Result<PoolSelector, RequestError> {
    if let Some(id) = PoolId::from_label(value).or_else(|| value.parse().ok()) {
        return Ok(PoolSelector::Id(id));
    }
    if value.starts_with('/') && !value.contains('\0') {
        return Ok(PoolSelector::Path(PathBuf::from(value)));
    }
    let name = value.parse().map_err(|error: PoolNameError| {
        RequestError::invalid(
            "parameters.pool",
            format!("must be the name of a pool, its id or its absolute path; a name {error}"),
        )
    })?;
    Ok(PoolSelector::Name(name))
}

/// The parameters of a volume that is to be made: those of its class, and the names of its claim where the class needs them.
///
/// # Errors
/// As [`class`], and invalid when a name is missing.
pub fn volume(parameters: &HashMap<String, String>) -> Result<VolumeParameters, RequestError> {
    let checked = class(parameters)?;
    check_claim(&checked)?;
    Ok(checked)
}

/// Parameters that are recorded with a volume, beside which the names of Kubernetes stand.
///
/// # Errors
/// As [`volume`].
pub fn recorded(parameters: &HashMap<String, String>, names: &KubernetesNames) -> Result<VolumeParameters, RequestError> {
    let checked = VolumeParameters { kubernetes: names.clone(), ..class(parameters)? };
    check_claim(&checked)?;
    Ok(checked)
}

/// The parameters of a class, as a call that is about no claim brings them (GetCapacity).
///
/// # Errors
/// Invalid when a key is not known, a value is malformed, or the map is too large.
pub fn class(parameters: &HashMap<String, String>) -> Result<VolumeParameters, RequestError> {
    super::map(FIELD, parameters)?;
    let mut checked = VolumeParameters { kubernetes: kubernetes(parameters), ..VolumeParameters::default() };
    // In a fixed order, so that the same request gets the same refusal.
    for (key, value) in parameters.iter().collect::<BTreeMap<_, _>>() {
        match key.as_str() {
            "pool" => checked.pool = Some(pool(value)?),
            "checksum" => {
                checked.checksum = match value.as_str() {
                    "true" => DataChecksum::On,
                    "false" => DataChecksum::Off,
                    _ => return Err(RequestError::invalid("parameters.checksum", "must be `true` or `false`")),
                }
            }
            // Recorded with the volume, which reads it there.
            AnchorLimit::PARAMETER => {
                AnchorLimit::parse(value).map(drop).ok_or_else(|| {
                    RequestError::invalid("parameters.deltaAnchors", format!("must be a number from 0 to {}", AnchorLimit::MAX))
                })?;
            }
            LogicalBlockSize::PARAMETER => {
                let size = LogicalBlockSize::parse(value)
                    .ok_or_else(|| RequestError::invalid("parameters.logicalBlockSize", "must be `512` or `4096`"))?;
                checked.logical_block_size = Some(size);
            }
            FS_TYPE => checked.fs_type = super::capability::fs_type("parameters.csi.storage.k8s.io/fstype", value)?,
            key if key.starts_with(SIDECAR_PREFIX) || ProtectionOrder::is_parameter(key) => {}
            key => return Err(unknown(key)),
        }
        if !key.starts_with(SIDECAR_PREFIX) {
            checked.recorded.insert(key.clone(), value.clone());
        }
    }
    let order = ProtectionOrder::parse(&checked.recorded);
    checked.protection = order.map_err(|error| refused(error.key, error.to_string()))?;
    Ok(checked)
}

fn refused(key: &str, reason: String) -> RequestError {
    RequestError::invalid(format!("{FIELD}.{key}"), reason)
}

/// What a protection needs to know of the claim must be there.
fn check_claim(checked: &VolumeParameters) -> Result<(), RequestError> {
    let Some(order) = &checked.protection else { return Ok(()) };
    let claim = checked.kubernetes.claim.as_ref();
    if let Some(secret) = &order.secret {
        secret.resolve(claim).map_err(|error| refused(ProtectionOrder::SECRET, error.to_string()))?;
    }
    if order.restore != RestorePolicy::Never && claim.is_none() {
        let reason = "needs the name of the claim, which the provisioner tells only with --extra-create-metadata";
        return Err(refused(ProtectionOrder::RESTORE, reason.to_owned()));
    }
    Ok(())
}

/// The names that the sidecars give (`--extra-create-metadata`). What no object can be called is left out: it is of no use to anybody, and
/// no reason to make no volume.
fn kubernetes(parameters: &HashMap<String, String>) -> KubernetesNames {
    let name =
        |key: &str| -> Option<KubernetesName> { parameters.get(&format!("{SIDECAR_PREFIX}{key}"))?.clone().try_into().ok() };
    let namespaced = |kind: &str| {
        Some(NamespacedName { namespace: name(&format!("{kind}/namespace"))?, name: name(&format!("{kind}/name"))? })
    };
    let claim = namespaced("pvc");
    if let Some(claim) = &claim {
        Subject::Claim(claim).note();
    }
    KubernetesNames {
        claim,
        volume: name("pv/name"),
        snapshot: namespaced("volumesnapshot"),
        snapshot_content: name("volumesnapshotcontent/name"),
    }
}

/// The parameters of a snapshot.
///
/// # Errors
/// Invalid when a key is not known, a value is malformed, or the map is too large.
pub fn snapshot(parameters: &HashMap<String, String>) -> Result<SnapshotParameters, RequestError> {
    super::map(FIELD, parameters)?;
    let ours = parameters.iter().filter(|(key, _)| !key.starts_with(SIDECAR_PREFIX));
    let recorded: BTreeMap<String, String> = ours.map(|(key, value)| (key.clone(), value.clone())).collect();
    if let Some(key) = recorded.keys().find(|key| !ExportOrder::PARAMETERS.contains(&key.as_str())) {
        return Err(unknown(key));
    }
    ExportOrder::parse(&recorded).map_err(|error| RequestError::invalid(format!("{FIELD}.{}", error.key), error.to_string()))?;
    Ok(SnapshotParameters { recorded, kubernetes: kubernetes(parameters) })
}

fn unknown(key: &str) -> RequestError {
    let key: String = key.chars().take(super::MAX_STRING_BYTES).collect();
    RequestError::invalid(FIELD, format!("`{key}` is not a known parameter"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(entries: &[(&str, &str)]) -> Result<VolumeParameters, RequestError> {
        volume(&entries.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn known_parameters_are_recorded_without_the_sidecars_keys() {
        let id = PoolId::from_bytes([7; 16]);
        let label = id.label();
        let checked = check(&[
            ("pool", &label),
            ("checksum", "true"),
            ("deltaAnchors", "0"),
            ("logicalBlockSize", "512"),
            ("csi.storage.k8s.io/fstype", "xfs"),
            ("csi.storage.k8s.io/pvc/name", "data"),
            ("csi.storage.k8s.io/pvc/namespace", "shop"),
            ("csi.storage.k8s.io/pv/name", "Not a name"),
        ])
        .unwrap();
        assert_eq!(checked.kubernetes.tags(), ["pvc=shop/data"]);
        assert_eq!(checked.pool, Some(PoolSelector::Id(id)));
        assert_eq!(checked.checksum, DataChecksum::On);
        assert_eq!(checked.logical_block_size, Some(LogicalBlockSize::B512));
        assert_eq!(checked.fs_type, Some(FsType::Xfs));
        assert_eq!(checked.recorded.keys().collect::<Vec<_>>(), ["checksum", "deltaAnchors", "logicalBlockSize", "pool"]);
        assert_eq!(check(&[("pool", &id.to_string())]).unwrap().pool, Some(PoolSelector::Id(id)));
        assert_eq!(check(&[("pool", "fast")]).unwrap().pool, Some(PoolSelector::Name("fast".parse().unwrap())));
        assert_eq!(check(&[("pool", "/data")]).unwrap().pool, Some(PoolSelector::Path("/data".into())));
    }

    #[test]
    fn a_protection_is_recorded_with_the_names_it_needs_and_refused_by_its_parameter() {
        let class = [("protect", "hourly"), ("keepDaily", "7"), ("repositorySecret", "${pvc.namespace}/backup")];
        let claim = [("csi.storage.k8s.io/pvc/name", "data"), ("csi.storage.k8s.io/pvc/namespace", "shop")];
        let checked = check(&[&class[..], &claim].concat()).unwrap();
        assert!(checked.protection.is_some_and(|order| order.exports.is_some()));
        assert_eq!(checked.recorded.keys().collect::<Vec<_>>(), ["keepDaily", "protect", "repositorySecret"]);
        assert_eq!(check(&class).unwrap_err().field, "parameters.repositorySecret", "nothing is known of the claim");
        // The capacity of a class is asked for before there is any claim.
        let restoring = [&class[..], &[("restore", "latestOrEmpty")]].concat();
        let of_class: HashMap<_, _> = restoring.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        assert!(super::class(&of_class).unwrap().protection.is_some());
        assert_eq!(check(&[("restore", "latestOrFail")]).unwrap_err().field, "parameters.restore");
        assert_eq!(check(&[("keepDaily", "7")]).unwrap_err().field, "parameters.keepDaily");
        assert_eq!(check(&[&class[..], &claim, &[("madeBy", "protection")]].concat()).unwrap_err().field, "parameters");
    }

    #[test]
    fn unknown_keys_and_bad_values_are_refused_by_name() {
        for (key, value) in [
            ("Pool", "x"),
            ("pool", "Fast"),
            ("pool", "x y"),
            ("pool", ""),
            ("checksum", "yes"),
            ("deltaAnchors", "33"),
            ("deltaAnchors", "-1"),
            ("deltaAnchors", "+4"),
            ("deltaAnchors", ""),
            ("deltaanchors", "4"),
            ("logicalBlockSize", "1024"),
            ("logicalBlockSize", ""),
            ("csi.storage.k8s.io/fstype", "ntfs"),
        ] {
            let error = check(&[(key, value)]).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        assert!(snapshot(&HashMap::from([("x".to_owned(), String::new())])).is_err());
        assert!(snapshot(&HashMap::from([("csi.storage.k8s.io/volumesnapshot/name".to_owned(), String::new())])).is_ok());
    }

    #[test]
    fn what_a_snapshot_class_asks_for_is_recorded_and_a_bad_value_is_refused_by_its_key() {
        let check = |entries: &[(&str, &str)]| {
            snapshot(&entries.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect())
        };
        let class = [("repository", "existing"), ("localCopy", "drop"), ("csi.storage.k8s.io/volumesnapshot/name", "nightly")];
        let checked = check(&class).unwrap();
        assert_eq!(checked.recorded.keys().collect::<Vec<_>>(), ["localCopy", "repository"]);
        let refused = |entries: &[(&str, &str)]| check(entries).unwrap_err().field;
        assert_eq!(refused(&[("repository", "maybe")]), "parameters.repository");
        assert_eq!(refused(&[("localCopy", "drop")]), "parameters.localCopy");
        // What the pipeline cannot do is not ignored.
        assert_eq!(refused(&[("repository", "existing"), ("bandwidth", "10")]), "parameters.bandwidth");
        assert_eq!(refused(&[("repository", "existing"), ("priority", "urgent")]), "parameters.priority");
        assert_eq!(refused(&[("repository", "existing"), ("deadline", "1h")]), "parameters");
    }
}
