//! `windlass pool import`: pools on block devices of this machine, looked at without being changed.
//!
//! There is nothing to import in the sense of other volume managers: a pool carries its id, its layout and its catalogue, so a node
//! that is told its device serves it with all its volumes. What this command does is to say which device that is, what is on it, and
//! whether all its parts fit together.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::pool::PoolError;
use crate::pool::thin::devices::{self, Copies, FoundDevice};
use crate::pool::thin::examine::{self, Activity, Examined, ExaminedCatalogue, ExaminedDevice};
use crate::pool::thin::label::State;
use crate::types::ObjectName;
use crate::types::error::chain;

use crate::cli::exit::{CliError, Exit};
use crate::cli::format::Format;
use crate::cli::open_pool;
use crate::cli::output::{Align, Table, counted, print_json, print_text};
use crate::cli::size::ByteSize;

/// Arguments of `pool import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Block device to look at closely, or either of two [default: list the pools on all devices]
    #[arg(long, value_name = "PATH")]
    device: Option<PathBuf>,
}

/// Looks at one device, or at all.
///
/// # Errors
/// [`Exit::NotFound`] when there is no such device; [`Exit::Refused`] when there is no pool on it or it cannot be served as it is;
/// [`Exit::Failed`].
pub async fn run(args: ImportArgs, format: Format) -> Result<(), CliError> {
    match args.device {
        Some(device) => one(device, format).await,
        None => all(format).await,
    }
}

async fn all(format: Format) -> Result<(), CliError> {
    let failed = |error: PoolError| CliError::because(Exit::Failed, "cannot look at the block devices", error);
    let searched = tokio::task::spawn_blocking(move || devices::search().map_err(failed)).await;
    let found =
        searched.unwrap_or_else(|error| Err(CliError::because(Exit::Failed, "cannot look at the block devices", error)))?;
    match format {
        Format::Text => print_text(&list(&found)),
        Format::Json => print_json(&Devices { devices: found.iter().map(DeviceView::of).collect() }),
    }
}

async fn one(device: PathBuf, format: Format) -> Result<(), CliError> {
    let path = device.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let what = format!("cannot look at the pool on {}", path.display());
        examine::examine(&path).map_err(|error| open_pool::device_error(what, error))
    });
    let looked = looked.await;
    let found = looked.unwrap_or_else(|error| Err(CliError::because(Exit::Failed, "the device was not looked at", error)))?;
    match format {
        Format::Text => print_text(&describe(&found, &device))?,
        Format::Json => print_json(&ExaminedView::of(&found))?,
    }
    match problems(&found).first() {
        None => Ok(()),
        Some(problem) => {
            let error = CliError::new(Exit::Refused, format!("the pool {} cannot be served as it is: {problem}", found.pool));
            Err(error.advise(format!("if the disk is well, `windlass pool repair --device {}` may help", device.display())))
        }
    }
}

/// Devices with labels, one a line.
fn list(found: &[FoundDevice]) -> String {
    if found.is_empty() {
        return "no block device of this machine carries a pool\n".to_owned();
    }
    let mut table =
        Table::new(&[("DEVICE", Align::Left), ("SIZE", Align::Right), ("POOL", Align::Left), ("CARRIES", Align::Left)]);
    for device in found {
        let (pool, carries) = match &device.label {
            Ok(label) => (label.pool.to_string(), carries(label.role.to_string(), label.state)),
            Err(error) => ("-".to_owned(), chain(error)),
        };
        table.row([device.path.display().to_string(), ByteSize::new(device.bytes).to_string(), pool, carries]);
    }
    table.render()
}

fn carries(role: String, state: State) -> String {
    match state {
        State::Ready => role,
        State::Making => format!("{role} whose making was interrupted"),
    }
}

/// Devices with labels as they are printed.
#[derive(Debug, Serialize)]
struct Devices {
    devices: Vec<DeviceView>,
}

#[derive(Debug, Serialize)]
struct DeviceView {
    path: String,
    bytes: u64,
    pool_id: Option<String>,
    role: Option<&'static str>,
    state: Option<&'static str>,
    problem: Option<String>,
}

