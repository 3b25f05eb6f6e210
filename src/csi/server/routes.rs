//! A layer as the services that a socket offers.

use std::sync::Arc;

use csi_proto::csi::v1::controller_server::ControllerServer;
use csi_proto::csi::v1::group_controller_server::GroupControllerServer;
use csi_proto::csi::v1::identity_server::{Identity, IdentityServer};
use csi_proto::csi::v1::node_server::{Node, NodeServer};
use csi_proto::csi::v1::snapshot_metadata_server::SnapshotMetadataServer;
use tonic::service::Routes;

use crate::csi::plugin::Plugin;

/// Largest request: the maps and paths of CSI take a few dozen KiB.
pub const MAX_REQUEST_BYTES: usize = 1 << 20;
/// Largest answer: a list of a hundred thousand volumes. A caller that takes less asks for pages.
pub const MAX_RESPONSE_BYTES: usize = 64 << 20;
/// Largest message of a stream of ranges: what a gRPC client takes unless told otherwise. Neither csi-snapshot-metadata nor its clients
/// tell otherwise, and the sidecar's own message has the shape of this one.
pub const MAX_RANGES_BYTES: usize = 4 << 20;

/// The services of a layer, to which more may be added.
pub fn routes<P: Plugin>(plugin: &Arc<P>) -> Routes {
    Routes::new(identity_service(plugin))
        .add_service(
            ControllerServer::from_arc(Arc::clone(plugin))
                .max_decoding_message_size(MAX_REQUEST_BYTES)
                .max_encoding_message_size(MAX_RESPONSE_BYTES),
        )
        .add_service(
            GroupControllerServer::from_arc(Arc::clone(plugin))
                .max_decoding_message_size(MAX_REQUEST_BYTES)
                .max_encoding_message_size(MAX_RESPONSE_BYTES),
        )
        .add_service(
            SnapshotMetadataServer::from_arc(Arc::clone(plugin))
                .max_decoding_message_size(MAX_REQUEST_BYTES)
                .max_encoding_message_size(MAX_RANGES_BYTES),
        )
}

/// What a kubelet needs: Identity, and Node.
pub fn kubelet_routes<N: Identity + Node>(node: &Arc<N>) -> Routes {
    Routes::new(identity_service(node)).add_service(node_service(node))
}

fn identity_service<I: Identity>(identity: &Arc<I>) -> IdentityServer<I> {
    IdentityServer::from_arc(Arc::clone(identity))
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_RESPONSE_BYTES)
}

/// The Node service, of the layer that mounts.
pub fn node_service<N: Node>(node: &Arc<N>) -> NodeServer<N> {
    NodeServer::from_arc(Arc::clone(node))
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_RESPONSE_BYTES)
}
