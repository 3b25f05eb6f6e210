use super::*;
use crate::pool::record::{Anchor, Consumer};
use crate::types::{ExportRecord, FsType, LocalCopy};

const MIB: u64 = 1 << 20;

fn size(bytes: u64) -> VolumeSize {
    VolumeSize::new(bytes).unwrap()
}

fn name(text: &str) -> ObjectName {
    text.to_owned().try_into().unwrap()
}

fn new_records() -> NewRecords {
    NewRecords { block_size: LogicalBlockSize::B4096, created: Timestamp::now() }
}

fn recorded_volume(text: &str, format: FormatState) -> Volume {
    let made = volume(VolumeId::random(), name(text), size(MIB), new_records());
    Volume { format, mode: VolumeMode::Filesystem(FsType::Ext4), ..made }
}

fn recorded_snapshot(text: &str, source: VolumeId, serial: u64) -> Snapshot {
    let made = snapshot(SnapshotId::random(), name(text), size(MIB), new_records());
    Snapshot { source, serial, format: FormatState::Never, used_by: BTreeSet::from([Consumer::MetadataClient]), ..made }
}

fn found(object: Object, bytes: u64) -> Found {
    Found::Object { object, size: bytes }
}

fn planned(records: &Records, origin: Origin, found: &[Found], unrecorded: Unrecorded) -> Plan {
    let order = AdoptOrder { pool: None, unrecorded, decision: Decision::Shown };
    plan(records.clone(), origin, found, &order, new_records())
}

fn copy() -> Origin {
    Origin::Copy(Timestamp { seconds: 1, nanoseconds: 0 })
}

#[test]
fn nothing_that_is_adopted_from_a_copy_may_ever_be_formatted() {
    let states = [FormatState::Never, FormatState::Formatting, FormatState::Copied, FormatState::Content];
    let mut records = Records::unknown(PoolId::random());
    records.volumes = states.iter().enumerate().map(|(n, &state)| recorded_volume(&format!("v{n}"), state)).collect();
    records.snapshots = vec![recorded_snapshot("s", records.volumes[0].id, 5)];
    let unknown = Object::Volume(VolumeId::random());
    let mut there: Vec<Found> = records.volumes.iter().map(|volume| found(Object::Volume(volume.id), MIB)).collect();
    there.extend([found(Object::Snapshot(records.snapshots[0].id), MIB), found(unknown, MIB)]);
    let plan = planned(&records, copy(), &there, Unrecorded::All);
    assert_eq!((plan.records.volumes.len(), plan.records.snapshots.len()), (5, 1));
    let may_be_formatted = |format: &FormatState| matches!(format, FormatState::Never | FormatState::Formatting);
    assert!(!plan.records.volumes.iter().any(|volume| may_be_formatted(&volume.format)));
    assert!(!plan.records.snapshots.iter().any(|snapshot| may_be_formatted(&snapshot.format)));
}

#[test]
fn what_is_not_there_is_left_out_what_grew_keeps_its_size_and_what_is_unknown_waits_to_be_asked_for() {
    let mut records = Records::unknown(PoolId::random());
    let [here, grown, short, gone] = ["here", "grown", "short", "gone"].map(|text| recorded_volume(text, FormatState::Content));
    records.volumes = vec![here.clone(), grown.clone(), short.clone(), gone.clone()];
    let (lost_source, lost) = (recorded_snapshot("s", gone.id, 3), recorded_snapshot("t", here.id, 4));
    records.snapshots = vec![lost_source.clone(), lost.clone()];
    let export = |volume: &Volume| ExportRecord {
        repository: "ab".repeat(32),
        volume: volume.id,
        snapshot: lost.id,
        repository_snapshot: "00".repeat(32),
        size: volume.size,
        chunk_size: MIB,
        finished: Timestamp { seconds: 1, nanoseconds: 2 },
    };
    records.exports = vec![export(&here), export(&gone), export(&recorded_volume("never", FormatState::Content))];
    let [half, odd] = [VolumeId::random(), VolumeId::random()].map(Object::Volume);
    let unknown = Object::Snapshot(SnapshotId::random());
    records.under_way = vec![half];
    let there = [
        found(Object::Volume(here.id), MIB),
        found(Object::Volume(grown.id), 3 * MIB),
        found(Object::Volume(short.id), 4096),
        found(Object::Snapshot(lost_source.id), MIB),
        found(half, 8192),
        found(odd, 100),
        found(unknown, MIB),
        Found::Foreign("notes.txt".to_owned()),
    ];
    let plan = planned(&records, copy(), &there, Unrecorded::LeftAlone);
    let sizes: Vec<u64> = plan.records.volumes.iter().map(|volume| volume.size.bytes()).collect();
    assert_eq!(sizes, [MIB, 3 * MIB, MIB], "a record never says less than there is, and damage is not hidden");
    assert_eq!(plan.records.snapshots, vec![Snapshot { format: FormatState::Content, ..lost_source }]);
    assert_eq!(plan.records.exports, [export(&here), export(&gone)], "of what exists, or has a snapshot");
    let objects = |listed: &[Listed]| listed.iter().map(|one| one.object).collect::<BTreeSet<_>>();
    assert_eq!(objects(&plan.report.missing), BTreeSet::from([Object::Volume(gone.id), Object::Snapshot(lost.id)]));
    assert_eq!(objects(&plan.report.left), BTreeSet::from([half, odd, unknown]));
    assert!(plan.report.adopted.is_empty());
    assert!(plan.report.left.iter().filter(|one| one.note.is_some()).count() == 2);
    // By its id, and all; but nothing of a size that cannot be.
    let Object::Snapshot(id) = unknown else { panic!() };
    let other = VolumeId::random();
    let these = Unrecorded::These(BTreeSet::from([*id.as_bytes(), *other.as_bytes(), *here.id.as_bytes()]));
    let plan = planned(&records, copy(), &there, these);
    assert_eq!(objects(&plan.report.adopted), BTreeSet::from([unknown]));
    assert_eq!(plan.report.unknown.len(), 2, "one that is not there and one that has a record");
    let plan = planned(&records, copy(), &there, Unrecorded::All);
    assert_eq!(objects(&plan.report.adopted), BTreeSet::from([unknown, half]));
    assert_eq!(objects(&plan.report.left), BTreeSet::from([odd]));
    assert_eq!(plan.records.snapshots.len(), 2);
}

