//! The words every layer shares: ids, names, sizes, byte ranges, and what is said of a volume.
//!
//! Checked newtypes only. A value of one of these types has passed its check, wherever it came from (a request, the
//! catalogue, a repository), so the layers inside never check again. Imports nothing of ours and does no I/O.

pub mod bandwidth;
pub mod copies;
pub mod error;
pub mod export;
pub mod fs;
pub mod id;
pub mod kubernetes;
pub mod mount_options;
pub mod name;
pub mod poll;
pub mod pool_name;
pub mod protection;
pub mod range;
pub mod size;
pub mod span;
pub mod time;
pub mod volume;

pub use bandwidth::Bandwidth;
pub use copies::{
    Copies, ExportOrder, ExportOrderError, ExportPriority, ExportTask, LocalCopy, LocalCopyPolicy, Origin, RepositoryOrder,
    SnapshotExport, TaskState, VerificationOrder,
};
pub use export::ExportRecord;
pub use fs::FsType;
pub use id::{Object, PoolId, SnapshotHandle, SnapshotId, VolumeHandle, VolumeId};
pub use kubernetes::{KubernetesName, KubernetesNameError, KubernetesNames, NamespacedName};
pub use mount_options::ForbiddenOption;
pub use name::ObjectName;
pub use pool_name::{PoolName, PoolNameError};
pub use protection::{
    ProtectionError, ProtectionOrder, RestorePolicy, Retention, Schedule, ScheduleOrder, SecretTemplate, SecretTemplateError,
};
pub use range::{ByteRange, RangeStream};
pub use size::{CapacityRange, LogicalBlockSize, VolumeSize};
pub use time::Timestamp;
pub use volume::{Access, AccessMode, AnchorLimit, DataChecksum, FormatState, NewVolume, OnLoss, TargetContent, VolumeMode};
