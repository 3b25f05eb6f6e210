use proptest::prelude::*;

use super::super::label::{Label, Link, State};
use super::*;
use crate::types::PoolId;

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Laid out, or too small.
fn planned(bytes: u64) -> Option<Plan> {
    plan(bytes, LayoutOptions::default()).ok()
}

/// A label over them is valid: nothing overlaps, nothing leaves the device, both ends are free.
fn check(role: Role, segments: &Segments, block_size: DataBlockSize, device_bytes: u64) {
    let device_bytes = usable_bytes(device_bytes);
    let (pool, state, segments) = (PoolId::random(), State::Ready, segments.clone());
    for segment in segments.all() {
        assert!(segment.range().offset().is_multiple_of(MIB) && segment.range().length().is_multiple_of(MIB), "{segment:?}");
    }
    Label { pool, link: Link::random(), generation: 1, epoch: None, role, state, device_bytes, block_size, segments }
        .encode()
        .unwrap();
}

/// Sizes of devices, small ones as often as large ones.
fn sizes() -> impl Strategy<Value = u64> {
    (20_u32..58, any::<u64>()).prop_map(|(power, low)| (1 << power) | (low & ((1 << power) - 1)))
}

fn block_sizes() -> impl Strategy<Value = Option<DataBlockSize>> {
    proptest::option::of((1_u64..=64).prop_map(|units| DataBlockSize::from_bytes(units * DataBlockSize::MIN.bytes()).unwrap()))
}

