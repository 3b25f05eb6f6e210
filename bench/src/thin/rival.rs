//! The same by commands: those of dmsetup, and those of lvm2.
//!
//! Both run without udev, which the virtual machine has not: waiting for it would only make them slower.

use std::path::Path;

use windlass::block::device;

use super::{Operation, Tool};
use crate::error::{BenchError, While};
use crate::measure::Invocation;

/// Bytes of metadata of the pools.
const METADATA_BYTES: u64 = 64 << 20;
const SECTOR: u64 = 512;
/// Sectors of a volume.
const VOLUME_SECTORS: u64 = (1 << 30) / SECTOR;

/// A pool that is driven by commands.
pub struct Rival {
    name: &'static str,
    version: String,
    /// The commands of an operation of one repetition.
    commands: fn(Operation, usize) -> Vec<String>,
}

fn shell(command: &str) -> Result<String, BenchError> {
    let mut words = command.split_whitespace();
    let program = words.next().unwrap_or_default();
    let mut invocation = Invocation::new(program).variable("DM_DISABLE_UDEV", "1");
    for word in words {
        invocation = invocation.argument(word.replace('~', " "));
    }
    invocation.output()
}

impl Rival {
    /// A pool made by dmsetup on a blank disk.
    pub fn dmsetup(disk: &Path) -> Result<Self, BenchError> {
        let what = || format!("looking at {}", disk.display());
        let bytes = std::fs::File::open(disk).and_then(|file| device::size(&file)).while_doing(what)?;
        let (metadata, path) = (METADATA_BYTES / SECTOR, disk.display());
        let data = (bytes - METADATA_BYTES) / SECTOR / 128 * 128;
        for command in [
            format!("dmsetup create rival-meta --table 0~{metadata}~linear~{path}~0"),
            format!("dmsetup create rival-data --table 0~{data}~linear~{path}~{metadata}"),
            format!("dmsetup create rival-pool --table 0~{data}~thin-pool~/dev/mapper/rival-meta~/dev/mapper/rival-data~128~0"),
        ] {
            shell(&command)?;
        }
        Ok(Self { name: "dmsetup", version: version("dmsetup version", "Library version:")?, commands: by_dmsetup })
    }

    /// A pool made by lvm2 on a blank disk.
    pub fn lvm(disk: &Path) -> Result<Self, BenchError> {
        let path = disk.display();
        for command in [
            format!("lvm vgcreate {WITHOUT_UDEV} -qq -y competitor {path}"),
            format!(
                "lvm lvcreate {WITHOUT_UDEV} -qq -y --type thin-pool --chunksize 64k --poolmetadatasize 64m -l 90%FREE -n pool competitor"
            ),
        ] {
            shell(&command)?;
        }
        Ok(Self { name: "lvm2", version: version("lvm version", "LVM version:")?, commands: by_lvm })
    }
}

const WITHOUT_UDEV: &str = "--config activation{udev_sync=0~udev_rules=0~monitoring=0}";

fn version(command: &str, field: &str) -> Result<String, BenchError> {
    let text = shell(command)?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix(field)).unwrap_or("unknown");
    Ok(line.split_whitespace().next().unwrap_or("unknown").to_owned())
}

fn by_dmsetup(operation: Operation, repetition: usize) -> Vec<String> {
    let (volume, snapshot, clone) = (3 * repetition, 3 * repetition + 1, 3 * repetition + 2);
    let thin = |id: usize| format!("dmsetup create rival-{id} --table 0~{VOLUME_SECTORS}~thin~/dev/mapper/rival-pool~{id}");
    let message = |text: String| format!("dmsetup message rival-pool 0 {text}");
    match operation {
        Operation::Create => vec![message(format!("create_thin~{volume}")), thin(volume)],
        Operation::Snapshot => vec![
            format!("dmsetup suspend rival-{volume}"),
            message(format!("create_snap~{snapshot}~{volume}")),
            format!("dmsetup resume rival-{volume}"),
        ],
        Operation::Clone => vec![message(format!("create_snap~{clone}~{snapshot}")), thin(clone)],
        Operation::Delete => vec![message(format!("delete~{snapshot}"))],
    }
}

fn by_lvm(operation: Operation, repetition: usize) -> Vec<String> {
    match operation {
        Operation::Create => {
            vec![format!("lvm lvcreate {WITHOUT_UDEV} -qq -y -V 1g -n volume{repetition} --thinpool competitor/pool")]
        }
        Operation::Snapshot => {
            vec![format!("lvm lvcreate {WITHOUT_UDEV} -qq -y -s -n still{repetition} competitor/volume{repetition}")]
        }
        Operation::Clone => {
            vec![format!("lvm lvcreate {WITHOUT_UDEV} -qq -y -s -ay -K -kn -n clone{repetition} competitor/still{repetition}")]
        }
        Operation::Delete => vec![format!("lvm lvremove {WITHOUT_UDEV} -qq -y -f competitor/still{repetition}")],
    }
}

impl Tool for Rival {
    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn run(&mut self, operation: Operation, repetition: usize) -> Result<(), BenchError> {
        (self.commands)(operation, repetition).iter().try_for_each(|command| shell(command).map(drop))
    }
}
