use super::*;
use crate::repository::store::fault::{Call, Fault, FaultyStore};
use crate::repository::store::memory::MemoryStore;
use crate::types::error::chain;

fn password(text: &str) -> Password {
    Password::new(text).unwrap()
}

async fn init(store: Arc<dyn Store>) -> Result<Repository, RepositoryError> {
    Repository::init(store, &password("right"), KdfCost::TEST).await
}

async fn open(store: Arc<dyn Store>) -> Result<Repository, RepositoryError> {
    Repository::open(store, &password("right")).await
}

fn puts_config(call: &Call) -> bool {
    *call == Call::Put(Key::Config)
}

#[tokio::test]
async fn a_repository_opens_with_its_password_only() {
    let store = Arc::new(MemoryStore::new());
    assert!(matches!(open(store.clone()).await, Err(RepositoryError::NoRepository)));
    let made = init(store.clone()).await.unwrap();
    assert_eq!(open(store.clone()).await.unwrap().id(), made.id());
    let wrong = Repository::open(store, &password("wrong")).await;
    assert!(matches!(wrong, Err(RepositoryError::WrongPassword)));
}

#[tokio::test]
async fn of_two_who_initialise_one_wins_and_one_key_stays() {
    let store = Arc::new(MemoryStore::new());
    let (a, b) = futures::join!(init(store.clone()), init(store.clone()));
    assert!(matches!(
        (&a, &b),
        (Ok(_), Err(RepositoryError::AlreadyInitialized)) | (Err(RepositoryError::AlreadyInitialized), Ok(_))
    ));
    assert_eq!(store.list(Kind::Key).await.unwrap().len(), 1);
    assert_eq!(open(store).await.unwrap().id(), a.or(b).unwrap().id());
}

