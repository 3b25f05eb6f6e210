//! Serving a node: everything on one socket, or a kubelet and an agent each on its own.

use std::sync::Arc;

use csi_proto::windlass::v1::pools_server::PoolsServer;
use csi_proto::windlass::v1::transfers_server::TransfersServer;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::args::{AgentSocket, NodeArgs, Sockets};
use super::kubelet::{registration, under_kubelet};
use super::open::{Opened, open};
use crate::agent::AgentLayer;
use crate::cli::endpoint::Endpoint;
use crate::cli::exit::{CliError, Exit};
use crate::cli::metrics;
use crate::cli::open_pool::require_root;
use crate::cli::output::print_text;
use crate::cli::serving::{self, Beside, Service, bound};
use crate::csi::server::{self, PeerRule, PrivateSocket, SocketShare};
use crate::failpoint;
use crate::node::blocks::PoolBlocks;
use crate::node::blocks_service::{BlocksService, DescriptorSocket};
use crate::node::metrics_service::MetricsService;
use crate::node::pool_metrics::{ClaimSeries, PoolMetrics};
use crate::node::pools_service::PoolsService;
use crate::node::{self, NodeLayer};
use crate::pool::set::PoolSet;
use crate::pool::set::offer::OfferPace;
use crate::repository::Workspace;
use crate::telemetry::metrics::{Metrics, ProcessName};

/// Serves until `stop` is cancelled.
///
/// # Errors
/// [`CliError`] for whatever keeps it from serving; a stop on request is none.
pub async fn run(args: NodeArgs, stop: &CancellationToken) -> Result<(), CliError> {
    let sockets = args.sockets()?;
    require_root("cannot serve pools")?;
    if failpoint::ENABLED {
        tracing::warn!("this build can be made to fail on purpose; it is for tests, not for use");
    }
    let endpoint = args.endpoint.endpoint();
    let registration = registration(&args)?;
    let repositories = if args.no_repositories { Repositories::Closed } else { Repositories::Opened };
    let scraped = args.metrics.bind()?;
    let claims = if args.metrics_per_claim { ClaimSeries::Each } else { ClaimSeries::None };
    let opening = tokio::task::spawn_blocking(move || open(&args)).await;
    let opened = opening.unwrap_or_else(|error| Err(CliError::because(Exit::Failed, "cannot open the pools", error)))?;
    let opened = match &registration {
        Some(_) => Opened { layer: opened.layer.with_fixed_offer(), ..opened },
        None => opened,
    };
    let (layer, pools) = (opened.layer.clone(), opened.pools.clone());
    let end = stop.child_token();
    let metrics = Metrics::new(match &sockets {
        Sockets::Standalone => ProcessName::Standalone,
        Sockets::Apart(_) => ProcessName::Node,
    });
    metrics.collect(PoolMetrics::new(pools.clone(), claims));
    let (services, beside) = match &sockets {
        Sockets::Standalone => standalone(opened, &endpoint, (repositories, &metrics), &end)?,
        Sockets::Apart(agent) => apart(opened, (&endpoint, agent), &metrics, &end)?,
    };
    let scraped = metrics::begin(scraped, Arc::new(metrics), &end);
    print_text(&format!("ready {endpoint}"))?;
    if let Sockets::Apart(agent) = &sockets {
        print_text(&format!("ready {}", agent.endpoint))?;
    }

    let reason = under_kubelet(registration, &layer, &pools, &end, OfferPace::default());
    let served = serving::serve(services, beside, &end, reason).await;
    if let Some(scraped) = scraped {
        let _ = scraped.await;
    }
    // A panic in it leaves what the end of the process closes anyway.
    let _ = tokio::task::spawn_blocking(move || pools.close()).await;
    let reason = served.map_err(|error| CliError::because(Exit::Failed, format!("cannot serve on {endpoint}"), error))?;
    tracing::info!("stopped; mounts and devices stay");
    reason.map_or(Ok(()), Err)
}

/// Whether this process opens repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repositories {
    Opened,
    Closed,
}

/// Everything on one socket.
fn standalone(
    opened: Opened,
    endpoint: &Endpoint,
    (repositories, metrics): (Repositories, &Metrics),
    end: &CancellationToken,
) -> Result<(Vec<Service>, Beside), CliError> {
    let socket = bound(endpoint, PrivateSocket::bind(endpoint.path()))?.with_calls(metrics.calls.clone());
    let Opened { layer, pools } = opened;
    let (routes, beside) = match repositories {
        Repositories::Opened => {
            let blocks = Arc::new(PoolBlocks::new(pools.clone()));
            let agent = Arc::new(
                AgentLayer::new(layer.clone(), blocks, layer.node().as_str())
                    .with_workspace(Workspace::from_environment().counting_in(metrics.stores.clone()))
                    .with_metrics(metrics.transfers.clone()),
            );
            let transfers = agent.transfers().clone();
            let routes = server::routes(&agent).add_service(server::node_service(&Arc::new(layer)));
            (routes.add_service(TransfersServer::new(transfers.clone())), serving::transfers(transfers, end))
        }
        Repositories::Closed => (node::routes(&layer.without_repositories()), serving::nothing(end)),
    };
    Ok((vec![Service { socket, routes: with_pools(routes, &pools) }], beside))
}

/// Identity and Node to the kubelet, everything but Node to the agent, and the pools to both: root looks at them by either socket.
fn apart(
    opened: Opened,
    (endpoint, agent): (&Endpoint, &AgentSocket),
    metrics: &Metrics,
    end: &CancellationToken,
) -> Result<(Vec<Service>, Beside), CliError> {
    let kubelets =
        bound(endpoint, PrivateSocket::bind(endpoint.path()))?.with_share(SocketShare::Kubelet).with_calls(metrics.calls.clone());
    let agents = bound(&agent.endpoint, PrivateSocket::bind_for_group(agent.endpoint.path(), agent.group))?
        .with_share(SocketShare::Agent)
        .with_calls(metrics.calls.clone())
        .with_peers(PeerRule::UserOrRoot(agent.user));
    let Opened { layer, pools } = opened;
    // No secret is for this process: an agent keeps them.
    let layer: Arc<NodeLayer> = Arc::new(layer.with_repositories_by_agent());
    let descriptors = agent.endpoint.of_descriptors();
    let descriptors = bound(descriptors.display(), DescriptorSocket::bind_for_group(&descriptors, agent.group))?;
    let blocks = BlocksService::new(Arc::new(PoolBlocks::new(pools.clone())), end.clone());
    let services = vec![
        Service { socket: kubelets, routes: with_pools(server::kubelet_routes(&layer), &pools) },
        Service {
            socket: agents,
            routes: with_pools(server::routes(&layer), &pools)
                .add_service(blocks.server())
                .add_service(MetricsService::server(metrics.clone())),
        },
    ];
    let beside = Box::pin(async move {
        blocks.serve_descriptors(descriptors).await?;
        blocks.ended().await;
        Ok(())
    });
    Ok((services, beside))
}

fn with_pools(routes: Routes, pools: &PoolSet) -> Routes {
    routes.add_service(PoolsServer::new(PoolsService::new(pools.clone())).max_encoding_message_size(usize::MAX))
}
