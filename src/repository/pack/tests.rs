use super::header::*;
use super::open::*;
use super::*;
use crate::repository::blob::BlobLocation;
use crate::repository::crypto::Secrets;
use crate::types::error::chain;
use proptest::prelude::*;

fn sealer() -> Sealer {
    Sealer::new(Secrets::random().unwrap())
}

fn location(pack: &Pack, blob: &PackedBlob) -> BlobLocation {
    BlobLocation { pack: pack.record.id, offset: blob.offset, length: blob.length, uncompressed_length: blob.uncompressed_length }
}

fn packed(sealer: &Sealer, kind: BlobKind, contents: &[Vec<u8>]) -> Pack {
    let mut builder = PackBuilder::new(sealer.clone(), kind, 1 << 20, Verification::Decode);
    let mut compressor = Compressor::new(1).unwrap();
    for plain in contents {
        let before = builder.bytes();
        let sealed = builder.add(Id::of(plain), plain, &mut compressor).unwrap();
        assert_eq!(builder.bytes(), before + sealed as usize);
    }
    builder.finish().unwrap().unwrap()
}

/// Blobs that compress and blobs that do not.
fn contents() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let repetitive = (any::<u8>(), 0_usize..5000).prop_map(|(byte, length)| vec![byte; length]);
    let random = prop::collection::vec(any::<u8>(), 0..300);
    prop::collection::vec(prop_oneof![repetitive, random], 1..12)
}

proptest! {
    #[test]
    fn every_blob_of_a_pack_reads_back(contents in contents(), tree: bool) {
        let sealer = sealer();
        let kind = if tree { BlobKind::Tree } else { BlobKind::Data };
        let pack = packed(&sealer, kind, &contents);
        prop_assert_eq!(Id::of(&pack.bytes), pack.record.id);
        prop_assert_eq!(&read_header(&sealer, &pack.bytes).unwrap(), &pack.record.blobs);
        let lengths = pack.record.blobs.iter().map(|blob| (blob.length, blob.uncompressed_length));
        prop_assert_eq!(expected_bytes(lengths), pack.bytes.len() as u64);
        let mut plain = Vec::new();
        for (blob, expected) in pack.record.blobs.iter().zip(&contents) {
            let location = location(&pack, blob);
            let mut sealed = pack.bytes[blob.offset as usize..location.end() as usize].to_vec();
            open_blob(&sealer, &blob.id, &location, &mut sealed, &mut plain).unwrap();
            prop_assert_eq!(&plain, expected);
            prop_assert_eq!(location.plain_length() as usize, expected.len());
            let mut sealed = pack.bytes[blob.offset as usize..location.end() as usize].to_vec();
            plain.fill(1);
            open_blob_unhashed(&sealer, &location, &mut sealed, &mut plain).unwrap();
            prop_assert_eq!(&plain, expected);
        }
    }

    #[test]
    fn a_damaged_pack_gives_errors(contents in contents(), position: prop::sample::Index, bit in 0_u8..8, length: prop::sample::Index) {
        let sealer = sealer();
        let pack = packed(&sealer, BlobKind::Data, &contents);
        let mut bytes = pack.bytes.to_vec();
        let position = position.index(bytes.len());
        bytes[position] ^= 1 << bit;
        let header = read_header(&sealer, &bytes);
        let mut failed = header.is_err();
        for blob in &pack.record.blobs {
            let location = location(&pack, blob);
            let mut sealed = bytes[blob.offset as usize..location.end() as usize].to_vec();
            let opened = open_blob(&sealer, &blob.id, &location, &mut sealed.clone(), &mut Vec::new());
            let mut plain = vec![0; location.plain_length() as usize];
            let unhashed = open_blob_unhashed(&sealer, &location, &mut sealed, &mut plain);
            prop_assert_eq!(unhashed.map_err(|damage| chain(&damage)), opened.clone().map_err(|damage| chain(&damage)));
            failed |= opened.is_err();
        }
        prop_assert!(failed);
        let _ = read_header(&sealer, &pack.bytes[..length.index(pack.bytes.len())]);
    }

    #[test]
    fn any_header_is_read_or_refused(entries: Vec<u8>, body in 0_usize..200) {
        let sealer = sealer();
        let mut pack = vec![0; body];
        let header = sealer.seal(&entries).unwrap();
        pack.extend_from_slice(&header);
        pack.extend_from_slice(&(header.len() as u32).to_le_bytes());
        let _ = read_header(&sealer, &pack);
    }
}

