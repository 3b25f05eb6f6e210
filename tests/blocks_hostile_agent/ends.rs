//! Agents and nodes that go away in the midst of something.

use super::*;

/// An agent goes away at every step of what it does. Dropping all clones of a client is, to the node, the same as its death.
#[test]
fn an_agent_that_goes_away_at_any_step_leaves_no_lease_no_half_volume_and_no_descriptor() {
    alone(async {
        let scene = Scene::new().await;
        let pool = scene.disks.pool_id();
        drop(scene.node.client().lease(scene.snapshot).await.unwrap());
        let before = Figures::now();
        for step in 0..8 {
            let (calls, agent) = (scene.calls(), scene.node.client());
            match step {
                0 => drop(lease(&calls, scene.snapshot).await.unwrap()),
                1 => drop(agent.lease(scene.snapshot).await.unwrap()),
                2 => {
                    // With a list that is open.
                    let lease: Arc<dyn SnapshotLease> = agent.lease(scene.snapshot).await.unwrap();
                    let ranges = lease.allocated().await.unwrap();
                    drop((agent, lease));
                    drop(ranges);
                }
                3 => drop(begin(&calls, pool, ("new", OnLoss::Delete)).await.unwrap()),
                4 => {
                    let TargetStart::Target(target) = agent.begin(pool, raw("new"), OnLoss::Delete).await.unwrap() else {
                        panic!()
                    };
                    target.file.write_all_at(&[1; 4096], 0).unwrap();
                    drop(agent);
                    // Its descriptor is closed later than its connection.
                    drop(target);
                }
                5 => {
                    // While the call runs.
                    let mut beginning = Box::pin(agent.begin(pool, raw("new"), OnLoss::Delete));
                    let _ = futures::poll!(&mut beginning);
                    drop(beginning);
                }
                6 => {
                    let TargetStart::Target(target) = agent.begin(pool, raw("new"), OnLoss::Delete).await.unwrap() else {
                        panic!()
                    };
                    let (volume, kept) = (target.volume, target);
                    let refused = agent.commit(volume, CommitName::AsBegun).await;
                    assert!(matches!(refused, Err(BlocksError::InUse(_))), "{refused:?}");
                    drop((agent, kept));
                }
                _ => {
                    let mut leasing = Box::pin(agent.lease(scene.snapshot));
                    let _ = futures::poll!(&mut leasing);
                    drop(leasing);
                }
            }
            scene.no_target_is_left().await;
            scene.is_free("new").await;
            assert_eq!(scene.disks.volumes().len(), 1, "step {step}");
        }
        before.again(KEPT).await;
        scene.is_as_it_was().await;
    });
}

#[test]
fn a_node_that_stops_lets_go_of_all_and_its_agent_is_told() {
    alone(async {
        let Scene { disks, node, snapshot, .. } = Scene::new().await;
        let agent = node.client();
        let lease = agent.lease(snapshot).await.unwrap();
        let TargetStart::Target(target) = agent.begin(disks.pool_id(), raw("new"), OnLoss::Delete).await.unwrap() else {
            panic!()
        };
        let volume = target.volume;
        drop(target);
        node.stop().await;
        assert_eq!((disks.targets(), disks.volumes().len()), (0, 1));
        disks.delete_snapshot(snapshot).unwrap();
        let lost = lease.allocated().await.map(drop);
        assert!(matches!(lost, Err(BlocksError::Unavailable(_))), "{lost:?}");
        for answer in [agent.commit(volume, CommitName::AsBegun).await, agent.abort(volume).await] {
            assert!(matches!(answer, Err(BlocksError::Unavailable(_))), "{answer:?}");
        }
        let states = agent.state().await;
        assert!(matches!(states.as_slice(), [windlass::blocks::PoolState::Failed { id: None, .. }]), "{states:?}");
        // What it holds it still reads.
        let mut bytes = [0; 4096];
        lease.file().read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [7; 4096]);
    });
}

#[test]
fn what_opened_a_target_is_of_no_use_once_that_is_kept_or_somebody_else_has_it() {
    alone(async {
        let scene = Scene::new().await;
        let pool = scene.disks.pool_id();
        drop(scene.node.client().lease(scene.snapshot).await.unwrap());
        let before = Figures::now();
        let mut calls = scene.calls();
        let (first, stream) = begin(&calls, pool, ("new", OnLoss::Keep)).await.unwrap();
        let file = File::from(scene.fetch(&first.descriptor_token).unwrap());
        file.write_all_at(&[5; 4096], 0).unwrap();
        drop((stream, file));
        scene.one_is_kept().await;
        for is_held in [false, true] {
            let held = match is_held {
                true => Some(begin_with_content(&calls, pool, ("new", OnLoss::Keep)).await.unwrap()),
                false => None,
            };
            assert!(is_refused(&scene.fetch(&first.descriptor_token)), "{is_held}");
            assert_eq!(calls.commit_target(commit(&first)).await.unwrap_err().code(), Code::NotFound, "{is_held}");
            let abort = proto::AbortTargetRequest { target_id: first.target_id.clone(), volume_id: first.volume_id.clone() };
            calls.abort_target(abort).await.unwrap();
            assert_eq!((scene.disks.targets(), scene.disks.kept()), if is_held { (1, 0) } else { (0, 1) });
            if let Some((second, content, stream)) = held {
                assert_eq!((&second.volume_id, content), (&first.volume_id, TargetContent::Partial));
                assert!(second.target_id != first.target_id && second.descriptor_token != first.descriptor_token);
                drop(stream);
            }
        }
        scene.one_is_kept().await;
        scene.disks.pass(OnLoss::KEPT_FOR);
        assert_eq!(scene.disks.kept(), 0);
        drop(calls);
        before.again(KEPT).await;
        scene.is_as_it_was().await;
    });
}

#[test]
fn a_target_that_is_kept_from_somebody_who_writes_to_it_is_deleted_in_the_end() {
    alone(async {
        let scene = Scene::new().await;
        let (target, stream) = begin(&scene.calls(), scene.disks.pool_id(), ("new", OnLoss::Keep)).await.unwrap();
        let file = File::from(scene.fetch(&target.descriptor_token).unwrap());
        drop(stream);
        scene.no_target_is_left().await;
        assert_eq!(scene.disks.kept(), 0);
        drop(file);
        scene.is_as_it_was().await;
    });
}
