//! `windlass snapshot`: snapshots of a running node, by CSI calls.

use clap::{Args, Subcommand};
use csi_proto::csi::v1 as csi;
use serde::Serialize;

use crate::types::Timestamp;

use super::client::{Answer, Node};
use super::endpoint::EndpointArgs;
use super::exit::{CliError, Exit};
use super::format::Format;
use super::output::{Align, Table, print_json, print_text, utc};
use super::size::ByteSize;

/// Verbs on snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Cut a snapshot of a volume and print its handle; the same command again prints the same handle
    Create(CreateArgs),
    /// List snapshots
    List(ListArgs),
    /// Show one snapshot
    Show(OneArgs),
    /// Delete a snapshot; a handle whose snapshot is gone already is no error
    Delete(OneArgs),
}

/// Arguments of `snapshot create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Name of the snapshot: the key by which a repeated command finds what the first one made
    name: String,
    /// Volume to cut (name or handle)
    #[arg(long)]
    volume: String,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// Arguments of `snapshot list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those of this volume (name or handle)
    #[arg(long)]
    volume: Option<String>,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// Arguments of verbs on one snapshot.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// Name or handle
    snapshot: String,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// A snapshot as it is printed.
#[derive(Debug, Serialize)]
struct SnapshotView {
    snapshot_id: String,
    name: String,
    source_volume_id: String,
    size_bytes: u64,
    created: String,
    ready_to_use: bool,
    exclusive_bytes: Option<u64>,
    /// Namespace and name of its volume's claim at the cut.
    pvc: Option<String>,
    /// Namespace and name of the VolumeSnapshot.
    volume_snapshot: Option<String>,
    volume_snapshot_content: Option<String>,
}

/// A list as it is printed.
#[derive(Debug, Serialize)]
struct Snapshots {
    snapshots: Vec<SnapshotView>,
}

/// A deletion as it is printed.
#[derive(Debug, Serialize)]
struct Deleted<'a> {
    snapshot_id: &'a str,
    deleted: bool,
}

/// Runs one verb.
pub async fn run(command: SnapshotCommand, format: Format) -> Result<(), CliError> {
    match command {
        SnapshotCommand::Create(args) => create(args, format).await,
        SnapshotCommand::List(args) => list(&args, format).await,
        SnapshotCommand::Show(args) => show(&args, format).await,
        SnapshotCommand::Delete(args) => delete(&args, format).await,
    }
}

fn view(snapshot: csi::Snapshot, name: Option<String>, usage: Option<csi_proto::windlass::v1::ObjectUsage>) -> SnapshotView {
    let created = snapshot.creation_time.map(|time| Timestamp {
        seconds: u64::try_from(time.seconds).unwrap_or(0),
        nanoseconds: u32::try_from(time.nanos).unwrap_or(0),
    });
    SnapshotView {
        snapshot_id: snapshot.snapshot_id,
        name: name.or_else(|| usage.as_ref().map(|usage| usage.name.clone())).unwrap_or_default(),
        source_volume_id: snapshot.source_volume_id,
        size_bytes: u64::try_from(snapshot.size_bytes).unwrap_or(0),
        created: created.map(utc).unwrap_or_default(),
        ready_to_use: snapshot.ready_to_use,
        exclusive_bytes: usage.as_ref().map(|usage| usage.exclusive_bytes),
        pvc: known(usage.as_ref().map(|usage| usage.pvc.clone())),
        volume_snapshot: known(usage.as_ref().map(|usage| usage.volume_snapshot.clone())),
        volume_snapshot_content: known(usage.map(|usage| usage.volume_snapshot_content)),
    }
}

async fn create(args: CreateArgs, format: Format) -> Result<(), CliError> {
    let node = Node::connect(&args.endpoint.endpoint()).await?;
    let source_volume_id = node.volume_handle(&args.volume).await?;
    let request = csi::CreateSnapshotRequest { source_volume_id, name: args.name.clone(), ..Default::default() };
    let what = format!("snapshot `{}` cannot be created", args.name);
    let snapshot = node.controller().create_snapshot(request).await.answer(&what)?.snapshot;
    let snapshot = snapshot.ok_or_else(|| CliError::new(Exit::Failed, "the node's answer holds no snapshot"))?;
    match format {
        Format::Text => print_text(&snapshot.snapshot_id),
        Format::Json => print_json(&view(snapshot, Some(args.name), None)),
    }
}

