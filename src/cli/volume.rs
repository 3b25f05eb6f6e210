//! `windlass volume`: volumes of a running node, by CSI calls.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use csi_proto::csi::v1 as csi;
use serde::Serialize;

use crate::types::FsType;

use super::client::{Answer, Node};
use super::endpoint::EndpointArgs;
use super::exit::{CliError, Exit};
use super::format::Format;
use super::output::{Align, Table, print_json, print_text};
use super::size::ByteSize;

/// Verbs on volumes.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Create a volume and print its handle; the same command again prints the same handle
    Create(CreateArgs),
    /// List all volumes
    List(ListArgs),
    /// Show one volume
    Show(OneArgs),
    /// Delete a volume; a handle whose volume is gone already is no error
    Delete(OneArgs),
    /// Grow a volume; the file system on it follows where it is mounted, at the latest when it is staged next
    Expand(ExpandArgs),
}

/// How a volume is presented to its users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presentation {
    /// Mounted, with this file system.
    FileSystem(FsType),
    /// As a raw block device.
    Block,
}

/// How a volume is to be presented.
#[derive(Debug, Clone, Args)]
#[group(multiple = false)]
pub struct ModeArgs {
    /// File system that the volume carries: ext4, xfs or btrfs [default: what its source has, else ext4]
    #[arg(long, value_name = "TYPE")]
    fs_type: Option<FsType>,
    /// A raw block device instead of a file system
    #[arg(long)]
    block: bool,
}

impl ModeArgs {
    /// What was asked for; `None` when nothing was.
    pub fn chosen(&self) -> Option<Presentation> {
        if self.block { Some(Presentation::Block) } else { self.fs_type.map(Presentation::FileSystem) }
    }
}

/// Arguments of `volume create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Name of the volume: the key by which a repeated command finds what the first one made
    name: String,
    /// Size, such as 10GiB; required unless there is a source, whose size is the least
    #[arg(long, required_unless_present_any = ["from_snapshot", "from_volume"])]
    size: Option<ByteSize>,
    #[command(flatten)]
    mode: ModeArgs,
    /// Start with the content of this snapshot (name or handle)
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "from_volume")]
    from_snapshot: Option<String>,
    /// Start with the content of this volume (name or handle)
    #[arg(long, value_name = "VOLUME")]
    from_volume: Option<String>,
    /// StorageClass parameter, such as checksum=true
    #[arg(long = "parameter", value_name = "KEY=VALUE", value_parser = key_value)]
    parameters: Vec<(String, String)>,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// Arguments of verbs without any of their own.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// Arguments of verbs on one volume.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// Name or handle
    volume: String,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// Arguments of `volume expand`.
#[derive(Debug, Args)]
pub struct ExpandArgs {
    /// Name or handle
    volume: String,
    /// New size, not smaller than the present one
    #[arg(long)]
    size: ByteSize,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// One `KEY=VALUE` of the command line.
fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

/// A volume as it is printed.
#[derive(Debug, Serialize)]
struct VolumeView {
    volume_id: String,
    name: String,
    size_bytes: u64,
    allocated_bytes: Option<u64>,
    exclusive_bytes: Option<u64>,
    extent_count: Option<u64>,
    source: Option<String>,
    /// Namespace and name of its claim.
    pvc: Option<String>,
    pv: Option<String>,
    context: BTreeMap<String, String>,
}

/// Runs one verb.
pub async fn run(command: VolumeCommand, format: Format) -> Result<(), CliError> {
    match command {
        VolumeCommand::Create(args) => create(args, format).await,
        VolumeCommand::List(args) => list(&args, format).await,
        VolumeCommand::Show(args) => show(&args, format).await,
        VolumeCommand::Delete(args) => delete(&args, format).await,
        VolumeCommand::Expand(args) => expand(&args, format).await,
    }
}

async fn create(args: CreateArgs, format: Format) -> Result<(), CliError> {
    let node = Node::connect(&args.endpoint.endpoint()).await?;
    let source = match (&args.from_snapshot, &args.from_volume) {
        (Some(snapshot), _) => Some(Source::Snapshot(node.snapshot_handle(snapshot).await?)),
        (None, Some(volume)) => Some(Source::Volume(node.volume_handle(volume).await?)),
        (None, None) => None,
    };
    let request = create_request(
        &args.name,
        args.size,
        args.mode.chosen().unwrap_or(Presentation::FileSystem(FsType::Ext4)),
        source,
        args.parameters,
    )?;
    let answer = node.controller().create_volume(request).await.answer(&format!("volume `{}` cannot be created", args.name))?;
    let volume = answer.volume.ok_or_else(|| CliError::new(Exit::Failed, "the node's answer holds no volume"))?;
    match format {
        Format::Text => print_text(&volume.volume_id),
        Format::Json => print_json(&view(volume, Some(args.name), None)),
    }
}

/// What a volume is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The handle of a snapshot.
    Snapshot(String),
    /// The handle of a volume.
    Volume(String),
}

