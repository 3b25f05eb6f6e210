//! What is wrong with a node, and what to do about it. Pure.

use csi_proto::windlass::v1 as windlass;

use super::ask::Answers;
use super::view::{Finding, VolumeView, available, known, time};
use crate::cli::output::counted;
use crate::cli::size::ByteSize;
use crate::types::Timestamp;

/// Hundredths of a pool below which its space is low.
const LOW_HUNDREDTHS: u64 = 10;

/// How long an export may wait for credentials. A sidecar asks again every five minutes at most; after twice that nobody does.
const ASKED_AGAIN_SECONDS: u64 = 600;

/// What is wrong, pools first.
pub fn of(answers: &Answers, volumes: &[VolumeView], now: Timestamp) -> Vec<Finding> {
    let mut findings: Vec<Finding> = answers.pools.iter().flat_map(pool).collect();
    if answers.pools.is_empty() {
        findings.push(finding("node", "it has no pool", "`windlass pool create` makes one; a chart's values name them"));
    }
    match &answers.records {
        Ok(records) => findings.extend(records.iter().filter_map(|record| task(record, now))),
        Err(why) => findings.push(finding("volumes", why, "they are shown again when every pool is open")),
    }
    match &answers.transfers {
        Ok(transfers) => findings.extend(transfers.iter().filter_map(waiting)),
        Err(why) => {
            let advice = "ask the socket that `windlass agent` serves; a node with --no-repositories has none";
            findings.push(finding("transfers", why, advice));
        }
    }
    findings.extend(volumes.iter().filter_map(late));
    findings
}

fn finding(about: &str, what: &str, advice: &str) -> Finding {
    Finding { about: about.to_owned(), what: what.to_owned(), advice: advice.to_owned() }
}

fn pool(pool: &windlass::PoolStatus) -> Vec<Finding> {
    let about = match (pool.name.as_str(), pool.path.as_str()) {
        ("", path) => format!("pool at {path}"),
        (name, _) => format!("pool {name}"),
    };
    let mut findings = Vec::new();
    if pool.state == "failed" {
        let retry = known(&pool.retry).map(|retry| format!(" ({retry})")).unwrap_or_default();
        let advice = "see to its disk; it is opened again by itself, and volumes of other pools work meanwhile";
        return vec![finding(&about, &format!("it has failed: {}{retry}", pool.problem), advice)];
    }
    if !pool.problem.is_empty() {
        // Its sentence says what to do.
        findings.push(finding(&about, &pool.problem, "`windlass pool status` says more"));
    }
    let low = u128::from(pool.total_bytes) * u128::from(LOW_HUNDREDTHS) / 100;
    if pool.total_bytes > 0 && u128::from(available(pool)) < low {
        let size = |bytes: u64| ByteSize::new(bytes).to_string();
        let what = format!("{} of {} are available to new volumes", size(available(pool)), size(pool.total_bytes));
        findings.push(finding(
            &about,
            &what,
            "`windlass pool status` shows what takes the space; delete snapshots, or grow the pool",
        ));
    }
    if !pool.quarantined.is_empty() {
        let what = format!("{} in it that it has no record of, left alone", counted(pool.quarantined.len() as u64, "object"));
        findings.push(finding(&about, &what, "`windlass pool adopt` shows them and takes them in"));
    }
    findings
}

/// An export that was asked for and does not get on.
fn task(snapshot: &windlass::ObjectRecord, now: Timestamp) -> Option<Finding> {
    let task = snapshot.task.as_ref()?;
    let about = match (snapshot.volume_snapshot.as_str(), snapshot.pvc.as_str()) {
        ("", "") => format!("snapshot {}", snapshot.name),
        ("", pvc) => format!("snapshot {} of PVC {pvc}", snapshot.name),
        (of_user, "") => format!("VolumeSnapshot {of_user}"),
        (of_user, pvc) => format!("VolumeSnapshot {of_user} of PVC {pvc}"),
    };
    match task.state.as_str() {
        "failed" => {
            let what = format!("{} ({})", task.reason, counted(task.attempts.into(), "attempt"));
            Some(finding(&about, &what, "mend what the text names; the next call of the sidecar tries again by itself"))
        }
        "pending" => {
            let waits = now.seconds.saturating_sub(time(task.asked.as_ref())?.seconds);
            let what =
                format!("its export has waited for {} minutes for its turn, or for a call that brings credentials", waits / 60);
            let advice = "exports go on with the calls of csi-snapshotter: see that it runs, and that the VolumeSnapshot and its Secret exist";
            (waits > ASKED_AGAIN_SECONDS).then(|| finding(&about, &what, advice))
        }
        _ => None,
    }
}

fn waiting(transfer: &windlass::TransferProgress) -> Option<Finding> {
    let is_waiting = transfer.phase == "waiting" && !transfer.message.is_empty();
    let about = format!("{} {}", transfer.kind, known(&transfer.pvc).unwrap_or_else(|| transfer.transfer_id.clone()));
    is_waiting.then(|| finding(&about, &format!("it waits: {}", transfer.message), "it goes on by itself when that is over"))
}

/// A volume that is to be exported by a schedule and was not.
fn late(volume: &VolumeView) -> Option<Finding> {
    let (schedule, period) = (volume.protect.as_deref()?, volume.protect_seconds?);
    let about = format!("volume {}", volume.pvc.as_deref().unwrap_or(&volume.name));
    let advice = "`kubectl describe pvc` shows why in its events; the log of the agent says more";
    match volume.last_export_age_seconds {
        None => Some(finding(&about, &format!("it is to be exported every {schedule}, and never was"), advice)),
        Some(age) if age > period.saturating_mul(2) => {
            let what = format!("it is to be exported every {schedule}; the last good export is {} old", span(age));
            Some(finding(&about, &what, advice))
        }
        Some(_) => None,
    }
}

