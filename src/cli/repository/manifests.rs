//! `windlass repository manifests`: objects of Kubernetes for what a repository holds whose cluster is lost.
//!
//! Each export is tagged with the handle of its snapshot and with what Kubernetes called it. So a VolumeSnapshotContent and its VolumeSnapshot
//! can be made anew in any cluster that has the driver and the repository's Secret: a PersistentVolumeClaim with that VolumeSnapshot as its
//! `dataSource` is restored from the repository. All of it is to be kept (`Retain`): whoever tries a recovery in a test cluster must not
//! be able to delete production's backups by accident.
//!
//! * A VolumeSnapshot keeps its name. One that never had a name is called as its claim, with the time of the cut.
//! * Of two exports of one snapshot the newer counts: it is the one that a restore takes.
//! * Of two snapshots of one name (it was deleted and made anew) the newer keeps it; the time of the cut is added to the other's.
//! * What was exported under no name of Kubernetes has no place in a cluster: it is left out, and standard error says so.
//! * The mode of the volume is in no tag, so the contents do not tell it: a claim of either mode may be made.
//!
//! Reads only, and only the snapshots: no lock is taken, and the credentials of a reader do. A snapshot that does not read is named and
//! makes the command fail, after all others were printed. The same snapshots give the same text.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::choice::ChoiceArgs;
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::{Format, counted, print_json, print_text};
use crate::cli::repository_access::{RepositoryArgs, repository_error};
use crate::cli::snapshot_objects::ExistingSnapshot;
use crate::cli::yaml;
use crate::repository::StoredSnapshot;
use crate::repository::snapshot::SnapshotList;
use crate::types::{KubernetesName, NamespacedName, SnapshotHandle, Timestamp};

/// Arguments of `repository manifests`.
#[derive(Debug, Args)]
pub struct ManifestsArgs {
    #[command(flatten)]
    repository: RepositoryArgs,
    #[command(flatten)]
    choice: ChoiceArgs,
    /// Only the newest snapshot of each claim
    #[arg(long)]
    newest: bool,
    /// VolumeSnapshotClass of the snapshots: one whose secrets open the repository
    #[arg(long, value_name = "NAME", value_parser = name)]
    snapshot_class: Option<String>,
    /// Secret that opens the repository, should one of the snapshots be deleted some day
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = namespaced)]
    secret: Option<NamespacedName>,
}

fn name(text: &str) -> Result<String, String> {
    KubernetesName::try_from(text.to_owned()).map(String::from).map_err(|error| error.to_string())
}

fn namespaced(text: &str) -> Result<NamespacedName, String> {
    parse_namespaced(text).ok_or_else(|| "write it as NAMESPACE/NAME, in names of Kubernetes".to_owned())
}

fn parse_namespaced(text: &str) -> Option<NamespacedName> {
    let (namespace, name) = text.split_once('/')?;
    let parse = |text: &str| KubernetesName::try_from(text.to_owned()).ok();
    Some(NamespacedName { namespace: parse(namespace)?, name: parse(name)? })
}

/// Prints them.
///
/// # Errors
/// [`CliError`] with the exit code that the repository's failure means.
pub async fn run(args: &ManifestsArgs, format: Format) -> Result<(), CliError> {
    let access = args.repository.access()?;
    let found = access.open().await?.list_snapshots().await;
    let what = format!("cannot list the snapshots of {}", access.location());
    let SnapshotList { snapshots, unreadable } = found.map_err(|error| repository_error(what, error))?;
    let choice = args.choice.of("latest");
    let chosen = snapshots.iter().filter(|stored| choice.matches(&stored.snapshot));
    let (exports, nameless) = exports(chosen);
    let exports = if args.newest { newest_of_each_claim(exports) } else { exports };
    if nameless > 0 {
        let left_out = counted(nameless, "snapshot");
        tracing::warn!("{left_out} left out: they carry no handle of a snapshot, or no name of Kubernetes");
    }
    let objects = objects(&exports, args.snapshot_class.as_deref(), args.secret.as_ref());
    match format {
        Format::Text => print_text(&yaml::documents(&objects))?,
        Format::Json => print_json(&json!({ "apiVersion": "v1", "kind": "List", "items": objects }))?,
    }
    match unreadable.as_slice() {
        [] => Ok(()),
        odd => {
            let reasons: Vec<String> = odd.iter().map(|(_, error)| crate::types::error::chain(error)).collect();
            let what = format!("the list lacks {}", counted(odd.len() as u64, "snapshot"));
            Err(CliError::because(Exit::Failed, what, reasons.join("; "))
                .advise("the others may be restored; `windlass repository check` says what else is damaged"))
        }
    }
}

