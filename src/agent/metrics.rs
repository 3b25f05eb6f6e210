//! The metrics of a pod: the agent's own, and those of its node, which has no network to be scraped by.
//!
//! The node's text is fetched anew for each scrape, over the socket that the agent has to it, and waited for [`NODE_TIME`]. Whatever becomes of
//! that, the agent's own part is served, and says by `windlass_node_up` whether the other is there. A text of the node's that is not made as ours
//! are counts as none. Two scrapes at once may each tell of the other's answer: both are of the moment.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use csi_proto::windlass::v1::GetMetricsRequest;
use csi_proto::windlass::v1::metrics_client::MetricsClient;
use tonic::transport::Channel;

use crate::telemetry::metrics::{
    Collector, DescriptorEncoder, FamilyEncoder, MAX_TEXT_BYTES, Metrics, TextError, families, merge,
};
use crate::telemetry::scrape::Exposition;
use crate::types::error::chain;

/// A node reads memory only, so this is for one that hangs: well below what a scraper waits, with the agent's own text to come.
pub const NODE_TIME: Duration = Duration::from_secs(4);

/// What is scraped of an agent and its node.
pub struct PodMetrics {
    own: Metrics,
    node: MetricsClient<Channel>,
    node_up: Arc<AtomicBool>,
}

impl PodMetrics {
    /// `own`, and those of the node behind `channel`.
    pub fn new(own: Metrics, channel: Channel) -> Self {
        let node_up = Arc::default();
        own.collect(NodeUp(Arc::clone(&node_up)));
        // The message around the text takes a few bytes.
        let node = MetricsClient::new(channel).max_decoding_message_size(MAX_TEXT_BYTES + 64);
        Self { own, node, node_up }
    }

    /// The node's text; `None` when it gives none.
    async fn of_node(&self) -> Option<String> {
        let mut node = self.node.clone();
        match tokio::time::timeout(NODE_TIME, node.get_metrics(GetMetricsRequest {})).await {
            Ok(Ok(answer)) => Some(answer.into_inner().text),
            Ok(Err(refusal)) => {
                tracing::debug!(error = %chain(&refusal), "the node gives no metrics");
                None
            }
            Err(_) => {
                tracing::debug!("the node gives no metrics in time");
                None
            }
        }
    }

    async fn both(&self) -> Result<String, TextError> {
        let node = self.of_node().await;
        // What both have is one group: so whether the node's is usable is known after a first merge with nothing.
        let usable = node.as_deref().and_then(|text| match merge("", text) {
            Ok(_) => Some(text),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "what the node gives are no metrics");
                None
            }
        });
        self.node_up.store(usable.is_some(), Ordering::Relaxed);
        let own = self.own.text().await?;
        Ok(match usable {
            Some(text) => merge(&own, text).unwrap_or(own),
            None => own,
        })
    }
}

impl Exposition for PodMetrics {
    fn text(&self) -> Pin<Box<dyn Future<Output = Result<String, TextError>> + Send + '_>> {
        Box::pin(self.both())
    }
}

/// Whether the node gave its metrics.
#[derive(Debug)]
struct NodeUp(Arc<AtomicBool>);

impl Collector for NodeUp {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let value = if self.0.load(Ordering::Relaxed) { 1.0 } else { 0.0 };
        FamilyEncoder::begin(&mut encoder, &families::NODE_UP)?.gauge(&[], value)
    }
}