/// A number of seconds for people.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp { seconds: 10_000, nanoseconds: 0 };

    fn ready() -> windlass::PoolStatus {
        windlass::PoolStatus {
            name: "fast".to_owned(),
            state: "ready".to_owned(),
            total_bytes: 100,
            free_bytes: 60,
            reserve_bytes: 5,
            ..Default::default()
        }
    }

    fn answers(pools: Vec<windlass::PoolStatus>) -> Answers {
        Answers { pools, records: Ok(Vec::new()), transfers: Ok(Vec::new()) }
    }

    fn found(answers: &Answers, volumes: &[VolumeView]) -> Vec<String> {
        of(answers, volumes, NOW).into_iter().map(|found| format!("{}: {}", found.about, found.what)).collect()
    }

    #[test]
    fn nothing_is_said_of_a_node_that_is_well() {
        assert_eq!(of(&answers(vec![ready()]), &[], NOW), []);
    }

    #[test]
    fn pools_that_fail_fill_up_or_hold_strangers_are_found() {
        let failed = windlass::PoolStatus {
            path: "/dev/sdb".to_owned(),
            state: "failed".to_owned(),
            problem: "its disk is gone".to_owned(),
            retry: "tried again in 8 s".to_owned(),
            ..Default::default()
        };
        let low = windlass::PoolStatus { free_bytes: 14, quarantined: vec!["x".to_owned()], ..ready() };
        assert_eq!(
            found(&answers(vec![failed, low]), &[]),
            [
                "pool at /dev/sdb: it has failed: its disk is gone (tried again in 8 s)",
                "pool fast: 9 B of 100 B are available to new volumes",
                "pool fast: 1 object in it that it has no record of, left alone"
            ]
        );
        assert_eq!(found(&answers(Vec::new()), &[]), ["node: it has no pool"]);
    }

    #[test]
    fn exports_that_fail_or_wait_for_nobody_are_found_by_the_names_of_kubernetes() {
        let record = |state: &str, asked: i64| windlass::ObjectRecord {
            kind: "snapshot".to_owned(),
            name: "snapshot-1".to_owned(),
            pvc: "shop/data".to_owned(),
            volume_snapshot: "shop/nightly".to_owned(),
            task: Some(windlass::RecordedTask {
                state: state.to_owned(),
                reason: "export: denied".to_owned(),
                attempts: 3,
                asked: Some(prost_types::Timestamp { seconds: asked, nanos: 0 }),
            }),
            ..Default::default()
        };
        let records = vec![record("failed", 1), record("pending", 9400), record("pending", 8000), record("running", 1)];
        let answers = Answers { records: Ok(records), ..answers(vec![ready()]) };
        assert_eq!(
            found(&answers, &[]),
            [
                "VolumeSnapshot shop/nightly of PVC shop/data: export: denied (3 attempts)",
                "VolumeSnapshot shop/nightly of PVC shop/data: its export has waited for 33 minutes for its turn, or for a call that brings credentials"
            ]
        );
    }

    #[test]
    fn what_cannot_be_asked_and_what_waits_is_found() {
        let waits = windlass::TransferProgress {
            kind: "export".to_owned(),
            pvc: "shop/data".to_owned(),
            phase: "waiting".to_owned(),
            message: "the store is away".to_owned(),
            ..Default::default()
        };
        let unknown =
            Answers { records: Err("a pool has failed".to_owned()), transfers: Ok(vec![waits]), ..answers(vec![ready()]) };
        assert_eq!(found(&unknown, &[]), ["volumes: a pool has failed", "export shop/data: it waits: the store is away"]);
        let alone = Answers { transfers: Err("not implemented".to_owned()), ..answers(vec![ready()]) };
        assert_eq!(found(&alone, &[]), ["transfers: not implemented"]);
    }

    #[test]
    fn a_protected_volume_is_late_after_twice_its_period() {
        let volume = |age: Option<u64>, schedule: Option<&str>| VolumeView {
            volume_id: "v".to_owned(),
            name: "pvc-1".to_owned(),
            pvc: Some("shop/data".to_owned()),
            size_bytes: 1,
            snapshot_count: 0,
            last_export: None,
            last_export_age_seconds: age,
            repository_snapshot: None,
            exports_under_way: 0,
            exports_failed: 0,
            protect: schedule.map(str::to_owned),
            protect_seconds: schedule.map(|word| if word == "60m" { 3600 } else { 86_400 }),
        };
        let well = answers(vec![ready()]);
        assert_eq!(found(&well, &[volume(None, None), volume(Some(7200), Some("60m")), volume(Some(1), Some("1440m"))]), [""; 0]);
        assert_eq!(
            found(&well, &[volume(None, Some("60m")), volume(Some(7201), Some("60m"))]),
            [
                "volume shop/data: it is to be exported every 60m, and never was",
                "volume shop/data: it is to be exported every 60m; the last good export is 2 h old"
            ]
        );
    }

    #[test]
    fn spans_are_told_in_the_unit_of_which_there_are_some() {
        assert_eq!([0, 119, 120, 7199, 7200, 172_800].map(span), ["0 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
    }
}
