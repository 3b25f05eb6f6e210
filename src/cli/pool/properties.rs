//! `windlass pool rename` and `windlass pool set`: what was chosen for a pool, changed while a node serves it.

use clap::{ArgGroup, Args};
use csi_proto::windlass::v1 as windlass;
use serde::Serialize;

use crate::pool::properties::{DeletedSpace, OverprovisionRatio, Reserve, ReserveError};
use crate::types::PoolName;

use crate::cli::client::Node;
use crate::cli::endpoint::EndpointArgs;
use crate::cli::exit::CliError;
use crate::cli::format::Format;
use crate::cli::output::{print_json, print_text};
use crate::cli::size::ByteSize;

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
#[command(group(ArgGroup::new("changed").required(true).multiple(true).args(["overprovision_ratio", "reserve", "deleted_space"])))]
pub struct SetArgs {
    /// By how much the sizes promised to volumes may exceed the size of the pool, from 1 to 1000
    #[arg(long, value_name = "RATIO")]
    overprovision_ratio: Option<OverprovisionRatio>,
    /// How much is kept free of new volumes: `5%`, a size, or `automatic` (2 %, at least 1 GiB, at most a tenth)
    #[arg(long, value_name = "RESERVE", value_parser = reserve)]
    reserve: Option<Reserve>,
    /// Of a thin pool: `discarded` gives the space of what is deleted back to the disk, in the background, `kept` does not
    #[arg(long, value_name = "kept|discarded")]
    deleted_space: Option<DeletedSpace>,
    #[command(flatten)]
    which: WhichPool,
}

/// A reserve as people write it: sizes may have units.
///
/// # Errors
/// A text that says how to write it.
pub(in crate::cli) fn reserve(text: &str) -> Result<Reserve, String> {
    match text.parse::<ByteSize>() {
        Ok(size) => Ok(Reserve::Bytes(size.bytes())),
        Err(_) => text.parse().map_err(|error: ReserveError| format!("{error} such as 10GiB")),
    }
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
pub async fn rename(args: RenameArgs, format: Format) -> Result<(), CliError> {
    let changes = windlass::SetPoolPropertiesRequest { name: Some(args.name.into()), ..Default::default() };
    change(args.which, changes, format).await
}

/// Changes what was chosen for a pool.
pub async fn set(args: SetArgs, format: Format) -> Result<(), CliError> {
    let changes = windlass::SetPoolPropertiesRequest {
        overprovision_ratio: args.overprovision_ratio.map(String::from),
        deleted_space: args.deleted_space.map(|choice| choice.to_string()),
        reserve: args.reserve.map(String::from),
        ..Default::default()
    };
    change(args.which, changes, format).await
}

async fn change(which: WhichPool, changes: windlass::SetPoolPropertiesRequest, format: Format) -> Result<(), CliError> {
    let request = windlass::SetPoolPropertiesRequest { pool_id: which.pool.unwrap_or_default(), ..changes };
    let set = Node::connect(&which.endpoint.endpoint()).await?.set_pool_properties(request).await?;
    let windlass::SetPoolPropertiesResponse { pool_id, name, overprovision_ratio, deleted_space, reserve } = set;
    match format {
        Format::Text => print_text(&format!(
            "pool {pool_id} is called {name} and may promise {overprovision_ratio} times its size; kept free: {reserve}; deleted space is {deleted_space}"
        )),
        Format::Json => print_json(&Properties { pool_id, name, overprovision_ratio, deleted_space, reserve }),
    }
}

/// The properties as they are printed.
#[derive(Debug, Serialize)]
struct Properties {
    pool_id: String,
    name: String,
    overprovision_ratio: String,
    deleted_space: String,
    reserve: String,
}
