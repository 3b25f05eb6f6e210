//! Arguments of verbs without any of their own.

use clap::Args;

use crate::cli::repository_access::RepositoryArgs;

/// Arguments of verbs without any of their own.
#[derive(Debug, Args)]
pub struct OpenArgs {
    #[command(flatten)]
    pub(super) repository: RepositoryArgs,
}
