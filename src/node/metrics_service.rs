//! The internal Metrics service: what this process measures of itself, for the agent that is scraped.
//!
//! It reads memory, and takes no lock that is held while a disk is waited for.

use csi_proto::windlass::v1 as windlass;
use csi_proto::windlass::v1::metrics_server::{Metrics as MetricsApi, MetricsServer};
use tonic::{Request, Response, Status};

use crate::telemetry::metrics::{Metrics, TextError};
use crate::types::error::chain;

/// The Metrics service of a process.
#[derive(Debug, Clone)]
pub struct MetricsService {
    metrics: Metrics,
}

impl MetricsService {
    /// The service, to be added to a socket's routes.
    pub fn server(metrics: Metrics) -> MetricsServer<Self> {
        MetricsServer::new(Self { metrics })
    }
}

#[tonic::async_trait]
impl MetricsApi for MetricsService {
    async fn get_metrics(
        &self,
        _request: Request<windlass::GetMetricsRequest>,
    ) -> Result<Response<windlass::GetMetricsResponse>, Status> {
        match self.metrics.text().await {
            Ok(text) => Ok(Response::new(windlass::GetMetricsResponse { text })),
            Err(error @ TextError::TooLong) => Err(Status::resource_exhausted(chain(&error))),
            Err(error @ (TextError::Thread(_) | TextError::Ended)) => Err(Status::unavailable(chain(&error))),
        }
    }
}
