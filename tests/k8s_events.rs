//! Events and Secrets, to and from an API server in this process that may hang, refuse and forget.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly, wherever it does")]

#[path = "support/api_server.rs"]
mod api_server;

use std::time::Duration;

use api_server::{ApiServer, Manner};
use serde_json::json;
use windlass::agent::events::{Event, EventObject, EventReason, EventSink, Repetition};
use windlass::agent::secret_source::{SecretSource, SecretSourceError};
use windlass::k8s::{ClusterSecrets, EventPublisher, Pace};
use windlass::types::{KubernetesName, NamespacedName};

const CLAIM: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/data";
const CONTENT: &str = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents/snapcontent-1";

fn name(text: &str) -> KubernetesName {
    text.to_owned().try_into().unwrap()
}

fn in_shop(text: &str) -> NamespacedName {
    NamespacedName { namespace: name("shop"), name: name(text) }
}

fn event(text: &str) -> Event {
    Event {
        object: EventObject::Claim(in_shop("data")),
        reason: EventReason::ExportFailed,
        text: text.to_owned(),
        repetition: Repetition::OfText,
    }
}

fn progress(text: &str) -> Event {
    Event { reason: EventReason::ExportProgress, repetition: Repetition::OfSeries("t1".to_owned()), ..event(text) }
}

/// As fast as a test is.
const FAST: Pace = Pace {
    call: Duration::from_millis(100),
    first_pause: Duration::from_millis(5),
    longest_pause: Duration::from_millis(20),
    last_words: Duration::from_millis(300),
};

fn publisher(server: &ApiServer) -> EventPublisher {
    EventPublisher::start(server.cluster(), "node-1", FAST)
}

#[tokio::test]
async fn an_event_bears_the_uid_of_its_object_without_which_nobody_describes_it() {
    let server = ApiServer::new();
    server.has_uid(CLAIM, "uid-of-claim");
    server.has_uid(CONTENT, "uid-of-content");
    let publisher = publisher(&server);
    publisher.publish(event("denied"));
    publisher.publish(Event { object: EventObject::SnapshotContent(name("snapcontent-1")), ..event("denied") });
    publisher.publish(Event { object: EventObject::Snapshot(in_shop("gone")), ..event("denied") });
    publisher.close().await;
    let asked = server.asked();
    let asked: Vec<_> = asked.iter().map(|asked| (asked.method.as_str(), asked.path.as_str())).collect();
    assert_eq!(
        asked,
        [
            ("GET", CLAIM),
            ("POST", "/api/v1/namespaces/shop/events"),
            ("GET", CONTENT),
            ("POST", "/api/v1/namespaces/default/events"),
            ("GET", "/apis/snapshot.storage.k8s.io/v1/namespaces/shop/volumesnapshots/gone"),
            ("POST", "/api/v1/namespaces/shop/events"),
        ]
    );
    let bodies: Vec<_> = server.asked().into_iter().filter(|asked| asked.method == "POST").map(|asked| asked.body).collect();
    let about = &bodies[0]["involvedObject"];
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "shop", "name": "data", "uid": "uid-of-claim"
    });
    assert_eq!(*about, claim);
    assert_eq!(bodies[1]["involvedObject"]["uid"], "uid-of-content");
    assert!(bodies[2]["involvedObject"].get("uid").is_none(), "it is told all the same");
    assert_eq!(publisher.dropped(), 0);
}

#[tokio::test]
async fn what_repeats_itself_is_one_object_that_counts_and_a_lost_one_is_made_anew() {
    let server = ApiServer::new();
    server.has_uid(CLAIM, "u");
    let publisher = publisher(&server);
    for (text, count) in [("25 %", 1), ("50 %", 2), ("75 %", 3)] {
        publisher.publish(progress(text));
        server
            .until("the event is patched", |server| {
                server.events().iter().any(|event| event["message"] == text && event["count"] == count)
            })
            .await;
        assert_eq!(server.events().len(), 1);
    }
    let patches: Vec<_> = server.asked().into_iter().filter(|asked| asked.method == "PATCH").collect();
    assert_eq!(patches.len(), 2);
    server.loses("/api/v1/namespaces/shop/events/");
    publisher.publish(progress("99 %"));
    publisher.close().await;
    let events = server.events();
    assert_eq!((events.len(), &events[0]["message"], &events[0]["count"]), (1, &json!("99 %"), &json!(1)));
    assert_eq!(publisher.dropped(), 0);
}

