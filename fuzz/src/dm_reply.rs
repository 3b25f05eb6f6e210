//! Replies of the kernel's device-mapper, and the lines in them, whose names and parameters other programs chose.
//!
//! Nothing outside a reply is read and no more is made of it than its bytes pay for. A line that is understood is said again in
//! words that mean the same.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use windlass::dm::reply::Reply;
use windlass::dm::{PoolMessage, Target, TargetKind, ThinPoolStatus, ThinStatus};

/// Bytes of a reply's header.
const HEADER: usize = 312;
/// Bytes before the name of a device in a list, and before the line of a target.
const DEVICE_HEAD: usize = 12;
const TARGET_HEAD: usize = 40;

/// Reads a reply, and a line.
pub fn run(data: &[u8]) {
    if let Ok(reply) = Reply::parse(data) {
        let _ = (reply.is_cut_short(), reply.version(), reply.info(), reply.target_version());
        if let Ok(devices) = reply.devices() {
            // A byte that is no text becomes a character of three.
            let text: usize = devices.iter().map(|one| one.name.len() + one.uuid.as_deref().map_or(0, str::len)).sum();
            assert!(devices.len() * DEVICE_HEAD <= data.len() && text <= 3 * data.len());
        }
        if let Ok(targets) = reply.targets() {
            assert!(targets.len() * TARGET_HEAD <= data.len());
            for target in targets {
                line::<ThinPoolStatus>(&target.text);
                line::<ThinStatus>(&target.text);
                if let Ok(kind) = TargetKind::parse(&target.kind, &target.text) {
                    assert_eq!(TargetKind::parse(kind.type_name(), &kind.parameters()), Ok(kind));
                }
            }
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        line::<Target>(text);
        line::<ThinPoolStatus>(text);
        line::<ThinStatus>(text);
        line::<PoolMessage>(text);
    }
}

fn line<T: FromStr<Err: Debug + PartialEq> + Display + Debug + PartialEq>(text: &str) {
    if let Ok(understood) = text.parse::<T>() {
        assert_eq!(understood.to_string().parse(), Ok(understood));
    }
}

/// A list, a table and a state as the kernel lays them out, and lines.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = [
        "0 262144 thin-pool 254:1 254:2 128 100 3 skip_block_zeroing no_discard_passdown error_if_no_space",
        "0 20971520 thin 254:3 16777215",
        "7 141/2048 512/512 172 out_of_data_space no_discard_passdown queue_if_no_space needs_check 1024",
        "2048 4095",
        "set_transaction_id 0 18446744073709551615",
    ]
    .iter()
    .map(|line| line.as_bytes().to_vec())
    .collect();
    let list = reply(0, &[device("windlass-1-pool", Some("WINDLASS-1-pool"), 56), device("other", None, 0)].concat());
    assert_eq!(Reply::parse(&list).and_then(|reply| reply.devices()).expect("a list").len(), 2);
    seeds.push(list);
    let linear = target("linear", "254:0 2048 ", 56);
    let pool = target("thin-pool", "0 141/2048 0/512 - rw discard_passdown error_if_no_space - 1024 ", 56 + 112);
    let table = reply(2, &[linear, pool].concat());
    let targets = Reply::parse(&table).and_then(|reply| reply.targets()).expect("a table");
    assert!(targets[1].text.parse::<ThinPoolStatus>().is_ok());
    seeds.push(table);
    seeds
}

fn reply(targets: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    let size = u32::try_from(HEADER + data.len()).expect("a small reply");
    for (at, value) in [(0, 4), (4, 47), (12, size), (16, HEADER as u32), (20, targets), (40, 0xfe03)] {
        bytes[at..at + 4].copy_from_slice(&u32::to_ne_bytes(value));
    }
    bytes[176..180].copy_from_slice(b"uuid");
    bytes.extend_from_slice(data);
    bytes
}

/// An entry of a list; `next` is its length, or zero for the last.
fn device(name: &str, uuid: Option<&str>, next: u32) -> Vec<u8> {
    let mut bytes = 0xfe05_u64.to_ne_bytes().to_vec();
    bytes.extend(next.to_ne_bytes());
    bytes.extend(format!("{name}\0").bytes());
    pad(&mut bytes);
    bytes.extend(3_u32.to_ne_bytes());
    bytes.extend(if uuid.is_some() { 1_u32 } else { 2 }.to_ne_bytes());
    bytes.extend(uuid.map(|uuid| format!("{uuid}\0")).unwrap_or_default().bytes());
    pad(&mut bytes);
    assert!(next == 0 || next as usize == bytes.len(), "{}", bytes.len());
    bytes
}

/// A target; `next` is where it ends, from the beginning of all.
fn target(kind: &str, line: &str, next: u32) -> Vec<u8> {
    let mut bytes = vec![0; TARGET_HEAD];
    bytes[8..16].copy_from_slice(&2048_u64.to_ne_bytes());
    bytes[20..24].copy_from_slice(&next.to_ne_bytes());
    bytes[24..24 + kind.len()].copy_from_slice(kind.as_bytes());
    bytes.extend(format!("{line}\0").bytes());
    pad(&mut bytes);
    bytes
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}