proptest! {
    #[test]
    fn a_plan_fills_its_device_and_nothing_in_it_overlaps(bytes in sizes(), block_size in block_sizes()) {
        match plan(bytes, LayoutOptions { block_size, metadata_bytes: None }) {
            Ok(plan) => {
                check(Role::Whole, &plan.segments, plan.block_size, bytes);
                let used: u64 = plan.segments.all().map(|segment| segment.range().length()).sum();
                // The two ends, and what is no whole MiB.
                prop_assert!(bytes - used < 4 * MIB);
                prop_assert!((METADATA_DEFAULT_MIN..=METADATA_MAX).contains(&plan.segments.metadata_bytes()));
            }
            Err(LayoutError::TooSmall { need, have, .. }) => {
                prop_assert_eq!(have, bytes);
                prop_assert!(need > bytes);
                // What it asks for is enough, or asks once more, as larger devices have larger catalogues.
                prop_assert!(need < 100 * MIB + bytes.max(64 * 64 * 64 * 1024) * 2);
            }
            // Only where the kernel's most metadata is too small for blocks that were asked for.
            Err(LayoutError::Metadata { .. }) => prop_assert!(block_size.is_some() && bytes > 40 * TIB),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn growth_moves_nothing_and_uses_what_is_new(first in sizes(), steps in proptest::collection::vec(0_u64..40 * GIB, 1..20)) {
        let Some(plan) = planned(first) else { return Ok(()) };
        let (mut bytes, mut segments) = (first, plan.segments);
        for step in steps {
            bytes += step;
            let Some(grown) = grow(Role::Whole, &segments, plan.block_size, bytes, MetadataNeed::BySize).unwrap() else { continue };
            check(Role::Whole, &grown, plan.block_size, bytes);
            prop_assert_eq!(grown.catalogue, segments.catalogue);
            for (old, new) in [(&segments.metadata, &grown.metadata), (&segments.data, &grown.data)] {
                prop_assert!(new.len() >= old.len());
                for (at, segment) in old.iter().enumerate() {
                    let (was, is) = (segment.range(), new[at].range());
                    prop_assert_eq!(was.offset(), is.offset());
                    prop_assert!(was.length() == is.length() || at + 1 == old.len() && was.length() < is.length());
                }
            }
            let used: u64 = grown.all().map(|segment| segment.range().length()).sum();
            prop_assert!(bytes - used < 4 * MIB);
            prop_assert_eq!(grow(Role::Whole, &grown, plan.block_size, bytes, MetadataNeed::BySize), Ok(None));
            segments = grown;
        }
    }

    #[test]
    fn the_two_devices_of_a_pair_are_filled(metadata in sizes(), data in sizes(), block_size in block_sizes()) {
        let Ok(plan) = plan_pair(metadata, data, block_size) else { return Ok(()) };
        check(Role::Metadata, &plan.metadata, plan.block_size, metadata);
        check(Role::Data, &plan.data, plan.block_size, data);
        prop_assert!(data - plan.data.data_bytes() < 4 * MIB);
        prop_assert!(plan.metadata.metadata_bytes() >= covering(plan.data.data_bytes(), plan.block_size));
    }
}

#[test]
fn the_smallest_pool_is_of_91_mib_and_the_error_says_so() {
    let error = plan(20 * MIB, LayoutOptions::default()).unwrap_err();
    assert_eq!(error, LayoutError::TooSmall { what: "a pool", have: 20 * MIB, need: 91 * MIB });
    assert!(planned(91 * MIB - 1).is_none());
    let plan = planned(91 * MIB).unwrap();
    assert_eq!((plan.segments.metadata_bytes(), plan.segments.data_bytes()), (16 * MIB, 64 * MIB));
}

#[test]
fn metadata_is_a_thousandth_and_blocks_are_larger_where_that_is_more_than_the_kernel_takes() {
    for (bytes, metadata, block_kib) in [
        (10 * GIB, 16 * MIB, 64),
        (TIB, 1024 * MIB, 64),
        (15 * TIB, 15 * 1024 * MIB, 64),
        (16 * TIB, 8 * 1024 * MIB, 128),
        (100 * TIB, 12800 * MIB, 512),
        (4096 * TIB, 16384 / 4 * 4 * 1024 * MIB / 4 * 4 / 16, 0),
    ] {
        let plan = planned(bytes).unwrap();
        if block_kib == 0 {
            // Whatever the size, the default fits.
            assert!(plan.segments.metadata_bytes() <= METADATA_MAX);
            continue;
        }
        assert_eq!(plan.block_size.bytes(), block_kib << 10, "{bytes}");
        assert!(plan.segments.metadata_bytes().abs_diff(metadata) <= MIB, "{bytes}: {}", plan.segments.metadata_bytes());
    }
    // Who asks for small blocks on a large pool gets all the metadata there can be.
    let plan = plan(32 * TIB, LayoutOptions { block_size: Some(DataBlockSize::MIN), metadata_bytes: None }).unwrap();
    assert_eq!(plan.segments.metadata_bytes(), METADATA_MAX);
}

#[test]
fn metadata_that_cannot_work_is_refused_with_the_reason() {
    let with = |bytes, metadata| plan(bytes, LayoutOptions { block_size: None, metadata_bytes: Some(metadata) });
    assert!(matches!(with(10 * GIB, MIB), Err(LayoutError::Metadata { reason, .. }) if reason.contains("at least 2097152")));
    assert!(matches!(with(100 * GIB, 17 * GIB), Err(LayoutError::Metadata { reason, .. }) if reason.contains("at most")));
    assert!(matches!(with(100 * GIB, u64::MAX), Err(LayoutError::Metadata { .. })));
    assert!(matches!(with(100 * GIB, 2 * MIB), Err(LayoutError::Metadata { reason, .. }) if reason.contains("mapped once")));
    assert_eq!(with(4 * GIB, 2 * MIB + 1).unwrap().segments.metadata_bytes(), 3 * MIB);
    assert!(matches!(plan_pair(64 * MIB, 10 * TIB, None), Err(LayoutError::TooSmall { what: "the metadata of this pool", .. })));
}

#[test]
fn a_pool_that_grows_by_small_steps_stays_in_few_pieces_with_enough_metadata() {
    let plan = planned(10 * GIB).unwrap();
    let (mut bytes, mut segments) = (10 * GIB, plan.segments);
    while bytes < 8 * TIB {
        bytes += bytes / 64;
        if let Some(grown) = grow(Role::Whole, &segments, plan.block_size, bytes, MetadataNeed::BySize).unwrap() {
            segments = grown;
        }
        assert!(segments.metadata_bytes() >= metadata_for(segments.data_bytes(), plan.block_size) / 4 * 3);
    }
    assert!(segments.data.len() <= 12 && segments.metadata.len() <= 12, "{segments:?}");
}

#[test]
fn growth_that_finds_no_room_in_the_label_is_refused() {
    let block_size = DataBlockSize::MIN;
    let full = Segments {
        catalogue: Segment::between(MIB, 10 * MIB),
        metadata: vec![Segment::between(10 * MIB, 26 * MIB).unwrap()],
        data: (0..64).map(|n| Segment::between((30 + 2 * n) * MIB, (31 + 2 * n) * MIB).unwrap()).rev().collect(),
    };
    assert_eq!(grow(Role::Whole, &full, block_size, GIB, MetadataNeed::BySize), Err(LayoutError::Segments));
    assert!(matches!(grow(Role::Whole, &full, block_size, 100 * MIB, MetadataNeed::BySize), Err(LayoutError::TooSmall { .. })));
    assert!(matches!(grow(Role::Whole, &full, block_size, u64::MAX, MetadataNeed::BySize), Err(LayoutError::TooLarge(_))));
}

#[test]
fn a_device_of_metadata_alone_grows_up_to_what_the_kernel_takes() {
    let plan = plan_pair(GIB, 100 * GIB, None).unwrap();
    let grown = grow(Role::Metadata, &plan.metadata, plan.block_size, 100 * GIB, MetadataNeed::BySize).unwrap().unwrap();
    assert_eq!(grown.metadata_bytes(), METADATA_MAX);
    assert_eq!(grown.metadata.len(), 1);
    assert_eq!(grow(Role::Metadata, &grown, plan.block_size, 200 * GIB, MetadataNeed::BySize), Ok(None));
    let grown = grow(Role::Data, &plan.data, plan.block_size, 200 * GIB, MetadataNeed::BySize).unwrap().unwrap();
    assert_eq!(grown.data_bytes(), 200 * GIB - 2 * MIB);
}
