//! What a process says of itself: its log, and its metrics.
//!
//! * [`logs`]: structured lines on standard error.
//! * [`metrics`]: counters and figures in Prometheus' text format, and [`scrape`] serves them over HTTP.
//!
//! Nothing of ours is used here beyond what all share, so that every room may count in what it is handed.

pub mod logs;
pub mod metrics;
pub mod scrape;

pub use logs::{FILTER_VARIABLE, LogFormat, TelemetryError, start};