#[test]
fn a_blob_that_lies_about_its_length_is_refused() {
    let sealer = sealer();
    let plain = vec![7; 10_000];
    let pack = packed(&sealer, BlobKind::Data, std::slice::from_ref(&plain));
    let blob = pack.record.blobs[0];
    for length in [1, 9_999, 10_001] {
        let lying = BlobLocation { uncompressed_length: NonZeroU32::new(length), ..location(&pack, &blob) };
        let mut sealed = pack.bytes[..blob.length as usize].to_vec();
        let error = open_blob_unhashed(&sealer, &lying, &mut sealed, &mut vec![0; length as usize]);
        assert!(matches!(error, Err(Damage::Compression(_) | Damage::Length { .. })), "{length}");
        let mut sealed = pack.bytes[..blob.length as usize].to_vec();
        assert!(
            matches!(
                open_blob(&sealer, &blob.id, &lying, &mut sealed, &mut Vec::new()),
                Err(Damage::Compression(_) | Damage::Length { .. })
            ),
            "{length}"
        );
    }
    let mut sealed = pack.bytes[..blob.length as usize].to_vec();
    let error = open_blob(&sealer, &Id::of(b"other"), &location(&pack, &blob), &mut sealed, &mut Vec::new());
    assert!(matches!(error, Err(Damage::WrongHash { found }) if found == blob.id));
}

#[test]
fn a_length_that_is_not_true_takes_no_memory() {
    let (sealer, text) = (sealer(), vec![7; 1000]);
    let sealed = sealer.seal(&zstd::bulk::compress(&text, 1).unwrap()).unwrap();
    let open = |length: u32| {
        let location = BlobLocation {
            pack: Id::of(b"pack"),
            offset: 0,
            length: sealed.len() as u32,
            uncompressed_length: NonZeroU32::new(length),
        };
        let mut plain = Vec::new();
        let opened = open_blob(&sealer, &Id::of(&text), &location, &mut sealed.clone(), &mut plain);
        (opened, plain.capacity())
    };
    open(1000).0.unwrap();
    let (opened, taken) = open(u32::MAX);
    assert!(matches!(opened, Err(Damage::Compression(_) | Damage::Length { .. })));
    assert!(taken < 1 << 20, "{taken} bytes are taken");
}

#[test]
fn blobs_longer_than_any_of_ours_read_back_and_lies_about_them_do_not() {
    let sealer = sealer();
    let long: Vec<u8> = (0..EAGER_BYTES + 5).map(|at| (at >> 12) as u8).collect();
    let pack = packed(&sealer, BlobKind::Data, std::slice::from_ref(&long));
    let blob = &pack.record.blobs[0];
    let right = location(&pack, blob);
    let sealed = &pack.bytes[..blob.length as usize];
    let mut plain = Vec::new();
    open_blob(&sealer, &blob.id, &right, &mut sealed.to_vec(), &mut plain).unwrap();
    assert!(plain == long);
    for length in [long.len() as u32 - 1, long.len() as u32 + 1] {
        let wrong = BlobLocation { uncompressed_length: NonZeroU32::new(length), ..right };
        let opened = open_blob(&sealer, &blob.id, &wrong, &mut sealed.to_vec(), &mut plain);
        assert!(matches!(opened, Err(Damage::Compression(_) | Damage::Length { .. })), "{length}: {opened:?}");
    }
}

#[test]
fn what_does_not_shrink_is_stored_as_it_is() {
    let sealer = sealer();
    let random: Vec<u8> = (0..1000).map(|_| rand::random()).collect();
    let pack = packed(&sealer, BlobKind::Data, &[random, vec![0; 1000], vec![]]);
    let compressed: Vec<_> = pack.record.blobs.iter().map(|blob| blob.uncompressed_length.is_some()).collect();
    assert_eq!(compressed, [false, true, false]);
    assert_eq!(pack.record.blobs[2].length, OVERHEAD as u32);
}

