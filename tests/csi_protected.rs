//! Protected StorageClasses: an agent that cuts, exports, rotates and restores by itself, over a node with a pool in memory and a store of
//! S3's protocol, by a clock that the test sets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly, wherever it does")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

#[path = "support/csi_harness.rs"]
mod csi_harness;
#[path = "support/exporting.rs"]
mod exporting;
#[path = "support/protected.rs"]
mod protected;
#[path = "support/s3/mod.rs"]
mod s3;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use csi_harness::{Node, SIZE, bytes, from_snapshot, pool_over};
use csi_proto::csi::v1::CreateVolumeRequest;
use exporting::looks;
use protected::{HOUR, Protected, claimed, moment, now_and};
use s3::Trouble;
use tonic::Code;
use windlass::agent::events::{Event, EventReason, EventSink};
use windlass::agent::transfers::MAX_RUNNING;
use windlass::mount::memory::MemoryMounter;
use windlass::pool::PoolError;
use windlass::pool::memory::{MemoryPool, Moment, Verb};

const SECRET: (&str, &str) = ("repositorySecret", "${pvc.namespace}/backup");
const RESTORES: (&str, &str) = ("restore", "latestOrEmpty");
const HOURLY: [(&str, &str); 4] = [("protect", "hourly"), ("keepHourly", "24"), SECRET, RESTORES];

