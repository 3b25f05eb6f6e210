//! `windlass pool manifests`: objects of Kubernetes for what a disk holds whose cluster is lost.
//!
//! A pool knows the Kubernetes names of what is in it. So PersistentVolumes can be made anew: applied in a new cluster, they wait for the
//! PersistentVolumeClaims of the same namespace and name, and bind to them as before. For snapshots whose names are known a
//! VolumeSnapshotContent and its VolumeSnapshot are printed. All of it is to be kept (`Retain`): a cluster that is made for a test must
//! not be able to delete what it was shown.
//!
//! * A volume's affinity is the key of its pool: it is where the disk is, whatever that node is called.
//! * Its mode is the one in which it was last given out, which may be another than it was made for.
//! * The names of StorageClasses and VolumeSnapshotClasses are known to no driver, so they are given here, or left out.
//! * Two volumes of one claim (the older was kept when the claim was made anew) would both wait for it: the newest does, the other is
//!   printed without a claim, and said so on standard error.
//!
//! Reads only: from a running node, or from the disks of pools that nobody serves. What cannot be read is an error, never a shorter list.
//! The same records give the same text.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;
use csi_proto::windlass::v1 as windlass;
use serde_json::{Map, Value, json};

use crate::csi::{DRIVER_NAME, topology};
use crate::types::{KubernetesName, PoolId};

use crate::cli::client::Node;
use crate::cli::endpoint::EndpointArgs;
use crate::cli::exit::{CliError, Exit};
use crate::cli::format::Format;
use crate::cli::open_pool;
use crate::cli::output::{print_json, print_text};
use crate::cli::snapshot_objects::ExistingSnapshot;
use crate::cli::yaml;

/// Arguments of `pool manifests`.
#[derive(Debug, Args)]
pub struct ManifestsArgs {
    /// Read this pool (a directory, an image file, a block device), which no node may be serving, instead of asking a node; may be given
    /// more than once
    #[arg(long = "pool", value_name = "PATH")]
    pools: Vec<PathBuf>,
    /// StorageClass of the volumes: that of the claims which they are for
    #[arg(long, value_name = "NAME", value_parser = class)]
    storage_class: Option<String>,
    /// VolumeSnapshotClass of the snapshots
    #[arg(long, value_name = "NAME", value_parser = class)]
    snapshot_class: Option<String>,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

fn class(text: &str) -> Result<String, String> {
    KubernetesName::try_from(text.to_owned()).map(String::from).map_err(|error| error.to_string())
}

/// Classes that the objects are given.
#[derive(Debug, Clone, Copy, Default)]
struct Classes<'a> {
    storage: Option<&'a str>,
    snapshot: Option<&'a str>,
}

/// Prints the objects, and what is to be said about them on standard error.
///
/// # Errors
/// [`CliError`] when the node, or a pool, cannot be asked.
pub async fn run(args: ManifestsArgs, format: Format) -> Result<(), CliError> {
    let records = if args.pools.is_empty() {
        Node::connect(&args.endpoint.endpoint()).await?.records().await?
    } else {
        let pools = args.pools.clone();
        let read = move || pools.iter().map(|path| open_pool::read_records(path)).collect::<Result<Vec<_>, _>>();
        let read = tokio::task::spawn_blocking(read).await;
        read.unwrap_or_else(|error| Err(CliError::because(Exit::Failed, "the pools were not read", error)))?.concat()
    };
    let classes = Classes { storage: args.storage_class.as_deref(), snapshot: args.snapshot_class.as_deref() };
    let (objects, remarks) = manifests(&records, classes);
    for remark in remarks {
        tracing::warn!("{remark}");
    }
    match format {
        Format::Text => print_text(&yaml::documents(&objects)),
        Format::Json => print_json(&json!({ "apiVersion": "v1", "kind": "List", "items": objects })),
    }
}

