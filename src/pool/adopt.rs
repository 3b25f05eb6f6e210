//! Adoption: what becomes of a pool whose catalogue is lost. Decided from what is recorded and what a scan of the pool found; no
//! I/O, which is the pool's (`reflink::adopt`).
//!
//! It is done on explicit order only, and *looking* comes first: without the order, nothing but the plan is made. The records are those
//! of the newest of catalogue and copy that can be read.
//!
//! | recorded | in the pool | what becomes of it |
//! |---|---|---|
//! | yes | yes | taken over, with the larger of both sizes: it may have grown since |
//! | yes | no | reported, and left out; the data of whatever has that id is gone |
//! | a snapshot without a local copy | | taken over: its bytes are in a repository |
//! | no | yes | reported, and left alone; a record with a made-up name if it is asked for by its id, or all are |
//! | being made or deleted then | yes | as one without a record, and said so: it may be half of one |
//!
//! * **Nothing that was adopted is ever formatted.** A record may be of before the first mkfs, so "never" and "formatting" become "content".
//! * **No number comes back.** Intents, and with them cuts, begin anew [`AHEAD`] above everything that is recorded: the records may
//!   lack what came after them.
//! * **No delta is told across it.** What was cut before ceases to be a base, as after a roll-back; the anchors, of no use then, are
//!   evicted by the next start. An increment begins anew, once.
//! * A catalogue that can be read and is the newest is not replaced: it gets the records that were asked for, and keeps all else. What it has under
//!   way, the next start finishes or undoes; nothing of that can be adopted.
//! * Of an unrecorded object only its size is known. A volume gets every access mode and no file system (what it holds is seen when it is
//!   mounted), a snapshot a volume of its own that never was.

use std::collections::{BTreeMap, BTreeSet};

use super::Found;
use super::catalogue::copy::Records;
use super::record::{Snapshot, Volume};
use crate::types::{
    AccessMode, AnchorLimit, DataChecksum, FormatState, LogicalBlockSize, Object, ObjectName, PoolId, SnapshotId, Timestamp,
    VolumeId, VolumeMode, VolumeSize,
};

/// As many intents may have been numbered since the records: more than a pool makes in a year at a hundred a second.
const AHEAD: u64 = 1 << 32;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct AdoptOrder {
    /// The pool's identity, for when nothing else tells it.
    pub pool: Option<PoolId>,
    /// Which objects without a record get one.
    pub unrecorded: Unrecorded,
    /// Whether it is done.
    pub decision: Decision,
}

/// Which objects without a record get one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Unrecorded {
    /// None.
    #[default]
    LeftAlone,
    /// Those with these ids.
    These(BTreeSet<[u8; 16]>),
    All,
}

impl Unrecorded {
    fn includes(&self, object: Object) -> bool {
        match self {
            Self::LeftAlone => false,
            Self::These(ids) => ids.contains(id(&object)),
            Self::All => true,
        }
    }
}

/// Whether an adoption is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Decision {
    /// It is shown, and nothing is changed.
    #[default]
    Shown,
    /// It is made.
    Made,
}

/// Where the records come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The catalogue itself: it can be read, and nothing is newer.
    Catalogue,
    /// Its second copy, written then.
    Copy(Timestamp),
    /// Nowhere: neither can be read.
    Nowhere,
}

/// An object in a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub object: Object,
    /// Its name, recorded or made up; none of what is left alone.
    pub name: Option<ObjectName>,
    /// Its size in bytes: as stored, or as recorded of what is not stored.
    pub bytes: u64,
    /// What is to be known of it besides.
    pub note: Option<&'static str>,
}

/// What an adoption does, or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptReport {
    /// The pool's identity.
    pub pool: PoolId,
    /// What is wrong with the catalogue, if anything is.
    pub catalogue: Option<String>,
    /// What is wrong with its copy, if anything is.
    pub copy: Option<String>,
    /// Where the records come from.
    pub origin: Origin,
    /// What is taken over: recorded and there.
    pub kept: Vec<Listed>,
    /// Deleted snapshots that were kept as bases: no use any more, and evicted by the next start.
    pub anchors: usize,
    /// What is recorded, and not in the pool.
    pub missing: Vec<Listed>,
    /// What is in the pool without a record, and gets one.
    pub adopted: Vec<Listed>,
    /// What is in the pool without a record, and is left alone.
    pub left: Vec<Listed>,
    /// Ids that were asked for, and belong to nothing that lacks a record.
    pub unknown: Vec<String>,
    /// Whether it was done.
    pub decision: Decision,
}

impl AdoptReport {
    /// Whether an order would change anything.
    pub fn changes(&self) -> bool {
        self.origin != Origin::Catalogue || !self.adopted.is_empty()
    }
}

