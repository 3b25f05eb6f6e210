//! Windlass: this program's own `export`, `restore` and `check`.

use std::path::{Path, PathBuf};

use super::{Backup, IMAGE, PASSWORD, State, Tool};
use crate::error::{BenchError, While};
use crate::measure::Invocation;

/// The product's pipelines.
pub struct Windlass {
    program: PathBuf,
    version: String,
}

impl Windlass {
    pub(super) fn find() -> Result<Self, BenchError> {
        let program = std::env::current_exe().while_doing(|| "finding this program".to_owned())?;
        let commit = Invocation::new("git").words("describe --always --dirty --abbrev=12").output();
        let commit = commit.map_or_else(|_| String::new(), |text| format!(" ({})", text.trim()));
        Ok(Self { program, version: format!("{}{commit}", env!("CARGO_PKG_VERSION")) })
    }

    fn command(&self, verb: &str, state: &State) -> Invocation {
        let command = Invocation::new(&self.program).words(verb).words("--repository").argument(state.repository());
        command.variable("RESTIC_PASSWORD", PASSWORD)
    }
}

impl Tool for Windlass {
    fn name(&self) -> &'static str {
        "windlass"
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn init(&self, state: &State) -> Result<(), BenchError> {
        self.command("init", state).output().map(drop)
    }

    fn backup(&self, state: &State, backup: &Backup<'_>) -> Invocation {
        let command = self.command("export", state).words("--image").argument(backup.snapshot);
        match backup.base {
            Some(base) => command.words("--parent").argument(base),
            None => command,
        }
    }

    fn backup_unverified(&self, state: &State, backup: &Backup<'_>) -> Option<Invocation> {
        Some(self.backup(state, backup).words("--verify off"))
    }

    fn restore(&self, state: &State, _backup: &Backup<'_>, target: &Path) -> Invocation {
        self.command("restore", state).words("--to").argument(target.join(IMAGE))
    }

    fn check(&self, state: &State) -> Invocation {
        self.command("check", state).words("--read-data")
    }
}
