//! Where a process that serves is scraped.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::Args;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::exit::{CliError, Exit};
use crate::telemetry::scrape::{self, Exposition, MetricsListener};
use crate::types::error::chain;

/// Options of a process that can be scraped.
#[derive(Debug, Args)]
pub struct MetricsArgs {
    /// Serve metrics for Prometheus over HTTP on this address, such as 127.0.0.1:9810 or [::]:9810 [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_address: Option<SocketAddr>,
}

impl MetricsArgs {
    /// Whether an address was given.
    pub fn is_given(&self) -> bool {
        self.metrics_address.is_some()
    }

    /// Binds the address, if one was given; the log says where that is.
    ///
    /// # Errors
    /// [`Exit::Failed`] when it cannot be had.
    pub fn bind(&self) -> Result<Option<MetricsListener>, CliError> {
        let Some(address) = self.metrics_address else { return Ok(None) };
        let failed = |error| {
            CliError::because(Exit::Failed, format!("cannot serve metrics on {address}"), error)
                .advise("name a free port of this machine by --metrics-address")
        };
        let listener = MetricsListener::bind(address).map_err(failed)?;
        let bound = listener.address().map_err(failed)?;
        tracing::info!("metrics at http://{bound}/metrics");
        Ok(Some(listener))
    }
}

/// Serves metrics beside everything else until `end` is cancelled. Must be called within the runtime.
pub fn begin(
    listener: Option<MetricsListener>,
    exposition: Arc<dyn Exposition>,
    end: &CancellationToken,
) -> Option<JoinHandle<()>> {
    let (listener, end) = (listener?, end.clone());
    Some(tokio::spawn(async move {
        // The process is of use without.
        if let Err(error) = scrape::serve(listener, exposition, end).await {
            tracing::warn!(error = %chain(&error), "metrics are not served");
        }
    }))
}
