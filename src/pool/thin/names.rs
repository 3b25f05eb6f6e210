//! Names of a thin pool's device-mapper devices.
//!
//! Everything a pool has in the kernel carries the pool's id in its name, and in its uuid behind a prefix that is ours alone: one
//! listing of all devices tells which are this pool's, whatever process made them.

use std::path::Path;

use crate::block::sysfs;
use crate::dm::{DmName, DmUuid};
use crate::pool::{PoolError, Refusal};
use crate::types::{Object, PoolId, SnapshotId, VolumeId};

/// Prefix of the uuids. Host tools that scan devices may leave out what begins with it.
const UUID_PREFIX: &str = "WINDLASS-";

/// What a device of a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    // In the order in which they stand upon each other.
    /// The region of the catalogue. Whoever has it open exclusively owns the pool.
    Catalogue,
    Metadata,
    Data,
    /// The thin pool.
    Pool,
    /// The thin device of an object.
    Object(Object),
}

/// Names of one pool's devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    pool: PoolId,
}

impl Names {
    /// The names of the devices of `pool`.
    pub fn new(pool: PoolId) -> Self {
        Self { pool }
    }

    /// Name of a device, 84 bytes at most.
    ///
    /// # Errors
    /// Never for any id there is; the type of names is checked all the same.
    pub fn name(&self, part: Part) -> Result<DmName, PoolError> {
        DmName::new(self.text(part))
            .map_err(|error| PoolError::Format(Refusal::because("a name of a device is malformed", error)))
    }

    /// Uuid of a device.
    pub fn uuid(&self, part: Part) -> Result<DmUuid, PoolError> {
        let text = format!("{UUID_PREFIX}{}", self.text(part));
        DmUuid::new(text).map_err(|error| PoolError::Format(Refusal::because("a uuid of a device is malformed", error)))
    }

    /// The part that a device with this uuid is; `None` when it is none of this pool's.
    pub fn part_of(&self, uuid: &str) -> Option<Part> {
        let rest = uuid.strip_prefix(UUID_PREFIX)?.strip_prefix(self.prefix().as_str())?;
        let part = match rest {
            "catalogue" => Part::Catalogue,
            "metadata" => Part::Metadata,
            "data" => Part::Data,
            "pool" => Part::Pool,
            _ => match rest.split_once('-')? {
                ("v", id) => Part::Object(Object::Volume(id.parse::<VolumeId>().ok()?)),
                ("s", id) => Part::Object(Object::Snapshot(id.parse::<SnapshotId>().ok()?)),
                _ => return None,
            },
        };
        Some(part)
    }

    /// The pool's id, for logs.
    pub(super) fn text_of_pool(&self) -> String {
        self.pool.to_string()
    }

    /// What all names of the pool's devices begin with.
    pub(super) fn prefix(&self) -> String {
        format!("windlass-{}-", self.pool)
    }

    fn text(&self, part: Part) -> String {
        let prefix = self.prefix();
        match part {
            Part::Catalogue => format!("{prefix}catalogue"),
            Part::Metadata => format!("{prefix}metadata"),
            Part::Data => format!("{prefix}data"),
            Part::Pool => format!("{prefix}pool"),
            Part::Object(Object::Volume(id)) => format!("{prefix}v-{id}"),
            Part::Object(Object::Snapshot(id)) => format!("{prefix}s-{id}"),
        }
    }
}

/// Whether a mount whose root in its file system is `root`, as mountinfo has it, shows the node of the device `name`: a bind mount of
/// `/dev/windlass/NAME`. The kernel adds `//deleted` when the node was removed, with its device or before it.
pub fn is_node_of(root: &str, name: &DmName) -> bool {
    let path = sysfs::without_deletion_mark(Path::new(root)).unwrap_or_else(|| root.into());
    path.file_name().is_some_and(|last| last == name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_known_by_its_uuid_and_only_to_its_own_pool() {
        let names = Names::new(PoolId::random());
        let parts = [
            Part::Catalogue,
            Part::Metadata,
            Part::Data,
            Part::Pool,
            Part::Object(Object::Volume(VolumeId::random())),
            Part::Object(Object::Snapshot(SnapshotId::random())),
        ];
        for part in parts {
            let uuid = names.uuid(part).unwrap().to_string();
            assert_eq!(names.part_of(&uuid), Some(part));
            assert_eq!(Names::new(PoolId::random()).part_of(&uuid), None);
            assert!(names.name(part).unwrap().to_string().len() <= 84);
        }
        for text in ["", "LVM-abc", "WINDLASS-", "WINDLASS-windlass-x-pool"] {
            assert_eq!(names.part_of(text), None);
        }
    }

    #[test]
    fn a_bind_of_a_volumes_node_is_known_also_when_the_node_is_gone() {
        let (pool, volume) = (PoolId::random(), VolumeId::random());
        let name = |object| Names::new(pool).name(Part::Object(object)).unwrap();
        let (ours, other) = (name(Object::Volume(volume)), name(Object::Snapshot(SnapshotId::random())));
        for root in [format!("/windlass/{ours}"), format!("/windlass/{ours}//deleted"), format!("/{ours}")] {
            assert!(is_node_of(&root, &ours) && !is_node_of(&root, &other), "{root}");
        }
        let others = ["/", "/dm-3", "//deleted", "/windlass/windlass-x-v-y", "/pods/one//deleted"];
        for root in others.map(str::to_owned).into_iter().chain([format!("/windlass/{other}"), format!("/windlass/{ours}/x")]) {
            assert!(!is_node_of(&root, &ours), "{root}");
        }
    }
}