/// What is to be done.
#[derive(Debug)]
pub(in crate::pool) struct Plan {
    /// All that a new catalogue records.
    pub(in crate::pool) records: Records,
    /// The part of it that was not recorded.
    pub(in crate::pool) new_volumes: Vec<Volume>,
    pub(in crate::pool) new_snapshots: Vec<Snapshot>,
    pub(in crate::pool) report: AdoptReport,
}

/// What the records of adopted objects say besides.
#[derive(Debug, Clone, Copy)]
pub(in crate::pool) struct NewRecords {
    /// The pool's.
    pub(in crate::pool) block_size: LogicalBlockSize,
    /// When they were created, as far as anybody knows: now.
    pub(in crate::pool) created: Timestamp,
}

/// Plans an adoption of what was `found`, from these `records`.
pub(in crate::pool) fn plan(mut records: Records, origin: Origin, found: &[Found], order: &AdoptOrder, new: NewRecords) -> Plan {
    let stored: BTreeMap<Object, u64> = found
        .iter()
        .filter_map(|found| match found {
            Found::Object { object, size } => Some((*object, *size)),
            Found::Foreign(_) => None,
        })
        .collect();
    let mut report = AdoptReport {
        pool: records.pool,
        catalogue: None,
        copy: None,
        origin,
        kept: Vec::new(),
        anchors: 0,
        missing: Vec::new(),
        adopted: Vec::new(),
        left: Vec::new(),
        unknown: Vec::new(),
        decision: order.decision,
    };
    let mut recorded = BTreeSet::new();
    for volume in &records.volumes {
        recorded.insert(Object::Volume(volume.id));
        judge(&mut report, &stored, Object::Volume(volume.id), &volume.name, volume.size);
    }
    for snapshot in &records.snapshots {
        recorded.insert(Object::Snapshot(snapshot.id));
        match snapshot.is_here() {
            true => judge(&mut report, &stored, Object::Snapshot(snapshot.id), &snapshot.name, snapshot.size),
            false => report.kept.push(Listed {
                object: Object::Snapshot(snapshot.id),
                name: Some(snapshot.name.clone()),
                bytes: snapshot.size.bytes(),
                note: Some("its bytes are in a repository, and not in the pool"),
            }),
        }
    }
    recorded.extend(records.anchors.iter().map(|anchor| Object::Snapshot(anchor.snapshot.id)));
    if report.origin != Origin::Catalogue {
        records.volumes.retain(|volume| stored.contains_key(&Object::Volume(volume.id)));
        records.snapshots.retain(|snapshot| !snapshot.is_here() || stored.contains_key(&Object::Snapshot(snapshot.id)));
        records.anchors.retain(|anchor| stored.contains_key(&Object::Snapshot(anchor.snapshot.id)));
        for volume in &mut records.volumes {
            volume.format = adopted_format(volume.format);
            volume.size = volume.size.max(stored_size(&stored, Object::Volume(volume.id)).unwrap_or(volume.size));
        }
        records.snapshots.iter_mut().for_each(|snapshot| snapshot.format = adopted_format(snapshot.format));
        let mut alive: BTreeSet<VolumeId> = records.volumes.iter().map(|volume| volume.id).collect();
        alive.extend(records.snapshots.iter().map(|snapshot| snapshot.source));
        records.exports.retain(|export| alive.contains(&export.volume));
    }
    report.anchors = records.anchors.len();
    let mut plan = Plan { records, new_volumes: Vec::new(), new_snapshots: Vec::new(), report };
    for (&object, &bytes) in stored.iter().filter(|(object, _)| !recorded.contains(object)) {
        plan.judge_unrecorded(object, bytes, order, new);
    }
    if let Unrecorded::These(ids) = &order.unrecorded {
        let known: BTreeSet<&[u8; 16]> = plan.report.adopted.iter().map(|listed| id(&listed.object)).collect();
        let unknown = ids.iter().filter(|id| !known.contains(id)).map(|id| VolumeId::from_bytes(*id).to_string()).collect();
        plan.report.unknown = unknown;
    }
    let cuts = plan.records.snapshots.iter().map(|snapshot| snapshot.serial);
    let last = cuts.chain(plan.records.anchors.iter().map(|anchor| anchor.snapshot.serial)).max().unwrap_or_default();
    plan.records.next_intent = plan.records.next_intent.max(last.saturating_add(1)).saturating_add(AHEAD);
    plan.records.first_delta_base = plan.records.next_intent;
    plan.records.volumes.extend(plan.new_volumes.iter().cloned());
    plan.records.snapshots.extend(plan.new_snapshots.iter().cloned());
    plan.records.under_way.clear();
    plan
}

