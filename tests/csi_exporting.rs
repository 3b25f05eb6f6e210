//! Snapshot classes with a repository, as a sidecar uses them: an agent over a node with a pool in memory, and a store of S3's protocol.
//! Needs `restic` in PATH.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly, wherever it does")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

#[path = "support/csi_harness.rs"]
mod csi_harness;
#[path = "support/exporting.rs"]
mod exporting;
#[path = "support/common/restic.rs"]
mod restic_output;
#[path = "support/s3/mod.rs"]
mod s3;

use csi_harness::*;
use csi_proto::csi::v1::*;
use exporting::{Bench, class};
use s3::Trouble;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_ready_when_the_repository_holds_it_and_not_before() {
    let bench = Bench::start().await;
    bench.repository("exports").await;
    let volume = bench.written_volume("data").await;
    let secrets = bench.secret("exports");
    let cut = bench.create("nightly", &volume, class("existing", "keep"), &secrets).await.unwrap();
    assert!(!cut.ready_to_use, "the call that cuts is answered at once");
    let listed = bench.list(&cut.snapshot_id).await;
    assert_eq!((listed.size_bytes, listed.creation_time), (cut.size_bytes, cut.creation_time));
    let ready = bench.until_ready("nightly", &volume, class("existing", "keep"), &secrets).await;
    assert_eq!(ready, Snapshot { ready_to_use: true, ..cut.clone() }, "all else is as it was");
    assert!(bench.list(&cut.snapshot_id).await.ready_to_use && bench.get(&cut.snapshot_id).await.ready_to_use);
    let held = bench.repository_snapshots("exports").await;
    assert_eq!(held.len(), 1);
    assert!(held[0].tags.contains(&format!("handle={}", cut.snapshot_id)), "{:?}", held[0].tags);
    // Whoever asks again needs no secret for that.
    let again = bench.create("nightly", &volume, class("existing", "keep"), &Default::default()).await.unwrap();
    assert_eq!(again, ready);

    // Deleting it forgets it.
    bench.delete(&cut.snapshot_id, &secrets).await.unwrap();
    assert_eq!(bench.repository_snapshots("exports").await.len(), 0);
    bench.delete(&cut.snapshot_id, &secrets).await.unwrap();
    assert_eq!(bench.node.pools[0].snapshots().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_local_copy_leaves_the_snapshot_and_the_base_of_the_next_export() {
    let bench = Bench::start().await;
    bench.repository("exports").await;
    let volume = bench.written_volume("data").await;
    let (secrets, class) = (bench.secret("exports"), class("existing", "drop"));
    let first = bench.until_ready("first", &volume, class.clone(), &secrets).await;
    bench.until_idle().await;
    let copies = bench.copies(&first.snapshot_id).await;
    assert_eq!((copies.local, copies.exports.len()), (windlass::types::LocalCopy::GivenUp, 1));
    assert_eq!(bench.list(&first.snapshot_id).await, first, "it is listed as ever");
    bench.write(&volume, 8 << 20, &[7; 4096]);
    let second = bench.until_ready("second", &volume, class, &secrets).await;
    let last = bench.last_export().await;
    assert_eq!(last.mode, "incremental", "{}", last.full_reason);
    assert!(last.data_bytes <= 256 << 10, "{last:?}");
    let refused = bench.node.create(CreateVolumeRequest {
        volume_content_source: from_snapshot(&first.snapshot_id),
        ..new_volume("copy", block(volume_capability::access_mode::Mode::SingleNodeWriter))
    });
    assert_eq!(refused.await.unwrap_err().code(), Code::FailedPrecondition, "the node alone has not its bytes");
    for snapshot in [first, second] {
        bench.delete(&snapshot.snapshot_id, &secrets).await.unwrap();
    }
    assert_eq!(bench.repository_snapshots("exports").await.len(), 0);
}

/// Runs stock restic on what the store has in its folder.
async fn restic(repository: &std::path::Path, secrets: &exporting::Secret, arguments: &[&str]) -> Vec<u8> {
    let mut command = std::process::Command::new("restic");
    command.arg("--no-cache").arg("--repo").arg(repository).args(arguments);
    command.env("RESTIC_PASSWORD", &secrets["RESTIC_PASSWORD"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let output = output.unwrap_or_else(|error| panic!("restic is needed in PATH (apt-get install restic): {error}"));
    assert!(output.status.success(), "restic {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_restic_checks_and_dumps_what_a_class_has_exported() {
    let bench = Bench::start().await;
    let volume = bench.written_volume("data").await;
    let content = bench.content(&volume);
    let secrets = bench.secret("new");
    bench.until_ready("cut", &volume, class("createIfMissing", "drop"), &secrets).await;
    bench.until_idle().await;
    let folder = bench.server.file("new");
    restic(&folder, &secrets, &["check", "--read-data"]).await;
    let listed = restic(&folder, &secrets, &["ls", "--json", "latest"]).await;
    let path = restic_output::volume_file(std::str::from_utf8(&listed).unwrap());
    assert!(restic(&folder, &secrets, &["dump", "latest", &path]).await == content, "restic dumps something else");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_class_or_the_secret_is_told_before_anything_is_cut() {
    let bench = Bench::start().await;
    let volume = bench.written_volume("data").await;
    let secrets = bench.secret("exports");
    let bad = [
        vec![("repository".to_owned(), "yes".to_owned())],
        vec![("localCopy".to_owned(), "drop".to_owned())],
        vec![("repository".to_owned(), "existing".to_owned()), ("chunkSize".to_owned(), "3Mi".to_owned())],
        vec![("repository".to_owned(), "existing".to_owned()), ("bandwidth".to_owned(), "fast".to_owned())],
    ];
    for parameters in bad {
        let refused = bench.create("bad", &volume, parameters.clone().into_iter().collect(), &secrets).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{parameters:?}: {refused}");
    }
    for (key, value) in [("RESTIC_PASSWORD", ""), ("RESTIC_REPOSITORY", "/var/lib/backups"), ("RESTIC_PASSWORD_FILE", "/x")] {
        let mut secrets = secrets.clone();
        secrets.insert(key.to_owned(), value.to_owned());
        let refused = bench.create("bad", &volume, class("existing", "keep"), &secrets).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{key}: {refused}");
    }
    assert_eq!(bench.node.pools[0].snapshots().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_wrong_is_told_by_a_text_that_stays_and_recovers_when_it_is_mended() {
    let bench = Bench::start().await;
    bench.repository("exports").await;
    let volume = bench.written_volume("data").await;
    let good = bench.secret("exports");
    let with = |key: &str, value: &str| {
        let mut secrets = good.clone();
        secrets.insert(key.to_owned(), value.to_owned());
        secrets
    };
    let nowhere = bench.secret("nowhere")["RESTIC_REPOSITORY"].clone();
    let no_bucket = nowhere.replace("/backups/", "/missing/");
    let cases = [
        ("password", with("RESTIC_PASSWORD", "canary-wrong"), ["RESTIC_PASSWORD"; 2]),
        ("key", with("AWS_SECRET_ACCESS_KEY", "canary-key"), ["refuses access"; 2]),
        ("place", with("RESTIC_REPOSITORY", &nowhere), ["no repository"; 2]),
        ("bucket", with("RESTIC_REPOSITORY", &no_bucket), ["no repository", "the bucket does not exist"]),
    ];
    for (name, bad, text) in cases {
        let refused = bench.until_refused(name, &volume, class("existing", "keep"), &bad).await;
        assert_eq!(refused.code(), Code::Unavailable, "{name}: {refused}");
        assert!(text.iter().any(|text| refused.message().contains(text)), "{name}: {refused}");
        let again = bench.until_refused(name, &volume, class("existing", "keep"), &bad).await;
        assert_eq!((again.code(), again.message()), (refused.code(), refused.message()), "{name}");
        assert!(!again.message().contains("canary"), "{again}");
        let ready = bench.until_ready(name, &volume, class("existing", "keep"), &good).await;
        bench.delete(&ready.snapshot_id, &good).await.unwrap();
    }
    assert_eq!(bench.repository_snapshots("exports").await.len(), 0);
    // One that was never opened is not asked when the snapshot goes.
    let bad = with("RESTIC_PASSWORD", "canary-wrong");
    bench.until_refused("never", &volume, class("existing", "keep"), &bad).await;
    let id = bench.id_of("never").await;
    let recorded = serde_json::to_string(&bench.node.pools[0].snapshots().unwrap()).unwrap();
    assert!(recorded.contains("RESTIC_PASSWORD of the Secret"), "why it failed is recorded: {recorded}");
    bench.delete(&id, &bad).await.unwrap();
    // No secret is in the catalogue or in a line of the log, right or wrong.
    let logged = exporting::logged();
    assert!(logged.contains("transfer failed"), "nothing was logged");
    for secret in ["canary", "geheim"] {
        assert!(!recorded.contains(secret), "{secret} is recorded");
        assert!(!logged.contains(secret), "{secret} is logged");
    }
    assert_eq!(bench.node.pools[0].snapshots().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_an_error_once_since_a_sidecar_deletes_nothing_that_has_no_answer() {
    let mut bench = Bench::start().await;
    bench.repository("exports").await;
    let volume = bench.written_volume("data").await;
    let good = bench.secret("exports");
    let mut wrong = good.clone();
    wrong.insert("RESTIC_PASSWORD".to_owned(), "canary-wrong".to_owned());
    let mut lacking = good.clone();
    lacking.remove("RESTIC_PASSWORD");
    let class = || class("existing", "keep");
    let refused = bench.until_refused("cut", &volume, class(), &wrong).await;
    let answered = bench.create("cut", &volume, class(), &wrong).await.unwrap();
    assert!(!answered.ready_to_use, "not ready, and no error before the next attempt has failed");
    let again = bench.until_refused("cut", &volume, class(), &wrong).await;
    assert_eq!((again.code(), again.message()), (refused.code(), refused.message()));
    // The same of a Secret that cannot be used at all; and of another agent, which does not know what was told.
    let told = bench.create("cut", &volume, class(), &lacking).await.unwrap_err();
    assert!(told.code() == Code::Unavailable && told.message().contains("must have the key RESTIC_PASSWORD"), "{told}");
    assert!(!bench.create("cut", &volume, class(), &lacking).await.unwrap().ready_to_use);
    bench.restart_agent().await;
    bench.create("cut", &volume, class(), &lacking).await.unwrap_err();
    let id = bench.create("cut", &volume, class(), &lacking).await.unwrap().snapshot_id;
    bench.delete(&id, &lacking).await.unwrap();
    assert_eq!(bench.node.pools[0].snapshots().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_missing_is_told_also_when_a_repository_was_to_be_made() {
    let bench = Bench::start().await;
    let volume = bench.written_volume("data").await;
    let mut secrets = bench.secret("exports");
    let missing = secrets["RESTIC_REPOSITORY"].replace("/backups/", "/missing/");
    secrets.insert("RESTIC_REPOSITORY".to_owned(), missing);
    let refused = bench.until_refused("cut", &volume, class("createIfMissing", "keep"), &secrets).await;
    assert!(refused.code() == Code::Unavailable && refused.message().contains("bucket"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_first_exports_at_once_make_one_repository() {
    let bench = Bench::start().await;
    let (secrets, class) = (bench.secret("new"), class("createIfMissing", "untilPressure"));
    let mut volumes = Vec::new();
    for number in 0..10 {
        volumes.push(bench.written_volume(&format!("data-{number}")).await);
    }
    let exports = volumes.iter().enumerate().map(|(number, volume)| {
        let (name, class, secrets, bench) = (format!("first-{number}"), class.clone(), &secrets, &bench);
        async move { bench.until_ready(&name, volume, class, secrets).await }
    });
    let ready = futures::future::join_all(exports).await;
    assert!(ready.iter().all(|snapshot| snapshot.ready_to_use));
    assert_eq!(bench.repository_snapshots("new").await.len(), 10, "all of them in the one that opens");
    assert_eq!(std::fs::read_dir(bench.server.file("new/keys")).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_repository_is_made_where_one_was_known_before() {
    let bench = Bench::start().await;
    let volume = bench.written_volume("data").await;
    let (secrets, class) = (bench.secret("new"), class("createIfMissing", "keep"));
    let first = bench.until_ready("first", &volume, class.clone(), &secrets).await;
    std::fs::rename(bench.server.file("new"), bench.server.file("aside")).unwrap();
    let refused = bench.until_refused("second", &volume, class.clone(), &secrets).await;
    assert!(refused.code() == Code::Unavailable && refused.message().contains("is gone"), "{refused}");
    let kept = bench.delete(&first.snapshot_id, &secrets).await.unwrap_err();
    assert_eq!(kept.code(), Code::FailedPrecondition, "it is not said to be gone: {kept}");
    std::fs::rename(bench.server.file("aside"), bench.server.file("new")).unwrap();
    bench.until_ready("second", &volume, class, &secrets).await;
    bench.delete(&first.snapshot_id, &secrets).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_refuses_to_forget_is_an_error_and_the_snapshot_stays() {
    let bench = Bench::start().await;
    for prefix in ["exports", "another"] {
        bench.repository(prefix).await;
    }
    let volume = bench.written_volume("data").await;
    let secrets = bench.secret("exports");
    let ready = bench.until_ready("cut", &volume, class("existing", "drop"), &secrets).await;
    bench.server.misbehaves(|_, request| (request.method() == "DELETE").then_some(Trouble::Answers(403, "AccessDenied")));
    let refused = bench.delete(&ready.snapshot_id, &secrets).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    bench.server.behaves();
    for secrets in [Default::default(), bench.secret("another")] {
        let refused = bench.delete(&ready.snapshot_id, &secrets).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    }
    assert_eq!(bench.list(&ready.snapshot_id).await, ready);
    bench.delete(&ready.snapshot_id, &secrets).await.unwrap();
    assert_eq!(bench.repository_snapshots("exports").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_deleted_while_it_is_exported_is_gone_everywhere() {
    let bench = Bench::start().await;
    bench.repository("exports").await;
    let volume = bench.written_volume("data").await;
    let secrets = bench.secret("exports");
    // Packs go nowhere.
    bench.server.misbehaves(|_, request| {
        (request.method() == "PUT" && request.uri().path().contains("/data/")).then_some(Trouble::Stalls)
    });
    let cut = bench.create("cut", &volume, class("existing", "keep"), &secrets).await.unwrap();
    bench.until_running(&cut.snapshot_id).await;
    bench.server.behaves();
    bench.until_deleted(&cut.snapshot_id, &secrets).await;
    assert_eq!(bench.node.pools[0].snapshots().unwrap(), []);
    assert_eq!(bench.repository_snapshots("exports").await.len(), 0);
    assert_eq!(bench.running_transfers().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_in_the_middle_is_followed_by_one_that_goes_on() {
    let mut bench = Bench::start().await;
    bench.repository("exports").await;
    let volume = bench.written_volume("data").await;
    let (secrets, class) = (bench.secret("exports"), class("existing", "keep"));
    bench.server.misbehaves(|_, request| {
        (request.method() == "PUT" && request.uri().path().contains("/snapshots/")).then_some(Trouble::Stalls)
    });
    let cut = bench.create("cut", &volume, class.clone(), &secrets).await.unwrap();
    bench.until_running(&cut.snapshot_id).await;
    bench.restart_agent().await;
    assert!(!bench.list(&cut.snapshot_id).await.ready_to_use, "nobody has credentials, so it waits");
    bench.server.behaves();
    let ready = bench.until_ready("cut", &volume, class.clone(), &secrets).await;
    assert_eq!(ready.snapshot_id, cut.snapshot_id);
    assert_eq!(bench.repository_snapshots("exports").await.len(), 1);

    // One that died between the export and its record finds it by its handle.
    bench.forget_record(&cut.snapshot_id);
    bench.restart_agent().await;
    assert!(!bench.list(&cut.snapshot_id).await.ready_to_use);
    bench.until_ready("cut", &volume, class, &secrets).await;
    assert_eq!(bench.repository_snapshots("exports").await.len(), 1, "a snapshot is in the repository once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_for_an_export_that_runs_is_held_to_just_under_its_deadline() {
    let bench = Bench::start().await;
    bench.repository("exports").await;
    let volume = bench.written_volume("data").await;
    let (secrets, class) = (bench.secret("exports"), class("existing", "keep"));
    bench.server.misbehaves(|_, request| {
        (request.method() == "PUT" && request.uri().path().contains("/data/")).then_some(Trouble::Stalls)
    });
    let cut = bench.create("cut", &volume, class.clone(), &secrets).await.unwrap();
    bench.until_running(&cut.snapshot_id).await;
    let begun = std::time::Instant::now();
    let held = bench.create_within("cut", &volume, class.clone(), &secrets, "4S").await.unwrap();
    let lasted = begun.elapsed();
    assert!(!held.ready_to_use && (2500..4000).contains(&lasted.as_millis()), "{lasted:?}");
    let begun = std::time::Instant::now();
    let unheld = bench.create("cut", &volume, class, &secrets).await.unwrap();
    assert!(!unheld.ready_to_use && begun.elapsed().as_millis() < 2000, "no deadline, no wait: {:?}", begun.elapsed());
    bench.server.behaves();
    bench.until_deleted(&cut.snapshot_id, &secrets).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_is_told_before_its_repository_is_open() {
    let bench = Bench::start().await;
    bench.repository("exports").await;
    let (volume, secrets) = (bench.written_volume("pvc-1").await, bench.secret("exports"));
    bench.server.misbehaves(|_, _| Some(Trouble::Answers(503, "ServiceUnavailable")));
    let begun = bench.create("nightly", &volume, class("existing", "keep"), &secrets).await.unwrap();
    assert!(!begun.ready_to_use);
    bench.until_waiting_for_the_store().await;
    bench.server.behaves();
    bench.until_ready("nightly", &volume, class("existing", "keep"), &secrets).await;
}
