//! `windlass pool grow`: a pool in an image file, enlarged. Pools on devices follow their devices, and need no verb.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::mount::image::Grown;

use crate::cli::exit::{CliError, Exit};
use crate::cli::format::Format;
use crate::cli::open_pool;
use crate::cli::output::{print_json, print_text};
use crate::cli::size::ByteSize;

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

/// Enlarges the image, and the pool in it.
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
        (Format::Json, grown) => {
            let in_use_by_node = grown == Grown::LeftToItsOwner;
            print_json(&GrownPool { path: &args.image, size_bytes: bytes, in_use_by_node })
        }
    }
}

/// The larger pool as it is printed.
#[derive(Debug, Serialize)]
struct GrownPool<'a> {
    path: &'a Path,
    size_bytes: u64,
    in_use_by_node: bool,
}
