//! The node's Pools service, passed on: people ask the agent, whose socket is theirs to ask, and the node answers.

use csi_proto::windlass::v1 as windlass;
use csi_proto::windlass::v1::pools_client::PoolsClient;
use csi_proto::windlass::v1::pools_server::Pools;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::csi::remote::forward;
use crate::csi::server::MAX_RESPONSE_BYTES;

/// The Pools service of the node at the other end of a channel.
#[derive(Debug, Clone)]
pub struct RemotePools {
    client: PoolsClient<Channel>,
}

impl RemotePools {
    /// The service of the node behind `channel`.
    pub fn new(channel: Channel) -> Self {
        Self { client: PoolsClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES) }
    }
}

#[tonic::async_trait]
impl Pools for RemotePools {
    async fn get_pool_status(
        &self,
        request: Request<windlass::GetPoolStatusRequest>,
    ) -> Result<Response<windlass::GetPoolStatusResponse>, Status> {
        forward(&self.client, request, |mut client, request| async move { client.get_pool_status(request).await }).await
    }

    async fn list_records(
        &self,
        request: Request<windlass::ListRecordsRequest>,
    ) -> Result<Response<windlass::ListRecordsResponse>, Status> {
        forward(&self.client, request, |mut client, request| async move { client.list_records(request).await }).await
    }

    async fn set_pool_properties(
        &self,
        request: Request<windlass::SetPoolPropertiesRequest>,
    ) -> Result<Response<windlass::SetPoolPropertiesResponse>, Status> {
        forward(&self.client, request, |mut client, request| async move { client.set_pool_properties(request).await }).await
    }
}
