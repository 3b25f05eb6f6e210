//! How long calls take, by method and code.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

/// From a look at memory to the time-outs of sidecars and kubelets (120 s).
const BUCKETS: [f64; 12] = [0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// Both are of closed sets: nobody who calls can make a series of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CallLabels {
    method: &'static str,
    code: &'static str,
}

type Durations = Family<CallLabels, Histogram, fn() -> Histogram>;

/// The calls that a process answers. Clones count together.
#[derive(Debug, Clone)]
pub struct CallMetrics {
    durations: Durations,
}

impl Default for CallMetrics {
    fn default() -> Self {
        Self { durations: Family::new_with_constructor(histogram) }
    }
}

impl CallMetrics {
    pub(super) fn family(&self) -> &Durations {
        &self.durations
    }

    /// Counts a call that was answered, or whose caller went away before.
    pub fn answered(&self, method: &'static str, code: &'static str, elapsed: Duration) {
        self.durations.get_or_create(&CallLabels { method, code }).observe(elapsed.as_secs_f64());
    }
}
