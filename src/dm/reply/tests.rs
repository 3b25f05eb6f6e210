//! Replies as the kernel lays them out, and replies that it never would.

use proptest::prelude::*;

use super::*;
use crate::dm::raw::HEADER_BYTES;

/// A reply with these data behind its header.
fn reply(target_count: u32, flags: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    put(&mut bytes, offset_of!(Header, version), &4_u32.to_ne_bytes());
    put(&mut bytes, offset_of!(Header, data_size), &u32::try_from(HEADER_BYTES + data.len()).unwrap().to_ne_bytes());
    put(&mut bytes, offset_of!(Header, data_start), &312_u32.to_ne_bytes());
    put(&mut bytes, offset_of!(Header, target_count), &target_count.to_ne_bytes());
    put(&mut bytes, offset_of!(Header, flags), &flags.to_ne_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// As `retrieve_status` lays targets out: each `next` from the beginning of all, the last one's at the end.
fn targets(lines: &[(u64, u64, &str, &str)]) -> Vec<u8> {
    let mut data = Vec::new();
    for (start, length, kind, text) in lines {
        let at = data.len();
        let end = (at + SPEC_BYTES + text.len() + 1).next_multiple_of(8);
        data.resize(end, 0);
        put(&mut data, at, &start.to_ne_bytes());
        put(&mut data, at + 8, &length.to_ne_bytes());
        put(&mut data, at + 20, &u32::try_from(end).unwrap().to_ne_bytes());
        put(&mut data, at + 24, kind.as_bytes());
        put(&mut data, at + SPEC_BYTES, text.as_bytes());
    }
    data
}

/// As `list_devices` lays devices out: each `next` from the beginning of its own entry, the last one's zero.
fn devices(list: &[(&str, DeviceNumber, u32, Option<&str>)]) -> Vec<u8> {
    let mut data = Vec::new();
    for (index, (name, number, event_nr, uuid)) in list.iter().enumerate() {
        let mut entry = number.encoded().to_ne_bytes().to_vec();
        entry.extend([0; 4]);
        entry.extend(name.as_bytes());
        entry.push(0);
        entry.resize(entry.len().next_multiple_of(8), 0);
        entry.extend(event_nr.to_ne_bytes());
        entry.extend(if uuid.is_some() { 1_u32 } else { 2 }.to_ne_bytes());
        if let Some(uuid) = uuid {
            entry.extend(uuid.as_bytes());
            entry.push(0);
        }
        entry.resize(entry.len().next_multiple_of(8), 0);
        if index + 1 < list.len() {
            let length = u32::try_from(entry.len()).unwrap();
            put(&mut entry, 8, &length.to_ne_bytes());
        }
        data.extend(entry);
    }
    data
}

#[test]
fn a_device_is_described_by_the_header() {
    let mut bytes = reply(1, flag::SUSPEND | flag::LIVE_TABLE | flag::READ_ONLY, &[]);
    put(&mut bytes, offset_of!(Header, open_count), &3_i32.to_ne_bytes());
    put(&mut bytes, offset_of!(Header, event_nr), &9_u32.to_ne_bytes());
    let number = DeviceNumber::new(254, 70_000).unwrap();
    put(&mut bytes, offset_of!(Header, dev), &number.encoded().to_ne_bytes());
    put(&mut bytes, offset_of!(Header, uuid), b"WINDLASS-1");
    // As the kernel answers without data: it ends before they would begin.
    put(&mut bytes, offset_of!(Header, data_size), &305_u32.to_ne_bytes());
    let parsed = Reply::parse(&bytes).unwrap();
    let expected = DeviceInfo {
        number,
        open_count: 3,
        event_nr: 9,
        access: Access::ReadOnly,
        suspended: true,
        deferred_remove: false,
        live_table: true,
        inactive_table: false,
        uuid: Some("WINDLASS-1".to_owned()),
    };
    assert_eq!(parsed.info().unwrap(), expected);
    assert!(!parsed.is_cut_short());
    assert_eq!(parsed.version(), InterfaceVersion { major: 4, minor: 0, patch: 0 });
    put(&mut bytes, offset_of!(Header, open_count), &(-1_i32).to_ne_bytes());
    assert!(matches!(Reply::parse(&bytes).unwrap().info(), Err(Malformed::Range { value: -1, .. })));
    put(&mut bytes, offset_of!(Header, open_count), &0_i32.to_ne_bytes());
    put(&mut bytes, offset_of!(Header, uuid), &[b'u'; 129]);
    assert_eq!(Reply::parse(&bytes).unwrap().info(), Err(Malformed::Unterminated("the uuid")));
}

#[test]
fn targets_are_found_where_the_kernel_puts_them() {
    let data = targets(&[(0, 8, "linear", "254:0 16 "), (8, 1, "error", ""), (9, 128, "thin-pool", "0 1/2 3/4 - rw ")]);
    let bytes = reply(3, 0, &data);
    let found = Reply::parse(&bytes).unwrap().targets().unwrap();
    let texts: Vec<_> = found.iter().map(|target| (target.kind.as_str(), target.text.as_str())).collect();
    assert_eq!(texts, [("linear", "254:0 16"), ("error", ""), ("thin-pool", "0 1/2 3/4 - rw")]);
    assert_eq!((found[2].start.count(), found[2].length.count()), (9, 128));
    // One more than there are, a text that runs into the next target, and a chain that leads back.
    assert_eq!(Reply::parse(&reply(4, 0, &data)).unwrap().targets(), Err(Malformed::Short("a target")));
    let mut endless = data.clone();
    let next = u32::from_ne_bytes(data[20..24].try_into().unwrap()) as usize;
    endless[SPEC_BYTES..next].fill(b'x');
    assert_eq!(Reply::parse(&reply(3, 0, &endless)).unwrap().targets(), Err(Malformed::Unterminated("a target's line")));
    let mut back = data;
    put(&mut back, 20, &0_u32.to_ne_bytes());
    assert_eq!(Reply::parse(&reply(3, 0, &back)).unwrap().targets(), Err(Malformed::Order { at: 0, next: 0 }));
}

#[test]
fn an_empty_list_is_one_without_data_or_with_a_device_without_number() {
    assert_eq!(Reply::parse(&reply(0, 0, &[])).unwrap().devices(), Ok(vec![]));
    assert_eq!(Reply::parse(&reply(0, 0, &[0; 16])).unwrap().devices(), Ok(vec![]));
}

#[test]
fn lists_without_an_end_or_of_an_older_form_are_errors() {
    let number = DeviceNumber::new(254, 0).unwrap();
    let whole = devices(&[("a", number, 1, None), ("b", number, 2, Some("u"))]);
    let parsed = |data: &[u8]| Reply::parse(&reply(0, 0, data)).unwrap().devices();
    assert_eq!(parsed(&whole).unwrap().len(), 2);
    let mut old = whole.clone();
    put(&mut old, 20, &0_u32.to_ne_bytes());
    assert_eq!(parsed(&old), Err(Malformed::NoUuidFlag));
    let mut back = whole.clone();
    put(&mut back, 8, &8_u32.to_ne_bytes());
    assert_eq!(parsed(&back), Err(Malformed::Order { at: 0, next: 8 }));
    let mut beyond = whole.clone();
    put(&mut beyond, 8, &4096_u32.to_ne_bytes());
    assert_eq!(parsed(&beyond), Err(Malformed::Short("a device in the list")));
    for cut in 1..whole.len() - 8 {
        assert!(parsed(&whole[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn data_outside_the_buffer_are_an_error() {
    let mut bytes = reply(0, 0, &[0; 8]);
    put(&mut bytes, offset_of!(Header, data_size), &321_u32.to_ne_bytes());
    assert_eq!(Reply::parse(&bytes).unwrap_err(), Malformed::Short("the data"));
    put(&mut bytes, offset_of!(Header, data_size), &320_u32.to_ne_bytes());
    put(&mut bytes, offset_of!(Header, data_start), &8_u32.to_ne_bytes());
    assert_eq!(Reply::parse(&bytes).unwrap_err(), Malformed::Order { at: 0, next: 8 });
    assert_eq!(Reply::parse(&bytes[..311]).unwrap_err(), Malformed::Short("the header"));
}

fn listed() -> impl Strategy<Value = Vec<ListedDevice>> {
    let one = ("[!-.0-~]{1,127}", 1_u32.., any::<u32>(), proptest::option::of("[!-.0-~]{1,128}"));
    let one = one.prop_map(|(name, number, event_nr, uuid)| ListedDevice {
        name,
        number: DeviceNumber::from_encoded(number.into()).unwrap(),
        event_nr,
        uuid,
    });
    proptest::collection::vec(one, 0..20)
}

proptest! {
    #[test]
    fn every_list_is_read_as_it_was_laid_out(list in listed()) {
        let plain: Vec<_> =
            list.iter().map(|one| (one.name.as_str(), one.number, one.event_nr, one.uuid.as_deref())).collect();
        let bytes = reply(0, 0, &devices(&plain));
        prop_assert_eq!(Reply::parse(&bytes).unwrap().devices().unwrap(), list);
    }

    #[test]
    fn no_bytes_make_it_read_outside_them(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        read_everything(&bytes);
    }

    #[test]
    fn no_damage_to_a_sound_reply_makes_it_read_outside(
        list in listed(),
        count in 0_u32..5,
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..8),
        as_targets in any::<bool>(),
    ) {
        let plain: Vec<_> =
            list.iter().map(|one| (one.name.as_str(), one.number, one.event_nr, one.uuid.as_deref())).collect();
        let data = if as_targets {
            targets(&plain.iter().map(|one| (1, 2, "thin", one.0)).collect::<Vec<_>>())
        } else {
            devices(&plain)
        };
        let mut bytes = reply(count, 0, &data);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        read_everything(&bytes);
    }
}

fn read_everything(bytes: &[u8]) {
    let Ok(reply) = Reply::parse(bytes) else { return };
    let _ = (reply.version(), reply.info(), reply.target_version());
    if let Ok(targets) = reply.targets() {
        let text: usize = targets.iter().map(|target| target.text.len().max(SPEC_BYTES)).sum();
        // Lossy decoding makes three bytes of one at most.
        assert!(text <= 3 * bytes.len());
    }
    if let Ok(devices) = reply.devices() {
        assert!(devices.len() <= bytes.len() / 16);
    }
}
