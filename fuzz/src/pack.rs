//! Packs: bytes that are none, headers behind a valid seal, and packs that were made and read again.

use windlass::repository::pack::{open_blob, read_header};
use windlass::repository::{BlobKind, BlobLocation, Compressor, Id, PackBuilder, PackedBlob, Verification};

use crate::fixture::Fixture;
use crate::input::Input;

/// Most bytes of blobs that a header may claim before the rest is left out: their lengths have to be there.
const MOST_BODY: u64 = 1 << 20;

/// Bytes of a header entry of a blob that is not compressed, and what a compressed one has more.
const ENTRY: usize = 37;
const MORE: usize = 4;

/// Reads a header, or makes a pack.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 3 {
        0 => assert!(read_header(&Fixture::shared().repository.sealer(), input.rest()).is_err(), "a forged pack was accepted"),
        1 => header(input.rest()),
        _ => round_trip(input),
    }
}

/// Bytes that a header asks for, as far as it makes sense.
fn claimed(mut header: &[u8]) -> u64 {
    let mut bytes = 0;
    while let [kind, a, b, c, d, ..] = *header {
        bytes += u64::from(u32::from_le_bytes([a, b, c, d]));
        header = header.get(ENTRY + if kind >= 2 { MORE } else { 0 }..).unwrap_or(&[]);
    }
    bytes
}

fn header(header: &[u8]) {
    let sealer = Fixture::shared().repository.sealer();
    let body = claimed(header);
    if body > MOST_BODY {
        return;
    }
    let mut pack = vec![0; body as usize];
    pack.extend(sealer.seal(header).expect("random numbers"));
    let length = pack.len() - body as usize;
    pack.extend((length as u32).to_le_bytes());
    let Ok(blobs) = read_header(&sealer, &pack) else { return };
    let mut end = 0;
    for blob in &blobs {
        assert!(blob.offset == end && blob.length >= 32);
        end += blob.length;
    }
    assert_eq!(u64::from(end), body);
    let entries: usize = blobs.iter().map(|blob| if blob.uncompressed_length.is_some() { ENTRY + MORE } else { ENTRY }).sum();
    assert_eq!(entries, header.len());
}

fn round_trip(mut input: Input<'_>) {
    let sealer = Fixture::shared().repository.sealer();
    let kind = if input.byte() % 2 == 0 { BlobKind::Data } else { BlobKind::Tree };
    let mut builder = PackBuilder::new(sealer.clone(), kind, 0, Verification::Decode);
    let mut compressor = Compressor::new(1).expect("zstd");
    let mut plains = Vec::new();
    while !input.is_empty() {
        let (times, part) = (usize::from(input.byte() % 16) + 1, input.part());
        let plain = part.repeat(times);
        builder.add(Id::of(&plain), &plain, &mut compressor).expect("room for a small blob");
        plains.push(plain);
    }
    let Some(pack) = builder.finish().expect("random numbers") else { return assert!(plains.is_empty()) };
    assert_eq!(pack.record.id, Id::of(&pack.bytes));
    let blobs = read_header(&sealer, &pack.bytes).expect("what was written");
    assert_eq!(blobs, pack.record.blobs);
    for (blob, plain) in blobs.iter().zip(&plains) {
        let &PackedBlob { id, offset, length, uncompressed_length, .. } = blob;
        let location = BlobLocation { pack: pack.record.id, offset, length, uncompressed_length };
        let mut sealed = pack.bytes[offset as usize..location.end() as usize].to_vec();
        let mut found = Vec::new();
        open_blob(&sealer, &id, &location, &mut sealed, &mut found).expect("what was written");
        assert_eq!(found, *plain);
    }
    assert_eq!(blobs.len(), plains.len());
}

/// A header of both sorts of entries, and parts for packs.
pub fn seeds() -> Vec<Vec<u8>> {
    let entry = |kind: u8, length: u32| [&[kind], &length.to_le_bytes()[..], &[0xab; 32]].concat();
    let compressed = |kind: u8| [&[kind], &40_u32.to_le_bytes()[..], &99_u32.to_le_bytes(), &[0xcd; 32]].concat();
    let part = crate::input::part;
    vec![
        [vec![1], entry(0, 32), compressed(2), entry(1, 100), compressed(3)].concat(),
        [vec![2, 0, 0], part(b"plain"), vec![15], part(b"compressible, compressible"), vec![3], part(b"")].concat(),
        [vec![2, 1, 9], part(b"{\"nodes\":[]}\n")].concat(),
    ]
}
