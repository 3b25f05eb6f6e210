use std::collections::BTreeSet;

use tokio::sync::Notify;

use super::guard::GIVEN_UP_AFTER;
use super::held::{LOST_AFTER, STALE_AFTER};
use super::refresh::{REFRESH_EVERY, renew};
use super::*;
use crate::repository::key_file::KdfCost;
use crate::repository::password::Password;
use crate::repository::store::fault::{Call, Fault, FaultyStore};
use crate::repository::store::memory::MemoryStore;
use crate::repository::store::{Key, PutMode, Store};
use crate::repository::time::rfc3339;
use crate::types::Timestamp;

fn owner(hostname: &str, process: u32) -> LockOwner {
    LockOwner { hostname: hostname.into(), username: "root".into(), process }
}

async fn repository(store: &Arc<MemoryStore>) -> Repository {
    let store: Arc<dyn Store> = store.clone();
    let password = Password::new("x").unwrap();
    match Repository::open(store.clone(), &password).await {
        Ok(repository) => repository,
        Err(_) => Repository::init(store, &password, KdfCost::TEST).await.unwrap(),
    }
}

/// The same repository, whose calls `script` sees and may spoil.
async fn through(store: &Arc<MemoryStore>, script: impl FnMut(&Call) -> Option<Fault> + Send + 'static) -> Repository {
    repository(store).await;
    let faulty = Arc::new(FaultyStore::new(store.clone(), script));
    Repository::open(faulty, &Password::new("x").unwrap()).await.unwrap()
}

async fn leave_lock(repository: &Repository, mode: LockMode, by: &LockOwner, time: &str) -> Id {
    let lock = LockFile::new(mode, by).dated(time);
    repository.save_document(Kind::Lock, &lock).await.unwrap()
}

fn now() -> String {
    rfc3339(Timestamp::now())
}

async fn locks(store: &MemoryStore) -> Vec<Id> {
    store.list(Kind::Lock).await.unwrap().into_iter().map(|listed| listed.id).collect()
}

#[tokio::test]
async fn shared_locks_stand_beside_each_other_and_vanish_when_released() {
    let store = Arc::new(MemoryStore::new());
    let repository = repository(&store).await;
    let (first, second) = (repository.lock(LockMode::Shared).await.unwrap(), repository.lock(LockMode::Shared).await.unwrap());
    first.check().await.unwrap();
    assert_eq!(locks(&store).await.len(), 2);
    first.release().await.unwrap();
    second.release().await.unwrap();
    assert_eq!(locks(&store).await, []);
}

#[tokio::test]
async fn an_exclusive_lock_excludes_all_and_the_error_names_its_holder() {
    let store = Arc::new(MemoryStore::new());
    let repository = repository(&store).await.with_lock_owner(owner("node-a/of its own", 7));
    let held = repository.lock(LockMode::Exclusive).await.unwrap();
    let other = self::repository(&store).await.with_lock_owner(owner("node-b", 7));
    for mode in [LockMode::Shared, LockMode::Exclusive] {
        let error = other.lock(mode).await.unwrap_err();
        assert!(error.to_string().contains("locked exclusively by root@node-a (process 7)"), "{error}");
        assert!(error.is_transient());
    }
    held.release().await.unwrap();
    let shared = other.lock(LockMode::Shared).await.unwrap();
    assert!(matches!(repository.lock(LockMode::Exclusive).await, Err(RepositoryError::Locked { .. })));
    shared.release().await.unwrap();
}

#[tokio::test]
async fn two_at_once_never_both_lock_exclusively() {
    let store = Arc::new(MemoryStore::new());
    let (a, b) =
        (repository(&store).await.with_lock_owner(owner("a", 1)), repository(&store).await.with_lock_owner(owner("b", 1)));
    let (a, b) = futures::join!(a.lock(LockMode::Exclusive), b.lock(LockMode::Exclusive));
    assert!(a.is_err() || b.is_err());
    assert_eq!(locks(&store).await.len(), usize::from(a.is_ok()) + usize::from(b.is_ok()));
}

#[tokio::test]
async fn an_announced_lock_holds_unless_a_competitor_came_before_it() {
    let store = Arc::new(MemoryStore::new());
    let repository = repository(&store).await;
    let lock = repository.announce(LockMode::Shared).await.unwrap();
    lock.confirm().await.unwrap();
    // As if it had been stored between the look and ours.
    leave_lock(&repository, LockMode::Exclusive, &owner("node-b", 7), &now()).await;
    let error = lock.confirm().await.unwrap_err();
    assert!(error.to_string().contains("root@node-b (process 7)"), "{error}");
    lock.release().await.unwrap();
    assert_eq!(locks(&store).await.len(), 1, "that of node-b");
}