/// The CSI request for a volume with one writer on one node.
///
/// # Errors
/// [`Exit::Usage`] for a size that CSI cannot say.
pub fn create_request(
    name: &str,
    size: Option<ByteSize>,
    presentation: Presentation,
    source: Option<Source>,
    parameters: Vec<(String, String)>,
) -> Result<csi::CreateVolumeRequest, CliError> {
    use csi::volume_content_source::{SnapshotSource, Type, VolumeSource};
    let content = source.map(|source| match source {
        Source::Snapshot(snapshot_id) => Type::Snapshot(SnapshotSource { snapshot_id }),
        Source::Volume(volume_id) => Type::Volume(VolumeSource { volume_id }),
    });
    Ok(csi::CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: size.map(capacity_range).transpose()?,
        volume_capabilities: vec![capability(presentation)],
        parameters: parameters.into_iter().collect(),
        volume_content_source: content.map(|content| csi::VolumeContentSource { r#type: Some(content) }),
        ..Default::default()
    })
}

/// At least `size`.
fn capacity_range(size: ByteSize) -> Result<csi::CapacityRange, CliError> {
    let required_bytes = i64::try_from(size.bytes()).map_err(|_| CliError::usage(format!("--size: {size} is too large")))?;
    Ok(csi::CapacityRange { required_bytes, limit_bytes: 0 })
}

/// One writer on one node, with this file system or as a raw block device.
pub fn capability(presentation: Presentation) -> csi::VolumeCapability {
    use csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode::Mode};
    let access_type = match presentation {
        Presentation::FileSystem(fs_type) => {
            AccessType::Mount(MountVolume { fs_type: fs_type.name().to_owned(), ..Default::default() })
        }
        Presentation::Block => AccessType::Block(BlockVolume {}),
    };
    csi::VolumeCapability {
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
        access_type: Some(access_type),
    }
}

/// A list as it is printed.
#[derive(Debug, Serialize)]
struct Volumes {
    volumes: Vec<VolumeView>,
}

/// A deletion as it is printed.
#[derive(Debug, Serialize)]
struct Deleted<'a> {
    volume_id: &'a str,
    deleted: bool,
}

/// A growth as it is printed.
#[derive(Debug, Serialize)]
struct Expanded<'a> {
    volume_id: &'a str,
    size_bytes: u64,
    node_expansion_required: bool,
}

fn view(volume: csi::Volume, name: Option<String>, usage: Option<csi_proto::windlass::v1::ObjectUsage>) -> VolumeView {
    use csi::volume_content_source::Type;
    let source = volume.content_source.and_then(|source| source.r#type).map(|source| match source {
        Type::Snapshot(snapshot) => snapshot.snapshot_id,
        Type::Volume(volume) => volume.volume_id,
    });
    VolumeView {
        volume_id: volume.volume_id,
        name: name.or_else(|| usage.as_ref().map(|usage| usage.name.clone())).unwrap_or_default(),
        size_bytes: u64::try_from(volume.capacity_bytes).unwrap_or(0),
        allocated_bytes: usage.as_ref().map(|usage| usage.allocated_bytes),
        exclusive_bytes: usage.as_ref().map(|usage| usage.exclusive_bytes),
        extent_count: usage.as_ref().map(|usage| usage.extent_count),
        source,
        pvc: usage.as_ref().map(|usage| usage.pvc.clone()).filter(|name| !name.is_empty()),
        pv: usage.as_ref().map(|usage| usage.pv.clone()).filter(|name| !name.is_empty()),
        context: volume.volume_context.into_iter().collect(),
    }
}

