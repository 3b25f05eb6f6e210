//! The calls under test: what must exist before each, the call, and what must be true after.

use csi_proto::csi::v1 as proto;
use tonic::Status;

use super::round::{MARKER, Round, read_marker, write_marker};
use super::{GROWN, SIZE};
use crate::common::csi::{Csi, Paths, Source, Use, capacity, new_snapshot, new_volume, publish, stage, unpublish, unstage};

/// One call that changes something: what must exist before, the call, and what must be true after.
pub struct Scenario {
    pub prepare: fn(&Csi, &mut Round),
    /// The call; its answer as text, to be compared with that to a repeated one.
    pub call: fn(&Csi, &Round) -> Result<String, Status>,
    pub verify: fn(&Csi, &mut Round),
    /// Devices and mounts there are when the call is done: as a number, because what a call leaves cannot be told from a device that is
    /// just being made to look for zeros.
    pub attached: usize,
}

fn nothing(_: &Csi, _: &mut Round) {}

fn answer<T: std::fmt::Debug>(result: Result<T, Status>) -> Result<String, Status> {
    result.map(|message| format!("{message:?}"))
}

const EXT4: Use = Use::Mount("ext4");
const XFS: Use = Use::Mount("xfs");

/// Checks that a new volume from `source` holds the marker.
fn verify_copy(csi: &Csi, round: &mut Round, source: &Source, usage: Use) {
    let id = csi.make_volume(&round.name_of("check"), SIZE, usage, source);
    verify_marker(csi, round, &id, usage);
}

fn verify_marker(csi: &Csi, round: &mut Round, id: &str, usage: Use) {
    let paths = csi.bring_up(&round.root, &round.name_of("check"), id, usage);
    assert_eq!(read_marker(&paths.target, usage), MARKER);
    csi.take_down(id, &paths);
}

/// The id of the volume whose creation is the call under test, by asking once more.
fn created(csi: &Csi, round: &Round, usage: Use, source: &Source) -> String {
    csi.create_volume(new_volume(&round.name_of("new"), SIZE, usage, source)).unwrap().volume.unwrap().volume_id
}

pub const CREATE_FILE_SYSTEM_VOLUME: Scenario = Scenario {
    prepare: nothing,
    call: |csi, round| answer(csi.create_volume(new_volume(&round.name_of("new"), SIZE, EXT4, &Source::Blank))),
    verify: |csi, round| {
        let id = created(csi, round, EXT4, &Source::Blank);
        let paths = csi.bring_up(&round.root, &round.name_of("check"), &id, EXT4);
        csi.take_down(&id, &paths);
    },
    attached: 0,
};

pub const CREATE_BLOCK_VOLUME: Scenario = Scenario {
    prepare: nothing,
    call: |csi, round| answer(csi.create_volume(new_volume(&round.name_of("new"), SIZE, Use::Block, &Source::Blank))),
    verify: nothing,
    attached: 0,
};

pub const CREATE_VOLUME_FROM_SNAPSHOT: Scenario = Scenario {
    prepare: |csi, round| {
        round.create_written(csi, EXT4);
        round.snapshot = csi.make_snapshot(&round.name_of("snapshot"), &round.volume);
    },
    call: |csi, round| {
        let source = Source::Snapshot(round.snapshot.clone());
        answer(csi.create_volume(new_volume(&round.name_of("new"), SIZE, EXT4, &source)))
    },
    verify: |csi, round| {
        let id = created(csi, round, EXT4, &Source::Snapshot(round.snapshot.clone()));
        verify_marker(csi, round, &id, EXT4);
    },
    attached: 3,
};

pub const CREATE_VOLUME_FROM_VOLUME: Scenario = Scenario {
    prepare: |csi, round| round.create_written(csi, EXT4),
    call: |csi, round| {
        let source = Source::Volume(round.volume.clone());
        answer(csi.create_volume(new_volume(&round.name_of("new"), SIZE, EXT4, &source)))
    },
    verify: |csi, round| {
        let id = created(csi, round, EXT4, &Source::Volume(round.volume.clone()));
        verify_marker(csi, round, &id, EXT4);
    },
    attached: 3,
};

