//! The oracles: `thin_restore`, `thin_check`, `thin_dump`, `thin_delta` and `thin_ls` on plain files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{Device, Map, Mapping, Pool};

/// A pool as `thin_restore` reads it, with runs where mappings continue each other.
pub fn xml(pool: &Pool) -> String {
    let mut text = format!(
        "<superblock uuid=\"\" time=\"{}\" transaction=\"{}\" flags=\"0\" version=\"2\" data_block_size=\"128\" nr_data_blocks=\"{}\">\n",
        pool.time, pool.transaction_id, pool.data_blocks
    );
    for device in &pool.devices {
        writeln!(
            text,
            "<device dev_id=\"{}\" mapped_blocks=\"{}\" transaction=\"{}\" creation_time=\"{}\" snap_time=\"{}\">",
            device.id,
            device.map.len(),
            device.transaction_id,
            device.creation_time,
            device.snapshotted_time
        )
        .unwrap();
        for (begin, data, length, time) in runs(&device.map) {
            writeln!(text, "<range_mapping origin_begin=\"{begin}\" data_begin=\"{data}\" length=\"{length}\" time=\"{time}\"/>")
                .unwrap();
        }
        text.push_str("</device>\n");
    }
    text + "</superblock>\n"
}

fn runs(map: &Map) -> Vec<(u64, u64, u64, u32)> {
    let mut runs: Vec<(u64, u64, u64, u32)> = Vec::new();
    for (&block, mapping) in map {
        match runs.last_mut() {
            Some((begin, data, length, time))
                if *begin + *length == block && *data + *length == mapping.data && *time == mapping.time =>
            {
                *length += 1;
            }
            _ => runs.push((block, mapping.data, 1, mapping.time)),
        }
    }
    runs
}

fn run(command: &mut Command) -> Output {
    // Where the tools are, which not every user's path says.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    command
        .env("PATH", path)
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; is thin-provisioning-tools installed?"))
}

fn text(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Metadata of a pool, made by `thin_restore` in a file of this many bytes.
pub fn restore(pool: &Pool, directory: &Path, size: u64) -> PathBuf {
    let (description, file) = (directory.join("pool.xml"), directory.join("restored"));
    fs::write(&description, xml(pool)).unwrap();
    File::create(&file).unwrap().set_len(size).unwrap();
    text(Command::new("thin_restore").arg("-i").arg(&description).arg("-o").arg(&file));
    file
}

/// What `thin_check` has against the metadata in a file; nothing when it accepts it.
pub fn check(file: &Path) -> Option<String> {
    let output = run(Command::new("thin_check").arg(file));
    let said = || String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (!output.status.success()).then(said)
}

fn attribute<'t>(line: &'t str, name: &str) -> Option<&'t str> {
    let (_, rest) = line.split_once(&format!(" {name}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

fn number(line: &str, name: &str) -> u64 {
    let value = attribute(line, name).unwrap_or_else(|| panic!("no {name} in {line}"));
    value.parse().unwrap()
}

/// The pool that `thin_dump` finds in a file.
pub fn dump(file: &Path) -> Pool {
    let said = text(Command::new("thin_dump").arg(file));
    let mut pool = Pool::default();
    for line in said.lines().map(str::trim) {
        let tag = line.trim_start_matches('<').split([' ', '>']).next().unwrap_or_default();
        let device = pool.devices.last_mut();
        match (tag, device) {
            ("superblock", _) => {
                pool.time = number(line, "time") as u32;
                pool.transaction_id = number(line, "transaction");
                pool.data_blocks = number(line, "nr_data_blocks");
            }
            ("device", _) => pool.devices.push(Device {
                id: number(line, "dev_id") as u32,
                creation_time: number(line, "creation_time") as u32,
                snapshotted_time: number(line, "snap_time") as u32,
                transaction_id: number(line, "transaction"),
                map: Map::new(),
            }),
            ("range_mapping", Some(device)) => {
                let time = number(line, "time") as u32;
                for offset in 0..number(line, "length") {
                    let mapping = Mapping { data: number(line, "data_begin") + offset, time };
                    device.map.insert(number(line, "origin_begin") + offset, mapping);
                }
            }
            ("single_mapping", Some(device)) => {
                let mapping = Mapping { data: number(line, "data_block"), time: number(line, "time") as u32 };
                device.map.insert(number(line, "origin_block"), mapping);
            }
            ("/superblock" | "/device" | "", _) => {}
            _ => panic!("thin_dump said {line}"),
        }
    }
    pool
}

/// The blocks that `thin_delta` finds different, or in one of the devices only.
pub fn delta(file: &Path, base: u32, target: u32) -> BTreeSet<u64> {
    let ids = [format!("--thin1={base}"), format!("--thin2={target}")];
    let said = text(Command::new("thin_delta").args(ids).arg(file));
    let mut blocks = BTreeSet::new();
    for line in said.lines().map(str::trim) {
        if ["<different ", "<left_only ", "<right_only "].iter().any(|tag| line.starts_with(tag)) {
            let begin = number(line, "begin");
            blocks.extend(begin..begin + number(line, "length"));
        }
    }
    blocks
}

/// For each device its mapped and its exclusive blocks, as `thin_ls` counts them.
pub fn usage(file: &Path) -> BTreeMap<u32, (u64, u64)> {
    let columns = "DEV,MAPPED_BLOCKS,EXCLUSIVE_BLOCKS";
    let said = text(Command::new("thin_ls").args(["--no-headers", "-o", columns]).arg(file));
    let numbers = |line: &str| line.split_whitespace().map(|word| word.parse().unwrap()).collect::<Vec<u64>>();
    said.lines().map(numbers).map(|row| (row[0] as u32, (row[1], row[2]))).collect()
}
