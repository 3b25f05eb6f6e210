//! A node under a kubelet: registered as long as it runs, and ended when its pools are no longer those that the kubelet was told of.

use tokio_util::sync::CancellationToken;

use super::args::NodeArgs;
use super::changes;
use crate::cli::exit::{CliError, Exit};
use crate::node::NodeLayer;
use crate::node::registration::{Registration, RegistrationError};
use crate::pool::set::PoolSet;
use crate::pool::set::offer::OfferPace;

/// The registration that the command line asks for.
pub fn registration(args: &NodeArgs) -> Result<Option<Registration>, CliError> {
    let (Some(directory), Some(endpoint)) = (&args.kubelet_registration, &args.kubelet_endpoint) else { return Ok(None) };
    let registration = Registration::new(directory, endpoint).map_err(|error| {
        let option =
            if matches!(error, RegistrationError::Endpoint(_)) { "--kubelet-endpoint" } else { "--kubelet-registration" };
        CliError::because(Exit::Usage, format!("{option} cannot be used"), error)
    })?;
    Ok(Some(registration))
}

/// Keeps the node registered; ends with the reason why the process must end. Without a registration that is never, and so it is after
/// `end` was cancelled.
pub async fn under_kubelet(
    registration: Option<Registration>,
    layer: &NodeLayer,
    pools: &PoolSet,
    end: &CancellationToken,
    pace: OfferPace,
) -> CliError {
    let Some(registration) = registration else { return std::future::pending().await };
    changes::all_tried(pools).await;
    tokio::select! {
        kept = registration.keep(end) => match kept {
            Ok(()) => std::future::pending().await,
            Err(error) => CliError::because(Exit::Failed, "the node is not registered", error)
                .advise("the kubelet's log says more; the node is to be started anew"),
        },
        change = changes::differing(layer, pools, pace) => {
            tracing::warn!(%change, "the pools are not those that the kubelet was told of; the node ends to be started anew");
            CliError::new(Exit::Restart, format!("the pools of this node have changed: {change}"))
                .advise("start it again, so that the kubelet asks anew; mounts and devices stay")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use csi_proto::csi::v1::NodeGetInfoRequest;
    use csi_proto::csi::v1::node_server::Node;

    use super::*;
    use crate::csi::NodeName;
    use crate::mount::memory::MemoryMounter;
    use crate::mount::path::Root;
    use crate::node::NodeOptions;
    use crate::pool::set::tests::{Disk, start};

    /// Only bounds a hang.
    const BOUND: Duration = Duration::from_secs(60);

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_whose_pool_opens_after_the_kubelet_asked_ends_with_a_code_of_its_own_and_is_registered_until_then() {
        let disk = Disk::new("late");
        disk.die();
        let pools = start(std::slice::from_ref(&disk));
        let place = tempfile::tempdir().unwrap();
        let options = NodeOptions {
            node: NodeName::try_from("here".to_owned()).unwrap(),
            root: Root::open(place.path()).unwrap(),
            boot_id: "boot".to_owned(),
            statistics_timeout: None,
        };
        let layer = NodeLayer::new(pools.clone(), Arc::new(MemoryMounter::new()), options).with_fixed_offer();
        let registration = Registration::new(place.path(), Path::new("/csi/csi.sock")).unwrap();
        let socket = registration.socket().to_owned();
        let pace = OfferPace { settle: Duration::ZERO, give_up: Duration::ZERO, between: Duration::ZERO };
        let end = CancellationToken::new();
        let (its_layer, its_pools) = (layer.clone(), pools.clone());
        let running = tokio::spawn(async move { under_kubelet(Some(registration), &its_layer, &its_pools, &end, pace).await });
        let appears = async {
            let mut looks = tokio::time::interval(Duration::from_millis(10));
            while !socket.exists() {
                looks.tick().await;
            }
        };
        tokio::time::timeout(BOUND, appears).await.expect("it does not register");
        layer.node_get_info(tonic::Request::new(NodeGetInfoRequest {})).await.unwrap();
        disk.come_back();
        let error = tokio::time::timeout(BOUND, running).await.expect("it does not end").unwrap();
        assert_eq!((error.exit(), error.exit().code()), (Exit::Restart, 6));
        assert!(crate::types::error::chain(&error).contains(&format!("opened since: {}", disk.id())), "{error}");
        assert!(!socket.exists(), "the kubelet is to notice");
        pools.close();
    }
}
