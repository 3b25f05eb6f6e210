use csi_proto::windlass::v1::RestoreResult;

use super::queue::MAX_WAITING;
use super::*;
use crate::types::ExportPriority;

async fn end_of(registry: &Registry, id: &str) -> TransferProgress {
    let mut watched = registry.watch(id).unwrap();
    loop {
        let now = watched.now();
        if is_final(&now) {
            return now;
        }
        watched.changed().await;
    }
}

fn result() -> TransferResult {
    TransferResult::Restore(RestoreResult { volume_id: "v".to_owned(), ..Default::default() })
}

#[tokio::test]
async fn a_transfer_ends_with_its_result_whoever_listens() {
    let registry = Registry::new();
    let id = registry.slot(TransferKind::Restore).unwrap().spawn(async { Ok(result()) });
    let end = end_of(&registry, &id).await;
    assert_eq!(end.state(), TransferState::Succeeded);
    assert_eq!((end.kind.as_str(), end.transfer_id), ("restore", id));
    assert_eq!(end.restore_result.unwrap().volume_id, "v");
}

#[tokio::test]
async fn a_transfer_that_panics_has_failed() {
    let registry = Registry::new();
    let id = registry.slot(TransferKind::Export).unwrap().spawn(async { panic!("oops") });
    assert_eq!(end_of(&registry, &id).await.state(), TransferState::Failed);
}

#[tokio::test]
async fn a_cancelled_transfer_ends_as_cancelled_and_frees_its_slot() {
    let registry = Registry::new();
    let start = || {
        let slot = registry.slot(TransferKind::Export)?;
        let cancel = slot.cancellation();
        Ok::<_, SlotError>(slot.spawn(async move {
            cancel.cancelled().await;
            Err(TransferFailure::Cancelled)
        }))
    };
    let ids: Vec<_> = (0..MAX_RUNNING).map(|_| start().unwrap()).collect();
    assert_eq!(start(), Err(SlotError::Full));
    assert!(registry.cancel(&ids[0]));
    assert_eq!(end_of(&registry, &ids[0]).await.state(), TransferState::Canceled);
    registry.stop().await;
    assert!(registry.list().iter().all(|transfer| transfer.state() == TransferState::Canceled));
    assert_eq!(registry.slot(TransferKind::Export).unwrap_err(), SlotError::Stopping);
}

#[tokio::test]
async fn those_that_wait_have_their_turns_by_precedence_and_then_as_they_came() {
    let (registry, order) = (Registry::new(), Arc::<Mutex<Vec<&'static str>>>::default());
    let hold = || {
        let slot = registry.slot(TransferKind::Export).unwrap();
        let cancel = slot.cancellation();
        slot.spawn(async move {
            cancel.cancelled().await;
            Err(TransferFailure::Cancelled)
        })
    };
    let running: Vec<_> = (0..MAX_RUNNING).map(|_| hold()).collect();
    let waits = |name: &'static str, precedence| {
        let (slot, order) = (registry.slot_or_turn(TransferKind::Export, precedence).unwrap(), Arc::clone(&order));
        let id = slot.spawn(async move {
            order.lock().unwrap().push(name);
            Ok(result())
        });
        (name, id)
    };
    let waiting = [
        waits("low", Precedence::Export(ExportPriority::Low)),
        waits("normal", Precedence::Export(ExportPriority::Normal)),
        waits("cancelled", Precedence::Restore),
        waits("second", Precedence::Export(ExportPriority::Normal)),
        waits("high", Precedence::Export(ExportPriority::High)),
        waits("restore", Precedence::Restore),
    ];
    let state = |id: &str| registry.watch(id).unwrap().now().state();
    assert!(waiting.iter().all(|(_, id)| state(id) == TransferState::Pending));
    drop(registry.slot_or_turn(TransferKind::Restore, Precedence::Restore).unwrap());
    assert_eq!(registry.slot(TransferKind::Restore).unwrap_err(), SlotError::Full);
    registry.cancel(&waiting[2].1);
    assert_eq!(end_of(&registry, &waiting[2].1).await.state(), TransferState::Canceled);
    registry.cancel(&running[0]);
    for (_, id) in &waiting {
        end_of(&registry, id).await;
    }
    assert_eq!(*order.lock().unwrap(), ["restore", "high", "normal", "second", "low"]);
    assert_eq!(state(&running[1]), TransferState::Running);
    // They left nothing that takes a slot.
    assert_eq!(hold().len(), running[0].len());
    assert_eq!(registry.slot(TransferKind::Export).unwrap_err(), SlotError::Full);
}

#[tokio::test]
async fn as_many_wait_as_may_and_a_stop_ends_their_wait() {
    let registry = Registry::new();
    let precedence = Precedence::Export(ExportPriority::Normal);
    let slots: Vec<_> =
        (0..MAX_RUNNING + MAX_WAITING).map(|_| registry.slot_or_turn(TransferKind::Export, precedence).unwrap()).collect();
    assert_eq!(registry.slot_or_turn(TransferKind::Export, precedence).unwrap_err(), SlotError::Full);
    let ids: Vec<_> = slots.into_iter().map(|slot| slot.spawn(std::future::pending())).collect();
    // Those that run know of no stop.
    let running = ids.iter().filter(|id| registry.watch(id).unwrap().now().state() == TransferState::Running).count();
    assert_eq!(running, MAX_RUNNING);
    assert!(registry.cancel(&ids[MAX_RUNNING]));
    assert_eq!(end_of(&registry, &ids[MAX_RUNNING]).await.state(), TransferState::Canceled);
    assert!(registry.slot_or_turn(TransferKind::Export, precedence).is_ok());
}

#[tokio::test]
async fn a_slot_that_was_not_used_leaves_no_trace() {
    let registry = Registry::new();
    for _ in 0..=MAX_RUNNING {
        drop(registry.slot(TransferKind::Export).unwrap());
    }
    assert!(registry.list().is_empty());
    assert!(!registry.cancel("none"));
    assert!(registry.watch("none").is_none());
}

#[tokio::test]
async fn only_the_latest_ended_transfers_are_remembered() {
    let registry = Registry::new();
    let mut ids = Vec::new();
    for _ in 0..MAX_ENDED + 3 {
        let id = registry.slot(TransferKind::Restore).unwrap().spawn(async { Ok(result()) });
        // TransferFailure is told apart from running only after the watcher was told: wait until the slot is free again too.
        end_of(&registry, &id).await;
        while registry.lock().ended.back() != Some(&id) {
            tokio::task::yield_now().await;
        }
        ids.push(id);
    }
    assert_eq!(registry.list().len(), MAX_ENDED);
    assert!(registry.watch(&ids[2]).is_none() && registry.watch(&ids[3]).is_some());
    assert_eq!(registry.list()[0].transfer_id, *ids.last().unwrap());
}
