//! `windlass pool grow`: a pool in an image file, enlarged. Pools on devices follow their devices, and need no verb.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::mount::image::Grown;

use super::super::exit::{CliError, Exit};
use super::super::open_pool;
use super::super::output::{Format, print_json, print_text};
use super::super::size::ByteSize;

/// Arguments of `pool grow`.
#[derive(Debug, Args)]
pub struct GrowArgs {
    /// Image file that the pool lies in
    #[arg(long, value_name = "PATH")]
    image: PathBuf,
    /// Size that the image is to have
    #[arg(long)]
    size: ByteSize,
}

/// Enlarges it.
///
/// # Errors
/// [`CliError`].
pub async fn run(args: GrowArgs, format: Format) -> Result<(), CliError> {
    let (image, bytes) = (args.image.clone(), args.size.bytes());
    let grown = tokio::task::spawn_blocking(move || open_pool::grow_image(&image, bytes)).await;
    let grown = grown.unwrap_or_else(|error| Err(CliError::because(Exit::Failed, "the pool was not grown", error)))?;
    let (path, size) = (args.image.display(), args.size);
    match (format, grown) {
        (Format::Text, Grown::Done) => print_text(&format!("{path}: the pool has {size}")),
        (Format::Text, Grown::LeftToItsOwner) => {
            print_text(&format!("{path}: the image has {size}; the node that serves it takes it into use within some seconds"))
        }
        (Format::Json, grown) => print_json(&json!({
            "path": args.image,
            "size_bytes": bytes,
            "in_use_by_node": grown == Grown::LeftToItsOwner,
        })),
    }
}
