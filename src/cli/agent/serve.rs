//! Serving as an agent.

use std::sync::Arc;

use csi_proto::csi::v1::ProbeRequest;
use csi_proto::csi::v1::identity_server::Identity;
use csi_proto::windlass::v1::pools_server::PoolsServer;
use csi_proto::windlass::v1::transfers_server::TransfersServer;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use super::args::AgentArgs;
use crate::agent::AgentLayer;
use crate::agent::metrics::PodMetrics;
use crate::agent::pools::RemotePools;
use crate::blocks::client::BlocksClient;
use crate::cli::exit::{CliError, Exit};
use crate::cli::metrics;
use crate::cli::node_name::node_name;
use crate::cli::output::print_text;
use crate::cli::serving::{self, Service, bound};
use crate::csi::channel::channel;
use crate::csi::remote::RemotePlugin;
use crate::csi::server::{self, PrivateSocket};
use crate::k8s::{ClusterSecrets, EventPublisher, Pace};
use crate::telemetry::metrics::{Metrics, ProcessName};

/// Serves until `stop` is cancelled.
///
/// # Errors
/// [`CliError`] for whatever keeps it from serving; a stop on request is none, nor is a node that is not there.
pub async fn run(args: AgentArgs, stop: &CancellationToken) -> Result<(), CliError> {
    let node_endpoint = args.node_endpoint()?;
    let node = node_name(args.node_id.as_deref())?;
    let cluster = args.cluster()?;
    let endpoint = args.endpoint.endpoint();
    let socket = match args.group() {
        Some(group) => PrivateSocket::bind_for_group(endpoint.path(), group),
        None => PrivateSocket::bind(endpoint.path()),
    };
    let metrics = Metrics::new(ProcessName::Agent);
    let socket = bound(&endpoint, socket)?.with_calls(metrics.calls.clone());
    let scraped = args.metrics.bind()?;

    let to_node = channel("node", node_endpoint.path());
    let blocks = Arc::new(BlocksClient::connect(to_node.clone(), node_endpoint.of_descriptors()));
    let node_layer = RemotePlugin::new(to_node.clone());
    let agent = AgentLayer::new(node_layer.clone(), blocks, node.as_str())
        .with_workspace(args.workspace().counting_in(metrics.stores.clone()))
        .with_metrics(metrics.transfers.clone());
    let agent = match &cluster {
        Some(cluster) => agent.with_secrets(Arc::new(ClusterSecrets::new(cluster.clone()))),
        None => agent,
    };
    let events = cluster.map(|cluster| EventPublisher::start(cluster, node.as_str(), Pace::default()));
    let agent = match &events {
        Some(events) => agent.with_events(Arc::new(events.clone())),
        None => agent,
    };
    let agent = Arc::new(agent);
    let transfers = agent.transfers().clone();
    let routes = server::routes(&agent)
        .add_service(TransfersServer::new(transfers.clone()))
        .add_service(PoolsServer::new(RemotePools::new(to_node.clone())).max_encoding_message_size(usize::MAX));
    print_text(&format!("ready {endpoint}"))?;
    // So that the log says whether the node is there, before anybody asks.
    let looked = tokio::spawn(async move { node_layer.probe(Request::new(ProbeRequest {})).await.map(drop) });

    let end = stop.child_token();
    let scraped = metrics::begin(scraped, Arc::new(PodMetrics::new(metrics, to_node)), &end);
    let protecting = {
        let (agent, end) = (Arc::clone(&agent), end.clone());
        tokio::spawn(async move { agent.protect(&end).await })
    };
    let beside = serving::transfers(transfers, &end);
    let served = serving::serve(vec![Service { socket, routes }], beside, &end, std::future::pending()).await;
    looked.abort();
    // It has ended with the sockets, but for a call that nobody waits for any more.
    protecting.abort();
    // Transfers have ended, and said how.
    if let Some(events) = events {
        events.close().await;
    }
    // It ended with the sockets.
    if let Some(scraped) = scraped {
        let _ = scraped.await;
    }
    served.map_err(|error| CliError::because(Exit::Failed, format!("cannot serve on {endpoint}"), error))?;
    tracing::info!("stopped");
    Ok(())
}
