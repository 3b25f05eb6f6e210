//! Restore targets that outlive those who hold them.

use std::time::{Duration, Instant};

use windlass::blocks::RestoreTarget;
use windlass::types::poll::{self, Patience};
use windlass::types::{FsType, ObjectName, TargetContent};

use super::*;

const PATIENCE: Patience = Patience { limit: Duration::from_secs(60), every: Duration::from_millis(5) };

/// Waits until nobody holds a target and so many are kept: over a wire it takes a moment until a target is let go of.
async fn settled(disks: &Arc<dyn Disks>, kept: usize) {
    let looking = Arc::clone(disks);
    let question =
        move || poll::until(PATIENCE, || Ok::<_, ()>(((looking.targets(), looking.kept()) == (0, kept)).then_some(())));
    let settled = tokio::task::spawn_blocking(question).await.unwrap();
    assert_eq!(settled, Ok(Some(())), "{} are held and {} are kept", disks.targets(), disks.kept());
}

/// A restore that ends after it has written something.
async fn leave(disks: &Arc<dyn Disks>, text: &str, byte: u8) -> VolumeHandle {
    let (target, kept) = (disks.begin_kept(&raw(text)).await, disks.kept());
    target.file.write_all_at(&[byte; 4096], MIB).unwrap();
    let volume = target.volume;
    drop(target);
    disks.blocks().let_go(volume).await.unwrap();
    settled(disks, kept + 1).await;
    volume
}

/// A target of a name that is free in a moment.
async fn begin_when_free(disks: &Arc<dyn Disks>, request: &NewVolume) -> RestoreTarget {
    let begun = Instant::now();
    let mut tick = tokio::time::interval(PATIENCE.every);
    loop {
        match disks.blocks().begin(disks.pool_id(), request.clone(), OnLoss::Keep).await {
            Ok(TargetStart::Target(target)) => return target,
            Err(BlocksError::Busy(_)) if begun.elapsed() < PATIENCE.limit => drop(tick.tick().await),
            other => panic!("{other:?}"),
        }
    }
}

async fn kept_names(disks: &Arc<dyn Disks>) -> Vec<ObjectName> {
    match disks.blocks().state().await.as_slice() {
        [PoolState::Open { kept, .. }] => kept.clone(),
        other => panic!("{other:?}"),
    }
}

