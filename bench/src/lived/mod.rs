//! The memory of a node that lives on: a hundred exports and ten restores in turn, four at once at times, in one process of the product,
//! over raw volumes that are written to between them. What a transfer may take is a number that it is given; what a process took in
//! the end is more than that only if memory is kept that nobody uses.
//!
//! Three figures, each the kernel's own: the largest peak while one transfer ran, the largest while four did, each of which has the
//! number for itself, and what is still resident when none runs. Before each batch the kernel begins its peak anew.
//!
//! All of it lies in one folder, in memory where there is room. A failure stops what runs and removes the folder, as far as that goes;
//! it says what stayed.

mod node;
mod schedule;
mod volume;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::data::place;
use crate::error::{BenchError, While};
use crate::measure::Invocation;
use node::{Node, endpoint};
use schedule::{Batch, VOLUMES, Work};
use volume::{Orchestrator, Volume};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const VOLUME_BYTES: u64 = 256 * MIB;
const POOL_BYTES: u64 = 8 * GIB;
/// What pool and repository take in the end, and two restored volumes.
const NEEDED_BYTES: u64 = 7 * GIB;
/// What a node may keep when nothing runs.
const IDLE_BYTES: u64 = 48 * MIB;
/// Within what time after the last transfer.
const IDLE_WITHIN: Duration = Duration::from_secs(30);
/// Within what time the pool's image is let go of.
const CLOSED_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How much more than the number a process may take, in percent.
const PEAK_PERCENT: u64 = 110;

/// The arguments of `node-memory`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Where pool and repository are made; in memory if there is room, else where temporary files go
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Where the results go
    #[arg(long, value_name = "DIR", default_value_os_t = place::beside_the_build("bench"))]
    output: PathBuf,
    /// The product's program; the one beside this program if not given
    #[arg(long, value_name = "FILE")]
    windlass: Option<PathBuf>,
    /// Memory that each transfer is given, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 128 * MIB)]
    memory: u64,
}

/// What was measured. Sizes are in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Report {
    /// Given to each transfer.
    memory_bytes: u64,
    exports: u64,
    restores: u64,
    /// The largest peak while one transfer ran.
    peak_of_one_bytes: u64,
    /// The largest peak while several did, and how many.
    peak_at_once_bytes: u64,
    at_once: u64,
    /// Resident when none ran any more.
    idle_bytes: u64,
}

impl Report {
    fn note(&mut self, batch: &Batch, peak: u64) {
        let exports = batch.iter().filter(|work| matches!(work, Work::Export { .. })).count() as u64;
        self.exports += exports;
        self.restores += batch.len() as u64 - exports;
        match batch.len() as u64 {
            1 => self.peak_of_one_bytes = self.peak_of_one_bytes.max(peak),
            several => {
                self.peak_at_once_bytes = self.peak_at_once_bytes.max(peak);
                self.at_once = self.at_once.max(several);
            }
        }
    }

    /// Each figure with what it may be at most.
    fn lines(&self) -> [(String, u64, u64); 3] {
        let within = |transfers: u64| transfers * self.memory_bytes / 100 * PEAK_PERCENT;
        [
            ("peak, one transfer at a time".to_owned(), self.peak_of_one_bytes, within(1)),
            (format!("peak, {} transfers at once", self.at_once), self.peak_at_once_bytes, within(self.at_once)),
            ("idle afterwards".to_owned(), self.idle_bytes, IDLE_BYTES),
        ]
    }
}

