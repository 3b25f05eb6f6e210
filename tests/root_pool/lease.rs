//! What a lease reads and knows.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use windlass::pool::PoolError;
use windlass::pool::reflink::create_pool;
use windlass::types::{Access, ByteRange, Object};

use crate::root_support::{Sandbox, new_snapshot, new_volume, pattern};
use crate::{POOLS, open};

#[test]
fn a_lease_reads_what_was_cut_and_knows_what_changed() {
    let sandbox = Sandbox::new();
    for fs_type in POOLS {
        let image = sandbox.pool(fs_type);
        create_pool(image.directory()).unwrap();
        let pool = open(image.directory());
        let volume = pool.create_volume(&new_volume("data", 64 << 20)).unwrap().into_inner();
        let device = pool.attach(Object::Volume(volume.id), Access::ReadWrite).unwrap().device;
        let device = OpenOptions::new().write(true).open(device).unwrap();
        let cut = |name: &str| pool.create_snapshots(&[new_snapshot(name, volume.id)]).unwrap().remove(0).into_inner();
        let write = |seed: u64, offset: u64| {
            device.write_all_at(&pattern(seed, 1 << 20), offset).unwrap();
            device.sync_all().unwrap();
        };
        write(1, 0);
        write(2, 8 << 20);
        let first = cut("first");
        write(3, 8 << 20);
        let second = cut("second");
        write(4, 0);
        let lease = pool.lease(second.id).unwrap();
        assert!(matches!(pool.delete_snapshot(second.id), Err(PoolError::InUse { .. })));
        let mut bytes = vec![0; 1 << 20];
        lease.file().read_exact_at(&mut bytes, 8 << 20).unwrap();
        assert!(bytes == pattern(3, 1 << 20));
        let allocated: Vec<ByteRange> = lease.allocated().unwrap().map(Result::unwrap).collect();
        let range = |offset| ByteRange::new(offset, 1 << 20).unwrap();
        assert_eq!(allocated, vec![range(0), range(8 << 20)]);
        let changed: Vec<ByteRange> = lease.changed_since(first.id).unwrap().map(Result::unwrap).collect();
        assert_eq!(changed, vec![range(8 << 20)]);
        let usage = pool.usage_of(Object::Snapshot(second.id)).unwrap();
        assert_eq!(usage.allocated, 2 << 20);
        drop((lease, device));
        pool.delete_snapshot(second.id).unwrap();
        pool.detach(Object::Volume(volume.id)).unwrap();
    }
}
