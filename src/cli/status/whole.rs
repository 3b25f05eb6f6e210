//! All there is to say of a node. Pure: from its answers and the time.

use csi_proto::windlass::v1 as windlass;
use csi_proto::windlass::v1::TransferState;
use serde::Serialize;

use super::ask::Answers;
use super::findings;
use super::view::{Finding, PoolView, TransferView, VolumeView, pool, transfer, volumes};
use crate::types::Timestamp;

/// How a node is, as it is printed.
#[derive(Debug, Serialize)]
pub struct Status {
    pub pools: Vec<PoolView>,
    pub volumes: Vec<VolumeView>,
    pub transfers: Vec<TransferView>,
    /// What is wrong, the worst first; nothing when all is well.
    pub findings: Vec<Finding>,
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

fn runs(transfer: &windlass::TransferProgress) -> bool {
    matches!(transfer.state(), TransferState::Pending | TransferState::Running)
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
