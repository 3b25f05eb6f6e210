//! The objects of events, as the API server has them. Pure.
//!
//! Core `v1`, which `events.k8s.io/v1` shows as well: there the text of an event cannot be changed any more, and a series of a transfer's
//! progress would be as many objects as it has steps. The times and the count are those that belong to `v1` (`firstTimestamp`,
//! `lastTimestamp`, `count`), by which every client sorts and counts.
//!
//! `kubectl describe` asks for the events of an object by namespace, name, kind *and uid*: without its uid an event is seen by
//! `kubectl get events` alone. Events of what is in no namespace are in the namespace `default`.

use k8s_openapi::api::core::v1::{self, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff;
use kube::api::ApiResource;
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

use super::index::Turn;
use crate::agent::events::{EventObject, Importance};
use crate::types::Timestamp;

/// Who reports, the name of the driver.
pub(super) const REPORTER: &str = "csi.windlass.dev";
/// What the server takes of a text, in bytes.
const TEXT_BYTES: usize = 1024;
/// What it takes of the instance that reports.
const INSTANCE_BYTES: usize = 128;
/// What a name may have.
const NAME_BYTES: usize = 253;

/// The namespace of an event about this object.
pub(super) fn namespace(object: &EventObject) -> &str {
    object.namespace().map_or("default", |namespace| namespace.as_str())
}

/// What the server calls objects of this kind.
pub(super) fn resource(object: &EventObject) -> ApiResource {
    let (group, plural) = match object {
        EventObject::Claim(_) => ("", "persistentvolumeclaims"),
        EventObject::Snapshot(_) => ("snapshot.storage.k8s.io", "volumesnapshots"),
        EventObject::SnapshotContent(_) => ("snapshot.storage.k8s.io", "volumesnapshotcontents"),
    };
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", object.kind()), plural)
}

/// A name for an event's object: that of what it concerns, and what tells it from others.
pub(super) fn name(object: &EventObject, unique: uuid::Uuid) -> String {
    let name = object.name().as_str();
    // Sixteen digits and a dot. A name has ASCII letters alone; what is cut may end with a dot, which no part of a name may.
    let end = name.len().min(NAME_BYTES - 17);
    let kept = name[..end].trim_end_matches(['.', '-']);
    format!("{kept}.{:016x}", unique.as_u64_pair().0)
}

/// A new event.
pub(super) fn created(turn: &Turn, uid: Option<String>, node: &str) -> v1::Event {
    let waiting = &turn.waiting;
    let event = &waiting.event;
    let namespace = namespace(&event.object).to_owned();
    let importance = match event.reason.importance() {
        Importance::Normal => "Normal",
        Importance::Warning => "Warning",
    };
    v1::Event {
        metadata: ObjectMeta { name: Some(waiting.name.clone()), namespace: Some(namespace), ..ObjectMeta::default() },
        involved_object: ObjectReference {
            api_version: Some(resource(&event.object).api_version),
            kind: Some(event.object.kind().to_owned()),
            namespace: event.object.namespace().map(ToString::to_string),
            name: Some(event.object.name().to_string()),
            uid,
            ..ObjectReference::default()
        },
        type_: Some(importance.to_owned()),
        reason: Some(event.reason.name().to_owned()),
        action: Some(event.reason.action().to_owned()),
        message: Some(cut(&event.text, TEXT_BYTES).to_owned()),
        count: Some(clamped(waiting.count)),
        first_timestamp: time(waiting.first),
        last_timestamp: time(waiting.last),
        source: Some(EventSource { component: Some(REPORTER.to_owned()), host: Some(node.to_owned()) }),
        reporting_component: Some(REPORTER.to_owned()),
        reporting_instance: Some(cut(node, INSTANCE_BYTES).to_owned()),
        ..v1::Event::default()
    }
}

/// What changes in an event that is repeated.
pub(super) fn repeated(turn: &Turn) -> Value {
    json!({
        "count": clamped(turn.count()),
        "lastTimestamp": time(turn.waiting.last),
        "message": cut(&turn.waiting.event.text, TEXT_BYTES),
    })
}

fn time(at: Timestamp) -> Option<Time> {
    let seconds = i64::try_from(at.seconds).ok()?;
    jiff::Timestamp::from_second(seconds).ok().map(Time)
}

fn clamped(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::events::{Event, EventReason, Repetition};
    use crate::k8s::events::index::Index;
    use crate::types::{KubernetesName, NamespacedName};

    fn turn(object: EventObject, text: &str) -> Turn {
        let mut index = Index::default();
        let event = Event { object, reason: EventReason::ExportFailed, text: text.to_owned(), repetition: Repetition::OfText };
        let first = Timestamp { seconds: 1_764_500_000, nanoseconds: 5 };
        index.push(event.clone(), "data.0123456789abcdef".to_owned(), first);
        index.push(event, "another".to_owned(), Timestamp { seconds: 1_764_500_061, nanoseconds: 0 });
        index.next(first).unwrap()
    }

    fn kube(text: &str) -> KubernetesName {
        text.to_owned().try_into().unwrap()
    }

    fn claim() -> EventObject {
        EventObject::Claim(NamespacedName { namespace: kube("shop"), name: kube("data") })
    }

    #[test]
    fn an_event_says_who_what_why_and_how_often() {
        let created = serde_json::to_value(created(&turn(claim(), "denied"), Some("u-1".to_owned()), "node-1")).unwrap();
        assert_eq!(
            created,
            json!({
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": "data.0123456789abcdef", "namespace": "shop"},
                "involvedObject": {
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "shop", "name": "data", "uid": "u-1"
                },
                "type": "Warning",
                "reason": "ExportFailed",
                "action": "Export",
                "message": "denied",
                "count": 2,
                "firstTimestamp": "2025-11-30T10:53:20Z",
                "lastTimestamp": "2025-11-30T10:54:21Z",
                "source": {"component": "csi.windlass.dev", "host": "node-1"},
                "reportingComponent": "csi.windlass.dev",
                "reportingInstance": "node-1",
            })
        );
    }

    #[test]
    fn what_is_in_no_namespace_is_told_in_the_default_one() {
        let turn = turn(EventObject::SnapshotContent(kube("snapcontent-1")), "denied");
        let created = created(&turn, None, &"n".repeat(200));
        assert_eq!(created.metadata.namespace.as_deref(), Some("default"));
        let about = &created.involved_object;
        assert_eq!((about.api_version.as_deref(), about.namespace.as_deref()), (Some("snapshot.storage.k8s.io/v1"), None));
        assert_eq!((about.uid.as_deref(), created.reporting_instance.unwrap().len()), (None, 128));
    }

    #[test]
    fn a_repetition_changes_count_time_and_text_alone_and_no_text_is_too_long() {
        let repeated = repeated(&turn(claim(), &"\u{e4}".repeat(600)));
        assert_eq!(repeated["count"], 2);
        assert_eq!(repeated["lastTimestamp"], "2025-11-30T10:54:21Z");
        assert_eq!(repeated["message"].as_str().unwrap().len(), 1024);
        assert_eq!(repeated.as_object().unwrap().len(), 3);
    }

    #[test]
    fn names_of_events_are_names_of_kubernetes() {
        let unique = uuid::Uuid::from_u128(7 << 64);
        assert_eq!(name(&claim(), unique), "data.0000000000000007");
        for long in ["a".repeat(253), format!("{}.{}", "a".repeat(235), "b".repeat(17))] {
            let object = EventObject::SnapshotContent(kube(&long));
            let name = name(&object, unique);
            assert!(KubernetesName::try_from(name.clone()).is_ok() && !name.contains(".."), "{name}");
        }
    }
}