impl Plan {
    fn judge_unrecorded(&mut self, object: Object, bytes: u64, order: &AdoptOrder, new: NewRecords) {
        let under_way = self.records.under_way.contains(&object);
        let is_taken_care_of = under_way && self.report.origin == Origin::Catalogue;
        let mut listed = Listed { object, name: None, bytes, note: None };
        listed.note = match (is_taken_care_of, under_way) {
            (true, _) => Some("it was being made or deleted: the next start finishes that or undoes it"),
            (false, true) => Some("it was being made or deleted when the copy was written: it may be half of what it should be"),
            (false, false) => None,
        };
        let Ok(size) = VolumeSize::new(bytes) else {
            listed.note = Some("its size is none that a volume can have");
            self.report.left.push(listed);
            return;
        };
        if is_taken_care_of || !order.unrecorded.includes(object) {
            self.report.left.push(listed);
            return;
        }
        let Some(name) = self.free_name(object) else {
            listed.note = Some("every name for it is taken");
            self.report.left.push(listed);
            return;
        };
        listed.name = Some(name.clone());
        self.report.adopted.push(listed);
        match object {
            Object::Volume(id) => self.new_volumes.push(volume(id, name, size, new)),
            Object::Snapshot(id) => self.new_snapshots.push(snapshot(id, name, size, new)),
        }
    }

    /// A name that says where it comes from, and that nothing has.
    fn free_name(&self, object: Object) -> Option<ObjectName> {
        let taken = |name: &ObjectName| match object {
            Object::Volume(_) => self.records.volumes.iter().any(|volume| volume.name == *name),
            Object::Snapshot(_) => self.records.snapshots.iter().any(|snapshot| snapshot.name == *name),
        };
        let id = VolumeId::from_bytes(*id(&object));
        let endings = ["", "-2", "-3", "-4"];
        endings.iter().filter_map(|end| ObjectName::try_from(format!("adopted-{id}{end}")).ok()).find(|name| !taken(name))
    }
}

fn id(object: &Object) -> &[u8; 16] {
    match object {
        Object::Volume(id) => id.as_bytes(),
        Object::Snapshot(id) => id.as_bytes(),
    }
}

fn judge(report: &mut AdoptReport, stored: &BTreeMap<Object, u64>, object: Object, name: &ObjectName, size: VolumeSize) {
    let listed = |bytes, note| Listed { object, name: Some(name.clone()), bytes, note };
    match stored.get(&object) {
        Some(&bytes) if bytes < size.bytes() => {
            report.kept.push(listed(bytes, Some("it is shorter than recorded: damaged, and refused to be used")));
        }
        Some(&bytes) => report.kept.push(listed(bytes, None)),
        None => report.missing.push(listed(size.bytes(), None)),
    }
}

fn stored_size(stored: &BTreeMap<Object, u64>, object: Object) -> Option<VolumeSize> {
    stored.get(&object).and_then(|&bytes| VolumeSize::new(bytes).ok())
}

/// What may have been written since it was recorded is content.
fn adopted_format(format: FormatState) -> FormatState {
    match format {
        FormatState::Never | FormatState::Formatting | FormatState::Content => FormatState::Content,
        // Is never formatted either.
        FormatState::Copied => FormatState::Copied,
    }
}

fn volume(id: VolumeId, name: ObjectName, size: VolumeSize, new: NewRecords) -> Volume {
    Volume {
        id,
        name,
        size,
        created_size: size,
        logical_block_size: new.block_size,
        mode: VolumeMode::Block,
        access_modes: vec![
            AccessMode::SingleNodeWriter,
            AccessMode::SingleNodeReaderOnly,
            AccessMode::SingleNodeSingleWriter,
            AccessMode::SingleNodeMultiWriter,
        ],
        mount_flags: Vec::new(),
        parameters: BTreeMap::new(),
        checksum: DataChecksum::Off,
        source: None,
        foreign_source: None,
        kubernetes: Default::default(),
        format: FormatState::Content,
        created: new.created,
        history: Default::default(),
    }
}

fn snapshot(id: SnapshotId, name: ObjectName, size: VolumeSize, new: NewRecords) -> Snapshot {
    Snapshot {
        id,
        name,
        // Nobody can ask for a delta between two of them.
        source: VolumeId::from_bytes(*id.as_bytes()),
        size,
        logical_block_size: new.block_size,
        mode: VolumeMode::Block,
        format: FormatState::Content,
        checksum: DataChecksum::Off,
        parameters: BTreeMap::new(),
        created: new.created,
        serial: 0,
        anchor_limit: AnchorLimit::default(),
        used_by: BTreeSet::new(),
        kubernetes: Default::default(),
        copies: Default::default(),
    }
}

#[cfg(test)]
mod tests;
