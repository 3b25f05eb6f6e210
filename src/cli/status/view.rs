//! What there is to say of a node. Pure: from its answers and the time.

use std::collections::BTreeMap;

use csi_proto::windlass::v1 as windlass;
use csi_proto::windlass::v1::TransferState;
use serde::Serialize;

use super::ask::Answers;
use super::findings;
use crate::cli::output::utc;
use crate::types::Timestamp;
use crate::types::protection::{ProtectionOrder, Schedule};

/// How a node is, as it is printed.
#[derive(Debug, Serialize)]
pub struct Status {
    pub pools: Vec<PoolView>,
    pub volumes: Vec<VolumeView>,
    pub transfers: Vec<TransferView>,
    /// What is wrong, the worst first; nothing when all is well.
    pub findings: Vec<Finding>,
}

/// A pool.
#[derive(Debug, Serialize)]
pub struct PoolView {
    pub pool_id: String,
    pub name: String,
    pub kind: String,
    pub path: String,
    pub state: String,
    pub total_bytes: u64,
    /// What new volumes may take.
    pub available_bytes: u64,
    pub promised_bytes: u64,
    /// How many times its size may be promised.
    pub overprovision_ratio: String,
    pub volume_count: u64,
    pub snapshot_count: u64,
}

/// A volume.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct VolumeView {
    pub volume_id: String,
    pub name: String,
    /// Namespace and name of its claim.
    pub pvc: Option<String>,
    pub size_bytes: u64,
    pub snapshot_count: u64,
    /// When the last export was finished, to whatever repository.
    pub last_export: Option<String>,
    pub last_export_age_seconds: Option<u64>,
    /// The repository snapshot that it made.
    pub repository_snapshot: Option<String>,
    /// Exports that were asked for and are not complete.
    pub exports_under_way: u64,
    pub exports_failed: u64,
    /// The schedule of its class, and from one export to the next.
    pub protect: Option<String>,
    pub protect_seconds: Option<u64>,
}

/// A transfer that runs.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct TransferView {
    pub transfer_id: String,
    pub kind: String,
    /// Namespace and name of the claim, if it is known.
    pub pvc: Option<String>,
    pub volume_id: Option<String>,
    pub snapshot_id: Option<String>,
    pub phase: String,
    pub done_bytes: u64,
    pub total_bytes: u64,
    /// What it waits for.
    pub waits_for: Option<String>,
}

/// Something that is wrong.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it concerns.
    pub about: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub advice: String,
}

impl Status {
    /// What the answers of a node come to.
    pub fn of(answers: &Answers, now: Timestamp) -> Self {
        let records = answers.records.as_deref().unwrap_or_default();
        let volumes = volumes(records, now);
        let running = answers.transfers.as_deref().unwrap_or_default().iter().filter(|one| runs(one));
        let transfers: Vec<TransferView> = running.map(transfer).collect();
        let findings = findings::of(answers, &volumes, now);
        Self { pools: answers.pools.iter().map(pool).collect(), volumes, transfers, findings }
    }
}

/// Bytes that new volumes of a pool may take.
pub fn available(pool: &windlass::PoolStatus) -> u64 {
    pool.free_bytes.saturating_sub(pool.reserve_bytes)
}