/// Measures, prints the figures, and writes `node-memory.json`.
///
/// # Errors
/// When anything fails, and when a figure is beyond what it may be.
pub fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let what = || "measuring a node's memory".to_owned();
    fs::create_dir_all(&arguments.output).while_doing(what)?;
    let output = std::path::absolute(&arguments.output).while_doing(what)?;
    let windlass = match &arguments.windlass {
        Some(path) => path.clone(),
        None => std::env::current_exe().while_doing(what)?.with_file_name("windlass"),
    };
    if !windlass.exists() {
        return Err(BenchError::new(format!("{} is not there: `cargo build --release` makes it", windlass.display())));
    }
    let parent = arguments.work.clone().unwrap_or_else(|| place::choose(NEEDED_BYTES));
    let folder = tempfile::Builder::new().prefix("windlass-node-").tempdir_in(&parent).while_doing(what)?;
    let bench =
        Lived { windlass, folder: folder.path().to_owned(), log: output.join("node-memory.log"), memory: arguments.memory };
    let begun = Instant::now();
    let report = bench.measure()?;
    folder.close().while_doing(|| "removing the pool and the repository".to_owned())?;
    let json = serde_json::to_vec_pretty(&report).while_doing(what)?;
    fs::write(output.join("node-memory.json"), json).while_doing(what)?;
    println!(
        "{} exports and {} restores in one node, {} MiB given to each, in {:.0} s:",
        report.exports,
        report.restores,
        report.memory_bytes / MIB,
        begun.elapsed().as_secs_f64()
    );
    let mut beyond = Vec::new();
    for (name, found, most) in report.lines() {
        let verdict = if found <= most { "met" } else { "**not met**" };
        println!("{name}: {:.1} MiB, at most {:.1} MiB: {verdict}", found as f64 / MIB as f64, most as f64 / MIB as f64);
        beyond.extend((found > most).then_some(name));
    }
    if beyond.is_empty() { Ok(()) } else { Err(BenchError::new(format!("too much memory: {}", beyond.join("; ")))) }
}

struct Lived {
    windlass: PathBuf,
    folder: PathBuf,
    log: PathBuf,
    memory: u64,
}

impl Lived {
    fn image(&self) -> PathBuf {
        self.folder.join("pool.img")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("csi.sock")
    }

    fn invocation(&self, words: &str) -> Invocation {
        Invocation::new(&self.windlass).words(words)
    }

    /// A command that talks to the node.
    fn command(&self, words: &str) -> Invocation {
        self.invocation(words).argument("--endpoint").argument(endpoint(&self.socket()))
    }

    /// A command that has to do with the repository.
    fn with_repository(&self, invocation: Invocation) -> Invocation {
        let repository = self.folder.join("repository");
        invocation.argument("--repository").argument(repository).variable("RESTIC_PASSWORD", "a node that lives on")
    }

    fn measure(&self) -> Result<Report, BenchError> {
        let what = || "making a node's folders".to_owned();
        let root = self.folder.join("kubelet");
        fs::create_dir(&root).while_doing(what)?;
        self.invocation("pool create")
            .argument("--image")
            .argument(self.image())
            .words(&format!("--size {POOL_BYTES}"))
            .output()?;
        self.with_repository(self.invocation("repository init")).output()?;
        let started = Node::start(&self.windlass, &self.folder, &self.image(), &self.socket(), &root, &self.log);
        let measured = started.and_then(|node| {
            let measured = self.with_node(&node, &root);
            let stopped = node.stop();
            let report = measured?;
            stopped.map(|()| report)
        });
        let closed = self.close();
        let report = measured?;
        closed.map(|()| report)
    }

    /// Lets go of the pool's image. Whoever looks at all loop devices of the machine has each open for a moment: then it is repeated.
    fn close(&self) -> Result<(), BenchError> {
        let begun = Instant::now();
        loop {
            match self.invocation("pool close").argument("--image").argument(self.image()).output() {
                Err(_) if begun.elapsed() < CLOSED_WITHIN => windlass::types::poll::pause(LOOK_AGAIN),
                closed => return closed.map(drop),
            }
        }
    }

    fn with_node(&self, node: &Node, root: &Path) -> Result<Report, BenchError> {
        let orchestrator = Orchestrator::connect(&endpoint(&self.socket()))?;
        let mut volumes = Vec::new();
        let measured = self.with_volumes(node, root, &orchestrator, &mut volumes);
        let mut ended = Ok(());
        for volume in &mut volumes {
            ended = ended.and(volume.unpublish(&orchestrator));
        }
        let report = measured?;
        ended.map(|()| report)
    }

    fn with_volumes(
        &self,
        node: &Node,
        root: &Path,
        orchestrator: &Orchestrator,
        volumes: &mut Vec<Volume>,
    ) -> Result<Report, BenchError> {
        for number in 0..VOLUMES {
            let name = format!("volume-{number}");
            let handle = self.command(&format!("volume create {name} --size {VOLUME_BYTES} --block")).output()?;
            let handle = handle.trim().to_owned();
            volumes.push(Volume::publish(orchestrator, root, &name, handle, VOLUME_BYTES, number as u64)?);
        }
        let mut report = Report { memory_bytes: self.memory, ..Report::default() };
        let batches = schedule::batches();
        for (number, batch) in batches.iter().enumerate() {
            let peak = self.batch(node, number, batch, volumes)?;
            report.note(batch, peak);
            if batch.len() > 1 {
                println!("{} of {}: {} MiB with {} at once", number + 1, batches.len(), peak / MIB, batch.len());
            }
        }
        report.idle_bytes = idle(node)?;
        Ok(report)
    }

