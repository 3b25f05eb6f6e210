//! What every store promises, as a test that runs against each of them.

mod azurite;
mod google;
mod minio;
mod program;

use std::sync::Arc;

use bytes::Bytes;

use super::{Key, Kind, PutMode, Store, StoreError};
use crate::repository::id::Id;
use crate::scratch::{Scratch, Spill};

/// Puts `store` through every call. It must be empty; it is left empty but for its folders.
///
/// # Panics
/// When a promise is broken.
pub async fn keeps_its_promises(store: &dyn Store) {
    store.prepare().await.unwrap();
    store.prepare().await.unwrap();
    let bytes = Bytes::from((0..=255).cycle().take(70_000).collect::<Vec<u8>>());
    let key = Key::File(Kind::Data, Id::of(&bytes));

    for absent in [store.get(key).await, store.get_range(key, 0..1).await] {
        assert!(matches!(absent, Err(StoreError::NotFound { .. })), "{absent:?}");
    }
    assert_eq!(store.size(key).await.unwrap(), None);
    store.delete(key).await.unwrap();

    store.put(key, bytes.clone(), PutMode::Overwrite).await.unwrap();
    store.put(key, bytes.clone(), PutMode::Overwrite).await.unwrap();
    assert_eq!(store.get(key).await.unwrap(), bytes);
    assert_eq!(store.get_range(key, 10..69_000).await.unwrap(), bytes.slice(10..69_000));
    assert_eq!(store.get_range(key, 69_999..70_000).await.unwrap(), bytes.slice(69_999..));
    assert_eq!(store.size(key).await.unwrap(), Some(70_000));
    for beyond in [69_999..70_001, 70_000..70_001, 80_000..90_000] {
        let error = store.get_range(key, beyond.clone()).await.unwrap_err();
        assert!(matches!(error, StoreError::Truncated { found: 70_000, .. }), "{beyond:?}: {error:?}");
    }

    for kind in Kind::ALL {
        let listed = store.list(kind).await.unwrap();
        let expected = if kind == Kind::Data { vec![(Id::of(&bytes), 70_000)] } else { vec![] };
        assert_eq!(listed.iter().map(|found| (found.id, found.bytes)).collect::<Vec<_>>(), expected, "{kind:?}");
    }

    // More than one page of a store that lists in pages.
    let others: Vec<Bytes> = (0..5_u8).map(|number| Bytes::from(vec![number])).collect();
    for bytes in &others {
        store.put(Key::File(Kind::Snapshot, Id::of(bytes)), bytes.clone(), PutMode::Overwrite).await.unwrap();
    }
    let mut listed: Vec<Id> = store.list(Kind::Snapshot).await.unwrap().into_iter().map(|found| found.id).collect();
    let mut expected: Vec<Id> = others.iter().map(|bytes| Id::of(bytes)).collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);

    let (first, second) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
    let put = |bytes: &Bytes| store.put(Key::Config, bytes.clone(), PutMode::IfAbsent);
    let (a, b) = futures::join!(put(&first), put(&second));
    let kept = store.get(Key::Config).await.unwrap();
    assert!(
        matches!((&a, &b), (Ok(()), Err(StoreError::AlreadyExists { .. })) | (Err(StoreError::AlreadyExists { .. }), Ok(()))),
        "{a:?} {b:?}"
    );
    assert_eq!(kept, if a.is_ok() { first } else { second });

    // Long enough for a store that takes such objects in parts.
    let long = Bytes::from((0..40_u32 << 18).flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
    let long_key = Key::File(Kind::Data, Id::of(&long));
    let folder = tempfile::tempdir().unwrap();
    let mut spill = Spill::new(&Scratch::new(folder.path(), 1 << 30, 1 << 20));
    spill.append(&long).unwrap();
    store.put_spill(long_key, Arc::new(spill)).await.unwrap();
    assert!(store.get(long_key).await.unwrap() == long);

    let others = others.iter().map(|bytes| Key::File(Kind::Snapshot, Id::of(bytes)));
    for key in [Key::Config, key, long_key].into_iter().chain(others) {
        store.delete(key).await.unwrap();
        assert_eq!(store.size(key).await.unwrap(), None);
    }
}

/// A server that is not part of this process: `WINDLASS_TEST_LOCATION` says where, as `RESTIC_REPOSITORY` would, and the environment what
/// it asks for; `WINDLASS_TEST_ENDPOINT` is the address of a server that stands for Google's or Azure's.
#[tokio::test]
#[ignore = "needs a server; see its comment"]
async fn a_server_keeps_every_promise_of_a_store() {
    use crate::repository::environment::Environment;

    let location = std::env::var("WINDLASS_TEST_LOCATION").unwrap().parse().unwrap();
    let endpoint = std::env::var("WINDLASS_TEST_ENDPOINT").ok();
    let store = super::connect_at(&location, &Environment::from_process(), super::Endurance::default(), endpoint.as_deref());
    keeps_its_promises(&*store.unwrap()).await;
}
