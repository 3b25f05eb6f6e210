//! The words every layer shares: ids, names, sizes and byte ranges.
//!
//! Checked newtypes only. A value of one of these types has passed its check, wherever it came from (a request, the
//! catalogue, a repository), so the layers inside never check again. Imports nothing of ours and does no I/O.

pub mod fs;
pub mod id;
pub mod name;
pub mod range;
pub mod size;
pub mod time;

pub use fs::FsType;
pub use id::{Object, PoolId, SnapshotHandle, SnapshotId, VolumeHandle, VolumeId};
pub use name::ObjectName;
pub use range::{ByteRange, RangeStream};
pub use size::{CapacityRange, LogicalBlockSize, VolumeSize};
pub use time::Timestamp;
