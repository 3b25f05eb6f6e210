use std::collections::BTreeSet;
use std::num::NonZeroU32;

use super::file::{IndexFile, decode};
use super::*;
use crate::repository::blob::PackedBlob;
use crate::repository::damage::Damage;
use proptest::prelude::*;

fn id(number: u64) -> Id {
    Id::of(&number.to_le_bytes())
}

/// Packs of blobs of one kind, some blobs in several packs.
fn records() -> impl Strategy<Value = Vec<PackRecord>> {
    let blob = (0_u64..40, 32_u32..1000, prop::option::of(1_u32..5000));
    prop::collection::vec((any::<bool>(), prop::collection::vec(blob, 1..10)), 0..12).prop_map(|packs| {
        let packs = packs.into_iter().enumerate().map(|(number, (tree, blobs))| {
            let kind = if tree { BlobKind::Tree } else { BlobKind::Data };
            let mut offset = 0;
            let blobs = blobs.into_iter().map(|(number, length, plain)| {
                offset += length;
                PackedBlob {
                    id: id(number),
                    kind,
                    offset: offset - length,
                    length,
                    uncompressed_length: plain.and_then(NonZeroU32::new),
                }
            });
            PackRecord { id: id(1000 + number as u64), blobs: blobs.collect() }
        });
        packs.collect()
    })
}

/// Space that spills after `memory_bytes`.
fn small_scratch(memory_bytes: usize) -> (tempfile::TempDir, Scratch) {
    let folder = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(folder.path(), 1 << 30, memory_bytes);
    (folder, scratch)
}

proptest! {
    #[test]
    fn every_blob_is_found_where_some_pack_holds_it(records in records(), memory in 0_usize..2000) {
        let (_folder, scratch) = small_scratch(memory);
        let index = Index::of(&scratch, &records).unwrap();
        for kind in [BlobKind::Data, BlobKind::Tree] {
            for number in 0..50 {
                let found = index.get(kind, &id(number)).unwrap();
                let places = records.iter().flat_map(|record| record.blobs.iter().map(|blob| (record.id, blob)));
                let mut places = places.filter(|(_, blob)| blob.kind == kind && blob.id == id(number)).peekable();
                prop_assert_eq!(found.is_some(), places.peek().is_some());
                let claimed = if found.is_some() { Claim::Known } else { Claim::Yours };
                prop_assert_eq!(index.claim(kind, &id(number)).unwrap(), claimed);
                prop_assert_eq!(index.claim(kind, &id(number)).unwrap(), Claim::Known);
                if let Some(found) = found {
                    let held = places.any(|(pack, &PackedBlob { offset, length, uncompressed_length, .. })| {
                        found == BlobLocation { pack, offset, length, uncompressed_length }
                    });
                    prop_assert!(held);
                }
                let all = index.locations(kind, &id(number)).unwrap();
                prop_assert_eq!(all.first().copied(), found);
                let mut held = BTreeSet::new();
                for record in &records {
                    held.extend(record.blobs.iter().filter(|blob| blob.kind == kind && blob.id == id(number)).map(|blob| (record.id, blob.offset)));
                }
                let places = |all: &[BlobLocation]| all.iter().map(|location| (location.pack, location.offset)).collect::<BTreeSet<_>>();
                prop_assert_eq!(places(&all), held.clone());
                // Out of sight is as if no index named it.
                for pack in held.iter().map(|(pack, _)| *pack).collect::<BTreeSet<_>>() {
                    let mut index = Index::of(&scratch, &records).unwrap();
                    index.without_packs(&HashSet::from([pack])).unwrap();
                    held.retain(|(other, _)| *other != pack);
                    index.without_packs(&all.iter().map(|location| location.pack).filter(|other| !held.iter().any(|(kept, _)| kept == other)).collect()).unwrap();
                    prop_assert_eq!(places(&index.locations(kind, &id(number)).unwrap()), held.clone());
                    prop_assert_eq!(index.get(kind, &id(number)).unwrap().is_some(), !held.is_empty());
                    let claimed = if held.is_empty() { Claim::Yours } else { Claim::Known };
                    prop_assert_eq!(index.claim(kind, &id(number)).unwrap(), claimed);
                }
            }
        }
    }

    #[test]
    fn an_index_file_reads_back(records in records()) {
        let json = serde_json::to_vec(&IndexFile { packs: records.clone() }).unwrap();
        prop_assert_eq!(decode(&json).unwrap(), records);
    }

    #[test]
    fn a_damaged_index_file_is_read_or_refused(records in records(), position: prop::sample::Index, byte: u8) {
        let mut json = serde_json::to_vec(&IndexFile { packs: records }).unwrap();
        let position = position.index(json.len());
        json[position] = byte;
        let _ = decode(&json);
        let _ = decode(&json[..position]);
    }
}

proptest! {
    #[test]
    fn packs_come_with_their_blobs_in_the_order_in_which_they_lie(records in records(), memory in 0_usize..2000) {
        let (_folder, scratch) = small_scratch(memory);
        let index = Index::of(&scratch, records.iter().chain(&records)).unwrap();
        prop_assert_eq!(index.len(), 2 * records.iter().map(|record| record.blobs.len() as u64).sum::<u64>());
        let mut found: Vec<_> = index.packs().unwrap().iter().collect::<Result<_, _>>().unwrap();
        let expected = records.iter().filter(|record| !record.blobs.is_empty());
        let mut expected: Vec<_> = expected.cloned().collect();
        found.sort_unstable_by_key(|record| record.id);
        expected.sort_unstable_by_key(|record| record.id);
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn one_of_many_workers_gets_a_new_blob() {
    let index = Index::of(&Scratch::of_process(), &[]).unwrap();
    let claim = |kind| index.claim(kind, &id(1)).unwrap();
    let yours = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8).map(|_| scope.spawn(|| claim(BlobKind::Data) == Claim::Yours)).collect();
        workers.into_iter().map(|worker| usize::from(worker.join().unwrap())).sum::<usize>()
    });
    assert_eq!(yours, 1);
    assert_eq!(claim(BlobKind::Data), Claim::Known);
    assert_eq!(claim(BlobKind::Tree), Claim::Yours);
}

#[test]
fn impossible_places_are_refused() {
    let zero = "0".repeat(64);
    for (offset, length) in [(0, 31), (u32::MAX, 32)] {
        let json = format!(
            r#"{{"packs":[{{"id":"{zero}","blobs":[{{"id":"{zero}","type":"data","offset":{offset},"length":{length}}}]}}]}}"#
        );
        assert!(matches!(decode(json.as_bytes()), Err(Damage::Json(_) | Damage::Syntax(_))));
    }
    let old = format!(r#"{{"supersedes":["{zero}"],"packs":[]}}"#);
    assert_eq!(decode(old.as_bytes()).unwrap(), []);
}
