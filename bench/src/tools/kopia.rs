//! Kopia with its fastest zstd; its default is no compression.

use std::path::{Path, PathBuf};

use super::{Backup, PASSWORD, State, Tool, version};
use crate::error::BenchError;
use crate::measure::Invocation;

/// Kopia.
pub struct Kopia {
    program: PathBuf,
    version: String,
}

impl Kopia {
    pub(super) fn find(folder: &Path) -> Option<Self> {
        let program = folder.join("kopia");
        let printed = version(&program, "--version")?;
        let number = printed.split(' ').next()?.trim_start_matches('v').to_owned();
        Some(Self { program, version: number })
    }

    fn command(&self, state: &State) -> Invocation {
        let command = Invocation::new(&self.program).words("--no-progress --config-file").argument(state.cache().join("config"));
        let command = command.words("--log-dir").argument(state.cache().join("log"));
        command
            .variable("KOPIA_PASSWORD", PASSWORD)
            .variable("KOPIA_CACHE_DIRECTORY", state.cache().join("cache"))
            .variable("KOPIA_CHECK_FOR_UPDATES", "false")
            .variable("HOME", state.cache())
    }
}

impl Tool for Kopia {
    fn name(&self) -> &'static str {
        "kopia"
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn init(&self, state: &State) -> Result<(), BenchError> {
        let path = state.repository();
        self.command(state).words("repository create filesystem --path").argument(&path).output()?;
        self.command(state).words("policy set --global --compression=zstd-fastest").output().map(drop)
    }

    fn backup(&self, state: &State, backup: &Backup<'_>) -> Invocation {
        self.command(state).words("snapshot create").argument(backup.folder)
    }

    fn restore(&self, state: &State, backup: &Backup<'_>, target: &Path) -> Invocation {
        self.command(state).words("snapshot restore --write-sparse-files").argument(backup.folder).argument(target)
    }

    fn check(&self, state: &State) -> Invocation {
        self.command(state).words("snapshot verify --verify-files-percent=100")
    }
}