/// The objects in their order, and what is to be said about them.
fn manifests(records: &[windlass::ObjectRecord], classes: Classes<'_>) -> (Vec<Value>, Vec<String>) {
    let mut remarks = Vec::new();
    let mut volumes: Vec<&windlass::ObjectRecord> = records.iter().filter(|record| record.kind == "volume").collect();
    let age = |record: &windlass::ObjectRecord| {
        let created = record.created.unwrap_or_default();
        (created.seconds, created.nanos, record.handle.clone())
    };
    let mut newest: BTreeMap<&str, &windlass::ObjectRecord> = BTreeMap::new();
    for &volume in volumes.iter().filter(|volume| !volume.pvc.is_empty()) {
        let kept = newest.entry(&volume.pvc).or_insert(volume);
        if age(volume) > age(kept) {
            *kept = volume;
        }
    }
    let has_claim =
        |volume: &windlass::ObjectRecord| newest.get(volume.pvc.as_str()).is_some_and(|kept| kept.handle == volume.handle);
    // Those that keep their names first, should two have one.
    volumes.sort_by_key(|volume| (!has_claim(volume), volume.handle.clone()));
    let mut taken = BTreeSet::new();
    let mut objects: Vec<(String, Value)> = Vec::new();
    for volume in volumes {
        let name = free_name(&mut taken, [&volume.pv, &volume.name], &volume.handle);
        let claim = if has_claim(volume) { Some(volume.pvc.as_str()) } else { None };
        if claim.is_none() && !volume.pvc.is_empty() {
            remarks
                .push(format!("PersistentVolume {name}: a newer volume is for the claim {}, so this one has none", volume.pvc));
        }
        objects.push((name.clone(), persistent_volume(volume, &name, claim, classes.storage)));
    }
    objects.sort_by(|one, other| one.0.cmp(&other.0));
    let mut snapshots: Vec<&windlass::ObjectRecord> =
        records.iter().filter(|record| record.kind == "snapshot" && !record.volume_snapshot.is_empty()).collect();
    snapshots.sort_by_key(|snapshot| (snapshot.volume_snapshot.clone(), snapshot.handle.clone()));
    let (mut contents, mut of_users) = (BTreeSet::new(), BTreeSet::new());
    for snapshot in snapshots {
        if !of_users.insert(snapshot.volume_snapshot.as_str()) {
            remarks.push(format!(
                "the snapshot {} is left out: another one is called {}",
                snapshot.handle, snapshot.volume_snapshot
            ));
            continue;
        }
        let name = free_name(&mut contents, [&snapshot.volume_snapshot_content, &snapshot.name], &snapshot.handle);
        objects.extend(snapshot_pair(snapshot, &name, classes.snapshot).map(|object| (String::new(), object)));
    }
    (objects.into_iter().map(|(_, object)| object).collect(), remarks)
}

/// The first of the names that an object can have and no other has; its handle, which is a name too, if there is none.
fn free_name(taken: &mut BTreeSet<String>, names: [&String; 2], handle: &str) -> String {
    let can_be = |name: &&&String| KubernetesName::try_from((**name).clone()).is_ok() && !taken.contains(**name);
    let name = names.iter().find(can_be).map_or_else(|| handle.to_owned(), |name| (*name).clone());
    taken.insert(name.clone());
    name
}

