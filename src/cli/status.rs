//! `windlass status`: one screen of how a node is: its pools, its volumes with when each was exported last, the transfers that run, and what
//! is wrong with what is to be done about it.
//!
//! Asked of the socket that people ask: a standalone node's, or the agent's. What cannot be asked (a pool that has failed, transfers where
//! there is no agent) is itself a finding; the rest is shown all the same. It changes nothing.
//!
//! Three steps: `ask` calls, `whole` decides what there is to say (pure; its parts are in `view`, what is wrong in `findings`), `text` writes it for people (pure).

mod ask;
mod findings;
mod text;
mod view;
mod whole;

use clap::Args;

use super::endpoint::EndpointArgs;
use super::exit::CliError;
use super::format::Format;
use super::output::{print_json, print_text};
use crate::types::Timestamp;

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// Prints how the node is.
///
/// # Errors
/// [`CliError`] when nobody can be asked. What is wrong with the node is no error of the command.
pub async fn run(args: &StatusArgs, format: Format) -> Result<(), CliError> {
    let answers = ask::answers(&args.endpoint.endpoint()).await?;
    let status = whole::Status::of(&answers, Timestamp::now());
    match format {
        Format::Text => print_text(&text::render(&status)),
        Format::Json => print_json(&status),
    }
}
