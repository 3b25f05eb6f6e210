//! `windlass pool rename` and `windlass pool set`: what was chosen for a pool, changed while a node serves it.

use clap::Args;
use csi_proto::windlass::v1 as windlass;
use serde_json::json;

use crate::pool::properties::{OverprovisionRatio, PoolName};

use super::super::client::Node;
use super::super::endpoint::EndpointArgs;
use super::super::exit::CliError;
use super::super::output::{Format, print_json, print_text};

/// Arguments of `pool rename`.
#[derive(Debug, Args)]
pub struct RenameArgs {
    /// The new name: lower-case letters, digits, `-` and `.`
    name: PoolName,
    #[command(flatten)]
    which: WhichPool,
}

/// Arguments of `pool set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// By how much the sizes promised to volumes may exceed the size of the pool, from 1 to 1000
    #[arg(long, value_name = "RATIO")]
    overprovision_ratio: OverprovisionRatio,
    #[command(flatten)]
    which: WhichPool,
}

/// Which pool of which node.
#[derive(Debug, Args)]
struct WhichPool {
    /// Its id, or its name if no other of the node has it [default: the node's only pool]
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// Renames a pool.
///
/// # Errors
/// [`CliError`].
pub async fn rename(args: RenameArgs, format: Format) -> Result<(), CliError> {
    change(args.which, Some(args.name), None, format).await
}

/// Changes how much a pool may promise.
///
/// # Errors
/// [`CliError`].
pub async fn set(args: SetArgs, format: Format) -> Result<(), CliError> {
    change(args.which, None, Some(args.overprovision_ratio), format).await
}

async fn change(
    which: WhichPool,
    name: Option<PoolName>,
    ratio: Option<OverprovisionRatio>,
    format: Format,
) -> Result<(), CliError> {
    let request = windlass::SetPoolPropertiesRequest {
        pool_id: which.pool.unwrap_or_default(),
        name: name.map(String::from),
        overprovision_ratio: ratio.map(String::from),
    };
    let set = Node::connect(&which.endpoint.endpoint()).await?.set_pool_properties(request).await?;
    let windlass::SetPoolPropertiesResponse { pool_id, name, overprovision_ratio } = set;
    match format {
        Format::Text => {
            print_text(&format!("pool {pool_id} is called {name} and may promise {overprovision_ratio} times its size"))
        }
        Format::Json => print_json(&json!({ "pool_id": pool_id, "name": name, "overprovision_ratio": overprovision_ratio })),
    }
}
