//! Borg with chunks of a fixed size, which it has for disk images, and its fastest zstd.

use std::path::{Path, PathBuf};

use super::{Backup, IMAGE, PASSWORD, State, Tool, version};
use crate::error::BenchError;
use crate::measure::Invocation;

/// Borg.
pub struct Borg {
    program: PathBuf,
    version: String,
}

impl Borg {
    pub(super) fn find() -> Option<Self> {
        let program = PathBuf::from("borg");
        version(&program, "--version").map(|version| Self { program, version })
    }

    fn command(&self, state: &State) -> Invocation {
        // It keeps what must not go back in time in its own folder, which is put back with the repository.
        Invocation::new(&self.program).variable("BORG_PASSPHRASE", PASSWORD).variable("BORG_BASE_DIR", state.cache())
    }

    fn archive(state: &State, label: &str) -> String {
        format!("{}::{label}", state.repository().display())
    }
}

impl Tool for Borg {
    fn name(&self) -> &'static str {
        "borg"
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn init(&self, state: &State) -> Result<(), BenchError> {
        self.command(state).words("init --encryption repokey-blake2").argument(state.repository()).output().map(drop)
    }

    fn backup(&self, state: &State, backup: &Backup<'_>) -> Invocation {
        let command = self.command(state).words("create --chunker-params fixed,4194304 --sparse --compression zstd,1");
        command.argument(Self::archive(state, backup.label)).argument(IMAGE).within(backup.folder)
    }

    fn restore(&self, state: &State, backup: &Backup<'_>, target: &Path) -> Invocation {
        self.command(state).words("extract --sparse").argument(Self::archive(state, backup.label)).within(target)
    }

    fn check(&self, state: &State) -> Invocation {
        self.command(state).words("check --verify-data").argument(state.repository())
    }
}
