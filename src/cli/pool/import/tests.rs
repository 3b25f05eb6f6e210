use super::*;
use crate::pool::catalogue::EpochStep;
use crate::pool::thin::devices::LabelsError;
use crate::pool::thin::format::DataBlockSize;
use crate::pool::thin::label::{Label, Link, Role, Segments};
use crate::types::PoolId;

fn examined() -> Examined {
    let id = PoolId::from_bytes([1; 16]);
    Examined {
        pool: id,
        state: State::Ready,
        activity: Activity::None,
        block_size: DataBlockSize::MIN,
        metadata_bytes: 16 << 20,
        data_bytes: 1 << 30,
        devices: vec![ExaminedDevice {
            path: "/dev/sdb".into(),
            bytes: 2 << 30,
            role: Role::Whole,
            epoch: Some(7),
            copies: Copies::Whole,
            grown_bytes: 0,
        }],
        catalogue: Ok(ExaminedCatalogue {
            volumes: Vec::new(),
            snapshots: Vec::new(),
            anchors: 0,
            interrupted: 0,
            epoch: 7,
            epoch_step: EpochStep::Settled,
        }),
        superblock: Ok(superblock(7)),
    }
}

fn superblock(transaction_id: u64) -> crate::dm::metadata::Superblock {
    use crate::dm::metadata::{BLOCK_BYTES, SUPERBLOCK_SEED, Superblock, checksum};
    let mut bytes = [0; BLOCK_BYTES];
    let mut put = |at: usize, value: u64, length: usize| bytes[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
    put(32, 27_022_010, 8);
    put(40, 2, 4);
    put(48, transaction_id, 8);
    put(72, 16, 8);
    put(320, 1, 8);
    put(328, 2, 8);
    put(336, 128, 4);
    let sum = checksum(&bytes, SUPERBLOCK_SEED);
    bytes[..4].copy_from_slice(&sum.to_le_bytes());
    Superblock::examine(&bytes).unwrap()
}

#[test]
fn a_whole_pool_says_how_it_is_served() {
    let found = examined();
    let text = describe(&found, Path::new("/dev/sdb"));
    assert!(text.contains("1.0 MiB of the data is used; transaction 7"), "{text}");
    assert!(text.ends_with("serve it: windlass node --standalone --pool /dev/sdb\n"), "{text}");
    assert_eq!(problems(&found), [""; 0]);
    let json = serde_json::to_value(ExaminedView::of(&found)).unwrap();
    assert_eq!(json["pool_id"], found.pool.to_string());
    assert_eq!(json["devices"][0]["role"], "whole");
    assert_eq!(json["problems"], serde_json::json!([]));
}

#[test]
fn whatever_keeps_a_pool_from_being_served_is_said_and_how_is_not() {
    type Spoil = fn(&mut Examined);
    let spoilt: [(Spoil, &str); 5] = [
        (|found| found.devices[0].epoch = Some(5), "the label of /dev/sdb has the epoch 5"),
        (|found| found.superblock = Err("its superblock is all zeros".to_owned()), "all zeros"),
        (|found| found.catalogue = Err("is damaged".to_owned()), "its catalogue: is damaged"),
        (|found| found.superblock = Ok(superblock(9)), "put back to an earlier state"),
        (|found| found.state = State::Making, "making was interrupted"),
    ];
    for (spoil, words) in spoilt {
        let mut found = examined();
        spoil(&mut found);
        let text = describe(&found, Path::new("/dev/sdb"));
        assert!(text.contains(words) && !text.contains("serve it"), "{text}");
        assert_eq!(problems(&found).len(), 1);
    }
}

#[test]
fn what_its_next_owner_puts_right_is_a_remark() {
    let mut found = examined();
    found.devices[0].copies = Copies::Renew("the second label is damaged or older");
    found.devices[0].grown_bytes = 1 << 30;
    let text = describe(&found, Path::new("/dev/sdb"));
    assert!(text.contains("second label is damaged") && text.contains("grew by 1.0 GiB") && text.contains("serve it"), "{text}");
}

#[test]
fn a_pool_that_is_active_is_said_to_be_and_is_no_problem() {
    let mut found = examined();
    found.activity = Activity::Active;
    found.catalogue = Err("the pool is active on this machine".to_owned());
    let text = describe(&found, Path::new("/dev/sdb"));
    assert!(problems(&found).is_empty() && text.contains("active on this machine") && !text.contains("serve it"), "{text}");
}

#[test]
fn devices_are_listed_with_their_pools_or_what_is_wrong_with_them() {
    let label = Label {
        pool: PoolId::from_bytes([1; 16]),
        link: Link::random(),
        generation: 1,
        epoch: None,
        role: Role::Data,
        state: State::Making,
        device_bytes: 1 << 30,
        block_size: DataBlockSize::MIN,
        segments: Segments::default(),
    };
    let device = |path: &str, label| FoundDevice { path: path.into(), bytes: 1 << 30, label };
    let found = [device("/dev/sdb", Ok(label)), device("/dev/sdc", Err(LabelsError::CutOff { have: 1, need: 2 }))];
    let text = list(&found);
    assert!(text.contains("01010101-0101-0101-0101-010101010101  the data of a pool whose making was interrupted"), "{text}");
    assert!(text.contains("cut off"), "{text}");
    assert!(list(&[]).contains("no block device"));
    assert_eq!(DeviceView::of(&found[1]).pool_id, None);
}
