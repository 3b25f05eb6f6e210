use super::*;
use crate::repository::key_file::KdfCost;
use crate::repository::password::Password;
use crate::repository::store::fault::{Call, Fault, FaultyStore};
use crate::repository::store::memory::MemoryStore;
use crate::repository::store::{PutMode, Store};

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

async fn leave_lock(repository: &Repository, mode: LockMode, by: &LockOwner, age: Duration) {
    let time = rfc3339(Timestamp::from(SystemTime::now() - age));
    repository.save_document(Kind::Lock, &LockFile { time, ..LockFile::new(mode, by) }).await.unwrap();
}

#[tokio::test]
async fn shared_locks_stand_beside_each_other_and_vanish_when_released() {
    let store = Arc::new(MemoryStore::new());
    let repository = repository(&store).await;
    let (first, second) = (repository.lock(LockMode::Shared).await.unwrap(), repository.lock(LockMode::Shared).await.unwrap());
    first.check().await.unwrap();
    assert_eq!(store.list(Kind::Lock).await.unwrap().len(), 2);
    first.release().await.unwrap();
    second.release().await.unwrap();
    assert_eq!(store.list(Kind::Lock).await.unwrap(), []);
}

#[tokio::test]
async fn an_exclusive_lock_excludes_all_and_the_error_names_its_holder() {
    let store = Arc::new(MemoryStore::new());
    let repository = repository(&store).await.with_lock_owner(owner("node-a", 7));
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
    assert_eq!(store.list(Kind::Lock).await.unwrap().len(), usize::from(a.is_ok()) + usize::from(b.is_ok()));
}

#[tokio::test]
async fn an_announced_lock_holds_unless_a_competitor_came_before_it() {
    let store = Arc::new(MemoryStore::new());
    let repository = repository(&store).await;
    let lock = repository.announce_lock(LockMode::Shared).await.unwrap();
    lock.confirm().await.unwrap();
    // As if it had been stored between the look and ours.
    leave_lock(&repository, LockMode::Exclusive, &owner("node-b", 7), Duration::ZERO).await;
    let error = lock.confirm().await.unwrap_err();
    assert!(error.to_string().contains("root@node-b (process 7)"), "{error}");
    lock.release().await.unwrap();
    assert_eq!(store.list(Kind::Lock).await.unwrap().len(), 1, "that of node-b");
}

#[tokio::test]
async fn a_removed_lock_is_noticed() {
    let store = Arc::new(MemoryStore::new());
    let repository = repository(&store).await;
    let guard = repository.lock(LockMode::Shared).await.unwrap();
    let id = store.list(Kind::Lock).await.unwrap()[0].id;
    store.delete(Key::File(Kind::Lock, id)).await.unwrap();
    assert!(matches!(guard.check().await, Err(RepositoryError::LockLost(_))));
    assert!(matches!(renew(&repository, LockMode::Shared, &Held::new(id)).await, Err(RepositoryError::LockLost(_))));
}

#[tokio::test]
async fn a_lock_that_was_not_refreshed_in_time_no_longer_holds() {
    let store = Arc::new(MemoryStore::new());
    let guard = repository(&store).await.lock(LockMode::Shared).await.unwrap();
    guard.held.lock().await.stored_by_clock -= LOST_AFTER + Duration::from_secs(1);
    assert!(matches!(guard.check().await, Err(RepositoryError::LockLost(_))));
}

#[tokio::test]
async fn renewing_leaves_one_newer_lock() {
    let store = Arc::new(MemoryStore::new());
    let repository = repository(&store).await;
    let guard = repository.lock(LockMode::Shared).await.unwrap();
    let mut held = guard.held.lock().await;
    let before = held.id;
    *held = renew(&repository, LockMode::Shared, &held).await.unwrap();
    let listed = store.list(Kind::Lock).await.unwrap();
    assert_eq!(listed.iter().map(|listed| listed.id).collect::<Vec<_>>(), [held.id]);
    assert_ne!(held.id, before);
    drop(held);
    guard.check().await.unwrap();
}

#[tokio::test]
async fn a_dropped_guard_takes_its_lock_away() {
    let store = Arc::new(MemoryStore::new());
    let guard = repository(&store).await.lock(LockMode::Shared).await.unwrap();
    drop(guard);
    // The deletion runs on this same thread as soon as it yields.
    while !store.list(Kind::Lock).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_removal_that_is_not_waited_for_goes_on_in_the_background() {
    let store = Arc::new(MemoryStore::new());
    let password = Password::new("x").unwrap();
    Repository::init(store.clone(), &password, KdfCost::TEST).await.unwrap();
    // The first delete is lost, the next one, which the background makes, is not.
    let stalls = FaultyStore::nth(store.clone(), 1, Fault::Stall, |call| matches!(call, Call::Delete(_)));
    let guard = Repository::open(Arc::new(stalls), &password).await.unwrap().lock(LockMode::Shared).await.unwrap();
    let cancel = tokio_util::sync::CancellationToken::new();
    cancel.cancel();
    guard.let_go(&cancel).await;
    while !store.list(Kind::Lock).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn stale_locks_do_not_exclude_and_fresh_ones_of_others_stay() {
    let store = Arc::new(MemoryStore::new());
    let repository = repository(&store).await.with_lock_owner(owner("here", 1));
    leave_lock(&repository, LockMode::Exclusive, &owner("gone", 5), STALE_AFTER + Duration::from_secs(1)).await;
    // No process has this id: pid_max is at most 2^22.
    leave_lock(&repository, LockMode::Exclusive, &owner("here", 0x7fff_ffff), Duration::ZERO).await;
    repository.lock(LockMode::Exclusive).await.unwrap().release().await.unwrap();
    assert_eq!(store.list(Kind::Lock).await.unwrap(), []);

    leave_lock(&repository, LockMode::Shared, &owner("there", 0x7fff_ffff), Duration::from_secs(60)).await;
    leave_lock(&repository, LockMode::Shared, &owner("gone", 5), STALE_AFTER * 2).await;
    assert_eq!(repository.remove_stale_locks().await.unwrap(), 1);
    assert_eq!(store.list(Kind::Lock).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_unreadable_lock_is_an_error_not_an_absence() {
    let store = Arc::new(MemoryStore::new());
    let repository = repository(&store).await;
    let key = Key::File(Kind::Lock, Id::of(b"junk"));
    store.put(key, bytes::Bytes::from_static(b"junk"), PutMode::Overwrite).await.unwrap();
    let error = repository.lock(LockMode::Shared).await.unwrap_err();
    assert!(error.to_string().contains(&key.path()), "{error}");
}

#[test]
fn a_lock_dated_in_the_future_or_unreadably_is_not_stale() {
    let here = owner("here", 1);
    let lock = |time: &str| LockFile { time: time.into(), ..LockFile::new(LockMode::Shared, &owner("there", 9)) };
    let now = SystemTime::now();
    for time in ["2999-01-01T00:00:00Z", "yesterday"] {
        assert!(!lock(time).is_stale(now, &here, |_| false), "{time}");
    }
    assert!(lock("2020-01-01T00:00:00+02:00").is_stale(now, &here, |_| true));
}