impl DeviceView {
    fn of(device: &FoundDevice) -> Self {
        let label = device.label.as_ref();
        Self {
            path: device.path.to_string_lossy().into_owned(),
            bytes: device.bytes,
            pool_id: label.ok().map(|label| label.pool.to_string()),
            role: label.ok().map(|label| label.role.name()),
            state: label.ok().map(|label| label.state.name()),
            problem: label.err().map(|error| chain(error)),
        }
    }
}

/// What keeps a node from serving it.
fn problems(found: &Examined) -> Vec<String> {
    let mut problems = Vec::new();
    if found.state == State::Making {
        return vec!["its making was interrupted; make it again with `windlass pool create`".to_owned()];
    }
    if let Err(error) = &found.superblock {
        problems.push(format!("its metadata: {error}"));
    }
    if let (Err(error), Activity::None) = (&found.catalogue, found.activity) {
        problems.push(format!("its catalogue: {error}"));
    }
    if let (Ok(catalogue), Ok(superblock)) = (&found.catalogue, &found.superblock)
        && let Err(error) = catalogue.check_epoch(superblock.transaction_id)
    {
        problems.push(error);
    }
    if let Ok(catalogue) = &found.catalogue {
        problems.extend(found.devices.iter().filter_map(|device| catalogue.check_label(device).err()));
    }
    problems
}

/// Remarks that keep nobody from serving it.
fn remarks(found: &Examined) -> Vec<String> {
    let mut remarks = Vec::new();
    for device in &found.devices {
        if let Copies::Renew(why) = device.copies {
            remarks.push(format!("{}: {why}; whoever serves the pool writes it anew", device.path.display()));
        }
        if device.grown_bytes > 0 {
            let grown = ByteSize::new(device.grown_bytes);
            remarks.push(format!("{}: it grew by {grown}, which whoever serves the pool takes into use", device.path.display()));
        }
    }
    if found.superblock.as_ref().is_ok_and(|superblock| superblock.needs_check) {
        remarks.push("its metadata needs a check: it takes no changes until `windlass pool repair`".to_owned());
    }
    if found.activity == Activity::Active {
        remarks.push("it is active on this machine: a node serves it, or was killed".to_owned());
    }
    if let Ok(catalogue) = &found.catalogue
        && catalogue.interrupted > 0
    {
        let count = catalogue.interrupted;
        remarks.push(format!("changes that were interrupted, to be finished or undone when it is served: {count}"));
    }
    remarks
}

fn describe(found: &Examined, device: &Path) -> String {
    let size = |bytes: u64| ByteSize::new(bytes).to_string();
    let mut text = format!(
        "pool {}: {} of data in blocks of {}, {} of metadata\n",
        found.pool,
        size(found.data_bytes),
        size(found.block_size.bytes()),
        size(found.metadata_bytes)
    );
    for device in &found.devices {
        text.push_str(&format!("  {} ({}): {}\n", device.path.display(), size(device.bytes), device.role));
    }
    if let Ok(superblock) = &found.superblock {
        let used = superblock.allocated_data_blocks.saturating_mul(found.block_size.bytes());
        text.push_str(&format!("  {} of the data is used; transaction {}\n", size(used), superblock.transaction_id));
    }
    for remark in remarks(found) {
        text.push_str(&format!("  {remark}\n"));
    }
    match &found.catalogue {
        Ok(catalogue) => {
            let counts = (catalogue.volumes.len(), catalogue.snapshots.len(), catalogue.anchors);
            let (volumes, snapshots) = (counted(counts.0 as u64, "volume"), counted(counts.1 as u64, "snapshot"));
            text.push_str(&format!("  {volumes}, {snapshots}, {} kept for changes\n", counts.2));
            let mut table =
                Table::new(&[("KIND", Align::Left), ("NAME", Align::Left), ("SIZE", Align::Right), ("ID", Align::Left)]);
            for volume in &catalogue.volumes {
                table.row(["volume".to_owned(), volume.name.to_string(), size(volume.size.bytes()), volume.id.to_string()]);
            }
            for snapshot in &catalogue.snapshots {
                table.row([
                    "snapshot".to_owned(),
                    snapshot.name.to_string(),
                    size(snapshot.size.bytes()),
                    snapshot.id.to_string(),
                ]);
            }
            if counts.0 + counts.1 > 0 {
                text.push_str(&table.render());
            }
        }
        Err(error) if found.activity == Activity::Active => text.push_str(&format!("  {error}\n")),
        Err(_) => {}
    }
    let problems = problems(found);
    for problem in &problems {
        text.push_str(&format!("  {problem}\n"));
    }
    if problems.is_empty() && found.activity == Activity::None {
        text.push_str(&format!("serve it: windlass node --standalone --pool {}\n", device.display()));
    }
    text
}

