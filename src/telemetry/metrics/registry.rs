//! The registry of a process, and its text.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::prometheus_text;
use prometheus_client::registry::Registry;

use super::calls::CallMetrics;
use super::process::{BuildInfo, ProcessFigures};
use super::register::register;
use super::stores::StoreMetrics;
use super::transfers::TransferMetrics;
use super::{MAX_TEXT_BYTES, families};

/// Which process it is that measures itself: the label `process`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessName {
    /// A node whose agent is another process.
    Node,
    Agent,
    /// A node with an agent in it, or without any.
    Standalone,
}

impl ProcessName {
    /// The value of the label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Agent => "agent",
            Self::Standalone => "standalone",
        }
    }
}

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    #[error("the metrics are longer than {MAX_TEXT_BYTES} bytes")]
    TooLong,
    #[error("no thread can be started to read the metrics")]
    Thread(#[source] std::io::Error),
    #[error("reading the metrics ended early")]
    Ended,
}

/// The metrics of a process. Clones are the same.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    /// Calls that its sockets answer.
    pub calls: CallMetrics,
    /// Exports and restores that it makes.
    pub transfers: TransferMetrics,
    /// Stores of the repositories that it opens.
    pub stores: StoreMetrics,
}

impl Metrics {
    /// Metrics of a process in which nothing has happened yet.
    pub fn new(process: ProcessName) -> Self {
        let label = (Cow::Borrowed("process"), Cow::Borrowed(process.as_str()));
        let mut registry = Registry::with_labels(std::iter::once(label));
        let (calls, transfers, stores) = (CallMetrics::default(), TransferMetrics::default(), StoreMetrics::default());
        register(&mut registry, &families::CALL_DURATION, calls.family().clone());
        transfers.register(&mut registry);
        stores.register(&mut registry);
        registry.register_collector(Box::new(BuildInfo));
        registry.register_collector(Box::new(ProcessFigures::begin()));
        Self { registry: Arc::new(Mutex::new(registry)), calls, transfers, stores }
    }

    /// Adds what somebody else owns.
    pub fn collect(&self, collector: impl Collector) {
        self.lock().register_collector(Box::new(collector));
    }

    /// The text, made on a thread of its own.
    ///
    /// # Errors
    /// [`TextError`].
    pub async fn text(&self) -> Result<String, TextError> {
        let (send, receive) = tokio::sync::oneshot::channel();
        let registry = Arc::clone(&self.registry);
        let encode = move || {
            let text = encode(&registry.lock().unwrap_or_else(PoisonError::into_inner));
            // Whoever asked may have gone.
            let _ = send.send(text);
        };
        thread::Builder::new().name("metrics".to_owned()).spawn(encode).map_err(TextError::Thread)?;
        receive.await.unwrap_or(Err(TextError::Ended))
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        // Registering pushes onto a list; encoding changes nothing.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode(registry: &Registry) -> Result<String, TextError> {
    let mut text = Bounded(String::new());
    match prometheus_text::encode(&mut text, registry) {
        Ok(()) => Ok(text.0),
        Err(fmt::Error) => Err(TextError::TooLong),
    }
}

/// A text that takes no more than it may.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_TEXT_BYTES {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::encoding::DescriptorEncoder;

    use super::super::description::FamilyEncoder;
    use super::*;

    #[tokio::test]
    async fn a_process_tells_what_it_counted_and_what_it_takes() {
        let metrics = Metrics::new(ProcessName::Agent);
        metrics.calls.clone().answered("/csi.v1.Identity/Probe", "OK", Duration::from_millis(3));
        let text = metrics.text().await.unwrap();
        for line in [
            "# TYPE windlass_call_duration_seconds histogram",
            "windlass_call_duration_seconds_count{process=\"agent\",method=\"/csi.v1.Identity/Probe\",code=\"OK\"} 1",
            "# TYPE windlass_process_cpu_seconds_total counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let value = |name: &str| -> f64 {
            let start = format!("{name}{{process=\"agent\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("{name}:\n{text}")).parse().unwrap()
        };
        assert!(value("windlass_process_resident_memory_bytes") > 1e6);
        assert!(value("windlass_process_open_fds") >= 3.0);
        assert!(value("windlass_process_open_fds") < value("windlass_process_max_fds"));
        assert!(value("windlass_process_threads") >= 2.0);
        assert!(value("windlass_process_start_time_seconds") > 1.7e9);
    }

    /// Claims without end.
    #[derive(Debug)]
    struct Endless;

    impl Collector for Endless {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
            let mut family = FamilyEncoder::begin(&mut encoder, &families::NODE_UP)?;
            (0_u64..).try_for_each(|number| family.gauge(&[], number as f64))
        }
    }

    #[tokio::test]
    async fn a_text_ends_at_its_bound() {
        let metrics = Metrics::new(ProcessName::Node);
        metrics.collect(Endless);
        assert!(matches!(metrics.text().await, Err(TextError::TooLong)));
    }
}
