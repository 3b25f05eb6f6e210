//! Whether a pool that was recovered after a cut is what was promised.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use windlass::pool::owned::OwnedPool;
use windlass::pool::record::{Snapshot, Volume};
use windlass::types::{Access, AnchorLimit, Object};

use super::workload::{BESIDE, BLOCK, Content, Operation, State, block_of, new_volume};

/// What a pool holds, as it says.
#[derive(Debug, PartialEq, Eq)]
struct Listing {
    volumes: BTreeMap<String, u64>,
    snapshots: BTreeMap<String, u64>,
}

impl Listing {
    fn of_records(volumes: &[Volume], snapshots: &[Snapshot]) -> Self {
        let volumes = volumes.iter().map(|volume| (volume.name.as_str().to_owned(), volume.size.bytes()));
        let snapshots = snapshots.iter().map(|snapshot| (snapshot.name.as_str().to_owned(), snapshot.size.bytes()));
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
/// Every block can be read.
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

    let records = (pool.volumes().unwrap(), pool.snapshots().unwrap());
    verify_records(records, promised, under_way, |object, bytes| {
        let mut content = vec![0; bytes];
        match object {
            Object::Volume(_) => {
                let attachment = pool.attach(object, Access::ReadOnly).unwrap();
                File::open(&attachment.device).unwrap().read_exact_at(&mut content, 0).unwrap();
                pool.detach(object).unwrap();
            }
            Object::Snapshot(id) => pool.lease(id).unwrap().file().read_exact_at(&mut content, 0).unwrap(),
        }
        content
    });
}

/// Compares records, and the bytes that `read` finds of their objects, with what was promised. Volumes [`BESIDE`] the workload
/// are left out.
///
/// # Panics
/// When anything differs.
pub fn verify_records(
    (mut volumes, snapshots): (Vec<Volume>, Vec<Snapshot>),
    promised: &State,
    under_way: Option<&Operation>,
    mut read: impl FnMut(Object, usize) -> Vec<u8>,
) {
    volumes.retain(|volume| !volume.name.as_str().starts_with(BESIDE));
    let mut done = promised.clone();
    if let Some(operation) = under_way {
        done.apply(operation);
    }
    let listing = Listing::of_records(&volumes, &snapshots);
    let is_done = listing == Listing::of_state(&done);
    if !is_done {
        assert_eq!(listing, Listing::of_state(promised), "not what was promised, and with {under_way:?} under way");
    }
    // What either state says of an object that both have differs for a write alone.
    let (first, second) = if is_done { (&done, promised) } else { (promised, &done) };
    for volume in volumes {
        let name = volume.name.as_str();
        let contents = [Some(&first.volumes[name]), second.volumes.get(name)];
        let bytes = read(Object::Volume(volume.id), (first.volumes[name].blocks * BLOCK) as usize);
        compare(name, &bytes, contents.into_iter().flatten());
    }
    for snapshot in snapshots {
        let name = snapshot.name.as_str();
        let content = &first.snapshots[name];
        let bytes = read(Object::Snapshot(snapshot.id), (content.blocks * BLOCK) as usize);
        compare(name, &bytes, std::iter::once(content));
    }
}

/// Each block is what one of the contents says.
fn compare<'a>(name: &str, bytes: &[u8], contents: impl Iterator<Item = &'a Content>) {
    let contents: Vec<&Content> = contents.collect();
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
    let request = new_volume("made after the cut", 16 * BLOCK, AnchorLimit::default(), None);
    let id = pool.create_volume(&request).unwrap().into_inner().id;
    let attachment = pool.attach(Object::Volume(id), Access::ReadWrite).unwrap();
    let device = File::options().write(true).open(&attachment.device).unwrap();
    device.write_all_at(&block_of(1), 0).unwrap();
    device.sync_all().unwrap();
    drop(device);
    pool.detach(Object::Volume(id)).unwrap();
    pool.delete_volume(id).unwrap();
}