fn persistent_volume(volume: &windlass::ObjectRecord, name: &str, claim: Option<&str>, class: Option<&str>) -> Value {
    let is_block = volume.mode == "block";
    let mut csi = json!({ "driver": DRIVER_NAME, "volumeHandle": volume.handle });
    let mut spec = Map::new();
    if !is_block {
        csi["fsType"] = json!(volume.mode);
        if !volume.mount_flags.is_empty() {
            spec.insert("mountOptions".to_owned(), json!(volume.mount_flags));
        }
    }
    spec.insert("accessModes".to_owned(), json!(access_modes(&volume.access_modes)));
    spec.insert("capacity".to_owned(), json!({ "storage": volume.size_bytes.to_string() }));
    spec.insert("csi".to_owned(), csi);
    spec.insert("volumeMode".to_owned(), json!(if is_block { "Block" } else { "Filesystem" }));
    spec.insert("persistentVolumeReclaimPolicy".to_owned(), json!("Retain"));
    spec.insert("storageClassName".to_owned(), json!(class.unwrap_or("")));
    if let Ok(pool) = volume.pool_id.parse::<PoolId>() {
        let expression = json!({ "key": topology::pool_key(pool), "operator": "In", "values": [topology::PRESENT] });
        let terms = json!({ "nodeSelectorTerms": [{ "matchExpressions": [expression] }] });
        spec.insert("nodeAffinity".to_owned(), json!({ "required": terms }));
    }
    if let Some((namespace, claim)) = claim.and_then(|claim| claim.split_once('/')) {
        // Without a uid: that of the claim in the new cluster is not known, and filled in when it binds.
        let reference = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": claim });
        spec.insert("claimRef".to_owned(), reference);
    }
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": { "name": name, "annotations": { "pv.kubernetes.io/provisioned-by": DRIVER_NAME } },
        "spec": spec,
    })
}

/// CSI's access modes as Kubernetes has them. ReadWriteOncePod stands alone or not at all.
fn access_modes(modes: &[String]) -> Vec<&'static str> {
    let has = |names: &[&str]| modes.iter().any(|mode| names.contains(&mode.as_str()));
    let once = has(&["SINGLE_NODE_WRITER", "SINGLE_NODE_MULTI_WRITER"]);
    let many = has(&["MULTI_NODE_READER_ONLY", "SINGLE_NODE_READER_ONLY"]);
    match (once, many) {
        (true, true) => vec!["ReadWriteOnce", "ReadOnlyMany"],
        (true, false) => vec!["ReadWriteOnce"],
        (false, true) => vec!["ReadOnlyMany"],
        (false, false) => vec!["ReadWriteOncePod"],
    }
}

