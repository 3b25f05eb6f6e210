//! `windlass pool close`: lets go of an image that holds a pool, once no node serves it.
//!
//! A node that ends leaves the image mounted, because volumes in it may be in use while the driver restarts. This takes down what
//! was left at whichever step, in reverse order of opening: unmount, detach, remove the mount point. It changes nothing in the pool, and
//! refuses while a node serves it or anything in it is in use; then it may be repeated.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::cli::exit::{CliError, Exit};
use crate::cli::format::Format;
use crate::cli::open_pool;
use crate::cli::output::{print_json, print_text};

/// Arguments of `pool close`.
#[derive(Debug, Args)]
pub struct CloseArgs {
    /// Image file of the pool
    #[arg(long, value_name = "PATH")]
    image: PathBuf,
}

/// Unmounts and detaches the image.
///
/// # Errors
/// [`Exit::Refused`] while it is in use.
pub async fn run(args: CloseArgs, format: Format) -> Result<(), CliError> {
    let image = args.image.clone();
    let closed = tokio::task::spawn_blocking(move || open_pool::close_image(&image)).await;
    closed.unwrap_or_else(|error| Err(CliError::because(Exit::Failed, "the pool was not closed", error)))?;
    match format {
        Format::Text => print_text(&format!("{} is neither mounted nor attached", args.image.display())),
        Format::Json => print_json(&Closed { path: &args.image.to_string_lossy() }),
    }
}

/// The closed pool as it is printed.
#[derive(Debug, Serialize)]
struct Closed<'a> {
    path: &'a str,
}
