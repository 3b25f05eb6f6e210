//! What `forget` keeps is what restic's keeps, of the same snapshots by the same words.
//!
//! The oracle is a restic that prefixes the oldest snapshot's reasons (0.17 and later): `RESTIC_NEW`, or the one that `e2e/setup.sh` builds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a broken expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use basics::tool_path;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use windlass::repository::forget::{Count, Filter, ForgetError, GroupBy, Policy, Span, plan};
use windlass::repository::store::local::LocalStore;
use windlass::repository::{Id, KdfCost, LockMode, Password, Repository, RepositoryError, Snapshot, Store};
use windlass::types::Timestamp;

const PASSWORD: &str = "correct horse";

fn newest_restic() -> PathBuf {
    let built = tool_path("restic");
    let restic = std::env::var_os("RESTIC_NEW").map_or(built, PathBuf::from);
    assert!(restic.exists(), "{} is not there: e2e/setup.sh builds it, and RESTIC_NEW may name another", restic.display());
    restic
}

fn snapshot(time: &str, host: &str, path: &str, tags: &[&str]) -> Snapshot {
    Snapshot {
        time: time.to_owned(),
        tree: Id::of(time.as_bytes()),
        paths: vec![path.to_owned()],
        hostname: host.to_owned(),
        username: String::new(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        parent: None,
        original: None,
        program_version: String::new(),
        summary: None,
    }
}

async fn repository(folder: &Path) -> Repository {
    let store: Arc<dyn Store> = Arc::new(LocalStore::new(folder.to_owned()));
    Repository::init(store, &Password::new(PASSWORD).unwrap(), KdfCost::TEST).await.unwrap()
}

/// A time as it is written: years, ends of months and of years, the days on which clocks are set, both offsets of such a zone, and
/// offsets of less than an hour. Few minutes, so that many hours are shared.
fn time() -> impl Strategy<Value = String> {
    let day = prop_oneof![
        (2016_u32..2027, 1_u32..13, 1_u32..29),
        (2019_u32..2023, Just(12), 28_u32..32),
        (2019_u32..2023, Just(1), 1_u32..5),
        (Just(2024), Just(3), 29_u32..32),
        (Just(2024), Just(10), 25_u32..29),
        (Just(2024), Just(2), 27_u32..30),
    ];
    let offset = prop_oneof![Just("Z"), Just("+01:00"), Just("+02:00"), Just("-05:30"), Just("+13:45")];
    let fraction = prop_oneof![Just(""), Just(".5"), Just(".000000001")];
    (day, 0_u32..24, 0_u32..3, fraction, offset).prop_map(|((year, month, day), hour, minute, fraction, offset)| {
        format!("{year}-{month:02}-{day:02}T{hour:02}:{:02}:00{fraction}{offset}", minute * 29)
    })
}

/// The words of a policy, as the command line has them.
fn words() -> impl Strategy<Value = Vec<String>> {
    let count = prop_oneof![4 => (0_u32..5).prop_map(|count| count.to_string()), 1 => Just("unlimited".to_owned())];
    let span = prop_oneof![
        (1_u32..40).prop_map(|days| format!("{days}d")),
        (1_u32..14, 0_u32..40, 0_u32..30).prop_map(|(months, days, hours)| format!("{months}m{days}d{hours}h")),
        (1_u32..9, 0_u32..14).prop_map(|(years, months)| format!("{years}y{months}m")),
        (1_u32..100).prop_map(|hours| format!("{hours}h")),
    ];
    let word = prop_oneof![
        4 => (prop::sample::select(COUNTS.to_vec()), count).prop_map(|(name, count)| format!("--keep-{name}={count}")),
        2 => (prop::sample::select(SPANS.to_vec()), span).prop_map(|(name, span)| format!("--keep-{name}={span}")),
        1 => prop::sample::select(vec!["--keep-tag=a", "--keep-tag=a,b", "--keep-tag=", "--keep-tag=b"]).prop_map(str::to_owned),
    ];
    // A count that keeps something, so that there is a policy.
    prop::collection::vec(word, 0..5).prop_map(|mut words| {
        words.push("--keep-yearly=1".to_owned());
        words
    })
}

const COUNTS: [&str; 6] = ["last", "hourly", "daily", "weekly", "monthly", "yearly"];
const SPANS: [&str; 6] = ["within", "within-hourly", "within-daily", "within-weekly", "within-monthly", "within-yearly"];

/// What the words mean: the last of each counts, and every tag.
fn policy(words: &[String]) -> Policy {
    let mut policy = Policy::default();
    for word in words {
        let (name, value) = word.strip_prefix("--keep-").unwrap().split_once('=').unwrap();
        match (name, COUNTS.iter().position(|known| *known == name), SPANS.iter().position(|known| *known == name)) {
            ("tag", ..) => policy.tags.push(value.parse().unwrap()),
            (_, Some(0), _) => policy.last = value.parse::<Count>().unwrap(),
            (_, Some(number), _) => policy.newest_of[number - 1] = value.parse().unwrap(),
            (_, _, Some(0)) => policy.within = value.parse::<Span>().unwrap(),
            (_, _, Some(number)) => policy.newest_of_within[number - 1] = value.parse().unwrap(),
            _ => panic!("{word}"),
        }
    }
    policy
}

/// For each group by its host, path and tags: what is kept and why, and what goes.
type Verdicts = BTreeMap<String, (BTreeMap<String, Vec<String>>, Vec<String>)>;

fn by_restic(restic: &Path, repository: &Path, words: &[String]) -> Verdicts {
    let mut command = Command::new(restic);
    command.args(["--no-cache", "--json", "forget", "--dry-run", "--repo"]).arg(repository).args(words);
    // Times are seen in the offset they are written with only where that is not the zone of the process.
    let output = command.env("RESTIC_PASSWORD", PASSWORD).env("TZ", "UTC").output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    let groups: Value = serde_json::from_slice(&output.stdout).unwrap();
    let id = |snapshot: &Value| snapshot["id"].as_str().unwrap().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let texts = |value: &Value| list(value).iter().map(|text| text.as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let groups = list(&groups).into_iter().map(|group| {
        let kept = list(&group["reasons"]).iter().map(|kept| (id(&kept["snapshot"]), texts(&kept["matches"]))).collect();
        let key = format!("{} {:?} {:?}", group["host"].as_str().unwrap(), texts(&group["paths"]), texts(&group["tags"]));
        (key, (kept, list(&group["remove"]).iter().map(id).collect()))
    });
    groups.collect()
}

async fn by_us(repository: &Repository, group_by: GroupBy, policy: &Policy) -> Verdicts {
    let snapshots = repository.snapshots().await.unwrap();
    let planned = plan(snapshots, &Filter::default(), group_by, policy, Timestamp::now()).unwrap();
    let groups = planned.into_iter().map(|(group, verdict)| {
        let kept = verdict.keep.into_iter().map(|kept| (kept.stored.id.to_string(), kept.reasons)).collect();
        let removed = verdict.remove.into_iter().map(|stored| stored.id.to_string()).collect();
        (format!("{} {:?} {:?}", group.host, group.paths, group.tags), (kept, removed))
    });
    groups.collect()
}

/// The same with times for names.
type Nameless = Vec<(String, Vec<(String, Vec<String>)>, Vec<String>)>;

/// Of snapshots of equal times restic takes any; which of them does not matter where they are alike.
fn without_names(verdicts: Verdicts, times: &BTreeMap<String, String>) -> Nameless {
    let groups = verdicts.into_iter().map(|(group, (kept, removed))| {
        let mut kept: Vec<_> = kept.into_iter().map(|(id, reasons)| (times[&id].clone(), reasons)).collect();
        let mut removed: Vec<_> = removed.into_iter().map(|id| times[&id].clone()).collect();
        kept.sort_unstable();
        removed.sort_unstable();
        (group, kept, removed)
    });
    groups.collect()
}

#[test]
fn what_a_policy_keeps_and_why_is_what_restic_keeps_and_why() {
    let restic = newest_restic();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tags = prop::sample::select(vec![vec![], vec!["a"], vec!["b"], vec!["b", "a"], vec!["c"]]);
    let snapshots = prop::collection::vec((time(), tags, 0..3_usize), 1..40);
    let group_by = prop::sample::select(vec!["host,paths", "", "tags", "host,paths,tags"]);
    let mut runner = TestRunner::new(Config { cases: 10, failure_persistence: None, ..Config::default() });
    let tested = runner.run(&(snapshots, prop::collection::vec((words(), group_by), 2)), |(snapshots, commands)| {
        let folder = tempfile::tempdir().unwrap();
        let repository = runtime.block_on(repository(folder.path()));
        let mut times = BTreeMap::new();
        runtime.block_on(async {
            let lock = repository.lock(LockMode::Shared).await.unwrap();
            for (time, tags, volume) in &snapshots {
                let (host, path) = [("h", "/v1"), ("h", "/v2"), ("other", "/v1")][*volume];
                let id = repository.save_snapshot(&snapshot(time, host, path, tags), &lock).await.unwrap();
                times.insert(id.to_string(), format!("{time} {tags:?}"));
            }
            lock.release().await.unwrap();
        });
        for (words, group_by) in &commands {
            let ours = runtime.block_on(by_us(&repository, group_by.parse().unwrap(), &policy(words)));
            let mut words = words.clone();
            words.push(format!("--group-by={group_by}"));
            let theirs = by_restic(&restic, folder.path(), &words);
            prop_assert_eq!(without_names(ours, &times), without_names(theirs, &times), "{:?}", words);
        }
        Ok(())
    });
    tested.unwrap();
}

#[tokio::test]
async fn forgotten_snapshots_are_gone_for_restic_and_the_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path()).await;
    let lock = repository.lock(LockMode::Shared).await.unwrap();
    for day in 1..=5 {
        repository.save_snapshot(&snapshot(&format!("2026-01-0{day}T10:00:00Z"), "h", "/v", &[]), &lock).await.unwrap();
    }
    let policy = policy(&["--keep-daily=2".to_owned()]);
    let snapshots = repository.snapshots().await.unwrap();
    let planned = plan(snapshots, &Filter::default(), GroupBy::default(), &policy, Timestamp::now()).unwrap();
    let removed: Vec<_> = planned[0].1.remove.iter().map(|stored| stored.id).collect();
    assert_eq!(repository.forget_all(&removed, &lock, &CancellationToken::new()).await.unwrap(), removed);
    lock.release().await.unwrap();
    let output = Command::new(newest_restic())
        .args(["--no-cache", "--json", "snapshots", "--repo"])
        .arg(folder.path())
        .env("RESTIC_PASSWORD", PASSWORD)
        .output()
        .unwrap();
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let times: Vec<_> = listed.as_array().unwrap().iter().map(|one| one["time"].as_str().unwrap()).collect();
    assert_eq!(times, ["2026-01-04T10:00:00Z", "2026-01-05T10:00:00Z"]);
}