#[tokio::test]
async fn an_exclusive_lock_is_never_removed_whatever_it_says_and_whatever_the_clock_says() {
    let own = LockOwner::of_this_process();
    // As of a process of this host's name whose id is not there, as of a container; of another; and of one that is known to be gone.
    let [name, gone] = [own.name(), own.hostname.as_str()].map(|host| owner(host, 0x7fff_ffff));
    for by in [name, owner("elsewhere", 1), gone, LockOwner { process: 1, ..own.clone() }, own.clone(), own.holding("pool")] {
        for time in ["2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "yesterday", &now()] {
            let store = Arc::new(MemoryStore::new());
            let repository = repository(&store).await.with_lock_owner(LockOwner::of_this_process().holding("pool"));
            let left = leave_lock(&repository, LockMode::Exclusive, &by, time).await;
            for mode in [LockMode::Shared, LockMode::Exclusive] {
                let error = repository.lock(mode).await.unwrap_err();
                assert!(matches!(error, RepositoryError::Locked { .. }), "{by:?} {time}: {error}");
            }
            assert_eq!(locks(&store).await, [left], "{by:?} {time}");
        }
    }
}

#[tokio::test]
async fn a_shared_lock_of_another_stays_and_excludes_however_old_it_is() {
    let store = Arc::new(MemoryStore::new());
    let repository = repository(&store).await;
    let name = LockOwner::of_this_process().name().to_owned();
    let left = leave_lock(&repository, LockMode::Shared, &owner(&name, 0x7fff_ffff), "2020-01-01T00:00:00Z").await;
    repository.lock(LockMode::Shared).await.unwrap().release().await.unwrap();
    assert!(matches!(repository.lock(LockMode::Exclusive).await, Err(RepositoryError::Locked { .. })));
    assert_eq!(locks(&store).await, [left]);
}

#[tokio::test]
async fn shared_locks_of_processes_that_are_known_to_be_gone_are_swept_and_no_others() {
    let store = Arc::new(MemoryStore::new());
    let own = LockOwner::of_this_process();
    let repository = repository(&store).await.with_lock_owner(own.clone().holding("pool"));
    let held = repository.lock(LockMode::Shared).await.unwrap();
    let dead = LockOwner { process: 0x7fff_ffff, ..own.clone() };
    for gone in [dead, owner("h/another-boot.1.2.3/pool", 1), own.clone()] {
        leave_lock(&repository, LockMode::Shared, &gone, &now()).await;
    }
    // Process 1 runs, but did not start when that one did.
    leave_lock(&repository, LockMode::Shared, &LockOwner { process: 1, ..own }, &now()).await;
    let other = leave_lock(&repository, LockMode::Shared, &owner("h/another-boot.1.2.3/other", 1), &now()).await;
    repository.lock(LockMode::Shared).await.unwrap().release().await.unwrap();
    let left: BTreeSet<Id> = locks(&store).await.into_iter().collect();
    assert_eq!(left, BTreeSet::from([other, held.held.stored().id()]));
    held.check().await.unwrap();
    held.release().await.unwrap();
}

