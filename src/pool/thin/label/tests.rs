use std::path::Path;

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn segment(offset: u64, length: u64) -> Segment {
    Segment::new(ByteRange::new(offset, length).unwrap()).unwrap()
}

fn whole() -> Label {
    Label {
        pool: PoolId::from_bytes([7; 16]),
        link: Link([9; 16]),
        generation: 3,
        epoch: Some(12),
        role: Role::Whole,
        state: State::Ready,
        device_bytes: 200 * MIB,
        block_size: DataBlockSize::MIN,
        segments: Segments {
            catalogue: Some(segment(MIB, 9 * MIB)),
            metadata: vec![segment(10 * MIB, 16 * MIB)],
            data: vec![segment(26 * MIB, 173 * MIB)],
        },
    }
}

/// The same with the checksum that fits it.
fn resealed(block: &LabelBlock) -> LabelBlock {
    DiskLabel::of(block).clone().sealed()
}

/// Labels of every role, with any number of segments of any sizes one after another, gaps between them.
fn labels() -> impl Strategy<Value = Label> {
    let runs = proptest::collection::vec((0_u64..50, 1_u64..5000), 2..2 * MAX_SEGMENTS);
    let epoch = proptest::option::of(0..EPOCH_LIMIT);
    (any::<([u8; 16], [u8; 16])>(), (1_u64.., epoch), 1_u64..=16384, any::<bool>(), 0..3_usize, runs).prop_map(
        |((pool, link), (generation, epoch), units, ready, role, runs)| {
            let mut at = RESERVED;
            let mut all: Vec<Segment> = Vec::new();
            for (gap, blocks) in runs {
                at += gap * BLOCK;
                all.push(segment(at, blocks * BLOCK));
                at += blocks * BLOCK;
            }
            let role = [Role::Whole, Role::Metadata, Role::Data][role];
            let segments = match role {
                Role::Data => Segments { data: all.into_iter().take(MAX_SEGMENTS).collect(), ..Segments::default() },
                Role::Metadata => Segments {
                    catalogue: Some(all[0]),
                    metadata: all[1..].iter().copied().take(MAX_SEGMENTS).collect(),
                    data: Vec::new(),
                },
                Role::Whole => {
                    let middle = all.len().div_ceil(2);
                    let mut data = all.split_off(middle);
                    if data.is_empty() {
                        data.push(segment(at, BLOCK));
                        at += BLOCK;
                    }
                    if all.len() < 2 {
                        all.push(segment(at, BLOCK));
                        at += BLOCK;
                    }
                    Segments { catalogue: Some(all[0]), metadata: all[1..].to_vec(), data }
                }
            };
            Label {
                pool: PoolId::from_bytes(pool),
                link: Link(link),
                generation,
                epoch,
                role,
                state: if ready { State::Ready } else { State::Making },
                device_bytes: at + RESERVED,
                block_size: DataBlockSize::from_bytes(units * DataBlockSize::MIN.bytes()).unwrap(),
                segments,
            }
        },
    )
}

