//! Lists that nobody reads.

use super::*;

/// A node with one snapshot that has more ranges than anybody reads, and nothing else.
struct Fragmented(Arc<dyn SnapshotLease>);

/// The snapshot.
struct Fragments {
    record: LeasedSnapshot,
    file: File,
}

fn nothing_else<T>() -> Result<T, BlocksError> {
    Err(BlocksError::Unsupported("this node has a snapshot and nothing else".to_owned()))
}

#[async_trait::async_trait]
impl SnapshotLease for Fragments {
    fn snapshot(&self) -> &LeasedSnapshot {
        &self.record
    }

    fn file(&self) -> &File {
        &self.file
    }

    async fn allocated(&self) -> Result<RangeStream, BlocksError> {
        let last = self.record.size.bytes() / 8192;
        Ok(Box::new((0..last).map(|at| Ok(ByteRange::new(at * 8192, 4096).unwrap()))))
    }

    async fn changed_since(&self, _base: SnapshotId) -> Result<RangeStream, BlocksError> {
        self.allocated().await
    }
}

#[async_trait::async_trait]
impl Blocks for Fragmented {
    async fn state(&self) -> Vec<PoolState> {
        Vec::new()
    }

    async fn pool(&self, _wanted: &str) -> Result<OpenPool, BlocksError> {
        nothing_else()
    }

    async fn find_volume(&self, _name: &ObjectName) -> Result<Option<VolumeHandle>, BlocksError> {
        nothing_else()
    }

    async fn find_snapshot(&self, _name: &ObjectName) -> Result<Option<SnapshotHandle>, BlocksError> {
        nothing_else()
    }

    async fn lease(&self, _snapshot: SnapshotHandle) -> Result<Arc<dyn SnapshotLease>, BlocksError> {
        Ok(Arc::clone(&self.0))
    }

    async fn begin(&self, _pool: PoolId, _volume: NewVolume, _on_loss: OnLoss) -> Result<TargetStart, BlocksError> {
        nothing_else()
    }

    async fn commit(&self, _volume: VolumeHandle, _name: CommitName) -> Result<(), BlocksError> {
        nothing_else()
    }

    async fn abort(&self, _volume: VolumeHandle) -> Result<(), BlocksError> {
        nothing_else()
    }

    async fn let_go(&self, _volume: VolumeHandle) -> Result<(), BlocksError> {
        nothing_else()
    }

    async fn put_export(&self, _pool: PoolId, _record: ExportRecord) -> Result<(), BlocksError> {
        nothing_else()
    }

    async fn last_export(&self, _volume: VolumeHandle, _repository: &str) -> Result<Option<ExportRecord>, BlocksError> {
        nothing_else()
    }

    async fn copies(&self, _snapshot: SnapshotHandle) -> Result<SnapshotCopies, BlocksError> {
        nothing_else()
    }

    async fn put_task(&self, _snapshot: SnapshotHandle, _task: ExportTask) -> Result<(), BlocksError> {
        nothing_else()
    }

    async fn tasks(&self, _query: TaskQuery) -> Result<TaskPage, BlocksError> {
        nothing_else()
    }

    async fn protected(&self, _query: ProtectionQuery) -> Result<ProtectionPage, BlocksError> {
        nothing_else()
    }

    async fn give_up_local_copy(&self, _snapshot: SnapshotHandle) -> Result<(), BlocksError> {
        nothing_else()
    }

    async fn usage(&self, _query: UsageQuery) -> Result<UsagePage, BlocksError> {
        nothing_else()
    }
}

#[test]
fn lists_that_nobody_reads_are_few_and_end_with_their_lease() {
    alone(async {
        let (pool, size) = (PoolId::random(), VolumeSize::MAX);
        let handle = SnapshotHandle { pool, snapshot: SnapshotId::random() };
        let record = LeasedSnapshot {
            handle,
            source: VolumeHandle { pool, volume: VolumeId::random() },
            size,
            logical_block_size: LogicalBlockSize::B4096,
            mode: VolumeMode::Block,
            is_unformatted: false,
            created: Timestamp::now(),
            kubernetes: Default::default(),
        };
        let snapshot: Arc<dyn SnapshotLease> = Arc::new(Fragments { record, file: tempfile::tempfile().unwrap() });
        let node = ServedBlocks::over(Arc::new(Fragmented(Arc::clone(&snapshot))));
        let unheld = Arc::strong_count(&snapshot);
        let calls = Calls::new(node.channel());
        let (held, stream) = lease(&calls, handle).await.unwrap();
        let before = Figures::now();
        let mut lists = Vec::new();
        let refused = loop {
            assert!(lists.len() < 100, "there is no bound");
            let request = proto::ListAllocatedRequest { lease_id: held.lease_id.clone() };
            match calls.clone().list_allocated(request).await {
                Ok(list) => lists.push(list.into_inner()),
                Err(status) => break status,
            }
        };
        assert_eq!(refused.code(), Code::Aborted, "{refused}");
        // Unread, they leave room for every other call of the connection; one that is read goes on where it was.
        let others = async {
            for _ in 0..100 {
                calls.clone().get_pools(proto::GetPoolsRequest {}).await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(60), others).await.expect("the unread lists take all the room");
        let message = lists[0].message().await.unwrap().unwrap();
        assert!(!message.ranges.is_empty() && !message.is_last);
        assert!(Figures::now().resident_bytes < before.resident_bytes + KEPT, "what is not read is not made");
        drop(stream);
        let patience = Patience { limit: Duration::from_secs(30), every: Duration::from_millis(5) };
        let let_go = move || poll::until(patience, || Ok::<_, ()>((Arc::strong_count(&snapshot) == unheld).then_some(())));
        assert_eq!(tokio::task::spawn_blocking(let_go).await.unwrap(), Ok(Some(())), "the lease is still held");
        // None of them ends as if it were complete.
        for mut list in lists {
            let end = loop {
                match list.message().await {
                    Ok(Some(message)) => assert!(!message.is_last),
                    end => break end,
                }
            };
            assert_eq!(end.unwrap_err().code(), Code::Unavailable);
        }
    });
}
