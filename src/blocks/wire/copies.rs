//! Where the bytes of snapshots are, and the exports that were asked for.

use csi_proto::windlass::v1 as proto;

use super::export::repository_id;
use super::{FieldError, handle, object_id, pool_id, size, timestamp, timestamp_message};
use crate::blocks::{SnapshotCopies, TaskPage, TaskQuery};
use crate::types::{Copies, ExportOrder, ExportTask, LocalCopy, SnapshotExport, TaskState};

/// Longest location of a repository: more than a host's name, a bucket's and a key of an object take together.
const MAX_LOCATION_BYTES: usize = 2048;

const PENDING: &str = "pending";
const RUNNING: &str = "running";
const FAILED: &str = "failed";
const FINISHED: &str = "finished";

/// What a message says of a snapshot.
///
/// # Errors
/// [`FieldError`].
pub fn read(message: Option<proto::SnapshotCopies>) -> Result<SnapshotCopies, FieldError> {
    let message = message.ok_or_else(|| FieldError::new("copies", "is required"))?;
    let order = ExportOrder::parse(&message.export_order.into_iter().collect());
    Ok(SnapshotCopies {
        snapshot: handle("copies.snapshot_id", &message.snapshot_id)?,
        order: order.map_err(|error| FieldError::new("copies.export_order", error.to_string()))?,
        copies: Copies {
            local: if message.is_given_up { LocalCopy::GivenUp } else { LocalCopy::Kept },
            exports: message.exports.into_iter().map(read_export).collect::<Result<_, _>>()?,
            task: message.task.map(|task| read_task(Some(task))).transpose()?,
        },
    })
}

/// The message of what is known of a snapshot.
pub fn message(known: SnapshotCopies) -> proto::SnapshotCopies {
    let order = known.order.map(|order| order.parameters()).unwrap_or_default();
    proto::SnapshotCopies {
        snapshot_id: known.snapshot.to_string(),
        export_order: order.into_iter().collect(),
        is_given_up: known.copies.local == LocalCopy::GivenUp,
        exports: known.copies.exports.into_iter().map(export_message).collect(),
        task: known.copies.task.map(task_message),
    }
}

/// The task of a message.
///
/// # Errors
/// [`FieldError`].
pub fn read_task(message: Option<proto::ExportTask>) -> Result<ExportTask, FieldError> {
    let message = message.ok_or_else(|| FieldError::new("task", "is required"))?;
    if message.location.is_empty() || message.location.len() > MAX_LOCATION_BYTES {
        return Err(FieldError::new("task.location", format!("must have 1 to {MAX_LOCATION_BYTES} bytes")));
    }
    Ok(ExportTask {
        location: message.location,
        repository: match message.repository.as_str() {
            "" => None,
            _ => Some(repository_id("task.repository", message.repository)?),
        },
        state: match message.state.as_str() {
            PENDING => TaskState::Pending,
            RUNNING => TaskState::Running,
            FAILED => TaskState::failed(&message.reason, timestamp("task.failed", message.failed)?),
            FINISHED => TaskState::Finished,
            _ => return Err(FieldError::new("task.state", "must be a state of a task")),
        },
        asked: timestamp("task.asked", message.asked)?,
        attempts: message.attempts,
        stored_bytes: message.stored_bytes,
    })
}

/// The message of a task.
pub fn task_message(task: ExportTask) -> proto::ExportTask {
    let (state, reason, failed) = match task.state {
        TaskState::Pending => (PENDING, String::new(), None),
        TaskState::Running => (RUNNING, String::new(), None),
        TaskState::Failed { reason, at } => (FAILED, reason, Some(timestamp_message(at))),
        TaskState::Finished => (FINISHED, String::new(), None),
    };
    proto::ExportTask {
        location: task.location,
        repository: task.repository.unwrap_or_default(),
        state: state.to_owned(),
        reason,
        failed,
        asked: Some(timestamp_message(task.asked)),
        attempts: task.attempts,
        stored_bytes: task.stored_bytes,
    }
}

/// The query of a message. A limit beyond what there may be is the most that may be.
///
/// # Errors
/// [`FieldError`].
pub fn read_query(message: &proto::ListTasksRequest) -> Result<TaskQuery, FieldError> {
    Ok(TaskQuery {
        pool: pool_id("pool_id", &message.pool_id)?,
        after: read_id("after", &message.after)?,
        limit: usize::try_from(message.limit).unwrap_or(usize::MAX).min(TaskQuery::MAX),
    })
}

/// The message of a query.
pub fn query_message(query: &TaskQuery) -> proto::ListTasksRequest {
    proto::ListTasksRequest {
        pool_id: query.pool.to_string(),
        after: query.after.map(|after| after.to_string()).unwrap_or_default(),
        limit: u32::try_from(query.limit.min(TaskQuery::MAX)).unwrap_or(u32::MAX),
    }
}