#[test]
fn no_number_comes_back_and_no_earlier_cut_is_a_base_again() {
    let mut records = Records::unknown(PoolId::random());
    let volume = recorded_volume("v", FormatState::Content);
    records.volumes = vec![volume.clone()];
    records.snapshots = vec![recorded_snapshot("s", volume.id, 40)];
    records.anchors = vec![Anchor { snapshot: recorded_snapshot("t", volume.id, 900), deleted: Timestamp::now() }];
    // As in a copy that is spoilt where nobody looks: more cuts than intents.
    records.next_intent = 41;
    records.first_delta_base = 2;
    let there = [
        found(Object::Volume(volume.id), MIB),
        found(Object::Snapshot(records.snapshots[0].id), MIB),
        found(Object::Snapshot(records.anchors[0].snapshot.id), MIB),
        found(Object::Snapshot(SnapshotId::random()), MIB),
        found(Object::Snapshot(SnapshotId::random()), MIB),
    ];
    let plan = planned(&records, copy(), &there, Unrecorded::All);
    assert_eq!((plan.records.next_intent, plan.report.anchors), (901 + AHEAD, 1));
    assert_eq!(plan.records.first_delta_base, plan.records.next_intent);
    assert!(plan.records.snapshots.iter().all(|snapshot| snapshot.serial < plan.records.first_delta_base));
    // Two that nobody knows are not taken for snapshots of one volume.
    let sources: BTreeSet<VolumeId> = plan.new_snapshots.iter().map(|snapshot| snapshot.source).collect();
    assert_eq!(sources.len(), 2);
    assert_eq!(planned(&records, copy(), &[], Unrecorded::All).report.anchors, 0);
}

#[test]
fn made_up_names_say_so_and_are_nobody_elses() {
    let mut records = Records::unknown(PoolId::random());
    let id = VolumeId::random();
    let taken = recorded_volume(&format!("adopted-{id}"), FormatState::Content);
    records.volumes = vec![taken.clone()];
    let there = [found(Object::Volume(taken.id), MIB), found(Object::Volume(id), MIB)];
    let plan = planned(&records, copy(), &there, Unrecorded::All);
    assert_eq!(plan.new_volumes[0].name.as_str(), format!("adopted-{id}-2"));
    assert_eq!((plan.new_volumes[0].id, plan.new_volumes[0].size), (id, size(MIB)));
}

#[test]
fn a_snapshot_without_a_local_copy_is_taken_over_for_its_bytes_are_in_a_repository() {
    let mut records = Records::unknown(PoolId::random());
    let volume = recorded_volume("v", FormatState::Content);
    let mut given_up = recorded_snapshot("s", volume.id, 40);
    given_up.copies.local = LocalCopy::GivenUp;
    let lost = recorded_snapshot("t", volume.id, 41);
    records.volumes = vec![volume.clone()];
    records.snapshots = vec![given_up.clone(), lost.clone()];
    let plan = planned(&records, copy(), &[found(Object::Volume(volume.id), MIB)], Unrecorded::LeftAlone);
    assert_eq!(plan.records.snapshots.iter().map(|snapshot| snapshot.id).collect::<Vec<_>>(), [given_up.id]);
    assert_eq!(plan.report.missing.iter().map(|one| one.object).collect::<Vec<_>>(), [Object::Snapshot(lost.id)]);
}

#[test]
fn a_sound_catalogue_keeps_what_it_records_and_what_it_has_under_way() {
    let mut records = Records::unknown(PoolId::random());
    let (fresh, gone) = (recorded_volume("fresh", FormatState::Never), recorded_volume("gone", FormatState::Content));
    records.volumes = vec![fresh.clone(), gone.clone()];
    let [half, unknown] = [VolumeId::random(), VolumeId::random()].map(Object::Volume);
    records.under_way = vec![half];
    let there = [found(Object::Volume(fresh.id), MIB), found(half, MIB), found(unknown, MIB)];
    let plan = planned(&records, Origin::Catalogue, &there, Unrecorded::All);
    assert_eq!(plan.records.volumes[..2], [fresh, gone], "unchanged");
    assert_eq!(plan.report.adopted.iter().map(|one| one.object).collect::<Vec<_>>(), [unknown]);
    assert_eq!(plan.report.left.iter().map(|one| one.object).collect::<Vec<_>>(), [half]);
    assert!(plan.report.changes());
    assert!(!planned(&records, Origin::Catalogue, &there, Unrecorded::LeftAlone).report.changes());
}
