//! Whether a pool that was recovered after a cut is what was promised.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use windlass::block::Access;
use windlass::pool::owned::OwnedPool;
use windlass::types::{CapacityRange, Object, VolumeSize};

use super::workload::{BLOCK, Content, Operation, State, block_of, new_volume};

/// What a pool holds, as it says.
#[derive(Debug, PartialEq, Eq)]
struct Listing {
    volumes: BTreeMap<String, u64>,
    snapshots: BTreeMap<String, u64>,
}

impl Listing {
    fn of_pool(pool: &OwnedPool) -> Self {
        let volumes = pool.volumes().unwrap().into_iter().map(|volume| (volume.name.as_str().to_owned(), volume.size.bytes()));
        let snapshots = pool.snapshots().unwrap().into_iter();
        let snapshots = snapshots.map(|snapshot| (snapshot.name.as_str().to_owned(), snapshot.size.bytes()));
        Self { volumes: volumes.collect(), snapshots: snapshots.collect() }
    }

    fn of_state(state: &State) -> Self {
        let sizes = |objects: &BTreeMap<String, Content>| {
            objects.iter().map(|(name, content)| (name.clone(), content.blocks * BLOCK)).collect()
        };
        Self { volumes: sizes(&state.volumes), snapshots: sizes(&state.snapshots) }
    }
}

/// Compares a recovered pool with what was promised: it is as `promised` says or, as a whole, as it is after `under_way`, the
/// operation that was begun then. Of a write that is under way each block is as it was or as it was to be.
///
/// Nothing is quarantined, damaged or half made.
///
/// # Panics
/// When anything differs.
pub fn verify(pool: &OwnedPool, promised: &State, under_way: Option<&Operation>) {
    let status = pool.status().unwrap();
    assert_eq!(status.quarantined, Vec::<String>::new(), "quarantined");
    assert_eq!(status.damaged, Vec::<String>::new(), "damaged");
    assert_eq!(status.restores, 0, "restores");

    let mut done = promised.clone();
    if let Some(operation) = under_way {
        done.apply(operation);
    }
    let listing = Listing::of_pool(pool);
    let is_done = listing == Listing::of_state(&done);
    if !is_done {
        assert_eq!(listing, Listing::of_state(promised), "not what was promised, and with {under_way:?} under way");
    }
    // What either state says of an object that both have differs for a write alone.
    let (first, second) = if is_done { (&done, promised) } else { (promised, &done) };
    for volume in pool.volumes().unwrap() {
        let name = volume.name.as_str();
        let object = Object::Volume(volume.id);
        let attachment = pool.attach(object, Access::ReadOnly).unwrap();
        let device = File::open(&attachment.device).unwrap();
        let contents = [Some(&first.volumes[name]), second.volumes.get(name)];
        compare(name, &device, contents.into_iter().flatten());
        drop(device);
        pool.detach(object).unwrap();
    }
    for snapshot in pool.snapshots().unwrap() {
        let name = snapshot.name.as_str();
        let lease = pool.lease(snapshot.id).unwrap();
        compare(name, lease.file(), std::iter::once(&first.snapshots[name]));
    }
}

/// Each block is what one of the contents says.
fn compare<'a>(name: &str, file: &File, contents: impl Iterator<Item = &'a Content>) {
    let contents: Vec<&Content> = contents.collect();
    let mut bytes = vec![0; (contents[0].blocks * BLOCK) as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    for (number, block) in (0..).zip(bytes.chunks_exact(BLOCK as usize)) {
        let is_expected = contents.iter().any(|content| match content.written.get(&number) {
            Some(seed) => block == block_of(*seed),
            None => block.iter().all(|byte| *byte == 0),
        });
        assert!(is_expected, "block {number} of {name} is not what was written, but {:02x?}...", &block[..16]);
    }
}

/// The pool works: a volume can be made, written to and deleted.
///
/// # Panics
/// When not.
pub fn verify_use(pool: &OwnedPool) {
    let size = VolumeSize::new(16 * BLOCK).unwrap();
    let request = new_volume("made after the cut", CapacityRange::exactly(size), true, None);
    let id = pool.create_volume(&request).unwrap().into_inner().id;
    let attachment = pool.attach(Object::Volume(id), Access::ReadWrite).unwrap();
    let device = File::options().write(true).open(&attachment.device).unwrap();
    device.write_all_at(&block_of(1), 0).unwrap();
    device.sync_all().unwrap();
    drop(device);
    pool.detach(Object::Volume(id)).unwrap();
    pool.delete_volume(id).unwrap();
}
