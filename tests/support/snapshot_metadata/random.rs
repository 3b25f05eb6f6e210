//! Random operations on a few raw volumes.

use rand::RngExt;
use rand::rngs::StdRng;
use tonic::Code;

use super::node::Node;
use super::{LARGE, SMALL, WRITER};
use crate::csi_harness::{block, from_snapshot, from_volume};
use crate::metadata_client::{Ask, applied, list};
use crate::random_volumes::BLOCK;

const OPERATIONS: usize = 2500;
/// Snapshots of a volume that are not deleted, at most.
const KEPT: usize = 3;

/// A raw volume: its device as long as it is attached, and what is known of its content.
struct Raw {
    id: String,
    bytes: Vec<u8>,
    /// Snapshots with their content, the oldest first.
    snapshots: Vec<(String, Vec<u8>)>,
    /// Deleted snapshots with their content.
    deleted: Vec<(String, Vec<u8>)>,
}

fn named(volume: &Raw, random: &mut StdRng) -> usize {
    random.random_range(0..volume.snapshots.len())
}

/// Deleted bases are answered exactly, or not known: how many were answered.
async fn check_deleted(node: &Node, volume: &Raw, random: &mut StdRng) -> usize {
    let Some((target, target_bytes)) = volume.snapshots.last() else { return 0 };
    let mut answered = 0;
    for (base, base_bytes) in volume.deleted.iter().rev().take(6) {
        let asked = Ask::Delta { base, target };
        match list(&node.metadata, asked, 0, random.random_range(0..9)).await {
            Ok(listed) => {
                let right = applied(base_bytes, target_bytes, &listed.ranges) == *target_bytes;
                assert!(right, "something changed since a deleted base and was not said: {:?}", listed.ranges);
                answered += 1;
            }
            // Not known, or just being given up.
            Err(status) => assert!(matches!(status.code(), Code::NotFound | Code::Aborted), "{status}"),
        }
    }
    answered
}

/// Many operations, and what the service says of them.
pub async fn operations(node: &Node, random: &mut StdRng) {
    let first = node.create("first", SMALL, block(WRITER), None).await;
    let mut volumes = vec![Raw { id: first, bytes: vec![0; SMALL as usize], snapshots: Vec::new(), deleted: Vec::new() }];
    let (mut checks, mut from_deleted) = (0, 0);
    let operations = node.opened.kind.repetitions(OPERATIONS);
    let are_enough = |checks: usize, from_deleted: usize| checks > operations / 20 && from_deleted > operations / 100;
    // Of few operations chance may leave out what matters: some more are made then.
    for step in 0..4 * operations {
        if step >= operations && are_enough(checks, from_deleted) {
            break;
        }
        let (index, count) = (random.random_range(0..volumes.len()), volumes.len());
        let volume = &mut volumes[index];
        match random.random_range(0..100) {
            0..76 => node.change(&volume.id, &mut volume.bytes, random),
            76..86 => {
                let snapshot = node.cut(&format!("s-{step}"), &volume.id).await;
                assert!(node.read(&snapshot) == volume.bytes, "the snapshot is not the volume");
                volume.snapshots.push((snapshot, volume.bytes.clone()));
                let base = named(volume, random);
                let (base, target) = (&volume.snapshots[base].0, &volume.snapshots.last().unwrap().0);
                node.check(base, target, random).await;
                checks += 1;
                from_deleted += check_deleted(node, volume, random).await;
                if volume.snapshots.len() > KEPT {
                    let gone = volume.snapshots.remove(named(volume, random));
                    node.delete_snapshot(&gone.0).await;
                    volume.deleted.push(gone);
                }
            }
            86..90 => {
                let size = (volume.bytes.len() as u64 + random.random_range(0..64) * BLOCK).min(LARGE);
                node.grow(&volume.id, size).await;
                volume.bytes.resize(size as usize, 0);
            }
            90..92 if count < 3 => {
                let name = format!("clone-{step}");
                let (source, content) = match volume.snapshots.len() {
                    0 => (from_volume(&volume.id), volume.bytes.clone()),
                    _ => {
                        let (id, content) = &volume.snapshots[named(volume, random)];
                        (from_snapshot(id), content.clone())
                    }
                };
                let id = node.create(&name, content.len() as u64, block(WRITER), source).await;
                volumes.push(Raw { id, bytes: content, snapshots: Vec::new(), deleted: Vec::new() });
            }
            92..96 => match node.pool.attachment(Node::object(&volume.id)).unwrap() {
                Some(_) => node.pool.detach(Node::object(&volume.id)).unwrap(),
                None => drop(node.attach(&volume.id)),
            },
            _ => {
                let Some(last) = volume.snapshots.len().checked_sub(1) else { continue };
                let target = random.random_range(0..=last);
                let base = random.random_range(0..=target);
                let (base, target) = (&volume.snapshots[base], &volume.snapshots[target]);
                assert!(node.read(&base.0) == base.1 && node.read(&target.0) == target.1, "a snapshot changed");
                node.check(&base.0, &target.0, random).await;
                checks += 1;
            }
        }
    }
    assert!(are_enough(checks, from_deleted), "{checks} pairs compared, {from_deleted} of them with a deleted base");
    println!("{operations} operations or some more, {checks} pairs of snapshots compared, {from_deleted} with a deleted base");
    for volume in &volumes {
        node.pool.detach(Node::object(&volume.id)).unwrap();
    }
}
