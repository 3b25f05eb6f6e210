//! How much one client may hold, and hold up.

use super::*;

#[test]
fn silent_connections_by_the_thousand_hold_up_nobody_and_cost_nothing_that_lasts() {
    alone(async {
        const SILENT: usize = 3000;
        let scene = Scene::new().await;
        let agent = scene.node.client();
        drop(agent.lease(scene.snapshot).await.unwrap());
        let before = Figures::now();
        let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard.min(8192), hard).unwrap();
        let silent: Vec<OwnedFd> = (0..SILENT).filter_map(|_| connect_to(&scene.node.descriptor_socket())).collect();
        assert!(silent.len() > 1000, "only {} could connect", silent.len());
        let calling: Vec<UnixStream> = (0..200).map(|_| UnixStream::connect(scene.node.call_socket()).unwrap()).collect();
        // The agent is served meanwhile.
        let lease = agent.lease(scene.snapshot).await.unwrap();
        let mut bytes = [0; 4096];
        lease.file().read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [7; 4096]);
        // Of those that say nothing the node holds few.
        let most = before.descriptors + silent.len() + 2 * calling.len() + 100;
        assert!(Figures::now().descriptors < most, "{:?}, {before:?}, {} are silent", Figures::now(), silent.len());
        drop((silent, calling, lease));
        before.again(KEPT).await;
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        drop(agent);
        scene.is_as_it_was().await;
    });
}

/// Holds leases and targets until it is refused more, all by one connection, and reads nothing of them. Returns how many it held.
async fn hold_until_refused(scene: &Scene, round: usize) -> usize {
    let calls = scene.calls();
    let mut held = Vec::new();
    let mut number = 0;
    let refused = loop {
        assert!(number < 1000, "there is no bound");
        match number % 2 {
            0 => match lease(&calls, scene.snapshot).await {
                Ok((_, stream)) => held.push(Box::new(stream) as Box<dyn std::any::Any + Send>),
                Err(status) => break status,
            },
            // A name is free only a moment after its target is none any more, so each round has its own.
            _ => match begin(&calls, scene.disks.pool_id(), (&format!("target {round} {number}"), OnLoss::Delete)).await {
                Ok((_, stream)) => held.push(Box::new(stream)),
                Err(status) => break status,
            },
        }
        number += 1;
    };
    assert_eq!(refused.code(), Code::Unavailable, "{refused} in round {round}");
    held.len()
}

#[test]
fn what_one_holds_is_bounded_and_comes_back_when_its_connection_ends() {
    alone(async {
        let scene = Arc::new(Scene::new().await);
        drop(scene.node.client().lease(scene.snapshot).await.unwrap());
        scene.no_target_is_left().await;
        let before = Figures::now();
        for round in 0..3 {
            // With the agent's runtime its connection is gone, whatever its library would have done with it.
            let agent = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let its_scene = Arc::clone(&scene);
            let held = agent.spawn(async move { hold_until_refused(&its_scene, round).await }).await.unwrap();
            assert!(held >= 16, "only {held} in round {round}");
            agent.shutdown_background();
            scene.no_target_is_left().await;
        }
        before.again(KEPT).await;
        scene.is_as_it_was().await;
    });
}
