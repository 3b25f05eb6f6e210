//! Exports and restores: how many, how long, how much, and why an export read everything.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::families;
use super::register::register;

/// From a volume of which little changed to terabytes over a slow line.
const SECONDS: [f64; 11] = [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0];
/// Parts of a volume.
const RATIOS: [f64; 9] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0];

fn durations() -> Histogram {
    Histogram::new(SECONDS)
}

fn ratios() -> Histogram {
    Histogram::new(RATIOS)
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModeLabels {
    mode: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModeLabel {
    mode: &'static str,
}

/// How a transfer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferOutcome {
    Succeeded,
    Failed,
    /// It is of no use to try it again.
    Refused,
    Cancelled,
}

impl TransferOutcome {
    const fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A transfer that ended.
#[derive(Debug, Clone, Copy)]
pub struct EndedTransfer {
    /// `export` or `restore`.
    pub kind: &'static str,
    pub outcome: TransferOutcome,
    pub elapsed: Duration,
    /// Bytes read from a volume, or written to one.
    pub volume_bytes: u64,
    /// Bytes stored in a repository, or fetched from one.
    pub repository_bytes: u64,
}

/// An export that succeeded.
#[derive(Debug, Clone, Copy)]
pub struct FinishedExport {
    /// `full` or `incremental`.
    pub mode: &'static str,
    /// Why it was full, of a closed set of words; empty when it was not.
    pub reason: &'static str,
    pub read_bytes: u64,
    pub size_bytes: u64,
}

/// The transfers of a process. Clones count together.
#[derive(Debug, Clone)]
pub struct TransferMetrics {
    running: Family<KindLabel, Gauge>,
    durations: Family<OutcomeLabels, Histogram, fn() -> Histogram>,
    volume_bytes: Family<KindLabel, Counter>,
    repository_bytes: Family<KindLabel, Counter>,
    last_success: Family<KindLabel, Gauge>,
    exports: Family<ModeLabels, Counter>,
    changed: Family<ModeLabel, Histogram, fn() -> Histogram>,
}

impl Default for TransferMetrics {
    fn default() -> Self {
        Self {
            running: Family::default(),
            durations: Family::new_with_constructor(durations),
            volume_bytes: Family::default(),
            repository_bytes: Family::default(),
            last_success: Family::default(),
            exports: Family::default(),
            changed: Family::new_with_constructor(ratios),
        }
    }
}

impl TransferMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        register(registry, &families::TRANSFERS_RUNNING, self.running.clone());
        register(registry, &families::TRANSFER_DURATION, self.durations.clone());
        register(registry, &families::TRANSFER_VOLUME_BYTES, self.volume_bytes.clone());
        register(registry, &families::TRANSFER_REPOSITORY_BYTES, self.repository_bytes.clone());
        register(registry, &families::TRANSFER_LAST_SUCCESS, self.last_success.clone());
        register(registry, &families::EXPORTS, self.exports.clone());
        register(registry, &families::EXPORT_CHANGED_RATIO, self.changed.clone());
    }

    /// Counts a transfer that begins to run, until [`TransferMetrics::ended`].
    pub fn began(&self, kind: &'static str) {
        self.running.get_or_create(&KindLabel { kind }).inc();
    }

    /// Counts the end of a transfer that had begun.
    pub fn ended(&self, transfer: EndedTransfer) {
        let EndedTransfer { kind, outcome, elapsed, volume_bytes, repository_bytes } = transfer;
        let label = KindLabel { kind };
        self.running.get_or_create(&label).dec();
        let labels = OutcomeLabels { kind, outcome: outcome.name() };
        self.durations.get_or_create(&labels).observe(elapsed.as_secs_f64());
        self.volume_bytes.get_or_create(&label).inc_by(volume_bytes);
        self.repository_bytes.get_or_create(&label).inc_by(repository_bytes);
        if outcome == TransferOutcome::Succeeded {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.last_success.get_or_create(&label).set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        }
    }

    /// Counts what an export that succeeded has read.
    pub fn exported(&self, export: FinishedExport) {
        let FinishedExport { mode, reason, read_bytes, size_bytes } = export;
        self.exports.get_or_create(&ModeLabels { mode, reason }).inc();
        if size_bytes > 0 {
            let ratio = read_bytes as f64 / size_bytes as f64;
            self.changed.get_or_create(&ModeLabel { mode }).observe(ratio);
        }
    }
}