/// Runs this to its end in the middle of a call to a store.
fn meanwhile<T>(work: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_a_competitor_took_for_an_interrupted_one_is_not_withdrawn() {
    let store = Arc::new(MemoryStore::new());
    let (inner, mut winner) = (store.clone(), None);
    let slow = FaultyStore::new(store.clone(), move |call| {
        if puts_config(call) && winner.is_none() {
            // It finds the key of the slow one, whose `config` is not there yet.
            winner = Some(meanwhile(init(inner.clone())).unwrap());
        }
        None
    });
    assert!(matches!(init(Arc::new(slow)).await, Err(RepositoryError::AlreadyInitialized)));
    assert_eq!(store.list(Kind::Key).await.unwrap().len(), 1);
    open(store).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_competitor_that_withdraws_its_key_is_no_wrong_password() {
    let store = Arc::new(MemoryStore::new());
    let interrupted = init(Arc::new(FaultyStore::nth(store.clone(), 1, Fault::Unavailable, puts_config))).await;
    assert!(interrupted.is_err());
    let (inner, key) = (store.clone(), Key::File(Kind::Key, store.list(Kind::Key).await.unwrap()[0].id));
    let watched = FaultyStore::new(store.clone(), move |call| {
        if *call == Call::Get(key) {
            meanwhile(inner.delete(key)).unwrap();
        }
        None
    });
    init(Arc::new(watched)).await.unwrap();
    open(store).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_to_the_commit_is_resolved_by_reading() {
    let store = Arc::new(MemoryStore::new());
    let made = init(Arc::new(FaultyStore::nth(store.clone(), 1, Fault::AnswerLost, puts_config))).await.unwrap();
    assert_eq!(open(store).await.unwrap().id(), made.id());
}

#[tokio::test]
async fn an_interrupted_init_is_finished_by_the_next_with_the_same_password() {
    let store = Arc::new(MemoryStore::new());
    let interrupted = init(Arc::new(FaultyStore::nth(store.clone(), 1, Fault::Unavailable, puts_config))).await;
    assert!(interrupted.unwrap_err().is_transient());
    let other = Repository::init(store.clone(), &password("other"), KdfCost::TEST).await;
    assert!(matches!(other, Err(RepositoryError::WrongPassword)));
    init(store.clone()).await.unwrap();
    open(store.clone()).await.unwrap();
    assert_eq!(store.list(Kind::Key).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_repository_that_lost_its_config_is_not_touched() {
    let store = Arc::new(MemoryStore::new());
    init(store.clone()).await.unwrap();
    let snapshot = Key::File(Kind::Snapshot, Id::of(b"s"));
    store.put(snapshot, Bytes::from_static(b"s"), PutMode::Overwrite).await.unwrap();
    store.delete(Key::Config).await.unwrap();
    let before = store.keys();
    assert!(matches!(init(store.clone()).await, Err(RepositoryError::ConfigLost { found: "snapshots" })));
    assert!(matches!(open(store.clone()).await, Err(RepositoryError::NoRepository)));
    assert_eq!(store.keys(), before);
}

#[tokio::test]
async fn refusal_is_neither_absence_nor_a_wrong_password() {
    let store = Arc::new(MemoryStore::new());
    init(store.clone()).await.unwrap();
    for denied in [Call::Get(Key::Config), Call::List(Kind::Key)] {
        let faulty = FaultyStore::nth(store.clone(), 1, Fault::Denied, move |call| *call == denied);
        assert!(matches!(open(Arc::new(faulty)).await, Err(RepositoryError::Store(StoreError::Denied { .. }))));
    }
    let faulty = FaultyStore::nth(store, 1, Fault::Denied, |call| *call == Call::Size(Key::Config));
    assert!(matches!(init(Arc::new(faulty)).await, Err(RepositoryError::Store(StoreError::Denied { .. }))));
}

#[tokio::test]
async fn damaged_keys_and_configs_are_named() {
    let store = Arc::new(MemoryStore::new());
    init(store.clone()).await.unwrap();
    let truncated = FaultyStore::nth(store.clone(), 1, Fault::Truncated, |call| *call == Call::Get(Key::Config));
    let error = open(Arc::new(truncated)).await.unwrap_err();
    assert_eq!(chain(&error), "config is damaged: its authentication code does not match");

    let key = Key::File(Kind::Key, store.list(Kind::Key).await.unwrap()[0].id);
    store.tamper(key, |bytes| bytes[0] ^= 1);
    let error = open(store.clone()).await.unwrap_err();
    assert!(matches!(error, RepositoryError::Damaged { .. }) && error.to_string().contains(&key.path()), "{error}");

    // A sound key beside it is enough.
    let owner = LockOwner::of_this_process();
    let other = MemoryStore::new();
    let (_, unrelated) = store_new_key(&other, &password("other"), KdfCost::TEST, &owner).await.unwrap();
    store.put(unrelated, other.get(unrelated).await.unwrap(), PutMode::Overwrite).await.unwrap();
    assert!(matches!(open(store.clone()).await, Err(RepositoryError::WrongPassword)));
    store.tamper(key, |bytes| bytes[0] ^= 1);
    open(store).await.unwrap();
}

#[tokio::test]
async fn a_key_that_opens_and_does_not_fit_the_config_is_passed_over() {
    let store = Arc::new(MemoryStore::new());
    let made = init(store.clone()).await.unwrap();
    let owner = LockOwner::of_this_process();
    for _ in 0..4 {
        store_new_key(&*store, &password("right"), KdfCost::TEST, &owner).await.unwrap();
    }
    assert_eq!(open(store).await.unwrap().id(), made.id());
}

#[tokio::test]
async fn short_answers_never_pass_for_packs() {
    let store = Arc::new(MemoryStore::new());
    init(store.clone()).await.unwrap();
    let bytes = Bytes::from_static(b"0123456789");
    let pack = Id::of(&bytes);
    store.put(Key::File(Kind::Data, pack), bytes, PutMode::Overwrite).await.unwrap();
    let faulty = FaultyStore::nth(store, 1, Fault::Truncated, |call| matches!(call, Call::GetRange(_)));
    let repository = open(Arc::new(faulty)).await.unwrap();
    let short = repository.read_pack_range(&pack, 2..8).await;
    assert!(matches!(short, Err(RepositoryError::Store(StoreError::Truncated { expected: 6, found: 3, .. }))));
    assert_eq!(repository.read_pack_range(&pack, 2..8).await.unwrap(), "234567");
}

#[test]
fn debug_of_a_repository_shows_no_key() {
    let sealer = Sealer::new(Secrets::random().unwrap());
    assert_eq!(format!("{sealer:?}"), "Sealer(redacted)");
}