    /// Runs a batch; the most memory that the node had meanwhile.
    fn batch(&self, node: &Node, number: usize, batch: &Batch, volumes: &mut [Volume]) -> Result<u64, BenchError> {
        let mut commands = Vec::new();
        for work in batch {
            commands.push(match *work {
                Work::Export { volume, changed, full } => {
                    volumes[volume].write(changed)?;
                    let cut = format!("snapshot create snapshot-{number}-{volume} --volume {}", volumes[volume].handle);
                    let snapshot = self.command(&cut).output()?.trim().to_owned();
                    let words =
                        format!("--output json export {snapshot} --memory {}{}", self.memory, if full { " --full" } else { "" });
                    let command = self.with_repository(self.command(&words));
                    Running { command, volume, snapshot: Some(snapshot), changed }
                }
                Work::Restore { volume } => {
                    let source = &volumes[volume].handle;
                    let words = format!("restore --volume restored-{number} --source {source} --memory {}", self.memory);
                    let command = self.with_repository(self.command(&words));
                    Running { command, volume, snapshot: None, changed: 0 }
                }
            });
        }
        node.forget_peak()?;
        let outputs: Vec<Result<String, BenchError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = commands.iter().map(|running| scope.spawn(|| running.command.output())).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|_| Err(BenchError::new("a thread that runs a command died")))
            };
            threads.into_iter().map(join).collect()
        });
        let peak = node.peak()?;
        for (running, output) in commands.iter().zip(outputs) {
            let output = output?;
            match &running.snapshot {
                Some(snapshot) => {
                    check_export(&output, running.changed)?;
                    if let Some(before) = volumes[running.volume].exported.replace(snapshot.clone()) {
                        self.command(&format!("snapshot delete {before}")).output()?;
                    }
                }
                None => drop(self.command(&format!("volume delete restored-{number}")).output()?),
            }
        }
        Ok(peak)
    }
}

/// A command of a batch.
struct Running {
    command: Invocation,
    /// Number of the volume that it is about.
    volume: usize,
    /// Of an export: what is exported, and how many bytes were written since the export before.
    snapshot: Option<String>,
    changed: u64,
}

/// An export that stored less than was written measures nothing.
fn check_export(output: &str, changed: u64) -> Result<(), BenchError> {
    let report: Value = serde_json::from_str(output).while_doing(|| "reading what an export printed".to_owned())?;
    match report["stored_bytes"].as_u64() {
        Some(stored) if stored >= changed => Ok(()),
        stored => Err(BenchError::new(format!("{changed} bytes were written, and the export stored {stored:?}"))),
    }
}

/// What is resident when it has fallen below what it may be, or at the end of the time for that.
fn idle(node: &Node) -> Result<u64, BenchError> {
    let begun = Instant::now();
    loop {
        let resident = node.resident()?;
        if resident <= IDLE_BYTES || begun.elapsed() > IDLE_WITHIN {
            return Ok(resident);
        }
        windlass::types::poll::pause(LOOK_AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_kept_apart_by_how_many_ran_and_held_against_what_these_were_given() {
        let export = Work::Export { volume: 0, changed: 1, full: false };
        let mut report = Report { memory_bytes: 100, idle_bytes: IDLE_BYTES + 1, ..Report::default() };
        report.note(&vec![export], 110);
        report.note(&vec![Work::Restore { volume: 0 }], 90);
        report.note(&vec![export, export, export, Work::Restore { volume: 0 }], 441);
        assert_eq!((report.exports, report.restores), (4, 2));
        let met = report.lines().map(|(_, found, most)| found <= most);
        assert_eq!(met, [true, false, false]);
    }

    #[test]
    fn an_export_of_less_than_was_written_is_no_measurement() {
        check_export("{\"stored_bytes\": 10}", 10).unwrap();
        assert!(check_export("{\"stored_bytes\": 9}", 10).is_err());
        assert!(check_export("{}", 0).is_err());
    }
}
