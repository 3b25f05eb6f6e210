//! restic, as it comes and at its fastest.

use std::path::{Path, PathBuf};

use super::{Backup, IMAGE, PASSWORD, State, Tool, version};
use crate::error::BenchError;
use crate::measure::Invocation;

/// How restic is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tuning {
    /// As it comes.
    Default,
    /// The fastest compression, no second decoding, large packs.
    Fastest,
}

/// restic.
pub struct Restic {
    program: PathBuf,
    version: String,
    tuning: Tuning,
}

impl Restic {
    pub(super) fn find(folder: &Path, tuning: Tuning) -> Result<Self, BenchError> {
        let program = folder.join("restic");
        let printed = version(&program, "version");
        let printed = printed.ok_or_else(|| BenchError::new(format!("{} is not there", program.display())))?;
        let number = printed.split(' ').next().unwrap_or_default().to_owned();
        Ok(Self { program, version: number, tuning })
    }

    fn command(&self, state: &State) -> Invocation {
        let command = Invocation::new(&self.program).words("-q -r").argument(state.repository());
        let command = command.variable("RESTIC_PASSWORD", PASSWORD).variable("RESTIC_CACHE_DIR", state.cache());
        match self.tuning {
            Tuning::Default => command,
            Tuning::Fastest => command.words("--compression fastest --no-extra-verify --pack-size 64"),
        }
    }
}

impl Tool for Restic {
    fn name(&self) -> &'static str {
        match self.tuning {
            Tuning::Default => "restic",
            Tuning::Fastest => "restic-tuned",
        }
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
        self.command(state).words("restore latest --sparse --target").argument(target)
    }

    fn check(&self, state: &State) -> Invocation {
        self.command(state).words("check --read-data")
    }
}
