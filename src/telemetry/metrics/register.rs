//! Families into a registry, as they are described.

use prometheus_client::encoding::EncodeMetric;
use prometheus_client::registry::{Metric, Registry};

use super::description::{Description, Kind};

/// Registers a family as it is described.
pub(super) fn register(registry: &mut Registry, description: &Description, metric: impl Metric) {
    debug_assert_eq!(EncodeMetric::metric_type(&metric).as_str(), description.kind.name(), "{}", description.name);
    debug_assert!(description.kind != Kind::Counter || description.name.ends_with("_total"));
    registry.register(description.stem(), format!("{}.", description.help), metric);
}
