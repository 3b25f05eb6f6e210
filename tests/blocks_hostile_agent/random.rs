//! Calls of every kind with whatever in them.

use super::*;

/// A text: nonsense, a path, or nearly what is right.
fn text(random: &mut StdRng, right: &str) -> String {
    match random.random_range(0..8) {
        0 => String::new(),
        1 => "/etc/passwd".to_owned(),
        2 => "../../../../dev/mem".to_owned(),
        3 => (0..random.random_range(0..300)).map(|_| random.random::<char>()).collect(),
        4 => format!("{right}\0"),
        5 => right.to_uppercase(),
        6 => {
            let at = random.random_range(0..=right.len());
            right.chars().enumerate().map(|(place, letter)| if place == at { 'x' } else { letter }).collect()
        }
        _ => right.to_owned(),
    }
}

fn bytes(random: &mut StdRng) -> Vec<u8> {
    let length = [0, 1, 31, 32, 32, 32, 33, 1000][random.random_range(0..8)];
    (0..length).map(|_| random.random()).collect()
}

/// One call with any fields; whether it was answered well.
async fn any_call(scene: &Scene, mut calls: Calls<Channel>, random: &mut StdRng) -> bool {
    let snapshot_id = text(random, &scene.snapshot.to_string());
    let volume_id = text(random, &scene.volume.to_string());
    let pool_id = text(random, &scene.disks.pool_id().to_string());
    match random.random_range(0..12) {
        0 => calls.find_pool(proto::FindPoolRequest { pool: pool_id }).await.is_ok(),
        1 => calls.find_volume(proto::FindVolumeRequest { name: text(random, "data") }).await.is_ok(),
        2 => calls.find_snapshot(proto::FindSnapshotRequest { name: text(random, "cut") }).await.is_ok(),
        3 => calls.lease_snapshot(proto::LeaseSnapshotRequest { snapshot_id }).await.is_ok(),
        4 => calls.list_allocated(proto::ListAllocatedRequest { lease_id: bytes(random) }).await.is_ok(),
        5 => calls.list_changed(proto::ListChangedRequest { lease_id: bytes(random), base_id: snapshot_id }).await.is_ok(),
        6 => {
            let volume = proto::NewVolume {
                name: text(random, "new"),
                required_bytes: random.random_range(0..8 * MIB),
                limit_bytes: random.random(),
                minimum_bytes: [0, 1, 4096, u64::MAX][random.random_range(0..4)],
                mode: text(random, "block"),
                access_modes: vec![text(random, "SINGLE_NODE_WRITER")],
                mount_flags: vec![text(random, "noatime")],
                parameters: [(text(random, "logicalBlockSize"), text(random, "4096"))].into(),
                checksum: random.random(),
                source_snapshot_id: text(random, ""),
                kubernetes: None,
            };
            // Of one that was kept there would be something left.
            let on_loss = [0, 1, 7, -1, i32::MAX][random.random_range(0..5)];
            calls.begin_target(proto::BeginTargetRequest { pool_id, volume: Some(volume), on_loss }).await.is_ok()
        }
        7 => {
            let (target_id, name) = (bytes(random), text(random, "taken"));
            let request = proto::CommitTargetRequest { target_id, volume_id, name, unformatted: random.random() };
            let committed = calls.commit_target(request).await.is_ok();
            assert!(!committed, "a target that is nobody's was committed");
            false
        }
        8 => calls.abort_target(proto::AbortTargetRequest { target_id: bytes(random), volume_id }).await.is_ok(),
        9 => {
            let record = proto::ExportRecord {
                repository: text(random, &"ab".repeat(32)),
                volume: text(random, &scene.volume.volume.to_string()),
                snapshot: text(random, &SnapshotId::random().to_string()),
                repository_snapshot: text(random, &"cd".repeat(32)),
                size_bytes: random.random(),
                chunk_bytes: random.random(),
                finished: None,
            };
            calls.put_export(proto::PutExportRequest { pool_id, record: Some(record) }).await.is_ok()
        }
        10 => {
            let request = proto::GetLastExportRequest { volume_id, repository: text(random, &"ab".repeat(32)) };
            calls.get_last_export(request).await.is_ok()
        }
        _ => {
            let request = proto::GetUsageRequest { pool_id, after: None, limit: random.random() };
            calls.get_usage(request).await.is_ok()
        }
    }
}

#[test]
fn whatever_is_sent_reaches_nothing_and_leaves_nothing() {
    alone(async {
        const CALLS: usize = 4000;
        const PACKETS: usize = 2000;
        let scene = Scene::new().await;
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        // What is there only after the first calls belongs to the node.
        for _ in 0..100 {
            any_call(&scene, scene.calls(), &mut random).await;
        }
        scene.no_target_is_left().await;
        let before = Figures::now();
        let (calls, mut well) = (scene.calls(), 0);
        for _ in 0..CALLS {
            well += usize::from(any_call(&scene, calls.clone(), &mut random).await);
        }
        assert!(well > CALLS / 100 && well < CALLS, "{well} of {CALLS} were answered well: this tests nothing");
        // Bytes that are no HTTP/2, and packets that are no tokens.
        for _ in 0..PACKETS / 10 {
            let mut stream = UnixStream::connect(scene.node.call_socket()).unwrap();
            let garbage: Vec<u8> = (0..random.random_range(1..2000)).map(|_| random.random()).collect();
            let _ = stream.write_all(&garbage);
        }
        for _ in 0..PACKETS {
            let Some(client) = connect_to(&scene.node.descriptor_socket()) else { continue };
            for _ in 0..random.random_range(0..4) {
                let packet: Vec<u8> = (0..random.random_range(1..200)).map(|_| random.random()).collect();
                let own = [client.as_raw_fd()];
                let rights = [ControlMessage::ScmRights(&own)];
                let rights = if random.random() { &rights[..] } else { &[] };
                let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
                let _ = sendmsg::<()>(client.as_raw_fd(), &[std::io::IoSlice::new(&packet)], rights, flags, None);
            }
        }
        drop(calls);
        scene.no_target_is_left().await;
        before.again(KEPT).await;
        scene.is_as_it_was().await;
    });
}