#[tokio::test(flavor = "multi_thread")]
async fn a_week_of_a_schedule_is_incremental_rotated_exactly_and_restorable() {
    let protected = Protected::with_repository().await;
    let bench = &protected.bench;
    let class = [("protect", "2h"), ("keepHourly", "5"), ("keepDaily", "4"), ("localCopy", "drop"), SECRET];
    let volume = protected.create(claimed("pvc-1", "shop/data", &class), "60S").await.unwrap().volume_id;
    bench.write(&volume, 20 << 20, b"a database");
    let content = |steps: u8| {
        let mut content = vec![0; usize::try_from(SIZE).unwrap()];
        content[20 << 20..][..10].copy_from_slice(b"a database");
        (1..=steps).for_each(|step| content[usize::from(step) * 4096..][..4096].fill(step));
        content
    };
    let (mut steps, mut full) = (BTreeMap::new(), 0);
    for step in 1..=84 {
        bench.write(&volume, u64::from(step) * 4096, &[step; 4096]);
        let now = now_and(u64::from(step) * 2 * HOUR);
        protected.settle(now).await;
        let last = bench.last_export().await;
        full += usize::from(last.mode != "incremental");
        let newest = protected.status(now).await.last_success.unwrap();
        let is_new = steps.insert(newest.seconds, step).is_none();
        assert!(is_new, "one export in each interval: {step}");
    }
    assert_eq!(full, 1, "all but the first are incremental");

    // What the policy says, counted by hand: the newest of five hours in which there are any, and of four days.
    let times: Vec<u64> = steps.keys().copied().collect();
    let mut kept: Vec<u64> = times.iter().rev().take(5).copied().collect();
    let days: BTreeMap<u64, u64> = times.iter().map(|time| (time / (24 * HOUR), *time)).collect();
    kept.extend(days.values().rev().take(4));
    kept.sort_unstable();
    kept.dedup();
    let mut held: Vec<u64> = protected.exports("exports").await.into_iter().map(|(time, _)| time).collect();
    held.sort_unstable();
    assert_eq!(held, kept);

    // All of them restore: none has a local copy.
    let cuts = protected.pool().snapshots().unwrap();
    assert_eq!(cuts.len(), kept.len(), "each has a record, and no other");
    for cut in cuts {
        let time = moment(&cut.name).unwrap().seconds;
        let handle = windlass::types::SnapshotHandle { pool: protected.pool().id(), snapshot: cut.id }.to_string();
        let request = CreateVolumeRequest {
            volume_content_source: from_snapshot(&handle),
            secrets: bench.secret("exports"),
            ..claimed(&format!("restored-{time}"), "shop/restored", &[])
        };
        let restored = protected.create(request, "60S").await.unwrap();
        assert!(bench.content(&restored.volume_id) == content(steps[&time]), "the export of {time} holds something else");
        protected.delete(&restored.volume_id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_made_anew_for_its_claim_begins_with_the_newest_export() {
    let protected = Protected::with_repository().await;
    let bench = &protected.bench;
    let first = protected.create(claimed("pvc-1", "shop/data", &HOURLY), "60S").await.unwrap();
    assert!(bench.content(&first.volume_id).iter().all(|byte| *byte == 0), "nothing was exported yet");
    for step in 1..=2 {
        bench.write(&first.volume_id, 4096, &[step; 4096]);
        protected.settle(now_and(u64::from(step) * HOUR)).await;
    }
    let exported = bench.content(&first.volume_id);
    bench.write(&first.volume_id, 4096, &[9; 4096]);
    protected.delete(&first.volume_id).await;
    bench.agent.sweep(now_and(2 * HOUR)).await;
    assert_eq!(protected.pool().snapshots().unwrap(), [], "its cuts go with the volume");
    let held = protected.exports("exports").await;
    assert_eq!(held.len(), 2, "its exports stay");
    assert!(
        held.iter().all(|(_, tags)| ["pvc=shop/data", "made-by=protection"].iter().all(|tag| tags.iter().any(|own| own == tag)))
    );

    let request = claimed("pvc-2", "shop/data", &HOURLY);
    let second = protected.create(request.clone(), "60S").await.unwrap();
    assert!(bench.content(&second.volume_id) == exported, "its content is not that of the newest export");
    let status = protected.status(now_and(2 * HOUR)).await;
    assert!(status.restored_from.is_some_and(|handle| handle.starts_with("s-")), "the record says what it was made of");
    // It exists now, and nothing is restored over it.
    bench.write(&second.volume_id, 4096, &[7; 4096]);
    let written = bench.content(&second.volume_id);
    assert_eq!(protected.create(request, "60S").await.unwrap(), second, "a repeated call");
    assert!(bench.content(&second.volume_id) == written);
    // It goes on where the first one ended.
    protected.settle(now_and(3 * HOUR)).await;
    assert_eq!(protected.exports("exports").await.len(), 3);

    let larger = CreateVolumeRequest { capacity_range: bytes(2 * SIZE, 0), ..claimed("pvc-3", "shop/data", &HOURLY) };
    let larger = protected.create(larger, "60S").await.unwrap();
    assert_eq!(larger.capacity_bytes, 2 * SIZE);
    assert!(bench.content(&larger.volume_id).starts_with(&written));
    let smaller = CreateVolumeRequest { capacity_range: bytes(SIZE / 2, 0), ..claimed("pvc-4", "shop/data", &HOURLY) };
    let refused = protected.create(smaller, "60S").await.unwrap_err();
    assert!(refused.code() == Code::OutOfRange && refused.message().contains("capacity_range"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_cannot_be_seen_is_waited_for_and_is_not_taken_for_empty() {
    let protected = Protected::with_repository().await;
    let bench = &protected.bench;
    let first = protected.create(claimed("pvc-1", "shop/data", &HOURLY), "60S").await.unwrap();
    bench.write(&first.volume_id, 4096, &[1; 4096]);
    protected.settle(now_and(HOUR)).await;
    let exported = bench.content(&first.volume_id);
    protected.delete(&first.volume_id).await;

    let request = claimed("pvc-2", "shop/data", &HOURLY);
    // A store that is not there.
    bench.server.misbehaves(|_, _| Some(Trouble::Answers(503, "ServiceUnavailable")));
    for _ in 0..2 {
        let waits = protected.create(request.clone(), "2S").await.unwrap_err();
        assert_eq!(waits.code(), Code::Aborted, "{waits}");
    }
    bench.until_waiting_for_the_store().await;
    bench.server.misbehaves(|_, _| Some(Trouble::Answers(403, "AccessDenied")));
    let denied = protected.create(claimed("pvc-3", "shop/data", &HOURLY), "60S").await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
    protected.secrets.remove("shop/backup");
    let unopened = protected.create(claimed("pvc-4", "shop/data", &HOURLY), "60S").await.unwrap_err();
    assert!(unopened.code() == Code::FailedPrecondition && unopened.message().contains("shop/backup"), "{unopened}");
    assert_eq!(protected.pool().volumes().unwrap(), [], "no volume is made of what is not seen");
    protected.secrets.put("shop/backup", bench.secret("exports"));
    bench.server.behaves();
    let second = protected.create(request, "60S").await.unwrap();
    assert!(bench.content(&second.volume_id) == exported);
    assert_eq!(protected.pool().status().unwrap().restores, 0, "a hidden target is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_without_an_export_begins_empty_or_not_at_all_as_its_class_says() {
    let protected = Protected::start().await;
    let bench = &protected.bench;
    protected.secrets.put("shop/backup", bench.secret("new"));
    let missing = protected.create(claimed("pvc-1", "shop/data", &HOURLY), "60S").await.unwrap_err();
    assert!(missing.message().contains("no repository"), "{missing}");
    assert_eq!(protected.pool().volumes().unwrap(), []);
    let makes = [&HOURLY[..], &[("repository", "createIfMissing")]].concat();
    let empty = protected.create(claimed("pvc-1", "shop/data", &makes), "60S").await.unwrap();
    assert!(bench.content(&empty.volume_id).iter().all(|byte| *byte == 0));
    assert_eq!(empty.content_source, None);

    let fails = [("restore", "latestOrFail"), SECRET];
    for _ in 0..2 {
        let none = protected.create(claimed("pvc-2", "shop/other", &fails), "60S").await.unwrap_err();
        assert!(none.code() == Code::FailedPrecondition && none.message().contains("shop/other"), "{none}");
    }
    bench.write(&empty.volume_id, 4096, &[1; 4096]);
    protected.settle(now_and(HOUR)).await;
    let content = bench.content(&empty.volume_id);
    // Also by what a provisioner brings, and of a volume that is still there.
    let brought =
        CreateVolumeRequest { secrets: bench.secret("new"), ..claimed("pvc-3", "shop/data", &[("restore", "latestOrFail")]) };
    let copy = protected.create(brought, "60S").await.unwrap();
    assert!(bench.content(&copy.volume_id) == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_was_never_used_is_not_exported() {
    let protected = Protected::with_repository().await;
    protected.create_unused(claimed("pvc-1", "shop/data", &HOURLY), "60S").await.unwrap();
    protected.settle(now_and(HOUR)).await;
    assert_eq!((protected.pool().snapshots().unwrap().len(), protected.exports("exports").await.len()), (0, 0));
    // Made anew it is empty, and may be formatted.
    let anew = protected.create_unused(claimed("pvc-2", "shop/data", &HOURLY), "60S").await.unwrap();
    assert_eq!(anew.content_source, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_never_gets_the_exports_of_another() {
    let protected = Protected::with_repository().await;
    let bench = &protected.bench;
    protected.secrets.put("bank/backup", bench.secret("exports"));
    let mut contents = Vec::new();
    for (number, claim) in ["shop/data", "bank/data"].into_iter().enumerate() {
        let volume = protected.create(claimed(&format!("pvc-{number}"), claim, &HOURLY), "60S").await.unwrap().volume_id;
        bench.write(&volume, 4096, claim.as_bytes());
        protected.settle(now_and(HOUR)).await;
        contents.push(bench.content(&volume));
    }
    for (number, claim) in ["shop/data", "bank/data"].into_iter().enumerate() {
        let restored = protected.create(claimed(&format!("anew-{number}"), claim, &HOURLY), "60S").await.unwrap();
        assert!(bench.content(&restored.volume_id) == contents[number], "{claim} has the content of another namespace");
    }
    let empty = protected.create(claimed("anew-2", "shop/data-2", &HOURLY), "60S").await.unwrap();
    assert!(bench.content(&empty.volume_id).iter().all(|byte| *byte == 0));
    let stranger = protected.create(claimed("anew-3", "thieves/data", &HOURLY), "60S").await.unwrap_err();
    assert!(stranger.message().contains("thieves/backup"), "its own Secret is asked for: {stranger}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_secret_is_told_and_recovers_by_itself_when_it_is_mended() {
    let protected = Protected::with_repository().await;
    let bench = &protected.bench;
    let class = [("protect", "hourly"), ("keepDaily", "7"), SECRET];
    let volume = protected.create(claimed("pvc-1", "shop/data", &class), "60S").await.unwrap().volume_id;
    bench.write(&volume, 4096, &[1; 4096]);
    let good = bench.secret("exports");
    let mut wrong = good.clone();
    wrong.insert("RESTIC_PASSWORD".to_owned(), "canary-wrong".to_owned());
    let mut lacking = good.clone();
    lacking.remove("RESTIC_PASSWORD");
    for (hour, (secret, text)) in
        [(Some(wrong), "RESTIC_PASSWORD"), (Some(lacking), "must have the key"), (None, "shop/backup")].into_iter().enumerate()
    {
        match secret {
            Some(secret) => protected.secrets.put("shop/backup", secret),
            None => protected.secrets.remove("shop/backup"),
        }
        let now = now_and((u64::try_from(hour).unwrap() + 1) * HOUR);
        bench.agent.sweep(now).await;
        bench.until_idle().await;
        let (reason, _) = protected.status(now).await.failure.unwrap();
        assert!(reason.contains(text) && !reason.contains("canary"), "{reason}");
        assert!(protected.pool().snapshots().unwrap().len() <= 2, "cuts that wait do not pile up");
    }
    protected.secrets.put("shop/backup", good);
    let now = now_and(4 * HOUR);
    protected.settle(now).await;
    let status = protected.status(now).await;
    assert_eq!((status.failure.clone(), status.exports, status.is_late(now)), (None, 1, false), "{status:?}");
    assert_eq!(protected.exports("exports").await.len(), 1);
    assert_eq!(protected.pool().snapshots().unwrap().len(), 1, "cuts that were never exported are gone");
    let logged = exporting::logged();
    assert!(!logged.contains("canary") && !logged.contains("geheim"), "a secret is logged");
}

/// What was told to the cluster.
#[derive(Default)]
struct Heard(Mutex<Vec<Event>>);

impl EventSink for Heard {
    fn publish(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Heard {
    /// The texts of what protections did not do, as the cluster shows them: the last of each event, and how often it was told.
    fn failures(&self) -> Vec<(String, usize)> {
        let mut shown: Vec<(Event, usize)> = Vec::new();
        for event in self.0.lock().unwrap().iter().filter(|event| event.reason == EventReason::ProtectionFailed) {
            assert_eq!(event.object.to_string(), "PersistentVolumeClaim shop/data");
            match shown.iter_mut().find(|(known, _)| known.repetition == event.repetition) {
                Some((known, count)) => (*known, *count) = (event.clone(), *count + 1),
                None => shown.push((event.clone(), 1)),
            }
        }
        shown.into_iter().map(|(event, count)| (event.text, count)).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_that_cannot_be_made_and_an_export_that_does_not_go_are_told_on_the_claim_as_one_event_each() {
    let (mounter, memory, heard) = (Arc::new(MemoryMounter::new()), Arc::new(MemoryPool::default()), Arc::new(Heard::default()));
    let pools = vec![pool_over(&mounter, Arc::clone(&memory))];
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let node = Node::with(directory, mounter, pools, &windlass::mount::boot_id().unwrap()).await;
    let mut protected = Protected::over(node).await;
    protected.bench.agent = protected.bench.agent.clone().with_events(Arc::<Heard>::clone(&heard));
    protected.make_repository().await;
    let (bench, class) = (&protected.bench, [("protect", "hourly"), ("keepHourly", "1"), SECRET]);
    let volume = protected.create(claimed("pvc-1", "shop/data", &class), "60S").await.unwrap().volume_id;
    bench.write(&volume, 4096, &[1; 4096]);

    let free = AtomicU64::new(100);
    memory.set_hook(Some(Arc::new(move |verb, moment| match (verb, moment) {
        (Verb::Snapshot, Moment::Before) => {
            Err(PoolError::NoSpace(format!("only {} bytes are free", free.fetch_sub(1, Ordering::Relaxed))))
        }
        _ => Ok(()),
    })));
    for _ in 0..3 {
        bench.agent.sweep(now_and(HOUR)).await;
    }
    let told = heard.failures();
    assert!(matches!(&told[..], [(text, 3)] if text.contains("not cut") && text.ends_with("only 98 bytes are free")), "{told:?}");
    memory.set_hook(None);
    protected.settle(now_and(HOUR)).await;
    assert_eq!(protected.exports("exports").await.len(), 1, "the cut is made when there is room");

    let is_forgotten = |method: &str, path: &str| method == "DELETE" && path.contains("/snapshots/");
    bench.server.misbehaves(move |_, request| {
        is_forgotten(request.method().as_str(), request.uri().path()).then_some(Trouble::Answers(403, "AccessDenied"))
    });
    bench.write(&volume, 4096, &[2; 4096]);
    protected.settle(now_and(2 * HOUR)).await;
    bench.agent.sweep(now_and(2 * HOUR)).await;
    let told = heard.failures();
    assert!(matches!(&told[1..], [(text, 2..)] if text.contains("is still there")), "{told:?}");
    bench.server.behaves();
    bench.agent.sweep(now_and(2 * HOUR)).await;
    assert_eq!(protected.exports("exports").await.len(), 1);
    assert_eq!(heard.failures(), told, "nothing fails any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_restarted_at_any_point_leaves_one_export_and_nothing_else() {
    let mut protected = Protected::with_repository().await;
    let volume = protected.create(claimed("pvc-1", "shop/data", &HOURLY), "60S").await.unwrap().volume_id;
    protected.bench.write(&volume, 4096, &[1; 4096]);
    let now = now_and(HOUR);
    for stalled in ["/config", "/data/", "/snapshots/"] {
        protected.bench.server.misbehaves(move |_, request| request.uri().path().contains(stalled).then_some(Trouble::Stalls));
        protected.bench.agent.sweep(now).await;
        protected.bench.agent.sweep(now).await;
        protected.restart().await;
        assert_eq!(protected.pool().snapshots().unwrap().len(), 1, "one cut, however often it is due");
    }
    protected.bench.server.behaves();
    protected.settle(now).await;
    assert_eq!(protected.exports("exports").await.len(), 1);
    // One that died between the end of the export and its record.
    let id = protected.pool().snapshots().unwrap()[0].id;
    let handle = windlass::types::SnapshotHandle { pool: protected.pool().id(), snapshot: id }.to_string();
    protected.bench.forget_record(&handle);
    protected.restart().await;
    protected.settle(now).await;
    assert_eq!(protected.exports("exports").await.len(), 1, "a cut is in the repository once");
    // One that died between the forgetting of an export and its record's deletion finds nothing to forget.
    protected.delete(&volume).await;
    protected.restart().await;
    protected.bench.agent.sweep(now).await;
    assert_eq!(protected.pool().snapshots().unwrap(), []);
    assert_eq!(protected.exports("exports").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_volumes_that_are_due_at_once_are_exported_a_few_at_a_time() {
    let protected = Protected::with_repository().await;
    let bench = &protected.bench;
    let class = [("protect", "hourly"), ("keepHourly", "2"), SECRET];
    for number in 0..100 {
        let claim = format!("shop/data-{number}");
        let volume = protected.create(claimed(&format!("pvc-{number}"), &claim, &class), "60S").await.unwrap().volume_id;
        bench.write(&volume, 4096, claim.as_bytes());
    }
    let now = now_and(HOUR);
    let mut most = 0;
    let mut looks = looks();
    loop {
        bench.agent.sweep(now).await;
        let running = bench.running_transfers().await;
        assert!(running < MAX_RUNNING, "a place is left for a restore");
        most = most.max(running);
        let cuts = protected.pool().snapshots().unwrap();
        assert_eq!(cuts.len(), 100, "all were cut when they were due");
        if cuts.iter().all(|cut| cut.is_ready()) {
            break;
        }
        looks.tick().await;
    }
    assert!(most > 1, "one after the other");
    assert_eq!(protected.exports("exports").await.len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_protected_class_is_refused_by_its_parameter() {
    let protected = Protected::start().await;
    for (class, names) in [
        (vec![("protect", "often"), ("keepDaily", "1"), SECRET], "parameters.protect"),
        (vec![("protect", "hourly"), SECRET], "parameters.protect"),
        (vec![("protect", "hourly"), ("keepDaily", "1")], "parameters.repositorySecret"),
        (vec![("keepDaily", "1")], "parameters.keepDaily"),
        (vec![("restore", "always")], "parameters.restore"),
        (vec![("madeBy", "protection")], "madeBy"),
    ] {
        let refused = protected.create(claimed("pvc-1", "shop/data", &class), "60S").await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().contains(names), "{class:?}: {refused}");
    }
    let nameless = csi_harness::new_volume("pvc-1", csi_harness::block(Default::default()));
    let mut parameters = claimed("pvc-1", "shop/data", &HOURLY).parameters;
    parameters.retain(|key, _| !key.starts_with("csi."));
    let request = CreateVolumeRequest { parameters, ..nameless };
    assert_eq!(protected.create(request, "60S").await.unwrap_err().code(), Code::InvalidArgument);

    // An agent that reads no Secrets protects nothing, and says so.
    let bench = exporting::Bench::start().await;
    let mut request = tonic::Request::new(claimed("pvc-1", "shop/data", &HOURLY));
    request.metadata_mut().insert("grpc-timeout", "60S".parse().unwrap());
    let refused = csi_proto::csi::v1::controller_server::Controller::create_volume(&bench.agent, request).await.unwrap_err();
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("--kubernetes"), "{refused}");
    // Nobody but a protection makes snapshots of one.
    let volume = bench.written_volume("data").await;
    let class = [("repository", "existing"), ("madeBy", "protection")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let refused = bench.create("cut", &volume, class.into(), &bench.secret("exports")).await.unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("madeBy"), "{refused}");
}