/// An export, as far as Kubernetes knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Export {
    handle: SnapshotHandle,
    taken: Option<Timestamp>,
    claim: Option<NamespacedName>,
    snapshot: Option<NamespacedName>,
    content: Option<KubernetesName>,
}

impl Export {
    /// What the tags of a snapshot say; `None` when there is no handle, or no name at all.
    fn of(stored: &StoredSnapshot) -> Option<Self> {
        let snapshot = &stored.snapshot;
        let value = |key: &str| snapshot.tags.iter().find_map(|tag| tag.strip_prefix(key)?.strip_prefix('='));
        let names = |key| value(key).and_then(parse_namespaced);
        let export = Self {
            handle: SnapshotHandle::from_str(value("handle")?).ok()?,
            taken: snapshot.taken(),
            claim: names("pvc"),
            snapshot: names("volumesnapshot"),
            content: value("volumesnapshotcontent").and_then(|name| KubernetesName::try_from(name.to_owned()).ok()),
        };
        (export.claim.is_some() || export.snapshot.is_some()).then_some(export)
    }

    /// The namespace and the name that its VolumeSnapshot is to have.
    fn name(&self) -> Option<(&str, String)> {
        match (&self.snapshot, &self.claim) {
            (Some(snapshot), _) => Some((snapshot.namespace.as_str(), snapshot.name.to_string())),
            (None, Some(claim)) => Some((claim.namespace.as_str(), with_suffix(claim.name.as_str(), &self.moment()))),
            (None, None) => None,
        }
    }

    /// When it was cut, as a part of a name: `20261123053700`.
    fn moment(&self) -> String {
        let seconds = self.taken.and_then(|taken| i64::try_from(taken.seconds).ok());
        let moment = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
        moment.map_or_else(|| self.handle.to_string(), |moment| moment.strftime("%Y%m%d%H%M%S").to_string())
    }
}

/// `name-suffix`, within the 253 characters that a name may have.
fn with_suffix(name: &str, suffix: &str) -> String {
    let room = 252_usize.saturating_sub(suffix.len());
    // Names of Kubernetes are ASCII. No part of one ends with a hyphen or begins with one.
    format!("{}-{suffix}", name.get(..room).unwrap_or(name).trim_end_matches(['.', '-']))
}

/// One export of each snapshot, the newest, oldest first; and how many snapshots have no place in a cluster.
fn exports<'a>(snapshots: impl Iterator<Item = &'a StoredSnapshot>) -> (Vec<Export>, u64) {
    let (mut of_handles, mut nameless) = (BTreeMap::new(), 0);
    // Oldest first, as they are listed.
    for (number, stored) in snapshots.enumerate() {
        match Export::of(stored) {
            Some(export) => drop(of_handles.insert(export.handle.to_string(), (number, export))),
            None => nameless += 1,
        }
    }
    let mut exports: Vec<_> = of_handles.into_values().collect();
    exports.sort_by_key(|(number, _)| *number);
    (exports.into_iter().map(|(_, export)| export).collect(), nameless)
}

/// The last export of each claim; those of none are kept.
fn newest_of_each_claim(exports: Vec<Export>) -> Vec<Export> {
    let mut seen = BTreeSet::new();
    let is_newest = |export: &Export| export.claim.as_ref().is_none_or(|claim| seen.insert(claim.to_string()));
    let mut newest: Vec<Export> = exports.into_iter().rev().filter(is_newest).collect();
    newest.reverse();
    newest
}

