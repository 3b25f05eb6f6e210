//! `windlass node probe`: is the node well? For exec probes, which need neither a sidecar nor a port.

use std::time::Duration;

use clap::Args;
use csi_proto::csi::v1::ProbeRequest;
use csi_proto::csi::v1::identity_client::IdentityClient;

use super::super::client::{Answer, Node};
use super::super::endpoint::EndpointArgs;
use super::super::exit::{CliError, Exit};
use super::super::wait::Wait;

/// Used unless the command line says otherwise; a kubelet gives up by its own time, which should be longer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Arguments of `node probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// Any answer will do: a node whose pools have all failed lives on, to take volumes down. For liveness probes
    #[arg(long)]
    live: bool,
    /// How long to wait for the answer [default: 5s]
    #[arg(long, value_name = "TIME")]
    timeout: Option<Wait>,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// Asks the node, once.
///
/// # Errors
/// [`Exit::Failed`] whatever is wrong with the node: it is not there, does not answer in time, or says that it is not well.
pub async fn run(args: ProbeArgs) -> Result<(), CliError> {
    let endpoint = args.endpoint.endpoint();
    let timeout = args.timeout.map_or(TIMEOUT, Wait::duration);
    let failed = |error: CliError| CliError::new(Exit::Failed, error.to_string());
    let asking = async {
        let node = Node::connect(&endpoint).await.map_err(failed)?;
        let answer = IdentityClient::new(node.channel()).probe(ProbeRequest {}).await;
        if args.live && answer.is_of_the_node() {
            return Ok(());
        }
        let answer = answer.answer("the node is not well").map_err(failed)?;
        if answer.ready == Some(false) {
            return Err(CliError::new(Exit::Failed, "the node is still starting"));
        }
        Ok(())
    };
    match tokio::time::timeout(timeout, asking).await {
        Ok(result) => result,
        Err(_) => {
            Err(CliError::new(Exit::Failed, format!("the node at {endpoint} has not answered within {} s", timeout.as_secs())))
        }
    }
}
