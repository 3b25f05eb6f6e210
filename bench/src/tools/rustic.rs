//! rustic, as it comes.

use std::path::{Path, PathBuf};

use super::{Backup, IMAGE, PASSWORD, State, Tool, version};
use crate::error::BenchError;
use crate::measure::Invocation;

/// rustic.
pub struct Rustic {
    program: PathBuf,
    version: String,
}

impl Rustic {
    pub(super) fn find(folder: &Path) -> Option<Self> {
        let program = folder.join("rustic");
        version(&program, "--version").map(|version| Self { program, version })
    }

    fn command(&self, state: &State) -> Invocation {
        let command = Invocation::new(&self.program).words("--no-progress --log-level warn -r").argument(state.repository());
        command.words("--cache-dir").argument(state.cache()).variable("RUSTIC_PASSWORD", PASSWORD).variable("HOME", state.cache())
    }
}

impl Tool for Rustic {
    fn name(&self) -> &'static str {
        "rustic"
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn init(&self, state: &State) -> Result<(), BenchError> {
        self.command(state).words("init").output().map(drop)
    }

    fn backup(&self, state: &State, backup: &Backup<'_>) -> Invocation {
        self.command(state).words("backup --host bench").argument(IMAGE).within(backup.folder)
    }

    fn restore(&self, state: &State, _backup: &Backup<'_>, target: &Path) -> Invocation {
        self.command(state).words("restore").argument(format!("latest:{IMAGE}")).argument(target.join(IMAGE))
    }

    fn check(&self, state: &State) -> Invocation {
        self.command(state).words("check --read-data")
    }
}