async fn list(args: &ListArgs, format: Format) -> Result<(), CliError> {
    let node = Node::connect(&args.endpoint.endpoint()).await?;
    // First the volumes, then the names: a volume that goes in between is shown without a name, none is left out.
    let volumes = node.volumes().await?;
    let mut names = node.names().await?;
    let views: Vec<_> = volumes
        .into_iter()
        .map(|volume| {
            let usage = names.remove(&volume.volume_id);
            view(volume, None, usage)
        })
        .collect();
    match format {
        Format::Json => print_json(&Volumes { volumes: views }),
        Format::Text => {
            let columns = [
                ("HANDLE", Align::Left),
                ("NAME", Align::Left),
                ("SIZE", Align::Right),
                ("ALLOCATED", Align::Right),
                ("EXCLUSIVE", Align::Right),
                ("PVC", Align::Left),
            ];
            let mut table = Table::new(&columns);
            let shown = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), |bytes| ByteSize::new(bytes).to_string());
            for volume in views {
                let size = shown(Some(volume.size_bytes));
                let (allocated, exclusive) = (shown(volume.allocated_bytes), shown(volume.exclusive_bytes));
                table.row([volume.volume_id, volume.name, size, allocated, exclusive, volume.pvc.unwrap_or_default()]);
            }
            print_text(&table.render())
        }
    }
}

async fn show(args: &OneArgs, format: Format) -> Result<(), CliError> {
    let node = Node::connect(&args.endpoint.endpoint()).await?;
    let volume_id = node.volume_handle(&args.volume).await?;
    let request = csi::ControllerGetVolumeRequest { volume_id: volume_id.clone() };
    let what = format!("volume `{}` cannot be shown", args.volume);
    let volume = node.controller().controller_get_volume(request).await.answer(&what)?.volume.unwrap_or_default();
    let usage = node.names().await?.remove(&volume_id);
    let volume = view(volume, None, usage);
    match format {
        Format::Json => print_json(&volume),
        Format::Text => {
            let mut lines = vec![
                format!("handle:     {}", volume.volume_id),
                format!("name:       {}", volume.name),
                format!("size:       {} ({} bytes)", ByteSize::new(volume.size_bytes), volume.size_bytes),
            ];
            let sized = |label: &str, bytes: Option<u64>| bytes.map(|bytes| format!("{label} {}", ByteSize::new(bytes)));
            lines.extend(sized("allocated: ", volume.allocated_bytes));
            lines.extend(sized("exclusive: ", volume.exclusive_bytes));
            lines.extend(volume.extent_count.map(|count| format!("extents:    {count}")));
            lines.extend(volume.source.map(|source| format!("source:     {source}")));
            lines.extend(volume.pvc.map(|name| format!("pvc:        {name}")));
            lines.extend(volume.pv.map(|name| format!("pv:         {name}")));
            lines.extend(volume.context.iter().map(|(key, value)| format!("context:    {key}={value}")));
            print_text(&lines.join("\n"))
        }
    }
}

async fn delete(args: &OneArgs, format: Format) -> Result<(), CliError> {
    let node = Node::connect(&args.endpoint.endpoint()).await?;
    let volume_id = node.volume_handle(&args.volume).await?;
    let request = csi::DeleteVolumeRequest { volume_id: volume_id.clone(), ..Default::default() };
    node.controller().delete_volume(request).await.answer(&format!("volume `{}` cannot be deleted", args.volume))?;
    match format {
        Format::Text => print_text(&format!("deleted {volume_id}")),
        Format::Json => print_json(&Deleted { volume_id: &volume_id, deleted: true }),
    }
}

async fn expand(args: &ExpandArgs, format: Format) -> Result<(), CliError> {
    let node = Node::connect(&args.endpoint.endpoint()).await?;
    let volume_id = node.volume_handle(&args.volume).await?;
    let range = Some(capacity_range(args.size)?);
    let request =
        csi::ControllerExpandVolumeRequest { volume_id: volume_id.clone(), capacity_range: range, ..Default::default() };
    let what = format!("volume `{}` cannot grow", args.volume);
    let answer = node.controller().controller_expand_volume(request).await.answer(&what)?;
    let size_bytes = u64::try_from(answer.capacity_bytes).unwrap_or(0);
    match format {
        Format::Text => print_text(&format!("{volume_id} has {}", ByteSize::new(size_bytes))),
        Format::Json => {
            print_json(&Expanded { volume_id: &volume_id, size_bytes, node_expansion_required: answer.node_expansion_required })
        }
    }
}