/// The content and the snapshot that stands for it.
fn snapshot_pair(snapshot: &windlass::ObjectRecord, content: &str, class: Option<&str>) -> [Value; 2] {
    let (namespace, name) = snapshot.volume_snapshot.split_once('/').unwrap_or(("default", &snapshot.volume_snapshot));
    let volume_mode = Some(if snapshot.mode == "block" { "Block" } else { "Filesystem" });
    ExistingSnapshot { handle: &snapshot.handle, content, namespace, name, volume_mode, class, secret: None }.objects()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(handle: &str, name: &str, pvc: &str, seconds: i64) -> windlass::ObjectRecord {
        windlass::ObjectRecord {
            pool_id: PoolId::from_bytes([7; 16]).to_string(),
            kind: "volume".to_owned(),
            handle: handle.to_owned(),
            name: name.to_owned(),
            size_bytes: 1 << 30,
            mode: "xfs".to_owned(),
            access_modes: vec!["SINGLE_NODE_MULTI_WRITER".to_owned()],
            pvc: pvc.to_owned(),
            created: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            ..Default::default()
        }
    }

    #[test]
    fn a_volume_becomes_a_persistent_volume_that_waits_for_its_claim() {
        let mut record = volume("v-1", "pvc-1", "shop/data", 1);
        record.mount_flags = vec!["noatime".to_owned()];
        let (objects, remarks) = manifests(&[record.clone()], Classes { storage: Some("fast"), snapshot: None });
        assert_eq!(remarks, Vec::<String>::new());
        let key = topology::pool_key(PoolId::from_bytes([7; 16]));
        let expected = format!(
            r#"---
apiVersion: "v1"
kind: "PersistentVolume"
metadata:
  annotations:
    pv.kubernetes.io/provisioned-by: "csi.windlass.dev"
  name: "pvc-1"
spec:
  accessModes:
  - "ReadWriteOnce"
  capacity:
    storage: "1073741824"
  claimRef:
    apiVersion: "v1"
    kind: "PersistentVolumeClaim"
    name: "data"
    namespace: "shop"
  csi:
    driver: "csi.windlass.dev"
    fsType: "xfs"
    volumeHandle: "v-1"
  mountOptions:
  - "noatime"
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions:
        - key: "{key}"
          operator: "In"
          values:
          - "true"
  persistentVolumeReclaimPolicy: "Retain"
  storageClassName: "fast"
  volumeMode: "Filesystem"
"#
        );
        assert_eq!(yaml::documents(&objects), expected);
        record.mode = "block".to_owned();
        let (objects, _) = manifests(&[record], Classes::default());
        let spec = &objects[0]["spec"];
        assert_eq!((&spec["volumeMode"], &spec["storageClassName"]), (&json!("Block"), &json!("")));
        assert!(spec["csi"].get("fsType").is_none() && spec.get("mountOptions").is_none());
    }

    #[test]
    fn the_newest_volume_of_a_claim_waits_for_it_and_names_are_unique_whatever_the_order() {
        let mut records = vec![
            volume("v-b", "pvc-1", "shop/data", 2),
            volume("v-a", "pvc-1", "shop/data", 1),
            volume("v-c", "Not a name", "", 3),
        ];
        let expected = manifests(&records, Classes::default());
        for _ in 0..3 {
            records.rotate_left(1);
            assert_eq!(manifests(&records, Classes::default()), expected);
        }
        let (objects, remarks) = expected;
        let names: Vec<_> = objects.iter().map(|object| object["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["pvc-1", "v-a", "v-c"]);
        assert_eq!(objects[0]["spec"]["csi"]["volumeHandle"], "v-b");
        assert!(objects[1]["spec"].get("claimRef").is_none() && objects[2]["spec"].get("claimRef").is_none());
        assert_eq!(remarks, ["PersistentVolume v-a: a newer volume is for the claim shop/data, so this one has none"]);
    }

    #[test]
    fn snapshots_with_names_are_kept_with_their_contents() {
        let snapshot = |handle: &str, of_user: &str| windlass::ObjectRecord {
            kind: "snapshot".to_owned(),
            handle: handle.to_owned(),
            name: format!("snapshot-{handle}"),
            mode: "block".to_owned(),
            volume_snapshot: of_user.to_owned(),
            volume_snapshot_content: format!("snapcontent-{handle}"),
            ..Default::default()
        };
        let records = [snapshot("s-2", "shop/nightly"), snapshot("s-1", "shop/nightly"), snapshot("s-3", "")];
        let (objects, remarks) = manifests(&records, Classes { storage: None, snapshot: Some("local") });
        assert_eq!(objects.len(), 2);
        assert_eq!(
            (&objects[0]["kind"], &objects[0]["metadata"]["name"]),
            (&json!("VolumeSnapshotContent"), &json!("snapcontent-s-1"))
        );
        assert_eq!(objects[0]["spec"]["deletionPolicy"], "Retain");
        assert_eq!(objects[0]["spec"]["volumeSnapshotRef"]["name"], "nightly");
        assert_eq!(objects[0]["spec"]["source"]["snapshotHandle"], "s-1");
        assert_eq!(objects[1]["spec"]["source"]["volumeSnapshotContentName"], "snapcontent-s-1");
        assert_eq!(objects[1]["spec"]["volumeSnapshotClassName"], "local");
        assert_eq!(remarks.len(), 1);
    }

    #[test]
    fn access_modes_are_those_of_kubernetes() {
        let modes = |names: &[&str]| access_modes(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert_eq!(modes(&["SINGLE_NODE_MULTI_WRITER"]), ["ReadWriteOnce"]);
        assert_eq!(modes(&["SINGLE_NODE_SINGLE_WRITER"]), ["ReadWriteOncePod"]);
        assert_eq!(modes(&["MULTI_NODE_READER_ONLY"]), ["ReadOnlyMany"]);
        assert_eq!(
            modes(&["SINGLE_NODE_WRITER", "SINGLE_NODE_SINGLE_WRITER", "SINGLE_NODE_READER_ONLY"]),
            ["ReadWriteOnce", "ReadOnlyMany"]
        );
    }
}
