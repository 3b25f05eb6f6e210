use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::block::{FileSource, MemorySource};
use crate::types::LogicalBlockSize;

const SIZE: usize = 4 << 20;

fn names(image: &[u8]) -> Vec<(u64, &'static str)> {
    let head = &image[..image.len().min(REACH as usize)];
    let tail = &image[image.len() - head.len()..];
    detect(head, tail, image.len() as u64).into_iter().map(|found| (found.offset, found.name)).collect()
}

fn image(marks: &[(usize, &[u8])]) -> Vec<u8> {
    let mut image = vec![0; SIZE];
    for (offset, mark) in marks {
        image[*offset..*offset + mark.len()].copy_from_slice(mark);
    }
    image
}

#[test]
fn every_mark_of_the_table_is_found_where_it_lies() {
    for magic in magic::at_the_beginning(Asked::OfVolumes) {
        let found = names(&image(&[(magic.offset as usize, magic.bytes)]));
        assert!(found.contains(&(magic.offset, magic.name)), "{magic:?}: {found:?}");
    }
}

#[test]
fn marks_that_need_a_closer_look_are_found_and_their_likes_are_not() {
    let entry = |at: usize| {
        let mut table = image(&[(510, b"\x55\xaa")]);
        table[446 + at * 16 + 4] = 0x83;
        table[446 + at * 16 + 8] = 8;
        table[446 + at * 16 + 12] = 100;
        table
    };
    for at in 0..4 {
        assert_eq!(names(&entry(at)), [(510, "an MBR partition table")]);
    }
    assert_eq!(names(&image(&[(510, b"\x55\xaa")])), [], "a boot sector without partitions");
    assert_eq!(names(&image(&[(54, b"FAT16   "), (510, b"\x55\xaa")])), [(54, "FAT")]);
    assert_eq!(names(&image(&[(1024, b"H+\x00\x04")])), [(1024, "HFS+")]);
    assert_eq!(names(&image(&[(1024, &[2]), (1030, b"\x34\x34")])), [(1030, "NILFS")]);
    assert_eq!(names(&image(&[(1080, b"\x53\xef")])), [(1080, "ext2, ext3 or ext4")]);
    assert_eq!(names(&image(&[(1080, b"\x53\xef"), (1048, &[200])])), [], "no size of a block");
    for sector in 0..4 {
        assert_eq!(names(&image(&[(sector * 512, b"LABELONE")])), [(sector as u64 * 512, "an LVM physical volume")]);
    }
    assert_eq!(names(&image(&[(4 * 512, b"LABELONE")])), []);
    for page in [4096, 8192, 16384, 32768, 65536] {
        assert_eq!(names(&image(&[(page - 10, b"SWAPSPACE2")])), [(page as u64 - 10, "swap space")]);
    }
    let uberblock: &[u8] = &0x00ba_b10c_u64.to_be_bytes();
    for at in [128 << 10, (384 << 10) + 1024, SIZE - (512 << 10) + (128 << 10), SIZE - 1024] {
        assert_eq!(names(&image(&[(at, uberblock)])), [(at as u64, "a ZFS member")]);
    }
}

#[test]
fn marks_at_the_end_are_found() {
    let cases: [(usize, &[u8], &str); 9] = [
        (512, b"EFI PART", "a GPT partition table (second copy)"),
        (4096, b"EFI PART", "a GPT partition table (second copy)"),
        (4096, b"windlass pool", "a pool of windlass (second label)"),
        (8192, b"\xfc\x4e\x2b\xa9", "an MD RAID member"),
        (12288, b"\xfc\x4e\x2b\xa9", "an MD RAID member"),
        (65536, b"\xfc\x4e\x2b\xa9", "an MD RAID member"),
        (4096, b"\x83\x74\x02\x6d", "DRBD metadata"),
        (1024, b"Intel Raid ISM Cfg Sig. ", "an Intel RAID member"),
        (512, b"\xde\x11\xde\x11", "a DDF RAID member"),
    ];
    for (distance, magic, name) in cases {
        assert_eq!(names(&image(&[(SIZE - distance, magic)])), [((SIZE - distance) as u64, name)]);
    }
}