proptest! {
    #[test]
    fn a_label_reads_back_as_it_was_written(label in labels()) {
        prop_assert_eq!(Label::decode(&label.encode().unwrap()), Ok(label));
    }

    #[test]
    fn one_wrong_byte_anywhere_is_noticed(label in labels(), at in 0..BLOCK as usize, by in 1_u8..) {
        let mut block = label.encode().unwrap();
        block[at] ^= by;
        match Label::decode(&block) {
            Err(LabelError::Absent) => prop_assert!(at < MAGIC.len()),
            Err(LabelError::Damaged(_)) => prop_assert!(at >= MAGIC.len()),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn whatever_the_bytes_reading_them_ends_with_an_answer(
        mut block in proptest::collection::vec(any::<u8>(), BLOCK as usize), format in 0_u32..3, length in 0_u32..5000,
    ) {
        block[..16].copy_from_slice(&MAGIC);
        block[16..20].copy_from_slice(&format.to_le_bytes());
        block[20..24].copy_from_slice(&length.to_le_bytes());
        let block: LabelBlock = block.try_into().unwrap();
        let block = resealed(&block);
        if let Ok(label) = Label::decode(&block) {
            prop_assert!(label.encode().is_ok());
        }
    }
}

#[test]
fn a_cut_off_write_of_a_label_is_damage_and_zeros_are_none() {
    let block = whole().encode().unwrap();
    for sectors in 1..8 {
        let mut cut: LabelBlock = [0xff; BLOCK as usize];
        cut[..sectors * 512].copy_from_slice(&block[..sectors * 512]);
        assert!(matches!(Label::decode(&cut), Err(LabelError::Damaged(_))), "{sectors}");
    }
    assert_eq!(Label::decode(&[0; BLOCK as usize]), Err(LabelError::Absent));
}

#[test]
fn a_label_without_an_epoch_is_that_of_the_first_versions() {
    let block = Label { epoch: None, ..whole() }.encode().unwrap();
    assert_eq!(block[74..80], [0; 6]);
    assert_eq!(Label::decode(&block).unwrap().epoch, None);
    assert_eq!(whole().encode().unwrap()[74..80], [13, 0, 0, 0, 0, 0]);
}

#[test]
fn a_newer_format_is_told_by_its_number_and_not_called_damaged() {
    let mut block = whole().encode().unwrap();
    block[16..20].copy_from_slice(&2_u32.to_le_bytes());
    assert!(matches!(Label::decode(&block), Err(LabelError::Damaged(_))));
    assert_eq!(Label::decode(&resealed(&block)), Err(LabelError::Newer { found: 2 }));
}

#[test]
fn labels_that_contradict_themselves_are_not_written() {
    type Spoil = fn(&mut Label);
    let spoilt: [(&str, Spoil); 10] = [
        ("an epoch of too many bytes", |label| label.epoch = Some(EPOCH_LIMIT)),
        ("over the first label", |label| label.segments.data[0] = segment(0, MIB)),
        ("over the second label", |label| label.segments.data[0] = segment(26 * MIB, 174 * MIB)),
        ("over another segment", |label| label.segments.metadata.push(segment(20 * MIB, MIB))),
        ("too many segments", |label| label.segments.data = (0..65).map(|n| segment(30 * MIB + n * 4096, 4096)).collect()),
        ("no catalogue", |label| label.segments.catalogue = None),
        ("another role", |label| label.role = Role::Data),
        ("no generation", |label| label.generation = 0),
        ("half a block", |label| label.device_bytes += 512),
        ("no room for the ends", |label| label.device_bytes = BLOCK),
    ];
    for (what, spoil) in spoilt {
        let mut label = whole();
        spoil(&mut label);
        assert!(matches!(label.encode(), Err(LabelError::Damaged(_))), "{what}");
    }
    assert!(whole().encode().is_ok());
}

#[test]
fn the_second_label_is_the_last_whole_block_of_devices_that_have_room_for_two() {
    assert_eq!(second_offset(200 * MIB), Some(200 * MIB - 4096));
    assert_eq!(second_offset(200 * MIB + 4095), Some(200 * MIB - 4096));
    assert_eq!(second_offset(2 * MIB - 1), None);
    assert_eq!(second_offset(0), None);
}

#[test]
fn the_bytes_of_a_label_do_not_change_from_version_to_version() {
    let block = whole().encode().unwrap();
    assert_eq!(block[..24], *b"windlass pool\r\n\0\x01\0\0\0\x90\0\0\0");
    assert_eq!(
        block[28..96].iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        concat!(
            "01020000",
            "07070707070707070707070707070707",
            "0300000000000000",
            "0000800c00000000",
            "00000100",
            "010001000100",
            "0d0000000000",
            "09090909090909090909090909090909",
        )
    );
    assert_eq!(block[96..104], MIB.to_le_bytes());
    assert!(block[144..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_label_that_the_first_version_wrote_is_read_and_would_be_written_so_today() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pool/thin/label/fixtures/label-1040e21");
    let block: LabelBlock = std::fs::read(path).unwrap().try_into().unwrap();
    let label = Label { epoch: None, ..whole() };
    assert_eq!(Label::decode(&block).as_ref(), Ok(&label));
    assert_eq!(label.encode(), Ok(block));
}
