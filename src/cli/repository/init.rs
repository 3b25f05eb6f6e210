//! `windlass repository init`.

use serde::Serialize;

use super::open_args::OpenArgs;
use crate::cli::exit::CliError;
use crate::cli::output::{Format, print_json, print_text};
use crate::cli::repository_access::repository_error;
use crate::repository::{KdfCost, Repository};

/// Makes the repository.
pub async fn run(args: &OpenArgs, format: Format) -> Result<(), CliError> {
    let access = args.repository.access()?;
    let store = access.store()?;
    let made = Repository::init(store, &access.password()?, KdfCost::STANDARD).await;
    let what = format!("cannot make a repository at {}", access.location());
    let repository = made.map_err(|error| repository_error(what, error))?;
    match format {
        Format::Text => print_text(&format!("made the repository {} at {}", repository.id().short(), access.location())),
        Format::Json => print_json(&Made { id: repository.id().to_string(), location: access.location().to_string() }),
    }
}

/// The new repository as it is printed.
#[derive(Debug, Serialize)]
struct Made {
    id: String,
    location: String,
}
