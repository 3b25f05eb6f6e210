//! Peak memory by size of the volume: a table, each line of which is one process of this program.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::data::place::beside_the_build;
use crate::error::{BenchError, While};
use crate::measure::Invocation;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
/// The default setting and the low one.
const MEMORY: [u64; 2] = [256 * MIB, 128 * MIB];
/// Chunks that an increment finds changed.
const CHANGED: u64 = 1000;
/// Size of the full volume all of whose bytes are read, unless another is asked for: a minute or two.
const FULL_BYTES: u64 = 64 * GIB;

/// The arguments of `synthetic table`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Where repositories are made
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    work: PathBuf,
    /// Where the results go
    #[arg(long, value_name = "DIR", default_value_os_t = beside_the_build("bench"))]
    output: PathBuf,
    /// Size in bytes of the full volume that is exported and restored whole
    #[arg(long, value_name = "BYTES", default_value_t = FULL_BYTES)]
    full: u64,
}

/// A line of the table. Sizes are in bytes.
#[derive(Debug, Clone, Serialize)]
struct Line {
    case: &'static str,
    size_bytes: u64,
    memory_bytes: u64,
    peak_bytes: u64,
    wall_seconds: f64,
    cpu_seconds: f64,
}

/// Measures, prints the table, and writes `memory.json`.
///
/// # Errors
/// When anything fails. A peak beyond the setting is shown, and is no error.
pub(super) fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let what = || "measuring memory".to_owned();
    fs::create_dir_all(&arguments.output).while_doing(what)?;
    let work = tempfile::Builder::new().prefix("windlass-memory-").tempdir_in(&arguments.work).while_doing(what)?;
    let table = Table { work: work.path(), log: arguments.output.join("memory.log") };
    let mut lines = Vec::new();
    println!("| case | volume | setting | peak | wall | CPU |\n|---|---|---|---|---|---|");
    for memory in MEMORY {
        for size in [TIB, 16 * TIB] {
            lines.push(table.line("sparse export", size, memory, "export --allocated sparse", Start::Fresh)?);
            lines.push(table.line("sparse restore", size, memory, "restore --allocated sparse", Start::AsIs)?);
            table.prepare(size)?;
            let changed = format!("export --changed {CHANGED}");
            lines.push(table.line("increment, fully allocated", size, memory, &changed, Start::AsIs)?);
        }
        lines.push(table.line("export, fully allocated", arguments.full, memory, "export", Start::Fresh)?);
        lines.push(table.line("restore, fully allocated", arguments.full, memory, "restore", Start::AsIs)?);
    }
    let json = serde_json::to_vec_pretty(&lines).while_doing(what)?;
    fs::write(arguments.output.join("memory.json"), json).while_doing(what)
}

/// What a line begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// A new repository.
    Fresh,
    /// The repository that the line before it left.
    AsIs,
}

struct Table<'a> {
    work: &'a Path,
    log: PathBuf,
}

impl Table<'_> {
    fn repository(&self) -> PathBuf {
        self.work.join("repository")
    }

    fn invocation(&self, words: &str) -> Result<Invocation, BenchError> {
        let own = std::env::current_exe().while_doing(|| "finding this program".to_owned())?;
        Ok(Invocation::new(own)
            .words(words)
            .argument("--repository")
            .argument(self.repository())
            .variable("RESTIC_PASSWORD", "synthetic"))
    }

    /// A new repository in the place of the last one.
    fn renew(&self) -> Result<(), BenchError> {
        if self.repository().exists() {
            fs::remove_dir_all(self.repository()).while_doing(|| "removing a repository".to_owned())?;
        }
        self.invocation("init")?.output().map(drop)
    }

    /// A new repository with the lists of a full volume.
    fn prepare(&self, size: u64) -> Result<(), BenchError> {
        self.renew()?;
        self.invocation(&format!("synthetic fabricate --size {size}"))?.output().map(drop)
    }

    fn line(&self, case: &'static str, size: u64, memory: u64, words: &str, start: Start) -> Result<Line, BenchError> {
        if start == Start::Fresh {
            self.renew()?;
        }
        let size_of_new = if words.starts_with("export") { format!(" --size {size}") } else { String::new() };
        let words = format!("synthetic {words}{size_of_new} --memory {memory}");
        let usage = self.invocation(&words)?.measure(&self.log)?;
        let printed = fs::read(&self.log).while_doing(|| "reading a report".to_owned())?;
        let last = printed.split(|byte| *byte == b'\n').rfind(|line| line.starts_with(b"{")).unwrap_or_default();
        let report: Value = serde_json::from_slice(last).while_doing(|| format!("reading the report of {words}"))?;
        let peak_bytes = report["peak_bytes"].as_u64().ok_or_else(|| BenchError::new("a report without its peak"))?;
        let (wall_seconds, cpu_seconds) = (usage.wall_seconds, usage.cpu_seconds);
        let line = Line { case, size_bytes: size, memory_bytes: memory, peak_bytes, wall_seconds, cpu_seconds };
        println!(
            "| {case} | {} GiB | {} MiB | {} MiB | {wall_seconds:.1} s | {cpu_seconds:.1} s |",
            size / GIB,
            memory / MIB,
            peak_bytes.div_ceil(MIB)
        );
        Ok(line)
    }
}