/// What a processor or memory that errs does to a pack between sealing and verification.
#[test]
fn verification_notices_a_flipped_bit_wherever_it_is() {
    let mut compressor = Compressor::new(1).unwrap();
    let random: Vec<u8> = (0..3000).map(|_| rand::random()).collect();
    for plain in [vec![3; 20_000], random] {
        let mut builder = PackBuilder::new(sealer(), BlobKind::Data, 1 << 20, Verification::Decode);
        builder.add(Id::of(b"before"), b"before", &mut compressor).unwrap();
        builder.add(Id::of(&plain), &plain, &mut compressor).unwrap();
        builder.verify_last(&plain, &mut compressor).unwrap();
        let start = builder.blobs[1].offset as usize;
        for position in start..builder.body.len() {
            builder.body[position] ^= 4;
            assert!(matches!(builder.verify_last(&plain, &mut compressor), Err(Damage::Forged)), "{position}");
            builder.body[position] ^= 4;
        }
        // What was compressed is not what was given.
        let mut other = plain.clone();
        other[700] ^= 1;
        let verified = builder.verify_last(&other, &mut compressor);
        assert!(matches!(verified, Err(Damage::WrongHash { found }) if found == Id::of(&plain)));
        assert!(matches!(builder.verify_last(&plain[1..], &mut compressor), Err(Damage::WrongHash { .. })));
    }
}

#[test]
fn an_empty_pack_is_none_and_a_full_one_says_so() {
    let mut builder = PackBuilder::new(sealer(), BlobKind::Data, 100, Verification::Skip);
    assert!(builder.is_empty() && !builder.is_full());
    let random: [u8; 80] = std::array::from_fn(|_| rand::random());
    builder.add(Id::of(&random), &random, &mut Compressor::new(1).unwrap()).unwrap();
    assert!(builder.is_full());
    assert!(PackBuilder::new(sealer(), BlobKind::Data, 100, Verification::Skip).finish().unwrap().is_none());
}

#[test]
fn the_memory_of_a_pack_serves_the_next_one_unless_someone_holds_it() {
    let sealer = sealer();
    let pack = packed(&sealer, BlobKind::Data, &[vec![7; 5000]]);
    let (held, place) = (pack.bytes.clone(), pack.bytes.as_ptr());
    assert!(pack.clone().recycle().1.is_none());
    drop(held);
    let (_, memory) = pack.recycle();
    let memory = memory.unwrap();
    assert_eq!(memory.as_ptr(), place);
    let mut next = PackBuilder::within(memory, sealer.clone(), BlobKind::Data, 1 << 20, Verification::Decode);
    assert_eq!(next.bytes(), 0);
    let plain = vec![8; 3000];
    next.add(Id::of(&plain), &plain, &mut Compressor::new(1).unwrap()).unwrap();
    let next = next.finish().unwrap().unwrap();
    assert_eq!(next.bytes.as_ptr(), place);
    assert_eq!(read_header(&sealer, &next.bytes).unwrap(), next.record.blobs);
}

#[test]
fn a_chunk_that_changed_after_it_was_hashed_is_refused_before_its_pack_is_stored() {
    let (sealer, mut chunk) = (sealer(), vec![7; 5000]);
    let id = Id::of(&chunk);
    chunk[100] ^= 1;
    // The pack itself is sound: it holds what it was given.
    let mut builder = PackBuilder::new(sealer, BlobKind::Data, 1 << 20, Verification::Decode);
    builder.add(id, &chunk, &mut Compressor::new(1).unwrap()).unwrap();
    let found = [Id::of(b"another"), Id::of(&chunk)];
    assert!(verify_ids(&[found[0]], &found[..1]).is_ok());
    let refused = verify_ids(&[found[0], id], &found).unwrap_err();
    let PackError::Corrupted { id: named, damage: Damage::WrongHash { found: other } } = refused else { panic!("{refused}") };
    assert_eq!((named, other), (id, found[1]));
}
