//! `windlass demo`: the whole chain on this machine, on real files, checked at every turn.
//!
//! One pool in an image file (or a thin pool on a loop device over one), a volume, real files in it, a snapshot while a program writes, a volume from the snapshot, an
//! export to a repository outside the pool; then everything but the repository is destroyed, a new pool is made, the volume is
//! restored into it, and every file compared. All of it by the calls that an orchestrator makes, to a node process of its own.
//!
//! Everything lies in one folder ([`place`]), which is emptied at the end, whatever the end was: success, failure, SIGINT or
//! SIGTERM. Steps give up soon after an interrupt; emptying itself is not interrupted, since it is what the user waits for.
//! A demo that is killed with SIGKILL leaves its folder; it holds nothing but its own things.

mod chain;
mod file_system_check;
mod options;
mod place;
mod process;
mod report;
mod tree;
mod volume;
mod writer;

use std::path::PathBuf;

use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::mount::system::SystemMounter;
use crate::types::FsType;
use crate::types::error::chain;

use super::exit::{CliError, Exit};
use super::output::{Format, print_json, print_text};
use super::pool::PoolFileSystem;
use super::size::ByteSize;

use chain::Chain;
use options::{DemoOptions, DemoPool, PoolChoice};
use place::{Keep, Place};
use report::Report;

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Kind of the pool: reflink, in a file system in an image file; or thin, by device-mapper on a loop device
    #[arg(long, value_enum, default_value_t)]
    pool: PoolChoice,
    /// File system of a reflink pool [default: xfs]
    #[arg(long, value_enum)]
    filesystem: Option<PoolFileSystem>,
    /// File system of the volume: ext4, xfs or btrfs
    #[arg(long, default_value_t = FsType::Ext4)]
    fs_type: FsType,
    /// How much to copy into the volume, if the machine has so much
    #[arg(long, value_name = "SIZE", default_value = "512MiB")]
    bytes: ByteSize,
    /// Leave the repository behind, with its password in a file beside it
    #[arg(long)]
    keep: bool,
    /// Folder to copy from; may be given more than once [default: /usr/share, /usr/lib, ...]
    #[arg(long = "source", value_name = "FOLDER")]
    sources: Vec<PathBuf>,
    /// Folder in which everything is made, in a folder of its own [default: the system's for temporary files]
    #[arg(long, value_name = "FOLDER")]
    directory: Option<PathBuf>,
}

/// Runs the demo, empties its folder, and prints the table.
///
/// # Errors
/// [`Exit::Failed`] when a step failed or something came out different; [`Exit::Interrupted`]; [`Exit::Usage`] when this is
/// not root.
pub async fn run(args: DemoArgs, format: Format, interrupt: &CancellationToken) -> Result<(), CliError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(CliError::usage("the demo needs root: it attaches loop devices and mounts file systems")
            .advise("run it as root, or in a privileged container: sudo windlass demo"));
    }
    let sources = if args.sources.is_empty() { tree::DEFAULT_SOURCES.map(PathBuf::from).to_vec() } else { args.sources };
    let options = DemoOptions {
        pool: DemoPool::chosen(args.pool, args.filesystem)?,
        volume: args.fs_type,
        bytes: args.bytes.bytes(),
        sources,
        keep: if args.keep { Keep::Repository } else { Keep::Nothing },
        format,
    };
    let place = Place::create(&args.directory.unwrap_or_else(std::env::temp_dir))?;
    let mut report = Report::default();
    let done = Chain::new(options.clone(), place.clone(), interrupt.clone()).run(&mut report).await;
    let kept = if done.is_ok() { options.keep } else { Keep::Nothing };
    let cleared = clear(place.clone(), kept).await;
    if interrupt.is_cancelled() {
        // No verdict: what was not compared is not known.
        cleared?;
        return Err(CliError::interrupted("the demo was interrupted; nothing of it is left"));
    }
    if let Err(error) = &done {
        report.check("the chain", Err(chain(error)));
    }
    report.check("nothing is left behind", cleared.as_ref().map_err(|error| chain(error)).copied());
    print(&report, &place, kept, format)?;
    done?;
    cleared?;
    match report.failed() {
        0 => Ok(()),
        failed => Err(CliError::new(Exit::Failed, format!("failed comparisons and checks: {failed}"))
            .advise("the table says which; with WINDLASS_LOG=debug the node's log says more")),
    }
}

async fn clear(place: Place, keep: Keep) -> Result<(), CliError> {
    let cleared = tokio::task::spawn_blocking(move || place.clear(keep, &SystemMounter::new())).await;
    cleared.unwrap_or_else(|error| Err(CliError::because(Exit::Failed, "the demo's folder was not emptied", error)))
}

/// The verdict is the last line.
fn print(report: &Report, place: &Place, kept: Keep, format: Format) -> Result<(), CliError> {
    let repository = (kept == Keep::Repository).then(|| place.repository());
    match format {
        Format::Json => print_json(&report.view(repository.map(|path| path.display().to_string()))),
        Format::Text => {
            if let Some(repository) = repository {
                print_text(&format!(
                    "kept: restic -r {} --password-file {} snapshots",
                    repository.display(),
                    place.password_file().display()
                ))?;
            }
            print_text(&report.render())
        }
    }
}
