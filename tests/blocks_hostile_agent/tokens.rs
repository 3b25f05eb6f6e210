//! What a token and a target are worth, and to whom.

use super::*;

#[test]
fn a_token_is_worth_one_descriptor_and_any_other_none() {
    alone(async {
        let scene = Scene::new().await;
        let calls = scene.calls();
        let (held, stream) = lease(&calls, scene.snapshot).await.unwrap();
        let file = File::from(scene.fetch(&held.descriptor_token).unwrap());
        let mut bytes = [0; 4096];
        file.read_exact_at(&mut bytes, 2 * MIB).unwrap();
        assert_eq!(bytes, [9; 4096]);
        assert!(file.write_all_at(b"x", 0).is_err() && file.set_len(0).is_err(), "it is for reading only");
        assert!(is_refused(&scene.fetch(&held.descriptor_token)), "it was used");
        assert!(is_refused(&scene.fetch(&held.lease_id)), "another secret is no token");
        assert!(is_refused(&scene.fetch(&[0; Secret::BYTES])));
        // One that was not used before the lease ended.
        let (unused, second) = lease(&calls, scene.snapshot).await.unwrap();
        drop((stream, second, file));
        delete_when_let_go(&scene.disks, scene.snapshot).await;
        assert!(is_refused(&scene.fetch(&unused.descriptor_token)));
        // A lease that has ended tells no ranges.
        let request = proto::ListAllocatedRequest { lease_id: unused.lease_id };
        let refused = calls.clone().list_allocated(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    });
}

#[test]
fn nothing_is_written_to_a_volume_after_its_commit() {
    alone(async {
        let scene = Scene::new().await;
        let mut calls = scene.calls();
        let (target, stream) = begin(&calls, scene.disks.pool_id(), ("new", OnLoss::Delete)).await.unwrap();
        let file = File::from(scene.fetch(&target.descriptor_token).unwrap());
        file.write_all_at(&[5; 4096], 0).unwrap();
        let copy = file.try_clone().unwrap();
        drop(file);
        let refused = calls.commit_target(commit(&target)).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "a copy is open: {refused}");
        // One that is on its way to nobody is open as well.
        let (near, far) = UnixStream::pair().unwrap();
        let number = [copy.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&number)];
        sendmsg::<()>(near.as_raw_fd(), &[std::io::IoSlice::new(b"x")], &rights, MsgFlags::empty(), None).unwrap();
        drop(copy);
        let refused = calls.commit_target(commit(&target)).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        drop((near, far));
        calls.commit_target(commit(&target)).await.unwrap();
        assert_eq!(calls.commit_target(commit(&target)).await.unwrap_err().code(), Code::NotFound, "it is no target any more");
        // An abort of what is committed deletes nothing, nor does the end of its stream.
        let abort = proto::AbortTargetRequest { target_id: target.target_id.clone(), volume_id: target.volume_id.clone() };
        calls.abort_target(abort).await.unwrap();
        drop(stream);
        assert!(is_refused(&scene.fetch(&target.descriptor_token)));

        // One whose descriptor was not fetched before its commit is not to be had afterwards.
        let (target, _stream) = begin(&calls, scene.disks.pool_id(), ("unfetched", OnLoss::Delete)).await.unwrap();
        calls.commit_target(commit(&target)).await.unwrap();
        assert!(is_refused(&scene.fetch(&target.descriptor_token)));
        assert_eq!(scene.disks.volumes().len(), 3);
    });
}

#[test]
fn a_target_is_its_holders_and_nobody_elses() {
    alone(async {
        let scene = Scene::new().await;
        let calls = scene.calls();
        let (target, stream) = begin(&calls, scene.disks.pool_id(), ("new", OnLoss::Delete)).await.unwrap();
        let (other, _other_stream) = begin(&calls, scene.disks.pool_id(), ("target 0", OnLoss::Delete)).await.unwrap();
        // Hidden, and begun by the node's own agent.
        let own = scene.disks.begin(&raw("own")).await;
        let mut calls = scene.calls();
        for (target_id, volume_id) in [
            (vec![], target.volume_id.clone()),
            (vec![7; Secret::BYTES], target.volume_id.clone()),
            (other.target_id.clone(), target.volume_id.clone()),
            (other.target_id.clone(), own.volume.to_string()),
            (vec![], own.volume.to_string()),
            (target.target_id.clone(), scene.volume.to_string()),
        ] {
            let (id, volume) = (target_id.clone(), volume_id.clone());
            let request = proto::CommitTargetRequest { target_id: id, volume_id: volume, ..Default::default() };
            assert_eq!(calls.commit_target(request).await.unwrap_err().code(), Code::NotFound);
            calls.abort_target(proto::AbortTargetRequest { target_id, volume_id }).await.unwrap();
        }
        let damaged = proto::CommitTargetRequest { name: "damaged".to_owned(), unformatted: true, ..commit(&target) };
        assert_eq!(calls.commit_target(damaged).await.unwrap_err().code(), Code::InvalidArgument);
        assert_eq!((scene.disks.targets(), scene.disks.volumes().len()), (3, 1), "nothing was committed or deleted");
        let volume = own.volume;
        drop((own, stream));
        scene.disks.blocks().abort(volume).await.unwrap();
    });
}