/// The page of a message.
///
/// # Errors
/// [`FieldError`].
pub fn read_page(message: proto::ListTasksResponse) -> Result<TaskPage, FieldError> {
    Ok(TaskPage {
        tasks: message.tasks.into_iter().map(|known| read(Some(known))).collect::<Result<_, _>>()?,
        next: read_id("next", &message.next)?,
    })
}

/// The message of a page.
pub fn page_message(page: TaskPage) -> proto::ListTasksResponse {
    let next = page.next.map(|next| next.to_string()).unwrap_or_default();
    proto::ListTasksResponse { tasks: page.tasks.into_iter().map(message).collect(), next }
}

fn read_id(field: &'static str, text: &str) -> Result<Option<crate::types::SnapshotId>, FieldError> {
    if text.is_empty() { Ok(None) } else { object_id(field, text).map(Some) }
}

fn read_export(message: proto::SnapshotExport) -> Result<SnapshotExport, FieldError> {
    Ok(SnapshotExport {
        repository: repository_id("copies.exports.repository", message.repository)?,
        repository_snapshot: repository_id("copies.exports.repository_snapshot", message.repository_snapshot)?,
        size: size("copies.exports.size_bytes", message.size_bytes)?,
        finished: timestamp("copies.exports.finished", message.finished)?,
    })
}

fn export_message(export: SnapshotExport) -> proto::SnapshotExport {
    proto::SnapshotExport {
        repository: export.repository,
        repository_snapshot: export.repository_snapshot,
        size_bytes: export.size.bytes(),
        finished: Some(timestamp_message(export.finished)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{
        Bandwidth, ExportPriority, LocalCopyPolicy, Origin, PoolId, RepositoryOrder, SnapshotHandle, SnapshotId, Timestamp,
        VerificationOrder, VolumeSize,
    };

    fn task(state: TaskState) -> ExportTask {
        let new = ExportTask::new("s3:https://host/bucket".to_owned(), Timestamp::now());
        ExportTask { repository: Some("ab".repeat(32)), state, attempts: 3, stored_bytes: 9, ..new }
    }

    #[test]
    fn what_is_known_of_a_snapshot_reads_back() {
        let snapshot = SnapshotHandle { pool: PoolId::random(), snapshot: SnapshotId::random() };
        let order = ExportOrder {
            repository: RepositoryOrder::CreateIfMissing,
            local_copy: LocalCopyPolicy::Drop,
            chunk_bytes: Some(1 << 20),
            verification: Some(VerificationOrder::Skip),
            origin: Origin::Protection,
            bandwidth: Bandwidth::new(20 << 20),
            priority: ExportPriority::High,
        };
        let export = SnapshotExport {
            repository: "ab".repeat(32),
            repository_snapshot: "cd".repeat(32),
            size: VolumeSize::DEFAULT,
            finished: Timestamp::now(),
        };
        let states =
            [TaskState::Pending, TaskState::Running, TaskState::failed("so it is", Timestamp::now()), TaskState::Finished];
        for state in states {
            let copies = Copies { local: LocalCopy::GivenUp, exports: vec![export.clone()], task: Some(task(state)) };
            let known = SnapshotCopies { snapshot, order: Some(order), copies };
            assert_eq!(read(Some(message(known.clone()))), Ok(known.clone()));
            let page = TaskPage { tasks: vec![known], next: Some(snapshot.snapshot) };
            assert_eq!(read_page(page_message(page.clone())), Ok(page));
        }
        let plain = SnapshotCopies { snapshot, order: None, copies: Copies::default() };
        assert_eq!(read(Some(message(plain.clone()))), Ok(plain));
        let query = TaskQuery { pool: snapshot.pool, after: Some(snapshot.snapshot), limit: 3 };
        assert_eq!(read_query(&query_message(&query)), Ok(query));
    }

    #[test]
    fn what_no_task_can_be_is_refused_by_its_field() {
        let good = || task_message(task(TaskState::Running));
        for (field, wrong) in [
            ("task.location", proto::ExportTask { location: String::new(), ..good() }),
            ("task.location", proto::ExportTask { location: "a".repeat(MAX_LOCATION_BYTES + 1), ..good() }),
            ("task.repository", proto::ExportTask { repository: "/etc/passwd".to_owned(), ..good() }),
            ("task.state", proto::ExportTask { state: "done".to_owned(), ..good() }),
            ("task.failed", proto::ExportTask { state: FAILED.to_owned(), ..good() }),
            ("task.asked", proto::ExportTask { asked: None, ..good() }),
        ] {
            assert_eq!(read_task(Some(wrong)).unwrap_err().field, field);
        }
        let asked = proto::ListTasksRequest { pool_id: PoolId::random().to_string(), after: String::new(), limit: u32::MAX };
        assert_eq!(read_query(&asked).unwrap().limit, TaskQuery::MAX);
    }
}