#[tokio::test]
async fn a_server_that_hangs_or_is_away_holds_nobody_up_and_gets_what_waited() {
    for manner in [Manner::Hangs, Manner::With(503), Manner::With(401), Manner::WritesWith(500)] {
        let server = ApiServer::new();
        server.has_uid(CLAIM, "u");
        server.becomes(manner);
        let publisher = publisher(&server);
        // The index holds 256; publishing never waits, which this test could not get past.
        for number in 0..300 {
            publisher.publish(event(&format!("fault {number}")));
        }
        server.until("it was asked again", |server| server.asked().len() >= 3).await;
        server.becomes(Manner::Well);
        server
            .until("the last one is published", |server| server.events().iter().any(|event| event["message"] == "fault 299"))
            .await;
        publisher.close().await;
        let dropped = usize::try_from(publisher.dropped()).unwrap();
        assert!((44..=46).contains(&dropped), "{manner:?}: {dropped}");
        assert_eq!(server.events().len(), 300 - dropped, "{manner:?}: each once");
    }
}

#[tokio::test]
async fn a_refused_event_is_dropped_and_the_next_one_is_not() {
    let server = ApiServer::new();
    for code in [403, 404, 422] {
        server.becomes(Manner::WritesWith(code));
        let publisher = publisher(&server);
        let refused = server.asked().len();
        publisher.publish(event("denied"));
        server.until("it was refused", |server| server.asked().len() >= refused + 2).await;
        let before = server.events().len();
        // Nothing of the one that is refused is asked again.
        server.becomes(Manner::Well);
        publisher.publish(event("locked"));
        publisher.close().await;
        assert!(publisher.dropped() <= 1 && server.events().len() > before, "{code}");
    }
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_server_that_hangs() {
    let server = ApiServer::new();
    server.becomes(Manner::Hangs);
    let publisher = publisher(&server);
    publisher.publish(event("denied"));
    publisher.publish(event("locked"));
    let closed = tokio::time::timeout(Duration::from_secs(10), publisher.close()).await;
    assert!(closed.is_ok() && server.events().is_empty());
    publisher.close().await;
}

#[tokio::test]
async fn a_secret_is_read_by_its_name_and_what_is_wrong_is_told_without_it() {
    let server = ApiServer::new();
    // "canary" in base64.
    let path = "/api/v1/namespaces/shop/secrets/repository";
    server.has(
        path,
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "repository"}, "data": {"RESTIC_PASSWORD": "Y2FuYXJ5"}
        }),
    );
    let secrets = ClusterSecrets::new(server.cluster());
    let read = secrets.read(&in_shop("repository")).await.unwrap();
    assert_eq!(read.get("RESTIC_PASSWORD"), Some(&b"canary"[..]));
    let missing = in_shop("missing");
    assert_eq!(secrets.read(&missing).await.unwrap_err(), SecretSourceError::NotFound(missing));
    server.has(path, json!({"apiVersion": "v1", "kind": "Secret", "data": {"RESTIC_PASSWORD": "canary !"}}));
    let unreadable = secrets.read(&in_shop("repository")).await.unwrap_err();
    assert!(!unreadable.to_string().contains("canary"), "{unreadable}");
    server.becomes(Manner::With(403));
    let secret = in_shop("repository");
    assert_eq!(secrets.read(&secret).await.unwrap_err(), SecretSourceError::Forbidden(secret.clone()));
    server.becomes(Manner::With(500));
    assert!(matches!(secrets.read(&secret).await.unwrap_err(), SecretSourceError::Unreachable { .. }));
}

/// Rows of the table of events in the documentation: reason and type.
fn documented() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/kubernetes.md")).unwrap();
    let section = text.split("\n## Events\n").nth(1).unwrap().split("\n## ").next().unwrap().to_owned();
    let rows =
        section.lines().filter_map(|line| line.strip_prefix("| `")).map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    rows.map(|cells| (cells[0].trim_end_matches('`').to_owned(), cells[1].to_owned())).collect()
}

#[test]
fn the_documentation_has_each_reason_with_its_type_and_no_other() {
    let known: Vec<(String, String)> =
        EventReason::ALL.iter().map(|reason| (reason.name().to_owned(), format!("{:?}", reason.importance()))).collect();
    assert_eq!(documented(), known);
}
