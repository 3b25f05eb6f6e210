//! What the node answers.

use csi_proto::windlass::v1 as windlass;

use crate::cli::client::{Answer, Node};
use crate::cli::endpoint::Endpoint;
use crate::cli::exit::CliError;
use crate::types::error::chain;

/// What was asked of a node. What it does not tell is the reason why.
#[derive(Debug)]
pub struct Answers {
    /// Its pools, with what takes their space.
    pub pools: Vec<windlass::PoolStatus>,
    /// What is recorded of volumes and snapshots.
    pub records: Result<Vec<windlass::ObjectRecord>, String>,
    /// Transfers that run or have ended.
    pub transfers: Result<Vec<windlass::TransferProgress>, String>,
}

/// Asks the node behind this socket.
///
/// # Errors
/// [`CliError`] when it cannot be reached, or does not tell its pools.
pub async fn answers(endpoint: &Endpoint) -> Result<Answers, CliError> {
    let node = Node::connect(endpoint).await?;
    let pools = node.pools().await?;
    let records = node.records().await.map_err(|error| chain(&error));
    let transfers = node.transfers().list_transfers(windlass::ListTransfersRequest {}).await;
    let transfers = transfers.answer("the transfers cannot be listed").map_err(|error| chain(&error));
    Ok(Answers { pools, records, transfers: transfers.map(|answer| answer.transfers) })
}