fn objects(exports: &[Export], class: Option<&str>, secret: Option<&NamespacedName>) -> Vec<Value> {
    let (mut snapshots, mut contents) = (BTreeSet::new(), BTreeSet::new());
    let mut objects = Vec::new();
    // The newest has the first choice of a name.
    for export in exports.iter().rev() {
        let Some((namespace, mut name)) = export.name() else { continue };
        let handle = export.handle.to_string();
        for suffix in [export.moment(), handle.clone()] {
            if !snapshots.contains(&(namespace, name.clone())) {
                break;
            }
            name = with_suffix(&name, &suffix);
        }
        snapshots.insert((namespace, name.clone()));
        // A handle is a name too, and nobody else's.
        let content = export.content.as_ref().map(ToString::to_string).filter(|content| !contents.contains(content));
        let content = content.unwrap_or_else(|| handle.clone());
        contents.insert(content.clone());
        let existing =
            ExistingSnapshot { handle: &handle, content: &content, namespace, name: &name, volume_mode: None, class, secret };
        objects.push(existing.objects());
    }
    objects.into_iter().rev().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::Id;
    use crate::repository::snapshot::Snapshot;
    use crate::types::{PoolId, SnapshotId};

    fn handle(number: u8) -> SnapshotHandle {
        SnapshotHandle { pool: PoolId::from_bytes([7; 16]), snapshot: SnapshotId::from_bytes([number; 16]) }
    }

    fn stored(day: u8, tags: &[&str]) -> StoredSnapshot {
        let snapshot = Snapshot {
            time: format!("2026-11-{day:02}T05:37:00Z"),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..serde_json::from_value(json!({ "tree": Id::of(b"tree").to_string() })).unwrap()
        };
        StoredSnapshot { id: Id::of(&[day]), snapshot }
    }

    fn tags(number: u8, rest: &[&str]) -> Vec<String> {
        std::iter::once(format!("handle={}", handle(number))).chain(rest.iter().map(|tag| (*tag).to_owned())).collect()
    }

    fn of(day: u8, number: u8, rest: &[&str]) -> StoredSnapshot {
        let tags = tags(number, rest);
        stored(day, &tags.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[test]
    fn an_export_becomes_a_content_and_the_snapshot_that_is_bound_to_it() {
        let nightly = of(3, 1, &["pvc=shop/data", "volumesnapshot=shop/nightly", "volumesnapshotcontent=snapcontent-1"]);
        let (exports, nameless) = exports([nightly].iter());
        assert_eq!(nameless, 0);
        let secret = parse_namespaced("backup/repository").unwrap();
        let text = yaml::documents(&objects(&exports, Some("off-cluster"), Some(&secret)));
        let expected = format!(
            r#"---
apiVersion: "snapshot.storage.k8s.io/v1"
kind: "VolumeSnapshotContent"
metadata:
  annotations:
    snapshot.storage.kubernetes.io/deletion-secret-name: "repository"
    snapshot.storage.kubernetes.io/deletion-secret-namespace: "backup"
  name: "snapcontent-1"
spec:
  deletionPolicy: "Retain"
  driver: "csi.windlass.dev"
  source:
    snapshotHandle: "{}"
  volumeSnapshotClassName: "off-cluster"
  volumeSnapshotRef:
    apiVersion: "snapshot.storage.k8s.io/v1"
    kind: "VolumeSnapshot"
    name: "nightly"
    namespace: "shop"
---
apiVersion: "snapshot.storage.k8s.io/v1"
kind: "VolumeSnapshot"
metadata:
  name: "nightly"
  namespace: "shop"
spec:
  source:
    volumeSnapshotContentName: "snapcontent-1"
  volumeSnapshotClassName: "off-cluster"
"#,
            handle(1)
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn names_are_unique_and_the_newest_keeps_its_own() {
        let snapshots = [
            of(1, 1, &["volumesnapshot=shop/nightly", "volumesnapshotcontent=c"]),
            of(2, 2, &["volumesnapshot=shop/nightly", "volumesnapshotcontent=c"]),
            of(3, 3, &["pvc=shop/data"]),
            // Exported once more: one snapshot all the same.
            of(4, 3, &["pvc=shop/data"]),
            stored(5, &["pvc=shop/data"]),
            stored(6, &["handle=nonsense", "pvc=shop/data"]),
            of(7, 7, &["pvc=Not/A-Name"]),
        ];
        let (exports, nameless) = exports(snapshots.iter());
        assert_eq!(nameless, 3);
        let objects = objects(&exports, None, None);
        let names: Vec<_> = objects.iter().map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect();
        let (first, third) = (handle(1).to_string(), handle(3).to_string());
        assert_eq!(names, [&first, "nightly-20261101053700", "c", "nightly", &third, "data-20261104053700"]);
        assert!(objects.iter().all(|object| object["metadata"].get("annotations").is_none()));
    }

    #[test]
    fn the_newest_of_each_claim_is_its_last_export() {
        let snapshots = [of(1, 1, &["pvc=shop/a"]), of(2, 2, &["pvc=shop/b"]), of(3, 3, &["pvc=shop/a"])];
        let newest = newest_of_each_claim(exports(snapshots.iter()).0);
        assert_eq!(newest.iter().map(|export| export.handle).collect::<Vec<_>>(), [handle(2), handle(3)]);
    }

    #[test]
    fn a_name_with_a_suffix_stays_a_name() {
        let long = "a".repeat(253);
        let named = with_suffix(&long, "20261101053700");
        assert_eq!(named.len(), 253);
        assert!(KubernetesName::try_from(named).is_ok());
        // Cut where a name may not end.
        let dotted = with_suffix(&format!("{}.{}", "a".repeat(237), "b".repeat(15)), "20261101053700");
        assert!(dotted.ends_with("a-20261101053700"), "{dotted}");
    }

    #[test]
    fn a_secret_is_named_with_its_namespace() {
        assert_eq!(namespaced("a/b").unwrap().to_string(), "a/b");
        for wrong in ["", "b", "a/", "/b", "a/b/c", "A/b"] {
            assert!(namespaced(wrong).is_err(), "{wrong}");
        }
    }
}
