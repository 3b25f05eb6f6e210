//! A whole run: data, tools in turn, results.
//!
//! The tools take turns within each repetition, so that what slows the machine for a while slows all of them. Before each
//! measured command everything written is synced and the image is dropped from the cache, so that everyone reads it through the
//! (loop) device again. What is restored is compared with the image, byte for byte, after the clock has stopped. Figures are
//! medians, each by itself; of short cases Windlass and the limit have more turns, one right after the other.

mod agents;
mod bench;
mod filesystem;
mod proof;
mod scale;
mod volumes;

use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::data::place::{Place, beside_the_build};
use crate::error::{BenchError, While};
use crate::report::machine::{self, Machine};
use crate::report::{self, About};
use crate::tools::{self, minio};
use bench::Bench;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Extent {
    /// 512 MB of files in a file system of 1.5 GiB, Windlass and restic.
    Quick,
    /// 2 GB of files in an 8 GiB file system with every tool, and the other images.
    Full,
}

/// The parts of a full run, for runs in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// The file system, which the required ratios are about.
    Filesystem,
    /// The others: database, incompressible, large and nearly empty.
    Volumes,
    /// What a repository that many share costs: long indexes and lists, distant stores, locks. Volumes are made up as they are read.
    Scale,
    /// Exporters beside each other into one bucket, for which MinIO is needed.
    Agents,
}

/// The arguments of `run`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// How much is measured
    #[arg(value_enum)]
    extent: Extent,
    /// Where data and repositories are made; in memory if there is room, else where temporary files go
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Where results, logs and saved repositories go
    #[arg(long, value_name = "DIR", default_value_os_t = beside_the_build("bench"))]
    output: PathBuf,
    /// Where the other tools were built
    #[arg(long, value_name = "DIR", default_value_os_t = beside_the_build("tools"))]
    tools_folder: PathBuf,
    /// Also write the report there
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The tools, in the order of their turns
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    tools: Vec<String>,
    /// A part of the cases, all unless one is named
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value = "3")]
    repetitions: NonZeroUsize,
    /// What the data are made from
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    /// A file that is locked while a command is measured, for several runs to share a machine
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
}

const FULL_TOOLS: [&str; 6] = ["windlass", "restic", "restic-tuned", "borg", "rustic", "kopia"];
const QUICK_TOOLS: [&str; 2] = ["windlass", "restic"];
/// Bytes that the work needs at most: the images, one repository, one restored image.
const FULL_BYTES: u64 = 7 << 30;
const QUICK_BYTES: u64 = 3 << 30;

/// Runs everything, and writes the results.
///
/// # Errors
/// When anything fails, a restored image differs, or it is interrupted. Ratios that are not met are no error.
pub fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The command that runs ends by the same signal, or is waited for; then everything is removed.
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).while_doing(|| "listening for signals".to_owned())?;
    }
    let machine = Machine::on_two_processors()?;
    let (defaults, needed) = match arguments.extent {
        Extent::Full => (&FULL_TOOLS[..], FULL_BYTES),
        Extent::Quick => (&QUICK_TOOLS[..], QUICK_BYTES),
    };
    let names = match &arguments.tools[..] {
        [] => defaults.iter().map(|&name| name.to_owned()).collect(),
        names => names.to_vec(),
    };
    let folder = std::path::absolute(&arguments.tools_folder).while_doing(|| "finding the tools".to_owned())?;
    let tools::Selection { tools, absent } = tools::find(&names, &folder)?;
    for name in &absent {
        println!("{name} is not there and is left out");
    }
    fs::create_dir_all(&arguments.output).while_doing(|| format!("making {}", arguments.output.display()))?;
    let output = std::path::absolute(&arguments.output).while_doing(|| "finding the output".to_owned())?;

    let place = Place::make(arguments.work.as_deref(), needed)?;
    let mut bench = Bench::new(place, output.clone(), tools, arguments.repetitions.get(), arguments.lock.clone(), interrupted)?;
    // What was measured before something failed is written too, and says so.
    let outcome = measure(&mut bench, arguments);
    let about = About {
        command: match arguments.extent {
            Extent::Full => "make bench".to_owned(),
            Extent::Quick => "make bench-quick".to_owned(),
        },
        place: bench.described(),
        load: machine::load()?,
        data: bench.data_descriptions(),
        absent: [absent, bench.left_out()].concat(),
        incomplete: outcome.as_ref().err().map(BenchError::chain),
        machine,
    };
    let mut results = bench.finish();
    results.complete(about.machine.processors);
    let text = report::markdown(&about, &results);
    print!("\n{text}");
    let json = serde_json::to_string_pretty(&results.rows).while_doing(|| "writing results".to_owned())?;
    let write = |path: PathBuf, text: &str| fs::write(&path, text).while_doing(|| format!("writing {}", path.display()));
    write(output.join("results.json"), &json)?;
    write(output.join("RESULTS.md"), &text)?;
    outcome?;
    arguments.report.clone().map_or(Ok(()), |path| write(path, &text))
}

fn measure(bench: &mut Bench, arguments: &Arguments) -> Result<(), BenchError> {
    let is_wanted = |part| arguments.only.is_none_or(|only| only == part);
    if is_wanted(Part::Filesystem) {
        filesystem::run(bench, arguments.extent, arguments.seed)?;
    }
    if is_wanted(Part::Volumes) && arguments.extent == Extent::Full {
        volumes::run(bench, arguments.seed)?;
    }
    if is_wanted(Part::Scale) && arguments.extent == Extent::Full {
        scale::run(bench)?;
    }
    if is_wanted(Part::Agents) && arguments.extent == Extent::Full {
        match minio::find(&arguments.tools_folder) {
            Some(program) => {
                let program = std::path::absolute(program).while_doing(|| "finding minio".to_owned())?;
                agents::run(bench, &program)?;
            }
            None if arguments.only == Some(Part::Agents) => {
                let folder = arguments.tools_folder.display();
                return Err(BenchError::new(format!("{} is not in {folder}; `e2e/setup.sh bench` builds it", minio::NAME)));
            }
            None => bench.leave_out(format!("{} (without it there is no bucket for the agents)", minio::NAME)),
        }
    }
    Ok(())
}
