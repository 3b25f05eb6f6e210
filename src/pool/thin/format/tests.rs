use super::*;
use crate::pool::thin::label::Segments;

const MIB: u64 = 1 << 20;

fn label(pool: PoolId, state: State) -> Label {
    let plan = layout::plan(200 * MIB, LayoutOptions::default()).unwrap();
    making(pool, Role::Whole, state, plan.block_size, &plan.segments)
}

/// Of a device of 200 MiB.
fn making(pool: PoolId, role: Role, state: State, block_size: DataBlockSize, segments: &Segments) -> Label {
    let (link, device_bytes, segments) = (Link::random(), usable_bytes(200 * MIB), segments.clone());
    Label { pool, link, generation: 1, epoch: None, role, state, device_bytes, block_size, segments }
}

fn readings(first: Result<Label, LabelError>, last: Result<Label, LabelError>) -> Readings {
    Readings { first, last, inner: None, foreign: String::new() }
}

fn absent() -> Result<Label, LabelError> {
    Err(LabelError::Absent)
}

fn mark(name: &'static str) -> Signature {
    Signature { offset: 0, name }
}

const LABEL: &str = "a pool of windlass";

#[test]
fn a_blank_device_is_taken_and_one_with_a_mark_only_if_that_is_given_up() {
    let blank = readings(absent(), absent());
    assert_eq!(verdict(&blank, &[], Others::Kept, &[]), Ok(()));
    let refused = verdict(&blank, &[mark("XFS"), mark("swap space")], Others::Kept, &[]).unwrap_err();
    assert!(refused.contains("XFS (at byte 0), swap space") && refused.contains("--force"), "{refused}");
    assert_eq!(verdict(&blank, &[mark("XFS")], Others::GivenUp, &[]), Ok(()));
}

#[test]
fn a_pool_of_ours_that_was_ready_is_refused_unless_it_is_named() {
    let (pool, other) = (PoolId::random(), PoolId::random());
    for readings in [readings(Ok(label(pool, State::Ready)), absent()), readings(absent(), Ok(label(pool, State::Ready)))] {
        for given_up in [[].as_slice(), &[other]] {
            let refused = verdict(&readings, &[mark(LABEL)], Others::GivenUp, given_up).unwrap_err();
            assert!(refused.contains(&format!("--replace-pool {pool}")), "{refused}");
        }
        assert_eq!(verdict(&readings, &[mark(LABEL)], Others::Kept, &[pool]), Ok(()));
        // Something else beside it is still to be given up.
        assert!(verdict(&readings, &[mark(LABEL), mark("XFS")], Others::Kept, &[pool]).is_err());
        assert_eq!(verdict(&readings, &[mark(LABEL), mark("XFS")], Others::GivenUp, &[pool]), Ok(()));
    }
}

#[test]
fn a_pool_whose_making_was_interrupted_is_no_obstacle() {
    let unfinished = readings(Ok(label(PoolId::random(), State::Making)), absent());
    assert_eq!(verdict(&unfinished, &[mark(LABEL)], Others::Kept, &[]), Ok(()));
}

#[test]
fn a_damaged_label_is_a_mark_and_a_newer_one_is_never_given_up() {
    let damaged = readings(Err(LabelError::Damaged("x".to_owned())), absent());
    assert!(verdict(&damaged, &[mark(LABEL)], Others::Kept, &[]).is_err());
    assert_eq!(verdict(&damaged, &[mark(LABEL)], Others::GivenUp, &[]), Ok(()));
    let newer = readings(Err(LabelError::Newer { found: 2 }), absent());
    assert!(verdict(&newer, &[mark(LABEL)], Others::GivenUp, &[PoolId::random()]).unwrap_err().contains("format 2"));
}

#[test]
fn the_ends_of_a_device_are_wiped_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, vec![0xa5; 5 * MIB as usize + 512]).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    ExclusiveDevice::over(&path, file).unwrap().wipe_ends().unwrap();
    let content = std::fs::read(&path).unwrap();
    let is = |range: std::ops::Range<u64>, byte: u8| content[range.start as usize..range.end as usize].iter().all(|&b| b == byte);
    assert!(is(0..MIB, 0) && is(MIB..4 * MIB, 0xa5) && is(4 * MIB..5 * MIB, 0) && is(5 * MIB..5 * MIB + 512, 0xa5));
}

#[test]
fn the_device_with_the_catalogue_says_whether_the_making_of_a_pair_was_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let pool = PoolId::random();
    let plan = layout::plan_pair(200 * MIB, 200 * MIB, None).unwrap();
    let taken = |name: &str, role, segments, state| {
        let path = folder.path().join(name);
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(200 * MIB).unwrap();
        let taken = ExclusiveDevice::over(&path, file).unwrap();
        taken.open.write_label(&making(pool, role, state, plan.block_size, segments)).unwrap();
        taken
    };
    // The data's label was written as ready, and then came the end.
    let data = taken("data", Role::Data, &plan.data, State::Ready);
    let metadata = taken("metadata", Role::Metadata, &plan.metadata, State::Making);
    assert_eq!((metadata.unfinished_pool().unwrap(), data.unfinished_pool().unwrap()), (Some(pool), None));
    assert!(data.check_unused(Others::GivenUp, &[]).is_err());
    assert!(data.check_unused(Others::Kept, &[pool]).is_ok());
}

#[test]
fn a_file_is_no_device_to_make_a_pool_on() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let options = CreateOptions {
        devices: DevicePaths::One(file.path().to_owned()),
        others: Others::GivenUp,
        given_up_pool: None,
        block_size: None,
        metadata_bytes: None,
    };
    assert!(matches!(begin(&options), Err(PoolError::Format(text)) if text.to_string().contains("must be a block device")));
    let twice = DevicePaths::Two { metadata: file.path().to_owned(), data: file.path().to_owned() };
    let options = CreateOptions { devices: twice, ..options };
    assert!(matches!(begin(&options), Err(PoolError::Format(text)) if text.to_string().contains("same device")));
}