pub const CREATE_SNAPSHOT_OF_PUBLISHED_VOLUME: Scenario = Scenario {
    prepare: |csi, round| round.create_written(csi, EXT4),
    call: |csi, round| answer(csi.create_snapshot(new_snapshot(&round.name_of("new"), &round.volume))),
    verify: |csi, round| {
        // Not left frozen.
        write_marker(&round.paths().target, EXT4);
        let id = csi.make_snapshot(&round.name_of("new"), &round.volume);
        verify_copy(csi, round, &Source::Snapshot(id), EXT4);
    },
    attached: 3,
};

pub const CREATE_SNAPSHOT_OF_BLOCK_VOLUME: Scenario = Scenario {
    prepare: |csi, round| round.create_written(csi, Use::Block),
    call: |csi, round| answer(csi.create_snapshot(new_snapshot(&round.name_of("new"), &round.volume))),
    verify: |csi, round| {
        let id = csi.make_snapshot(&round.name_of("new"), &round.volume);
        verify_copy(csi, round, &Source::Snapshot(id), Use::Block);
    },
    attached: 2,
};

pub const DELETE_VOLUME: Scenario = Scenario {
    prepare: |csi, round| round.create(csi, Use::Block),
    call: |csi, round| {
        let volume_id = round.volume.clone();
        answer(csi.delete_volume(proto::DeleteVolumeRequest { volume_id, ..Default::default() }))
    },
    verify: nothing,
    attached: 0,
};

pub const DELETE_SNAPSHOT: Scenario = Scenario {
    prepare: |csi, round| {
        round.create(csi, Use::Block);
        round.snapshot = csi.make_snapshot(&round.name_of("snapshot"), &round.volume);
    },
    call: |csi, round| {
        let snapshot_id = round.snapshot.clone();
        answer(csi.delete_snapshot(proto::DeleteSnapshotRequest { snapshot_id, ..Default::default() }))
    },
    verify: nothing,
    attached: 0,
};

pub const EXPAND_PUBLISHED_VOLUME: Scenario = Scenario {
    prepare: |csi, round| round.create_written(csi, EXT4),
    call: |csi, round| {
        answer(csi.controller_expand_volume(proto::ControllerExpandVolumeRequest {
            volume_id: round.volume.clone(),
            capacity_range: Some(capacity(GROWN)),
            volume_capability: Some(EXT4.capability()),
            ..Default::default()
        }))
    },
    verify: |_, round| assert_eq!(read_marker(&round.paths().target, EXT4), MARKER),
    attached: 3,
};

/// XFS: the kernel grows a mounted ext4 only for a process with CAP_SYS_RESOURCE, which not every container has.
pub const EXPAND_NODE: Scenario = Scenario {
    prepare: |csi, round| {
        round.create_written(csi, XFS);
        csi.controller_expand_volume(proto::ControllerExpandVolumeRequest {
            volume_id: round.volume.clone(),
            capacity_range: Some(capacity(GROWN)),
            ..Default::default()
        })
        .unwrap();
    },
    call: |csi, round| {
        answer(csi.node_expand_volume(proto::NodeExpandVolumeRequest {
            volume_id: round.volume.clone(),
            volume_path: round.paths().target.display().to_string(),
            staging_target_path: round.paths().staging.display().to_string(),
            capacity_range: Some(capacity(GROWN)),
            volume_capability: Some(XFS.capability()),
            ..Default::default()
        }))
    },
    verify: |_, round| {
        let stats = nix::sys::statvfs::statvfs(&round.paths().target).unwrap();
        // The log takes some of it.
        assert!(stats.blocks() * stats.fragment_size() > SIZE, "the file system did not grow");
        assert_eq!(read_marker(&round.paths().target, XFS), MARKER);
    },
    attached: 3,
};