#[test]
fn everything_is_reported_in_the_order_in_which_it_lies() {
    let both = image(&[(SIZE - 512, b"EFI PART"), (0, b"XFSB"), (4086, b"SWAPSPACE2")]);
    let found = examine(&MemorySource::new(both)).unwrap();
    assert_eq!(
        listed(&found),
        "XFS (at byte 0), swap space (at byte 4086), a GPT partition table (second copy) (at byte 4193792)"
    );
}

proptest! {
    #[test]
    fn a_device_of_any_size_and_content_is_answered(content in proptest::collection::vec(any::<u8>(), 0..20_000)) {
        let size = content.len() as u64;
        for found in detect(&content, &content, size) {
            prop_assert!(found.offset < size);
        }
    }
}

/// What `wipefs` sees, by offset.
fn oracle(path: &Path) -> Vec<u64> {
    let output = Command::new("wipefs").args(["--json", "--no-act"]).arg(path).output().unwrap();
    assert!(output.status.success());
    if output.stdout.is_empty() {
        return Vec::new();
    }
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let offsets = json["signatures"].as_array().unwrap().iter().map(|found| found["offset"].as_str().unwrap().to_owned());
    offsets.map(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap()).collect()
}

fn examined(path: &Path) -> Vec<Signature> {
    let file = std::fs::File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    examine(&FileSource::new(file, size, LogicalBlockSize::B512).unwrap()).unwrap()
}

/// Real file systems, made by their own programs, and what util-linux says of them.
#[test]
fn what_wipefs_sees_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let makers: [(&str, &[&str], &str); 8] = [
        ("mkfs.ext4", &["-q", "-F"], "ext2, ext3 or ext4"),
        ("mkfs.ext2", &["-q", "-F"], "ext2, ext3 or ext4"),
        ("mkfs.xfs", &["-q", "-f"], "XFS"),
        ("mkfs.btrfs", &["-q", "-f"], "Btrfs"),
        ("mkswap", &[], "swap space"),
        ("mkfs.bfs", &[], "BFS"),
        ("mkfs.minix", &["-3"], "Minix"),
        ("mkfs.minix", &["-2"], "Minix"),
    ];
    for (program, arguments, name) in makers {
        let path = folder.path().join("image");
        std::fs::File::create(&path).unwrap().set_len(512 << 20).unwrap();
        let made = Command::new(program).args(arguments).arg(&path).output().unwrap();
        assert!(made.status.success(), "{program}: {}", String::from_utf8_lossy(&made.stderr));
        let (ours, theirs) = (examined(&path), oracle(&path));
        assert!(ours.iter().any(|found| found.name == name), "{program}: {ours:?}");
        assert!(!theirs.is_empty(), "{program}");
        for offset in theirs {
            assert!(ours.iter().any(|found| found.offset == offset), "{program}: {ours:?} lacks {offset}");
        }
    }
}

/// Marks that are made by hand, as far as util-linux believes in them without a checksum.
#[test]
fn what_wipefs_sees_of_volume_managers_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let mut luks = image(&[(0, b"LUKS\xba\xbe\x00\x01")]);
    luks[168..172].copy_from_slice(b"0000");
    let mut table = image(&[(510, b"\x55\xaa")]);
    table[450] = 0x83;
    table[454] = 8;
    table[458] = 100;
    let cases = [
        ("LUKS encryption", luks),
        ("an MBR partition table", table),
        ("bcache", image(&[(4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"), (4096 + 8, &[8])])),
        ("ISO 9660", image(&[(0x8000, b"\x01CD001\x01")])),
        ("Ceph BlueStore", image(&[(0, b"bluestore block device")])),
    ];
    let mut believed = 0;
    for (name, content) in cases {
        std::fs::write(&path, &content).unwrap();
        let (ours, theirs) = (examined(&path), oracle(&path));
        assert!(ours.iter().any(|found| found.name == name), "{name}: {ours:?}");
        believed += theirs.len();
        for offset in theirs {
            assert!(ours.iter().any(|found| found.offset == offset), "{name}: {ours:?} lacks {offset}");
        }
    }
    assert!(believed >= 3, "{believed}");
}
