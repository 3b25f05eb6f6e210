//! Where the bytes of snapshots are, and the exports that were asked for.

use crate::types::{Copies, ExportOrder, PoolId, SnapshotHandle, SnapshotId};

/// A snapshot with all that is known of where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotCopies {
    /// The snapshot.
    pub snapshot: SnapshotHandle,
    /// What its class asks for; `None` when its snapshots stay in the pool.
    pub order: Option<ExportOrder>,
    /// Where its bytes are, and where they are going.
    pub copies: Copies,
}

impl SnapshotCopies {
    /// Whether an export was asked for and is not complete.
    pub fn is_to_be_exported(&self) -> bool {
        self.order.is_some() && !self.copies.is_task_finished()
    }
}

/// A page of the snapshots of one pool whose class asks for an export, or that have a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskQuery {
    /// The pool.
    pub pool: PoolId,
    /// Snapshots that come after this one, in ascending order; from the first one without.
    pub after: Option<SnapshotId>,
    /// At most so many, and at most [`TaskQuery::MAX`].
    pub limit: usize,
}

impl TaskQuery {
    /// Snapshots of a page at most: each may carry a kilobyte of what went wrong.
    pub const MAX: usize = 256;

    /// The page of these snapshots, which ascend.
    pub fn select(&self, snapshots: impl IntoIterator<Item = SnapshotCopies>) -> TaskPage {
        let limit = self.limit.clamp(1, Self::MAX);
        let is_asked_for = |known: &SnapshotCopies| {
            let has_task = known.order.is_some() || known.copies.task.is_some();
            has_task && self.after.is_none_or(|after| known.snapshot.snapshot > after)
        };
        let mut rest = snapshots.into_iter().filter(is_asked_for);
        let tasks: Vec<SnapshotCopies> = rest.by_ref().take(limit).collect();
        let next = rest.next().and_then(|_| tasks.last().map(|last| last.snapshot.snapshot));
        TaskPage { tasks, next }
    }
}

/// Answer to a [`TaskQuery`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskPage {
    /// Snapshots, ascending.
    pub tasks: Vec<SnapshotCopies>,
    /// What to ask for next; `None` at the end.
    pub next: Option<SnapshotId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ExportTask, Timestamp};

    #[test]
    fn pages_hold_every_snapshot_with_a_task_once_and_no_other() {
        let pool = PoolId::random();
        let mut all: Vec<SnapshotCopies> = (0..20)
            .map(|number| {
                let task = (number % 2 == 0).then(|| ExportTask::new("s3:host/bucket".to_owned(), Timestamp::now()));
                let snapshot = SnapshotHandle { pool, snapshot: SnapshotId::random() };
                SnapshotCopies { snapshot, order: None, copies: Copies { task, ..Copies::default() } }
            })
            .collect();
        all.sort_unstable_by_key(|known| known.snapshot.snapshot);
        let with_task: Vec<SnapshotCopies> = all.iter().filter(|known| known.copies.task.is_some()).cloned().collect();
        for limit in [0, 1, 3, 10, 1000] {
            let (mut query, mut seen) = (TaskQuery { pool, after: None, limit }, Vec::new());
            loop {
                let page = query.select(all.clone());
                assert!(page.tasks.len() <= limit.max(1));
                seen.extend(page.tasks);
                let Some(next) = page.next else { break };
                query.after = Some(next);
            }
            assert_eq!(seen, with_task, "limit {limit}");
        }
    }
}