/// A text that was given.
pub fn known(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// A time of a message; one before 1970 is none.
pub fn time(time: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    let time = time?;
    let (seconds, nanoseconds) = (u64::try_from(time.seconds).ok()?, u32::try_from(time.nanos).ok()?);
    Some(Timestamp { seconds, nanoseconds })
}

fn pool(pool: &windlass::PoolStatus) -> PoolView {
    PoolView {
        pool_id: pool.pool_id.clone(),
        name: pool.name.clone(),
        kind: pool.kind.clone(),
        path: pool.path.clone(),
        state: pool.state.clone(),
        total_bytes: pool.total_bytes,
        available_bytes: available(pool),
        promised_bytes: pool.promised_bytes,
        overprovision_ratio: pool.overprovision_ratio.clone(),
        volume_count: pool.volume_count,
        snapshot_count: pool.snapshot_count,
    }
}

/// Volumes by claim and name; those of the same claim beside each other.
fn volumes(records: &[windlass::ObjectRecord], now: Timestamp) -> Vec<VolumeView> {
    let mut cut: BTreeMap<&str, Vec<&windlass::ObjectRecord>> = BTreeMap::new();
    for snapshot in records.iter().filter(|record| record.kind == "snapshot") {
        cut.entry(&snapshot.source).or_default().push(snapshot);
    }
    let recorded = records.iter().filter(|record| record.kind == "volume");
    let mut volumes: Vec<VolumeView> =
        recorded.map(|record| volume(record, cut.get(record.handle.as_str()).map_or(&[][..], Vec::as_slice), now)).collect();
    volumes.sort_by(|one, other| (&one.pvc, &one.name).cmp(&(&other.pvc, &other.name)));
    volumes
}

fn volume(record: &windlass::ObjectRecord, snapshots: &[&windlass::ObjectRecord], now: Timestamp) -> VolumeView {
    let tasks = |is_meant: fn(&str) -> bool| {
        let tasks = snapshots.iter().filter_map(|snapshot| snapshot.task.as_ref());
        tasks.filter(|task| is_meant(&task.state)).count() as u64
    };
    // Those of its snapshots too: the volume remembers the last one to each repository, which may have been withdrawn since.
    let exports = record.exports.iter().chain(snapshots.iter().flat_map(|snapshot| &snapshot.exports));
    let last = exports.filter_map(|export| Some((time(export.finished.as_ref())?, export))).max_by_key(|(at, _)| *at);
    let schedule = schedule(record);
    VolumeView {
        volume_id: record.handle.clone(),
        name: record.name.clone(),
        pvc: known(&record.pvc),
        size_bytes: record.size_bytes,
        snapshot_count: snapshots.len() as u64,
        last_export: last.map(|(at, _)| utc(at)),
        last_export_age_seconds: last.map(|(at, _)| now.seconds.saturating_sub(at.seconds)),
        repository_snapshot: last.map(|(_, export)| export.repository_snapshot.clone()),
        exports_under_way: tasks(|state| matches!(state, "pending" | "running")),
        exports_failed: tasks(|state| state == "failed"),
        protect: schedule.map(|schedule| schedule.to_string()),
        protect_seconds: schedule.map(Schedule::seconds),
    }
}

/// How often the volume is to be exported; of parameters that do not read nothing is known.
fn schedule(record: &windlass::ObjectRecord) -> Option<Schedule> {
    let parameters: BTreeMap<String, String> = record.parameters.clone().into_iter().collect();
    let order = ProtectionOrder::parse(&parameters).ok().flatten()?;
    order.exports.map(|exports| exports.schedule)
}

fn runs(transfer: &windlass::TransferProgress) -> bool {
    matches!(transfer.state(), TransferState::Pending | TransferState::Running)
}

fn transfer(transfer: &windlass::TransferProgress) -> TransferView {
    TransferView {
        transfer_id: transfer.transfer_id.clone(),
        kind: transfer.kind.clone(),
        pvc: known(&transfer.pvc),
        volume_id: known(&transfer.volume_id),
        snapshot_id: known(&transfer.snapshot_id),
        phase: transfer.phase.clone(),
        done_bytes: transfer.bytes_done,
        total_bytes: transfer.bytes_total,
        waits_for: known(&transfer.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> Answers {
        Answers { pools: Vec::new(), records: Ok(Vec::new()), transfers: Ok(Vec::new()) }
    }

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    fn export(id: &str, finished: i64) -> windlass::RecordedExport {
        windlass::RecordedExport { repository_snapshot: id.to_owned(), finished: at(finished), ..Default::default() }
    }

    fn record(kind: &str, handle: &str, name: &str) -> windlass::ObjectRecord {
        windlass::ObjectRecord { kind: kind.to_owned(), handle: handle.to_owned(), name: name.to_owned(), ..Default::default() }
    }

    fn snapshot(of: &str, state: &str) -> windlass::ObjectRecord {
        let task = windlass::RecordedTask { state: state.to_owned(), ..Default::default() };
        windlass::ObjectRecord { source: of.to_owned(), task: Some(task), ..record("snapshot", "s", "s") }
    }

    #[test]
    fn a_volume_shows_its_newest_export_wherever_it_is_recorded_and_what_is_under_way() {
        let volume = windlass::ObjectRecord {
            pvc: "shop/data".to_owned(),
            exports: vec![export("old", 1000)],
            parameters: [("protect", "hourly"), ("keepDaily", "7"), ("repositorySecret", "backup/repository")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..record("volume", "v", "pvc-1")
        };
        let finished = windlass::ObjectRecord { exports: vec![export("new", 4600)], ..snapshot("v", "finished") };
        let records = vec![volume, finished, snapshot("v", "running"), snapshot("v", "failed"), snapshot("other", "failed")];
        let answers = Answers { records: Ok(records), ..answers() };
        let now = Timestamp { seconds: 8200, nanoseconds: 0 };
        let status = Status::of(&answers, now);
        let [shown] = status.volumes.as_slice() else { panic!("{:?}", status.volumes) };
        assert_eq!((shown.pvc.as_deref(), shown.protect_seconds), (Some("shop/data"), Some(3600)));
        assert_eq!((shown.last_export.as_deref(), shown.last_export_age_seconds), (Some("1970-01-01T01:16:40Z"), Some(3600)));
        assert_eq!(shown.repository_snapshot.as_deref(), Some("new"));
        assert_eq!((shown.snapshot_count, shown.exports_under_way, shown.exports_failed), (3, 1, 1));
    }

    #[test]
    fn only_transfers_that_run_are_shown() {
        let transfer = |id: &str, state: TransferState| windlass::TransferProgress {
            transfer_id: id.to_owned(),
            state: state.into(),
            pvc: "shop/data".to_owned(),
            ..Default::default()
        };
        let all = vec![transfer("a", TransferState::Running), transfer("b", TransferState::Succeeded)];
        let pools = vec![windlass::PoolStatus::default()];
        let answers = Answers { pools, transfers: Ok(all), ..answers() };
        let status = Status::of(&answers, Timestamp { seconds: 0, nanoseconds: 0 });
        assert_eq!(status.transfers.iter().map(|one| one.transfer_id.as_str()).collect::<Vec<_>>(), ["a"]);
        let printed = serde_json::to_value(&status).unwrap();
        assert_eq!(printed["transfers"][0]["pvc"], "shop/data");
        assert_eq!(printed["findings"], serde_json::json!([]));
    }
}
