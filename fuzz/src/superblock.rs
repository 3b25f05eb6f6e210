//! What is on a device, told from its bytes: the answer by which a file system may be made.
//!
//! A device is blank if all that is looked at is zeros, and only then; and what is called a file system has its magic.

use windlass::block::probe::{Finding, detect};
use windlass::types::FsType;

use crate::input::{Input, part};

/// Where signatures lie: the offsets that parts are put at, besides any other.
const PLACES: [usize; 12] = [0, 3, 54, 82, 512, 1024, 4096, 4120, 0x8001, 65_536, 65_600, (1 << 20) - 4096];
const REACH: usize = 1 << 20;
const ENOUGH: usize = 66 << 10;

/// Puts parts on two ends of a device and looks at them.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    // Mostly just large enough for every signature at the beginning; sometimes as much as is looked at, or cut anywhere.
    let size = match input.byte() {
        0 => input.u32() as usize % REACH,
        1 => REACH,
        _ => ENOUGH,
    };
    let mut ends = [vec![0; size], vec![0; size]];
    while !input.is_empty() {
        let (which, place) = (input.byte(), input.byte());
        let at = match PLACES.get(usize::from(place)) {
            Some(&at) => at,
            None => input.u32() as usize,
        };
        let part = input.part();
        let end = &mut ends[usize::from(which % 2)];
        if let Some(room) = end.get_mut(at..) {
            let length = part.len().min(room.len());
            room[..length].copy_from_slice(&part[..length]);
        }
    }
    let [head, tail] = ends;
    let is_zero = head.iter().chain(&tail).all(|&byte| byte == 0);
    let found = detect(&head, &tail);
    assert_eq!(found == Finding::Blank, is_zero, "{found:?}");
    let has = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
    match found {
        Finding::FileSystem(FsType::Ext4) => assert!(has(1024 + 0x38, b"\x53\xef")),
        Finding::FileSystem(FsType::Xfs) | Finding::Unfinished(FsType::Xfs) => assert!(has(0, b"XFSB")),
        Finding::FileSystem(FsType::Btrfs) => assert!(has(65_600, b"_BHRfS_M")),
        Finding::Foreign(name) => assert!(!name.is_empty()),
        _ => {}
    }
}

/// Superblocks of each file system, alone and together, and others' signatures.
pub fn seeds() -> Vec<Vec<u8>> {
    let put = |end: u8, place: u8, bytes: &[u8]| [vec![end, place], part(bytes)].concat();
    let mut ext = [0_u8; 0x68];
    for (at, value) in [(0, 64_u32), (4, 256), (0x18, 2), (0x5c, 0x3c), (0x60, 0x2c2), (0x64, 0x46b)] {
        ext[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    ext[0x38..0x3a].copy_from_slice(b"\x53\xef");
    let mut xfs = [0_u8; 128];
    xfs[..8].copy_from_slice(b"XFSB\0\0\x10\0");
    xfs[102..104].copy_from_slice(&512_u16.to_be_bytes());
    let mut btrfs = [0_u8; 0x90];
    btrfs[0x30..0x38].copy_from_slice(&65_536_u64.to_le_bytes());
    btrfs[0x40..0x48].copy_from_slice(b"_BHRfS_M");
    btrfs[0x88] = 1;
    let systems = [put(0, 5, &ext), put(0, 0, &xfs), put(0, 9, &btrfs)];
    let mut seeds: Vec<Vec<u8>> = systems.iter().map(|put| [&[2], &put[..]].concat()).collect();
    seeds.push([&[1], &systems.concat()[..]].concat());
    seeds.push([&[1], &put(0, 4, b"EFI PART")[..], &put(1, 11, b"EFI PART")].concat());
    seeds.push([&[0, 0, 5, 0, 0], &systems[0][..]].concat());
    seeds.push(vec![1]);
    seeds
}
