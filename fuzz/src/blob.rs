//! Blobs: sealed bytes with whatever lengths and names an index may claim for them.
//!
//! What is opened has the name and the length that were asked for, and never costs more than that length.

use std::num::NonZeroU32;

use windlass::repository::pack::open_blob;
use windlass::repository::{BlobLocation, Id};

use crate::fixture::Fixture;
use crate::input::Input;

/// Longest blob that is asked for: the buffer is of that length at once.
const LONGEST: u32 = 4 << 20;

/// Opens a blob.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (mode, claimed) = (input.byte(), input.u32() % LONGEST);
    let rest = input.rest();
    let sealer = Fixture::shared().repository.sealer();
    let mut stored = rest.to_vec();
    let (mut plain, mut id, mut length) = (rest.to_vec(), Id::of(rest), NonZeroU32::new(claimed));
    match mode % 5 {
        // Whatever it is, it is not sealed.
        0 => {}
        // Plain bytes said to be compressed.
        1 => stored = sealer.seal(rest).expect("random numbers"),
        // As it should be, plain and compressed.
        2 => (stored, length) = (sealer.seal(rest).expect("random numbers"), None),
        3 => {
            plain = rest.repeat(usize::from(mode / 5) + 1);
            id = Id::of(&plain);
            length = NonZeroU32::new(plain.len() as u32);
            stored = sealer.seal(&zstd::bulk::compress(&plain, 1).expect("zstd")).expect("random numbers");
        }
        // Compressed, with another length than it has.
        _ => stored = sealer.seal(&zstd::bulk::compress(rest, 1).expect("zstd")).expect("random numbers"),
    }
    let location = BlobLocation { pack: Id::of(b"pack"), offset: 0, length: stored.len() as u32, uncompressed_length: length };
    let mut found = Vec::new();
    let opened = open_blob(&sealer, &id, &location, &mut stored, &mut found);
    if opened.is_ok() {
        assert_ne!(mode % 5, 0, "a forged blob was accepted");
        assert_eq!(Id::of(&found), id);
        assert_eq!(found.len(), location.plain_length() as usize);
        assert!(mode % 5 != 2 && mode % 5 != 3 || found == plain);
    }
    assert!(
        opened.is_ok() || !matches!(mode % 5, 2) && (mode % 5 != 3 || length.is_none()),
        "a sound blob was refused: {opened:?}"
    );
    assert!(found.capacity() <= (LONGEST as usize).max(rest.len()) * 2, "{} bytes for a blob", found.capacity());
}

/// Blobs of each mode, and frames of zstd.
pub fn seeds() -> Vec<Vec<u8>> {
    let text = b"some text, some text, some text, some text".repeat(20);
    let frame = zstd::bulk::compress(&text, 1).expect("zstd");
    let claim = (text.len() as u32).to_le_bytes();
    let mut seeds: Vec<_> = (0..5).map(|mode| [&[mode], &claim[..], &text].concat()).collect();
    seeds.push([&[1], &claim[..], &frame].concat());
    seeds.push([&[1], &1_u32.to_le_bytes()[..], &frame].concat());
    seeds
}
