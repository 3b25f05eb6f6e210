//! `windlass-bench`: measures Windlass beside other backup programs, on the same data, in the same run.
//!
//! Every measured thing is a process of its own, so that time, CPU and peak memory are those that the system accounts to a
//! process. The product's pipelines are driven by the subcommands in [`product`], which do what a node does for an export or a
//! restore, without the services around it.

#![allow(clippy::too_many_arguments, reason = "a case is told all that its line in the report says")]

mod data;
mod error;
mod limit;
mod lived;
mod measure;
mod product;
mod report;
mod run;
mod synthetic;
mod thin;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use error::BenchError;
use windlass::block::buffer::give_freed_memory_back;

/// Measures Windlass beside other backup programs.
#[derive(Debug, Parser)]
#[command(name = "windlass-bench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure everything and write the results
    Run(run::Arguments),
    /// Make a repository
    Init(product::RepositoryArguments),
    /// Export a file as a volume's snapshot, through the product's pipeline
    Export(product::export::Arguments),
    /// Restore the newest snapshot's image to a new sparse file
    Restore(product::restore::Arguments),
    /// Check a repository
    Check(product::check::Arguments),
    /// Export or restore a volume that is made up as it is read
    #[command(subcommand)]
    Synthetic(synthetic::Command),
    /// Measure the stages of an export, a restore and a check on the bytes of an image
    Limit(limit::Arguments),
    /// Measure thin pools beside lvm2, dmsetup and thin_delta, where device-mapper is
    Thin(thin::Arguments),
    /// Measure the memory of a node that makes a hundred exports and ten restores
    NodeMemory(lived::Arguments),
    /// Run a command and write down what it took
    Measure(measure::Arguments),
}

fn main() -> ExitCode {
    // As the product does, before any thread.
    give_freed_memory_back();
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("windlass-bench: {}", error.chain());
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), BenchError> {
    match command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Init(arguments) => product::init(&arguments),
        Command::Export(arguments) => product::export::run(&arguments),
        Command::Restore(arguments) => product::restore::run(&arguments),
        Command::Check(arguments) => product::check::run(&arguments),
        Command::Synthetic(command) => synthetic::run(&command),
        Command::Limit(arguments) => limit::run(&arguments),
        Command::Thin(arguments) => thin::run(&arguments),
        Command::NodeMemory(arguments) => lived::run(&arguments),
        Command::Measure(arguments) => measure::run(&arguments),
    }
}
