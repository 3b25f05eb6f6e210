//! Thin pools: Windlass beside lvm2 and dmsetup, and its difference of two devices beside thin_delta.
//!
//! Runs where device-mapper is (`make bench-thin` brings a virtual machine), on a blank disk for each tool. What is timed of each
//! is what a driver that used it would wait for: a call of the library, or the commands that do the same, from start to end. The
//! tools take turns, and what is told are medians. An emulated machine is slow in everything, so only ratios are worth
//! something; a command pays for being started, which is a part of what it costs to drive a pool by commands.

mod difference;
mod rival;
mod table;
mod windlass;

use std::path::PathBuf;

use clap::Args;

use crate::error::{BenchError, While};
use rival::Rival;
use table::Table;

/// How often each operation is measured.
const REPETITIONS: usize = 9;

/// Arguments of `thin`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Blank disks: one for Windlass, one for dmsetup, one for lvm2
    #[arg(long = "disk", required = true, num_args = 1)]
    disks: Vec<PathBuf>,
    /// Where to write the figures, as JSON
    #[arg(long)]
    result: PathBuf,
}

/// What is done by each tool, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// A volume of 1 GiB that can be written to.
    Create,
    /// A snapshot of a volume that is attached.
    Snapshot,
    /// A volume from that snapshot that can be written to.
    Clone,
    /// The snapshot is deleted.
    Delete,
}

impl Operation {
    const ALL: [Self; 4] = [Self::Create, Self::Snapshot, Self::Clone, Self::Delete];

    /// As the results call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Snapshot => "snapshot",
            Self::Clone => "clone",
            Self::Delete => "delete",
        }
    }
}

/// Does the operations on one disk.
pub trait Tool {
    /// Its name in the results.
    fn name(&self) -> &'static str;

    /// Its version.
    fn version(&self) -> String;

    /// Does one operation of one repetition, with everything that belongs to it and nothing else.
    ///
    /// # Errors
    /// When it fails.
    fn run(&mut self, operation: Operation, repetition: usize) -> Result<(), BenchError>;
}

/// Measures everything.
///
/// # Errors
/// [`BenchError`].
pub fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let [own, by_dmsetup, by_lvm] = arguments.disks.as_slice() else {
        return Err(BenchError::new("three disks are needed: for Windlass, dmsetup and lvm2"));
    };
    let mut table = Table::default();
    let mut pool = windlass::Pool::make(own)?;
    {
        let mut tools: Vec<Box<dyn Tool + '_>> =
            vec![Box::new(&mut pool), Box::new(Rival::dmsetup(by_dmsetup)?), Box::new(Rival::lvm(by_lvm)?)];
        for repetition in 0..REPETITIONS {
            for operation in Operation::ALL {
                for tool in &mut tools {
                    table.measure(operation.name(), tool.name(), &tool.version(), || tool.run(operation, repetition))?;
                }
            }
        }
    }
    difference::measure(&pool, &mut table)?;
    table.complete();
    print!("{}", table.render());
    let json = serde_json::to_vec_pretty(table.rows()).while_doing(|| "writing the results".to_owned())?;
    std::fs::write(&arguments.result, json).while_doing(|| format!("writing {}", arguments.result.display()))
}