#[tokio::test]
async fn a_cancelled_forget_ends_between_two_snapshots_and_goes_on_later() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path()).await;
    let lock = repository.lock(LockMode::Shared).await.unwrap();
    let id = repository.save_snapshot(&snapshot("2026-01-01T10:00:00Z", "h", "/v", &[]), &lock).await.unwrap();
    let cancel = CancellationToken::new();
    cancel.cancel();
    assert_eq!(repository.forget_all(&[id], &lock, &cancel).await.unwrap(), []);
    assert_eq!(repository.forget_all(&[id], &lock, &CancellationToken::new()).await.unwrap(), [id]);
    assert!(matches!(repository.snapshot(&id).await, Err(RepositoryError::NoSuchSnapshot(_))));
    lock.release().await.unwrap();
}

#[tokio::test]
async fn nothing_is_forgotten_without_a_policy_nor_a_group_emptied_nor_an_unreadable_time_judged() {
    let folder = tempfile::tempdir().unwrap();
    let repository = repository(folder.path()).await;
    let lock = repository.lock(LockMode::Shared).await.unwrap();
    for time in ["2026-01-01T10:00:00Z", "2026-01-02T10:00:00Z", "yesterday"] {
        repository
            .save_snapshot(&snapshot(time, "h", if time == "yesterday" { "/odd" } else { "/v" }, &[]), &lock)
            .await
            .unwrap();
    }
    lock.release().await.unwrap();
    let planned = async |policy: &Policy| {
        let snapshots = repository.snapshots().await.unwrap();
        plan(snapshots, &Filter::default(), GroupBy::default(), policy, Timestamp::now())
    };
    assert_eq!(planned(&Policy::default()).await, Err(ForgetError::NoPolicy));
    assert_eq!(planned(&policy(&["--keep-last=0".to_owned()])).await, Err(ForgetError::NoPolicy));
    let misspelt = planned(&policy(&["--keep-tag=misspelt".to_owned()])).await;
    assert!(matches!(&misspelt, Err(ForgetError::NothingKept(group)) if group.paths == ["/v"]), "{misspelt:?}");
    let kept = planned(&policy(&["--keep-last=1".to_owned()])).await.unwrap();
    let reasons: Vec<_> = kept.iter().map(|(group, verdict)| (&group.paths[0][..], &verdict.keep[0].reasons[0][..])).collect();
    assert_eq!(reasons, [("/odd", "its time cannot be read"), ("/v", "last snapshot")]);
}
