//! Where the bytes of snapshots are.

use windlass::blocks::{BlocksError, TaskQuery, UsageQuery};
use windlass::types::{ExportTask, LocalCopy, Object, PoolId, SnapshotHandle, SnapshotId, TaskState, Timestamp};

use crate::{all, forms, raw, record};

fn running() -> ExportTask {
    let task = ExportTask::new("s3:https://host/bucket".to_owned(), Timestamp::now());
    ExportTask { repository: Some("ab".repeat(32)), state: TaskState::Running, attempts: 1, ..task }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_recorded_until_an_export_to_its_repository_ends_it() {
    for (form, disks) in forms() {
        let blocks = disks.blocks();
        let volume = disks.create(&raw("data"), &[(0, &[1; 4096])]).await;
        let (first, second) = (disks.cut("first", volume), disks.cut("second", volume));
        assert!(blocks.copies(first).await.unwrap().copies.is_local_only(), "{form}");
        let query = TaskQuery { pool: disks.pool_id(), after: None, limit: 10 };
        assert_eq!(blocks.tasks(query).await.unwrap().tasks, [], "{form}");

        blocks.put_task(first, running()).await.unwrap();
        let known = blocks.copies(first).await.unwrap();
        assert_eq!(known.copies.task.as_ref().unwrap().state, TaskState::Running, "{form}");
        assert_eq!(blocks.tasks(query).await.unwrap().tasks, [known], "{form}");

        blocks.put_export(disks.pool_id(), record(volume, first)).await.unwrap();
        let known = blocks.copies(first).await.unwrap();
        assert!(known.copies.is_task_finished() && known.copies.local == LocalCopy::Kept, "{form}: {known:?}");
        assert_eq!(known.copies.exports[0].repository_snapshot, "cd".repeat(32), "{form}");
        assert!(blocks.copies(second).await.unwrap().copies.is_local_only(), "{form}: another snapshot was exported");
        disks.delete_snapshot(first).unwrap();
        assert!(matches!(blocks.copies(first).await, Err(BlocksError::Missing(_))), "{form}");
        assert!(matches!(blocks.put_task(first, running()).await, Err(BlocksError::Missing(_))), "{form}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_copy_is_given_up_only_when_a_repository_holds_it_and_stays_the_base_of_the_next_export() {
    for (form, disks) in forms() {
        let blocks = disks.blocks();
        let volume = disks.create(&raw("data"), &[(0, &[1; 4096])]).await;
        let (first, second) = (disks.cut("first", volume), disks.cut("second", volume));
        let only = blocks.give_up_local_copy(first).await;
        assert!(matches!(only, Err(BlocksError::Unsupported(_))), "{form}: {only:?}");
        blocks.put_export(disks.pool_id(), record(volume, first)).await.unwrap();
        let lease = blocks.lease(first).await.unwrap();
        let leased = blocks.give_up_local_copy(first).await;
        assert!(matches!(leased, Err(BlocksError::InUse(_))), "{form}: {leased:?}");
        drop(lease);
        // Whoever held it by a wire lets go a moment later.
        let begun = std::time::Instant::now();
        while let Err(error) = blocks.give_up_local_copy(first).await {
            let is_held = matches!(error, BlocksError::InUse(_) | BlocksError::Busy(_));
            assert!(is_held && begun.elapsed().as_secs() < 30, "{form}: {error}");
        }
        blocks.give_up_local_copy(first).await.unwrap();
        assert_eq!(blocks.copies(first).await.unwrap().copies.local, LocalCopy::GivenUp, "{form}");
        let Err(BlocksError::Unsupported(text)) = blocks.lease(first).await.map(drop) else { panic!("{form}: it is leased") };
        assert!(text.contains("restore it from the repository"), "{form}: {text}");
        let page = blocks.usage(UsageQuery { pool: disks.pool_id(), after: None, limit: 10 }).await.unwrap();
        let usage = page.objects.iter().find(|usage| usage.object == Object::Snapshot(first.snapshot)).unwrap();
        assert_eq!((usage.allocated, usage.exclusive), (0, 0), "{form}");
        let changed = blocks.lease(second).await.unwrap().changed_since(first.snapshot).await;
        assert_eq!(all(changed).await, [], "{form}: nothing was written between the two");
        disks.delete_snapshot(first).unwrap();
        assert!(matches!(blocks.give_up_local_copy(first).await, Err(BlocksError::Missing(_))), "{form}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_pool_that_is_not_here_nothing_is_said() {
    for (form, disks) in forms() {
        let blocks = disks.blocks();
        let snapshot = SnapshotHandle { pool: PoolId::random(), snapshot: SnapshotId::random() };
        let answers = [
            blocks.copies(snapshot).await.map(drop),
            blocks.put_task(snapshot, running()).await,
            blocks.tasks(TaskQuery { pool: snapshot.pool, after: None, limit: 1 }).await.map(drop),
            blocks.give_up_local_copy(snapshot).await,
        ];
        for (verb, answer) in answers.into_iter().enumerate() {
            assert!(matches!(&answer, Err(BlocksError::Unavailable(_))), "{form}, verb {verb}: {answer:?}");
        }
    }
}