async fn list(args: &ListArgs, format: Format) -> Result<(), CliError> {
    let node = Node::connect(&args.endpoint.endpoint()).await?;
    let source = match &args.volume {
        Some(volume) => Some(node.volume_handle(volume).await?),
        None => None,
    };
    // First the snapshots, then the names: one that goes in between is shown without a name, none is left out.
    let snapshots = node.snapshots(source).await?;
    let mut names = node.names().await?;
    let views: Vec<_> = snapshots
        .into_iter()
        .map(|snapshot| {
            let usage = names.remove(&snapshot.snapshot_id);
            view(snapshot, None, usage)
        })
        .collect();
    match format {
        Format::Json => print_json(&Snapshots { snapshots: views }),
        Format::Text => {
            let columns = [
                ("HANDLE", Align::Left),
                ("NAME", Align::Left),
                ("CREATED", Align::Left),
                ("SIZE", Align::Right),
                ("READY", Align::Left),
                ("VOLUME", Align::Left),
                ("PVC", Align::Left),
                ("VOLUMESNAPSHOT", Align::Left),
            ];
            let mut table = Table::new(&columns);
            for view in views {
                let size = ByteSize::new(view.size_bytes).to_string();
                table.row([
                    view.snapshot_id,
                    view.name,
                    view.created,
                    size,
                    ready(view.ready_to_use),
                    view.source_volume_id,
                    view.pvc.unwrap_or_default(),
                    view.volume_snapshot.unwrap_or_default(),
                ]);
            }
            print_text(&table.render())
        }
    }
}

fn known(name: Option<String>) -> Option<String> {
    name.filter(|name| !name.is_empty())
}

fn ready(ready_to_use: bool) -> String {
    if ready_to_use { "yes" } else { "no" }.to_owned()
}

async fn show(args: &OneArgs, format: Format) -> Result<(), CliError> {
    let node = Node::connect(&args.endpoint.endpoint()).await?;
    let snapshot_id = node.snapshot_handle(&args.snapshot).await?;
    let request = csi::GetSnapshotRequest { snapshot_id: snapshot_id.clone(), ..Default::default() };
    let what = format!("snapshot `{}` cannot be shown", args.snapshot);
    let snapshot = node.controller().get_snapshot(request).await.answer(&what)?.snapshot.unwrap_or_default();
    let usage = node.names().await?.remove(&snapshot_id);
    let snapshot = view(snapshot, None, usage);
    match format {
        Format::Json => print_json(&snapshot),
        Format::Text => {
            let mut lines = vec![
                format!("handle:     {}", snapshot.snapshot_id),
                format!("name:       {}", snapshot.name),
                format!("created:    {}", snapshot.created),
                format!("size:       {} ({} bytes)", ByteSize::new(snapshot.size_bytes), snapshot.size_bytes),
                format!("volume:     {}", snapshot.source_volume_id),
                format!("ready:      {}", ready(snapshot.ready_to_use)),
            ];
            lines.extend(snapshot.pvc.map(|name| format!("pvc:        {name}")));
            lines.extend(snapshot.volume_snapshot.map(|name| format!("snapshot:   {name}")));
            lines.extend(snapshot.exclusive_bytes.map(|bytes| format!("exclusive:  {}", ByteSize::new(bytes))));
            print_text(&lines.join("\n"))
        }
    }
}

async fn delete(args: &OneArgs, format: Format) -> Result<(), CliError> {
    let node = Node::connect(&args.endpoint.endpoint()).await?;
    let snapshot_id = node.snapshot_handle(&args.snapshot).await?;
    let request = csi::DeleteSnapshotRequest { snapshot_id: snapshot_id.clone(), ..Default::default() };
    node.controller().delete_snapshot(request).await.answer(&format!("snapshot `{}` cannot be deleted", args.snapshot))?;
    match format {
        Format::Text => print_text(&format!("deleted {snapshot_id}")),
        Format::Json => print_json(&Deleted { snapshot_id: &snapshot_id, deleted: true }),
    }
}