/// A pool that was looked at, as it is printed.
#[derive(Debug, Serialize)]
struct ExaminedView<'a> {
    pool_id: String,
    state: &'static str,
    active: bool,
    block_bytes: u64,
    metadata_bytes: u64,
    data_bytes: u64,
    transaction_id: Option<u64>,
    needs_check: Option<bool>,
    devices: Vec<PartView>,
    catalogue: Option<CatalogueView<'a>>,
    remarks: Vec<String>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PartView {
    path: String,
    bytes: u64,
    role: &'static str,
    grown_bytes: u64,
    labels_whole: bool,
}

#[derive(Debug, Serialize)]
struct CatalogueView<'a> {
    volumes: Vec<VolumeView<'a>>,
    snapshots: Vec<SnapshotView<'a>>,
    anchor_count: usize,
    interrupted_count: usize,
    epoch: u64,
}

#[derive(Debug, Serialize)]
struct VolumeView<'a> {
    id: String,
    name: &'a ObjectName,
    size_bytes: u64,
}

#[derive(Debug, Serialize)]
struct SnapshotView<'a> {
    id: String,
    name: &'a ObjectName,
    size_bytes: u64,
    volume_id: String,
}

impl<'a> ExaminedView<'a> {
    fn of(found: &'a Examined) -> Self {
        let superblock = found.superblock.as_ref().ok();
        Self {
            pool_id: found.pool.to_string(),
            state: found.state.name(),
            active: found.activity == Activity::Active,
            block_bytes: found.block_size.bytes(),
            metadata_bytes: found.metadata_bytes,
            data_bytes: found.data_bytes,
            transaction_id: superblock.map(|superblock| superblock.transaction_id),
            needs_check: superblock.map(|superblock| superblock.needs_check),
            devices: found.devices.iter().map(PartView::of).collect(),
            catalogue: found.catalogue.as_ref().ok().map(CatalogueView::of),
            remarks: remarks(found),
            problems: problems(found),
        }
    }
}

impl PartView {
    fn of(device: &ExaminedDevice) -> Self {
        Self {
            path: device.path.to_string_lossy().into_owned(),
            bytes: device.bytes,
            role: device.role.name(),
            grown_bytes: device.grown_bytes,
            labels_whole: device.copies == Copies::Whole,
        }
    }
}

impl<'a> CatalogueView<'a> {
    fn of(catalogue: &'a ExaminedCatalogue) -> Self {
        let volumes = catalogue.volumes.iter().map(|volume| VolumeView {
            id: volume.id.to_string(),
            name: &volume.name,
            size_bytes: volume.size.bytes(),
        });
        let snapshots = catalogue.snapshots.iter().map(|snapshot| SnapshotView {
            id: snapshot.id.to_string(),
            name: &snapshot.name,
            size_bytes: snapshot.size.bytes(),
            volume_id: snapshot.source.to_string(),
        });
        Self {
            volumes: volumes.collect(),
            snapshots: snapshots.collect(),
            anchor_count: catalogue.anchors,
            interrupted_count: catalogue.interrupted,
            epoch: catalogue.epoch,
        }
    }
}

#[cfg(test)]
mod tests;
