//! `windlass repository init`.

use serde_json::json;

use super::super::exit::CliError;
use super::super::output::{Format, print_json, print_text};
use super::super::repository_access::repository_error;
use super::open_args::OpenArgs;
use crate::repository::{KdfCost, Repository};

/// Runs the verb.
///
/// # Errors
/// [`CliError`] with the exit code that the repository's failure means.
pub async fn run(args: &OpenArgs, format: Format) -> Result<(), CliError> {
    let access = args.repository.access()?;
    let store = access.store()?;
    let made = Repository::init(store, &access.password()?, KdfCost::STANDARD).await;
    let what = format!("cannot make a repository at {}", access.location());
    let repository = made.map_err(|error| repository_error(what, error))?;
    match format {
        Format::Text => print_text(&format!("made the repository {} at {}", repository.id().short(), access.location())),
        Format::Json => print_json(&json!({ "id": repository.id().to_string(), "location": access.location().to_string() })),
    }
}
