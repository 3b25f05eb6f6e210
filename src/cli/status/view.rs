//! The parts of what there is to say of a node. Pure: from its records and the time.

use std::collections::BTreeMap;

use csi_proto::windlass::v1 as windlass;
use serde::Serialize;

use crate::cli::output::utc;
use crate::types::Timestamp;
use crate::types::protection::{ProtectionOrder, Schedule};

/// A pool.
#[derive(Debug, Clone, Serialize)]
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

/// A pool as it is printed.
pub fn pool(pool: &windlass::PoolStatus) -> PoolView {
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
pub fn volumes(records: &[windlass::ObjectRecord], now: Timestamp) -> Vec<VolumeView> {
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

/// A transfer as it is printed.
pub fn transfer(transfer: &windlass::TransferProgress) -> TransferView {
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