#[tokio::test]
async fn locks_of_others_are_read_once_however_often_one_is_taken() {
    const OTHERS: usize = 100;
    let store = Arc::new(MemoryStore::new());
    let first = repository(&store).await;
    for process in 0..OTHERS {
        leave_lock(&first, LockMode::Shared, &owner("elsewhere", u32::try_from(process).unwrap()), &now()).await;
    }
    let (reads, lists) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
    let (counted, listed) = (Arc::clone(&reads), Arc::clone(&lists));
    let repository = through(&store, move |call| {
        match call {
            Call::Get(Key::File(Kind::Lock, _)) => *counted.lock().unwrap() += 1,
            Call::List(Kind::Lock) => *listed.lock().unwrap() += 1,
            _ => {}
        }
        None
    })
    .await;
    for _ in 0..2 {
        repository.lock(LockMode::Shared).await.unwrap().release().await.unwrap();
    }
    assert_eq!((*reads.lock().unwrap(), *lists.lock().unwrap()), (OTHERS, 4));
    let late = leave_lock(&first, LockMode::Shared, &owner("elsewhere", 200), &now()).await;
    repository.lock(LockMode::Shared).await.unwrap().release().await.unwrap();
    assert_eq!(*reads.lock().unwrap(), OTHERS + 1);
    // What was remembered of one that is gone excludes nobody.
    store.delete(Key::File(Kind::Lock, late)).await.unwrap();
    for id in locks(&store).await {
        store.delete(Key::File(Kind::Lock, id)).await.unwrap();
    }
    repository.lock(LockMode::Exclusive).await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn a_lock_in_the_way_is_waited_for_and_its_holder_is_told() {
    let store = Arc::new(MemoryStore::new());
    let repository = repository(&store).await.with_retry_lock(Duration::from_secs(600));
    let other = self::repository(&store).await.with_lock_owner(owner("node-b", 7));
    let pruning = Mutex::new(Some(other.lock(LockMode::Exclusive).await.unwrap()));
    let told = Mutex::new(Vec::new());
    // It ends when the first look has found it.
    let waiting = |reason: &RepositoryError| {
        told.lock().unwrap().push(reason.to_string());
        pruning.lock().unwrap().take();
    };
    let lock = repository.lock_or_wait(LockMode::Shared, &waiting).await.unwrap();
    assert!(told.into_inner().unwrap()[0].contains("exclusively by root@node-b (process 7)"));
    lock.check().await.unwrap();
    lock.release().await.unwrap();
}

#[tokio::test]
async fn who_waits_holds_no_lock_meanwhile() {
    let store = Arc::new(MemoryStore::new());
    let repository = repository(&store).await.with_retry_lock(Duration::from_secs(600));
    let left = leave_lock(&repository, LockMode::Exclusive, &owner("node-b", 7), &now()).await;
    let waits = Notify::new();
    let waiting = |reason: &RepositoryError| {
        assert!(matches!(reason, RepositoryError::Locked { .. }), "{reason}");
        assert_eq!(store.keys().into_iter().filter(|key| matches!(key, Key::File(Kind::Lock, _))).count(), 1);
        waits.notify_one();
    };
    tokio::select! {
        ended = repository.lock_or_wait(LockMode::Shared, &waiting) => panic!("nobody has let go: {ended:?}"),
        () = waits.notified() => {}
    }
    assert_eq!(locks(&store).await, [left]);
}

#[tokio::test]
async fn who_has_waited_long_enough_is_told_who_is_in_the_way_and_leaves_nothing() {
    let store = Arc::new(MemoryStore::new());
    let repository = repository(&store).await.with_retry_lock(Duration::ZERO);
    let left = leave_lock(&repository, LockMode::Exclusive, &owner("node-b", 7), &now()).await;
    let error = repository.lock_or_wait(LockMode::Shared, &|reason| panic!("no time is left: {reason}")).await.unwrap_err();
    assert!(matches!(&error, RepositoryError::Locked { holder } if holder.process == 7), "{error}");
    assert_eq!(locks(&store).await, [left]);
}

#[tokio::test]
async fn a_removed_lock_is_noticed() {
    let store = Arc::new(MemoryStore::new());
    let repository = repository(&store).await;
    let guard = repository.lock(LockMode::Shared).await.unwrap();
    store.delete(Key::File(Kind::Lock, locks(&store).await[0])).await.unwrap();
    assert!(matches!(guard.check().await, Err(RepositoryError::LockLost(_))));
    assert!(matches!(renew(&repository, LockMode::Shared, &guard.held).await, Err(RepositoryError::LockLost(_))));
    assert_eq!(locks(&store).await, [], "it does not come back");
}

#[tokio::test]
async fn a_lock_that_was_not_refreshed_in_time_no_longer_holds() {
    let store = Arc::new(MemoryStore::new());
    let guard = repository(&store).await.lock(LockMode::Shared).await.unwrap();
    guard.held.stored().by_clock -= LOST_AFTER + Duration::from_secs(1);
    assert!(matches!(guard.check().await, Err(RepositoryError::LockLost(_))));
}

#[tokio::test]
async fn a_last_step_that_outlasts_the_lock_is_given_up() {
    let store = Arc::new(MemoryStore::new());
    let guard = repository(&store).await.lock(LockMode::Shared).await.unwrap();
    let stalls = async {
        guard.held.stored().by_clock -= GIVEN_UP_AFTER;
        std::future::pending::<Result<(), RepositoryError>>().await
    };
    assert!(matches!(guard.during(stalls).await, Err(RepositoryError::LockLost(_))));
}

#[tokio::test]
async fn a_last_step_that_ends_too_late_is_no_success_and_one_in_time_is() {
    let store = Arc::new(MemoryStore::new());
    let guard = repository(&store).await.lock(LockMode::Shared).await.unwrap();
    assert_eq!(guard.during(async { Ok(5) }).await.unwrap(), 5);
    // As if the machine had slept.
    let sleeps = async {
        guard.held.stored().by_clock -= STALE_AFTER;
        Ok(5)
    };
    assert!(matches!(guard.during(sleeps).await, Err(RepositoryError::LockLost(_))));
}

#[tokio::test]
async fn renewing_leaves_one_newer_lock() {
    let store = Arc::new(MemoryStore::new());
    let repository = repository(&store).await;
    let guard = repository.lock(LockMode::Shared).await.unwrap();
    let before = guard.held.stored().id();
    renew(&repository, LockMode::Shared, &guard.held).await.unwrap();
    let after = guard.held.stored().id();
    assert_eq!(locks(&store).await, [after]);
    assert_ne!(after, before);
    guard.check().await.unwrap();
}

#[tokio::test]
async fn a_store_that_does_not_answer_a_refresh_keeps_nobody_from_checking_the_lock() {
    let store = Arc::new(MemoryStore::new());
    let puts = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&puts);
    // The first put is that of the lock, the second that of its refresh.
    let repository = through(&store, move |call| {
        let mut puts = counted.lock().unwrap();
        *puts += u32::from(matches!(call, Call::Put(_)));
        (*puts == 2 && matches!(call, Call::Put(_))).then_some(Fault::Stall)
    })
    .await;
    let guard = repository.lock(LockMode::Shared).await.unwrap();
    let refresh = renew(&repository, LockMode::Shared, &guard.held);
    tokio::pin!(refresh);
    while *puts.lock().unwrap() < 2 {
        assert!(futures::poll!(&mut refresh).is_pending());
        tokio::task::yield_now().await;
    }
    guard.check().await.unwrap();
}

