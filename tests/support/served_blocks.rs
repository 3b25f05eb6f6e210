//! A node that serves its blocks to another process, which is this one: two sockets in a temporary directory, as an agent finds them.

#![allow(dead_code, clippy::unwrap_used, reason = "test support; no test uses all of it")]

use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use windlass::blocks::Blocks;
use windlass::blocks::client::{self, BlocksClient};
use windlass::csi::server::{self, PrivateSocket};
use windlass::node::blocks_service::{BlocksService, DescriptorSocket};

/// The node's end. Dropping it stops it, and waits until it has let go of its blocks.
pub struct ServedBlocks {
    directory: tempfile::TempDir,
    service: BlocksService,
    stop: CancellationToken,
    /// Until it is stopped.
    serving: Vec<JoinHandle<()>>,
}

impl ServedBlocks {
    /// Serves `blocks`. Must be called within a runtime.
    pub fn over(blocks: Arc<dyn Blocks>) -> Self {
        let (directory, stop) = (tempfile::tempdir().unwrap(), CancellationToken::new());
        let service = BlocksService::new(blocks, stop.clone());
        let socket = PrivateSocket::bind(&directory.path().join("agent.sock")).unwrap();
        let routes = Routes::new(service.server());
        let ending = stop.clone();
        let calls = tokio::spawn(async move { server::serve(socket, routes, ending).await.unwrap() });
        let socket = DescriptorSocket::bind(&directory.path().join("descriptors.sock")).unwrap();
        let serving = service.clone();
        let descriptors = tokio::spawn(async move { serving.serve_descriptors(socket).await.unwrap() });
        Self { directory, service, stop, serving: vec![calls, descriptors] }
    }

    /// Where calls are taken.
    pub fn call_socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    /// Where tokens are taken.
    pub fn descriptor_socket(&self) -> PathBuf {
        self.directory.path().join("descriptors.sock")
    }

    /// A connection of its own.
    pub fn channel(&self) -> Channel {
        let endpoint = format!("unix://{}", self.call_socket().display());
        client::endpoint(Endpoint::from_shared(endpoint).unwrap()).connect_lazy()
    }

    /// An agent.
    pub fn client(&self) -> BlocksClient {
        BlocksClient::connect(self.channel(), self.descriptor_socket())
    }

    /// Stops it as a node stops, and waits until all that was held is let go.
    pub async fn stop(mut self) {
        self.end().await;
    }

    async fn end(&mut self) {
        self.stop.cancel();
        for task in self.serving.drain(..) {
            task.await.unwrap();
        }
        self.service.ended().await;
    }
}

impl Drop for ServedBlocks {
    fn drop(&mut self) {
        if !self.serving.is_empty() {
            tokio::task::block_in_place(|| Handle::current().block_on(self.end()));
        }
    }
}
