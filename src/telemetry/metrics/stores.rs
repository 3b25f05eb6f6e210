//! What repositories ask of their stores, and what they are answered.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::families;
use super::register::register;

/// From a directory to a store that is waited for a quarter of an hour.
const SECONDS: [f64; 10] = [0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0];

fn durations() -> Histogram {
    Histogram::new(SECONDS)
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// The calls of all stores of a process. Clones count together.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    durations: Family<CallLabels, Histogram, fn() -> Histogram>,
    retries: Family<ReasonLabel, Counter>,
    sent: Counter,
    received: Counter,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self {
            durations: Family::new_with_constructor(durations),
            retries: Family::default(),
            sent: Counter::default(),
            received: Counter::default(),
        }
    }
}

impl StoreMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        register(registry, &families::STORE_CALL_DURATION, self.durations.clone());
        register(registry, &families::STORE_RETRIES, self.retries.clone());
        register(registry, &families::STORE_SENT, self.sent.clone());
        register(registry, &families::STORE_RECEIVED, self.received.clone());
    }

    /// Counts a call that ended, with all its repetitions. Both words are of closed sets.
    pub fn ended(&self, operation: &'static str, outcome: &'static str, elapsed: Duration) {
        self.durations.get_or_create(&CallLabels { operation, outcome }).observe(elapsed.as_secs_f64());
    }

    /// Counts an attempt that failed and is repeated.
    pub fn repeated(&self, reason: &'static str) {
        self.retries.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts bytes of objects that were stored.
    pub fn sent(&self, bytes: u64) {
        self.sent.inc_by(bytes);
    }

    /// Counts bytes of objects that were read.
    pub fn received(&self, bytes: u64) {
        self.received.inc_by(bytes);
    }
}