#[tokio::test]
async fn a_dropped_guard_takes_its_lock_away() {
    let store = Arc::new(MemoryStore::new());
    let guard = repository(&store).await.lock(LockMode::Shared).await.unwrap();
    drop(guard);
    // The deletion runs on this same thread as soon as it yields.
    while !locks(&store).await.is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_removal_that_is_not_waited_for_goes_on_in_the_background() {
    let store = Arc::new(MemoryStore::new());
    let mut deletes = 0;
    // The first delete is lost, the next one, which the background makes, is not.
    let repository = through(&store, move |call| {
        deletes += u32::from(matches!(call, Call::Delete(_)));
        (deletes == 1 && matches!(call, Call::Delete(_))).then_some(Fault::Stall)
    })
    .await;
    let guard = repository.lock(LockMode::Shared).await.unwrap();
    let cancel = tokio_util::sync::CancellationToken::new();
    cancel.cancel();
    guard.let_go(&cancel).await;
    while !locks(&store).await.is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_lock_whose_removal_failed_is_removed_by_the_next_one() {
    let store = Arc::new(MemoryStore::new());
    let mut deletes = 0;
    let repository = through(&store, move |call| {
        deletes += u32::from(matches!(call, Call::Delete(_)));
        (deletes == 1 && matches!(call, Call::Delete(_))).then_some(Fault::Unavailable)
    })
    .await;
    let guard = repository.lock(LockMode::Shared).await.unwrap();
    assert!(guard.release().await.is_err());
    assert_eq!(locks(&store).await.len(), 1);
    repository.lock(LockMode::Exclusive).await.unwrap().release().await.unwrap();
    assert_eq!(locks(&store).await, []);
}

#[tokio::test]
async fn an_unreadable_lock_is_an_error_not_an_absence() {
    let store = Arc::new(MemoryStore::new());
    let repository = repository(&store).await;
    let key = Key::File(Kind::Lock, Id::of(b"junk"));
    store.put(key, Bytes::from_static(b"junk"), PutMode::Overwrite).await.unwrap();
    let error = repository.lock(LockMode::Shared).await.unwrap_err();
    assert!(matches!(error, RepositoryError::UnreadableLock { .. }) && error.to_string().contains(&key.path()), "{error}");
}

#[tokio::test]
async fn a_lock_that_is_half_written_at_first_is_looked_at_again() {
    let store = Arc::new(MemoryStore::new());
    let mut reads = 0;
    let repository = through(&store, move |call| {
        reads += u32::from(matches!(call, Call::Get(Key::File(Kind::Lock, _))));
        (reads == 1 && matches!(call, Call::Get(Key::File(Kind::Lock, _)))).then_some(Fault::Truncated)
    })
    .await
    .with_retry_lock(Duration::from_secs(60));
    leave_lock(&repository, LockMode::Shared, &owner("there", 7), &now()).await;
    repository.lock(LockMode::Shared).await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn an_empty_lock_is_none() {
    let store = Arc::new(MemoryStore::new());
    let repository = repository(&store).await;
    store.put(Key::File(Kind::Lock, Id::of(b"x")), Bytes::new(), PutMode::Overwrite).await.unwrap();
    repository.lock(LockMode::Exclusive).await.unwrap().release().await.unwrap();
    assert_eq!(locks(&store).await.len(), 1);
}

#[tokio::test]
async fn leftovers_are_looked_for_once_a_day() {
    let repository = repository(&Arc::new(MemoryStore::new())).await;
    assert!(document::sweep_is_due(repository.id(), SWEEP_AFTER));
    assert!(!document::sweep_is_due(repository.id(), SWEEP_AFTER));
    assert!(document::sweep_is_due(repository.id(), Duration::ZERO));
}

#[tokio::test]
async fn who_only_reads_does_without_a_lock_that_cannot_be_stored() {
    let store = Arc::new(MemoryStore::new());
    let repository = through(&store, |call| matches!(call, Call::Put(_)).then_some(Fault::Denied)).await;
    assert!(repository.lock(LockMode::Shared).await.is_err());
    assert!(repository.lock_to_read().await.unwrap().is_none());
    // A store that is away does not refuse, and the lock of another holds for readers as well.
    let away = through(&store, |call| matches!(call, Call::Put(_)).then_some(Fault::Unavailable)).await;
    assert!(matches!(away.lock_to_read().await, Err(RepositoryError::Store(StoreError::Unavailable { .. }))));
    leave_lock(&self::repository(&store).await, LockMode::Exclusive, &owner("there", 7), &now()).await;
    assert!(matches!(repository.lock_to_read().await, Err(RepositoryError::Locked { .. })));
    assert!(repository.with_locking(Locking::None).lock_to_read().await.unwrap().is_none());
}

#[tokio::test]
async fn who_only_reads_passes_over_a_lock_that_nobody_can_read() {
    let store = Arc::new(MemoryStore::new());
    let repository = repository(&store).await;
    store.put(Key::File(Kind::Lock, Id::of(b"junk")), Bytes::from_static(b"junk"), PutMode::Overwrite).await.unwrap();
    assert!(repository.lock_to_read().await.unwrap().is_none());
}

#[tokio::test]
async fn a_lock_is_refreshed_by_a_store_that_was_away_for_a_while() {
    let store = Arc::new(MemoryStore::new());
    let (mut puts, mut sizes) = (0, 0);
    let failed = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&failed);
    // The first put is the lock's. When it is to be refreshed the store is away, for looks and for puts.
    let repository = through(&store, move |call| {
        let is_away = match call {
            Call::Put(Key::File(Kind::Lock, _)) => {
                puts += 1;
                (2..5).contains(&puts)
            }
            Call::Size(Key::File(Kind::Lock, _)) => {
                sizes += 1;
                (1..3).contains(&sizes)
            }
            _ => false,
        };
        *counted.lock().unwrap() += u32::from(is_away);
        is_away.then_some(Fault::Unavailable)
    })
    .await;
    let guard = repository.lock(LockMode::Shared).await.unwrap();
    let before = guard.held.stored().id();
    guard.held.stored().by_clock -= REFRESH_EVERY;
    let refreshing =
        tokio::spawn(refresh(repository.clone(), LockMode::Shared, Arc::clone(&guard.held), Duration::from_millis(1)));
    // It is the refresh that ends this.
    while guard.held.stored().id() == before {
        let _ = tokio::time::timeout(Duration::from_millis(1), std::future::pending::<()>()).await;
    }
    refreshing.abort();
    assert_eq!(*failed.lock().unwrap(), 5);
    guard.check().await.unwrap();
    assert!(guard.held.stored().age() < REFRESH_EVERY);
    guard.release().await.unwrap();
    assert_eq!(locks(&store).await, []);
}
