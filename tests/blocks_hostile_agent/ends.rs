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
                3 => drop(begin(&calls, pool, "new").await.unwrap()),
                4 => {
                    let TargetStart::Target(target) = agent.begin(pool, raw("new")).await.unwrap() else { panic!() };
                    target.file.write_all_at(&[1; 4096], 0).unwrap();
                    drop(agent);
                    // Its descriptor is closed later than its connection.
                    drop(target);
                }
                5 => {
                    // While the call runs.
                    let mut beginning = Box::pin(agent.begin(pool, raw("new")));
                    let _ = futures::poll!(&mut beginning);
                    drop(beginning);
                }
                6 => {
                    let TargetStart::Target(target) = agent.begin(pool, raw("new")).await.unwrap() else { panic!() };
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
        let TargetStart::Target(target) = agent.begin(disks.pool_id(), raw("new")).await.unwrap() else { panic!() };
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
