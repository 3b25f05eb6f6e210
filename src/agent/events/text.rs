//! The texts of events: fixed words and numbers. Pure.

use csi_proto::windlass::v1::{ExportResult, RestoreResult};

use crate::transfer::ProgressSnapshot;

/// An export that is complete.
pub(in crate::agent) fn exported(result: &ExportResult) -> String {
    let size = bytes(result.size_bytes);
    let id: String = result.repository_snapshot.chars().take(8).collect();
    if result.mode.is_empty() {
        return format!("{size} are in the repository as snapshot {id}, which an earlier attempt has stored");
    }
    let why = match result.full_reason.as_str() {
        "" => String::new(),
        reason => format!(" ({reason})"),
    };
    let (read, stored) = (bytes(result.data_bytes), bytes(result.stored_bytes));
    format!("{size} are in the repository as snapshot {id}: {}{why}, {read} read, {stored} stored", result.mode)
}

/// A restore that is complete, be it that there was nothing to restore.
pub(in crate::agent) fn restored(result: &RestoreResult) -> String {
    if result.volume_id.is_empty() {
        return "the repository has no export of the claim: the volume begins empty".to_owned();
    }
    let (size, written) = (bytes(result.size_bytes), bytes(result.data_bytes));
    let id: String = result.repository_snapshot.chars().take(8).collect();
    let cut = match result.snapshot_time.as_str() {
        "" => String::new(),
        time => format!(", as it was at {time}"),
    };
    let kept = match result.present_bytes {
        0 => String::new(),
        present => format!(", {} kept of an earlier attempt", bytes(present)),
    };
    format!(
        "the volume of {size} is restored and verified from repository snapshot {id}{cut}: {written} written{kept}, the rest is zeros"
    )
}

/// A transfer that runs.
pub(super) fn progress(hundredths: u64, counters: &ProgressSnapshot) -> String {
    let (done, total) = (bytes(counters.done_bytes), bytes(counters.total_bytes));
    format!("{hundredths} % done, {done} of {total}")
}

/// A number of bytes for people, with one decimal.
fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    // The largest unit of which there is at least one.
    let power = bytes.max(1).ilog2() / 10;
    let Some(unit) = power.checked_sub(1).and_then(|at| UNITS.get(usize::try_from(at).ok()?)) else {
        return format!("{bytes} bytes");
    };
    let one = 1_u64 << (10 * power);
    let tenths = u128::from(bytes % one) * 10 / u128::from(one);
    format!("{}.{tenths} {unit}", bytes / one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::Phase;

    #[test]
    fn sizes_are_told_in_the_largest_unit() {
        let shown = [0, 1023, 1024, 1536, (10 << 30) + (1 << 29), u64::MAX].map(bytes);
        assert_eq!(shown, ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "10.5 GiB", "15.9 EiB"]);
    }

    #[test]
    fn an_export_says_how_much_how_and_why_all_of_it() {
        let full = ExportResult {
            repository_snapshot: "0123456789abcdef".to_owned(),
            size_bytes: 10 << 30,
            data_bytes: 3 << 30,
            stored_bytes: 1 << 30,
            mode: "full".to_owned(),
            full_reason: "no earlier export is known".to_owned(),
            ..Default::default()
        };
        assert_eq!(
            exported(&full),
            "10.0 GiB are in the repository as snapshot 01234567: full (no earlier export is known), 3.0 GiB read, 1.0 GiB stored"
        );
        let incremental = ExportResult { mode: "incremental".to_owned(), full_reason: String::new(), ..full.clone() };
        assert!(exported(&incremental).contains(": incremental, 3.0 GiB read"));
        let found = ExportResult { mode: String::new(), ..full };
        assert_eq!(exported(&found), "10.0 GiB are in the repository as snapshot 01234567, which an earlier attempt has stored");
    }

    #[test]
    fn a_restore_says_how_much() {
        let result = RestoreResult {
            volume_id: "v".to_owned(),
            size_bytes: 1 << 30,
            data_bytes: 5 << 20,
            repository_snapshot: "0123456789abcdef".to_owned(),
            snapshot_time: "2026-01-31T23:59:59Z".to_owned(),
            ..Default::default()
        };
        assert_eq!(
            restored(&result),
            "the volume of 1.0 GiB is restored and verified from repository snapshot 01234567, as it was at 2026-01-31T23:59:59Z: 5.0 MiB \
             written, the rest is zeros"
        );
        let gone_on = RestoreResult { present_bytes: 3 << 20, ..result };
        assert!(restored(&gone_on).ends_with(": 5.0 MiB written, 3.0 MiB kept of an earlier attempt, the rest is zeros"));
        assert!(restored(&RestoreResult::default()).ends_with("begins empty"));
        let counters = ProgressSnapshot {
            phase: Phase::Transferring,
            total_bytes: 1 << 30,
            done_bytes: 512 << 20,
            moved_bytes: 0,
            new_bytes: 0,
            stored_bytes: 0,
        };
        assert_eq!(progress(50, &counters), "50 % done, 512.0 MiB of 1.0 GiB");
    }
}