fn byte(target: &RestoreTarget) -> u8 {
    let mut bytes = [0];
    target.file.read_exact_at(&mut bytes, MIB).unwrap();
    bytes[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_was_let_go_of_is_gone_on_with_by_the_next_equal_request() {
    for (form, disks) in forms() {
        let blocks = disks.blocks();
        let volume = leave(&disks, "restored", 5).await;
        assert_eq!((disks.volumes(), kept_names(&disks).await), (vec![], vec![name("restored")]), "{form}");
        assert_eq!(blocks.find_volume(&name("restored")).await.unwrap(), None, "{form}");
        let committed = blocks.commit(volume, CommitName::AsBegun).await;
        assert!(matches!(committed, Err(BlocksError::Missing(_))), "{form}: {committed:?}");
        blocks.abort(volume).await.unwrap();
        blocks.let_go(volume).await.unwrap();
        assert_eq!(disks.kept(), 1, "{form}");
        let target = disks.begin_kept(&raw("restored")).await;
        assert_eq!((target.volume, target.content, byte(&target)), (volume, TargetContent::Partial, 5), "{form}");
        assert_eq!((disks.targets(), disks.kept(), kept_names(&disks).await), (1, 0, vec![]), "{form}");
        let busy = blocks.begin(disks.pool_id(), raw("restored"), OnLoss::Keep).await.map(drop);
        assert!(matches!(busy, Err(BlocksError::Busy(_))), "{form}: {busy:?}");
        drop(target);
        blocks.commit(volume, CommitName::AsBegun).await.unwrap();
        assert_eq!(blocks.find_volume(&name("restored")).await.unwrap(), Some(volume), "{form}");
        let again = blocks.begin(disks.pool_id(), raw("restored"), OnLoss::Keep).await.unwrap();
        assert!(matches!(again, TargetStart::Existing(found) if found == volume), "{form}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_request_for_the_name_begins_anew_and_is_refused_nothing() {
    for (form, disks) in forms() {
        let blocks = disks.blocks();
        let others = [
            (NewVolume { mode: VolumeMode::Filesystem(FsType::Ext4), ..raw("restored") }, OnLoss::Keep),
            (new_volume("restored", 8 * MIB, VolumeMode::Block), OnLoss::Keep),
            (raw("restored"), OnLoss::Delete),
        ];
        for (other, on_loss) in others {
            let volume = leave(&disks, "restored", 5).await;
            let begun = blocks.begin(disks.pool_id(), other, on_loss).await.unwrap();
            let TargetStart::Target(target) = begun else { panic!("{form}") };
            assert_eq!((target.content, byte(&target), disks.kept()), (TargetContent::Zeros, 0, 0), "{form}");
            assert_ne!(target.volume, volume, "{form}");
            let volume = target.volume;
            drop(target);
            blocks.abort(volume).await.unwrap();
            settled(&disks, 0).await;
        }
        leave(&disks, "restored", 5).await;
        let target = disks.begin(&raw("another")).await;
        let volume = target.volume;
        drop(target);
        blocks.commit(volume, CommitName::Instead(name("restored"))).await.unwrap();
        assert_eq!((disks.volumes().len(), disks.kept()), (1, 0), "{form}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_kept_for_an_hour_and_one_that_is_not_to_be_kept_not_at_all() {
    for (form, disks) in forms() {
        let blocks = disks.blocks();
        leave(&disks, "restored", 5).await;
        disks.pass(OnLoss::KEPT_FOR - Duration::from_secs(60));
        assert_eq!(disks.kept(), 1, "{form}");
        disks.pass(OnLoss::KEPT_FOR);
        assert_eq!(disks.kept(), 0, "{form}");
        let target = disks.begin_kept(&raw("restored")).await;
        assert_eq!((target.content, byte(&target)), (TargetContent::Zeros, 0), "{form}");
        // One that is held has no time.
        disks.pass(2 * OnLoss::KEPT_FOR);
        let volume = target.volume;
        drop(target);
        blocks.commit(volume, CommitName::AsBegun).await.unwrap();
        let volume = disks.begin(&raw("asked")).await.volume;
        blocks.let_go(volume).await.unwrap();
        settled(&disks, 0).await;
        assert_eq!(disks.volumes().len(), 1, "{form}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_can_write_to_a_target_that_somebody_else_goes_on_with() {
    for (form, disks) in forms() {
        let target = disks.begin_kept(&raw("restored")).await;
        let (volume, file) = (target.volume, target.file);
        // In this process it is refused; over a wire the node tries again, and deletes it in the end.
        let let_go = disks.blocks().let_go(volume).await;
        assert!(matches!(let_go, Ok(()) | Err(BlocksError::InUse(_))), "{form}: {let_go:?}");
        if let_go.is_err() {
            assert_eq!((disks.targets(), disks.kept()), (1, 0), "{form}");
            disks.blocks().abort(volume).await.unwrap();
        }
        let target = begin_when_free(&disks, &raw("restored")).await;
        file.write_all_at(&[6; 4096], MIB).unwrap();
        assert!(target.volume != volume && byte(&target) == 0, "{form}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_begins_and_goes_away_without_end_keeps_a_bounded_number() {
    for (form, disks) in forms() {
        let honest = leave(&disks, "honest", 5).await;
        for number in 0..OnLoss::MOST_KEPT - 1 {
            leave(&disks, &format!("hostile {number}"), 6).await;
        }
        let target = disks.begin_kept(&raw("honest")).await;
        assert_eq!((target.volume, byte(&target)), (honest, 5), "{form}");
        let volume = target.volume;
        drop(target);
        disks.blocks().let_go(volume).await.unwrap();
        settled(&disks, OnLoss::MOST_KEPT).await;
        for number in 0..3 {
            let target = disks.begin_kept(&raw(&format!("more {number}"))).await;
            let volume = target.volume;
            drop(target);
            disks.blocks().let_go(volume).await.unwrap();
            settled(&disks, OnLoss::MOST_KEPT).await;
        }
        let names = kept_names(&disks).await;
        assert!(names.contains(&name("more 2")) && !names.contains(&name("hostile 0")), "{form}: {names:?}");
    }
}
