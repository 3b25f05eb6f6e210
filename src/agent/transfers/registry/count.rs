//! What the metrics are told of a transfer that has ended.

use std::time::Duration;

use crate::telemetry::metrics::{EndedTransfer, FinishedExport, TransferMetrics, TransferOutcome};
use crate::transfer::progress::ProgressSnapshot;
use crate::transfer::{ExportMode, FullReason};

use super::state::{TransferFailure, TransferResult};

/// Counts the end of a transfer, and what it has moved by then.
pub(super) fn ended(
    metrics: &TransferMetrics,
    result: &Result<TransferResult, TransferFailure>,
    (kind, elapsed): (&'static str, Duration),
    counters: ProgressSnapshot,
) {
    let outcome = match result {
        Ok(_) => TransferOutcome::Succeeded,
        Err(TransferFailure::Cancelled) => TransferOutcome::Cancelled,
        Err(TransferFailure::Failed { .. }) => TransferOutcome::Failed,
        Err(TransferFailure::Refused(_)) => TransferOutcome::Refused,
    };
    let (volume_bytes, repository_bytes) = (counters.moved_bytes, counters.stored_bytes);
    metrics.ended(EndedTransfer { kind, outcome, elapsed, volume_bytes, repository_bytes });
    let Ok(TransferResult::Export(result)) = result else { return };
    // One that an earlier attempt had made has read nothing, and has no mode.
    if let Some(mode) = word(&ExportMode::NAMES, &result.mode) {
        let reason = word(&FullReason::KINDS, &result.full_kind).unwrap_or_default();
        let (read_bytes, size_bytes) = (result.data_bytes, result.size_bytes);
        metrics.exported(FinishedExport { mode, reason, read_bytes, size_bytes });
    }
}

/// A word of a closed set: no other makes a series.
fn word(known: &[&'static str], text: &str) -> Option<&'static str> {
    known.iter().copied().find(|word| *word == text)
}

#[cfg(test)]
mod tests {
    use csi_proto::windlass::v1::ExportResult;

    use super::*;
    use crate::telemetry::metrics::{Metrics, ProcessName};
    use crate::transfer::Progress;

    #[tokio::test]
    async fn the_mode_of_an_export_is_that_of_its_result_and_what_is_no_mode_is_not_counted() {
        let metrics = Metrics::new(ProcessName::Agent);
        for (mode, full_kind) in [("full", "of tomorrow"), ("hologram", "asked"), ("", "")] {
            let result =
                ExportResult { mode: mode.to_owned(), full_kind: full_kind.to_owned(), size_bytes: 1, ..Default::default() };
            let ended_so = Ok(TransferResult::Export(result));
            ended(&metrics.transfers, &ended_so, ("export", Duration::ZERO), Progress::new().snapshot());
        }
        let text = metrics.text().await.unwrap();
        let exports: Vec<&str> = text.lines().filter(|line| line.starts_with("windlass_exports_total{")).collect();
        assert!(matches!(&exports[..], [one] if one.contains("mode=\"full\"") && one.ends_with(" 1")), "{exports:?}");
    }
}
