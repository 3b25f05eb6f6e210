//! `windlass node probe`, `windlass agent probe`: is it well? For exec probes, which need neither a sidecar nor a port.
//!
//! An agent answers what its node does, and that it is not ready while the node is not there.

use std::time::Duration;

use clap::Args;
use csi_proto::csi::v1::ProbeRequest;
use csi_proto::csi::v1::identity_client::IdentityClient;
use csi_proto::windlass::v1 as windlass;

use crate::cli::client::{Answer, Node};
use crate::cli::endpoint::EndpointArgs;
use crate::cli::exit::{CliError, Exit};
use crate::cli::wait::Wait;
use crate::types::error::chain;

/// Used unless the command line says otherwise; a kubelet gives up by its own time, which should be longer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Arguments of a probe.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// Any answer will do: a node whose pools have all failed lives on, to take volumes down, and an agent waits for its node. For liveness
    /// probes
    #[arg(long)]
    live: bool,
    /// How long to wait for the answer [default: 5s]
    #[arg(long, value_name = "TIME")]
    timeout: Option<Wait>,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// Which process is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// `windlass node`.
    Node,
    /// `windlass agent`.
    Agent,
}

impl Asked {
    fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Agent => "agent",
        }
    }
}

/// Why a node is not ready, in words that are the same as long as it lasts: each other text of a probe is an event of its own.
fn not_ready(pools: &[windlass::PoolStatus]) -> String {
    let failed: Vec<_> = pools
        .iter()
        .filter(|pool| pool.state == "failed")
        .map(|pool| format!("the pool at {} cannot be used now: {}", pool.path, pool.problem))
        .collect();
    format!("no pool of this node is open: {}", failed.join("; "))
}

/// Asks the process, once.
///
/// # Errors
/// [`Exit::Failed`] whatever is wrong with it: it is not there, does not answer in time, or says that it is not well.
pub async fn run(asked: Asked, args: ProbeArgs) -> Result<(), CliError> {
    let who = asked.name();
    let endpoint = args.endpoint.endpoint();
    let timeout = args.timeout.map_or(TIMEOUT, Wait::duration);
    let failed = |error: CliError| CliError::new(Exit::Failed, chain(&error));
    let asking = async {
        let node = Node::connect_to(who, &endpoint).await.map_err(failed)?;
        let answer = IdentityClient::new(node.channel()).probe(ProbeRequest {}).await;
        if args.live && answer.is_of_the_node() {
            return Ok(());
        }
        let answer = answer.answer(&format!("the {who} is not well")).map_err(failed)?;
        if answer.ready == Some(false) {
            let pools = node.pools().await.map_err(failed)?;
            return Err(CliError::new(Exit::Failed, not_ready(&pools)));
        }
        Ok(())
    };
    match tokio::time::timeout(timeout, asking).await {
        Ok(result) => result,
        Err(_) => {
            Err(CliError::new(Exit::Failed, format!("the {who} at {endpoint} has not answered within {} s", timeout.as_secs())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_told_and_not_the_time() {
        let pool = |state: &str, retry: &str| windlass::PoolStatus {
            path: "/dev/a".to_owned(),
            state: state.to_owned(),
            problem: "no such disk".to_owned(),
            retry: retry.to_owned(),
            ..Default::default()
        };
        let said = not_ready(&[pool("failed", "tried again in 4 s")]);
        assert_eq!(said, "no pool of this node is open: the pool at /dev/a cannot be used now: no such disk");
        assert_eq!(said, not_ready(&[pool("failed", "tried again in 3 s"), pool("ready", "")]));
    }
}