/// Stages a blank volume, which formats it.
pub const STAGE_FORMATS: Scenario = Scenario {
    prepare: |csi, round| {
        round.create(csi, EXT4);
        round.prepare_paths();
    },
    call: |csi, round| answer(csi.node_stage_volume(stage(&round.volume, round.paths(), EXT4))),
    verify: |csi, round| {
        csi.node_publish_volume(publish(&round.volume, round.paths(), EXT4)).unwrap();
        write_marker(&round.paths().target, EXT4);
    },
    attached: 2,
};

/// Stages a copy, larger than its source, beside it: a new identity, and the file system grows.
pub const STAGE_GROWS_A_COPY: Scenario = Scenario {
    prepare: |csi, round| {
        let usage = Use::Mount("btrfs");
        round.create_written(csi, usage);
        let source = Source::Volume(round.volume.clone());
        round.volume = csi.make_volume(&round.name_of("new"), GROWN, usage, &source);
        let paths = Paths::prepare(&round.root, &round.name_of("copy"));
        round.up.push((round.volume.clone(), paths));
    },
    call: |csi, round| answer(csi.node_stage_volume(stage(&round.volume, round.paths(), Use::Mount("btrfs")))),
    verify: |csi, round| {
        csi.node_publish_volume(publish(&round.volume, round.paths(), Use::Mount("btrfs"))).unwrap();
        assert_eq!(read_marker(&round.paths().target, Use::Mount("btrfs")), MARKER);
    },
    attached: 5,
};

pub const STAGE_BLOCK: Scenario = Scenario {
    prepare: |csi, round| {
        round.create(csi, Use::Block);
        round.prepare_paths();
    },
    call: |csi, round| answer(csi.node_stage_volume(stage(&round.volume, round.paths(), Use::Block))),
    verify: nothing,
    attached: 1,
};

fn prepare_staged(csi: &Csi, round: &mut Round, usage: Use) {
    round.create(csi, usage);
    round.prepare_paths();
    csi.node_stage_volume(stage(&round.volume, round.paths(), usage)).unwrap();
}

pub const PUBLISH: Scenario = Scenario {
    prepare: |csi, round| prepare_staged(csi, round, EXT4),
    call: |csi, round| answer(csi.node_publish_volume(publish(&round.volume, round.paths(), EXT4))),
    verify: |_, round| write_marker(&round.paths().target, EXT4),
    attached: 3,
};

pub const PUBLISH_BLOCK: Scenario = Scenario {
    prepare: |csi, round| prepare_staged(csi, round, Use::Block),
    call: |csi, round| answer(csi.node_publish_volume(publish(&round.volume, round.paths(), Use::Block))),
    verify: |_, round| write_marker(&round.paths().target, Use::Block),
    attached: 2,
};

pub const UNPUBLISH: Scenario = Scenario {
    prepare: |csi, round| round.create_written(csi, EXT4),
    call: |csi, round| answer(csi.node_unpublish_volume(unpublish(&round.volume, round.paths()))),
    verify: |_, round| assert!(!round.paths().target.exists(), "the target path is left"),
    attached: 2,
};

pub const UNPUBLISH_BLOCK: Scenario = Scenario {
    prepare: |csi, round| round.create_written(csi, Use::Block),
    call: |csi, round| answer(csi.node_unpublish_volume(unpublish(&round.volume, round.paths()))),
    verify: |_, round| assert!(!round.paths().target.exists(), "the target path is left"),
    attached: 1,
};

pub const UNSTAGE: Scenario = Scenario {
    prepare: |csi, round| prepare_staged(csi, round, EXT4),
    call: |csi, round| answer(csi.node_unstage_volume(unstage(&round.volume, round.paths()))),
    verify: nothing,
    attached: 0,
};

pub const UNSTAGE_BLOCK: Scenario = Scenario {
    prepare: |csi, round| prepare_staged(csi, round, Use::Block),
    call: |csi, round| answer(csi.node_unstage_volume(unstage(&round.volume, round.paths()))),
    verify: nothing,
    attached: 0,
};
