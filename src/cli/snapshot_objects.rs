//! The objects by which Kubernetes knows a snapshot that exists already: a VolumeSnapshotContent that names its handle, and the
//! VolumeSnapshot that is bound to it. Pure.
//!
//! They are to be kept (`Retain`): a cluster that is made for a test must not be able to delete what it was shown.

use serde_json::{Value, json};

use crate::csi::DRIVER_NAME;
use crate::types::NamespacedName;

const VERSION: &str = "snapshot.storage.k8s.io/v1";
/// Where the snapshotter finds the Secret that a deletion needs. Of contents that it made itself it writes these annotations down; of
/// others nobody would.
const DELETION_SECRET: &str = "snapshot.storage.kubernetes.io/deletion-secret";

/// A snapshot that objects are made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExistingSnapshot<'a> {
    /// Its CSI handle.
    pub(super) handle: &'a str,
    /// Name of the VolumeSnapshotContent.
    pub(super) content: &'a str,
    /// Namespace of the VolumeSnapshot.
    pub(super) namespace: &'a str,
    /// Its name there.
    pub(super) name: &'a str,
    /// `Block` or `Filesystem`, if it is known. Kubernetes lets no other mode be made of it then, unless who may do so allows it.
    pub(super) volume_mode: Option<&'a str>,
    /// The VolumeSnapshotClass, whose secrets the sidecars send.
    pub(super) class: Option<&'a str>,
    /// The Secret that its deletion needs.
    pub(super) secret: Option<&'a NamespacedName>,
}

impl ExistingSnapshot<'_> {
    /// The content and the snapshot.
    pub(super) fn objects(&self) -> [Value; 2] {
        let Self { handle, content, namespace, name, volume_mode, class, secret } = *self;
        let mut metadata = json!({ "name": content });
        if let Some(secret) = secret {
            metadata["annotations"] = json!({
                (format!("{DELETION_SECRET}-name")): secret.name.as_str(),
                (format!("{DELETION_SECRET}-namespace")): secret.namespace.as_str(),
            });
        }
        let mut spec = json!({
            "deletionPolicy": "Retain",
            "driver": DRIVER_NAME,
            "source": { "snapshotHandle": handle },
            "volumeSnapshotRef": { "apiVersion": VERSION, "kind": "VolumeSnapshot", "namespace": namespace, "name": name },
        });
        let mut snapshot = json!({ "source": { "volumeSnapshotContentName": content } });
        if let Some(mode) = volume_mode {
            spec["sourceVolumeMode"] = json!(mode);
        }
        if let Some(class) = class {
            spec["volumeSnapshotClassName"] = json!(class);
            snapshot["volumeSnapshotClassName"] = json!(class);
        }
        [
            json!({ "apiVersion": VERSION, "kind": "VolumeSnapshotContent", "metadata": metadata, "spec": spec }),
            json!({
                "apiVersion": VERSION,
                "kind": "VolumeSnapshot",
                "metadata": { "namespace": namespace, "name": name },
                "spec": snapshot,
            }),
        ]
    }
}
