//! Repositories in a bucket, over the S3 protocol of a server in this process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a broken expectation is a failed test")]

use std::sync::Arc;

use bytes::Bytes;
use windlass::repository::check::Depth;
use windlass::repository::store::{Key, Kind, PutMode};
use windlass::repository::{
    BlobKind, Compressor, Id, IndexWriter, KdfCost, LockMode, Pack, PackBuilder, Password, Repository, RepositoryError, Store,
    StoreError, Verification, connect,
};
use windlass::types::error::chain;

#[path = "support/s3/mod.rs"]
mod s3;

use s3::{S3Server, Trouble};

fn password() -> Password {
    Password::new("correct horse").unwrap()
}

fn store(server: &S3Server, prefix: &str) -> Arc<dyn Store> {
    connect(&server.location(prefix), &server.credentials()).unwrap()
}

/// Stores and indexes a pack of two blobs.
async fn store_pack(repository: &Repository) -> Pack {
    let mut builder = PackBuilder::new(repository.sealer(), BlobKind::Data, 1 << 20, Verification::Decode);
    let mut compressor = Compressor::new(1).unwrap();
    let random: Vec<u8> = (0..300_000).map(|_| rand::random()).collect();
    for plain in [&random[..], &[7; 100_000]] {
        builder.add(Id::of(plain), plain, &mut compressor).unwrap();
    }
    let pack = builder.finish().unwrap().unwrap();
    repository.put_pack(&pack).await.unwrap();
    let mut writer = IndexWriter::new(repository.clone());
    writer.add(pack.record.clone()).await.unwrap();
    writer.finish().await.unwrap();
    pack
}

#[tokio::test]
async fn a_bucket_holds_a_repository() {
    let server = S3Server::start().await;
    let store = store(&server, "team/a");
    assert!(matches!(Repository::open(store.clone(), &password()).await, Err(RepositoryError::NoRepository)));
    let made = Repository::init(store.clone(), &password(), KdfCost::TEST).await.unwrap();
    assert!(server.file("team/a/config").exists());
    let pack = store_pack(&made).await;

    let repository = Repository::open(store.clone(), &password()).await.unwrap();
    assert_eq!(repository.id(), made.id());
    let index = repository.load_index().await.unwrap();
    for blob in &pack.record.blobs {
        let plain = repository.read_blob(&index, BlobKind::Data, &blob.id).await.unwrap();
        assert_eq!(Id::of(&plain), blob.id);
    }
    assert_eq!(store.list(Kind::Data).await.unwrap().len(), 1);
    let report = repository.check(Depth::ReadData, &|_, _| {}).await.unwrap();
    assert!(report.is_clean() && report.packs == 1, "{report:?}");
    let lock = repository.lock(LockMode::Exclusive).await.unwrap();
    assert!(matches!(made.lock(LockMode::Shared).await, Err(RepositoryError::Locked { .. })));
    lock.release().await.unwrap();
    assert_eq!(store.list(Kind::Lock).await.unwrap(), []);

    let wrong = Repository::open(store, &Password::new("wrong").unwrap()).await;
    assert!(matches!(wrong, Err(RepositoryError::WrongPassword)));
}

#[tokio::test]
async fn a_repository_is_made_once() {
    let server = S3Server::start().await;
    let init = async || Repository::init(store(&server, "r"), &password(), KdfCost::TEST).await;
    let (a, b) = futures::join!(init(), init());
    let made = match (a, b) {
        (Ok(made), Err(RepositoryError::AlreadyInitialized)) | (Err(RepositoryError::AlreadyInitialized), Ok(made)) => made,
        other => panic!("{other:?}"),
    };
    assert!(matches!(init().await, Err(RepositoryError::AlreadyInitialized)));
    assert_eq!(Repository::open(store(&server, "r"), &password()).await.unwrap().id(), made.id());
    // The loser took its key away: whichever key restic tries first must fit.
    assert_eq!(made.store().list(Kind::Key).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_calls_of_a_store_keep_their_promises_over_the_network() {
    let server = S3Server::start().await;
    let store = store(&server, "");
    let bytes = Bytes::from(vec![5; 100_000]);
    let key = Key::File(Kind::Data, Id::of(&bytes));
    assert!(store.get(key).await.unwrap_err().is_not_found());
    assert!(store.get_range(key, 0..10).await.unwrap_err().is_not_found());
    assert_eq!(store.size(key).await.unwrap(), None);
    store.delete(key).await.unwrap();
    store.put(key, bytes.clone(), PutMode::Overwrite).await.unwrap();
    store.put(key, bytes.clone(), PutMode::Overwrite).await.unwrap();
    assert!(matches!(store.put(key, bytes.clone(), PutMode::IfAbsent).await, Err(StoreError::AlreadyExists { .. })));
    assert_eq!(store.get(key).await.unwrap(), bytes);
    assert_eq!(store.get_range(key, 99_990..100_000).await.unwrap(), bytes.slice(99_990..));
    for beyond in [99_990..100_001, 200_000..200_001] {
        let error = store.get_range(key, beyond).await.unwrap_err();
        assert!(matches!(error, StoreError::Truncated { found: 100_000, .. }), "{error:?}");
    }
    assert_eq!(store.size(key).await.unwrap(), Some(100_000));
    store.delete(key).await.unwrap();
    assert_eq!(store.list(Kind::Data).await.unwrap(), []);
}

#[tokio::test]
async fn a_truncated_object_is_an_error_that_names_it() {
    let server = S3Server::start().await;
    let repository = Repository::init(store(&server, "r"), &password(), KdfCost::TEST).await.unwrap();
    let pack = store_pack(&repository).await;
    let key = Key::File(Kind::Data, pack.record.id);
    let file = std::fs::File::options().write(true).open(server.file(&format!("r/{key}"))).unwrap();
    file.set_len(pack.bytes.len() as u64 - 200).unwrap();
    let index = repository.load_index().await.unwrap();
    let last = pack.record.blobs.last().unwrap();
    let error = repository.read_blob(&index, BlobKind::Data, &last.id).await.unwrap_err();
    assert!(
        matches!(error, RepositoryError::Store(StoreError::Truncated { .. })) && chain(&error).contains(&key.path()),
        "{error:?}"
    );
    let report = repository.check(Depth::Structure, &|_, _| {}).await.unwrap();
    assert!(report.errors.len() == 1 && report.errors[0].contains(&key.path()), "{report:?}");

    let index = repository.store().list(Kind::Index).await.unwrap()[0].id;
    let key = Key::File(Kind::Index, index);
    std::fs::File::options().write(true).open(server.file(&format!("r/{key}"))).unwrap().set_len(50).unwrap();
    let error = repository.load_index().await.unwrap_err();
    assert!(matches!(error, RepositoryError::Damaged { .. }) && chain(&error).contains(&key.path()), "{error}");
}

#[tokio::test]
async fn refused_credentials_are_neither_a_missing_nor_an_unreachable_repository() {
    let server = S3Server::start().await;
    Repository::init(store(&server, "r"), &password(), KdfCost::TEST).await.unwrap();
    let store = connect(&server.location("r"), &server.wrong_credentials()).unwrap();
    for error in [
        Repository::open(store.clone(), &password()).await.unwrap_err(),
        Repository::init(store.clone(), &password(), KdfCost::TEST).await.unwrap_err(),
    ] {
        assert!(matches!(error, RepositoryError::Store(StoreError::Denied { .. })) && !error.is_transient(), "{error:?}");
    }
}

#[tokio::test]
async fn a_missing_bucket_is_named() {
    let server = S3Server::start().await;
    let location = server.location("r").to_string().replace("/backups/", "/elsewhere/").parse().unwrap();
    let store = connect(&location, &server.credentials()).unwrap();
    assert!(matches!(Repository::open(store.clone(), &password()).await, Err(RepositoryError::NoRepository)));
    let error = Repository::init(store, &password(), KdfCost::TEST).await.unwrap_err();
    assert!(chain(&error).contains("no bucket `elsewhere`"), "{error:?}");
}

#[tokio::test]
async fn credentials_that_may_only_read_list_and_check() {
    let server = S3Server::start().await;
    let made = Repository::init(store(&server, "r"), &password(), KdfCost::TEST).await.unwrap();
    store_pack(&made).await;
    server.misbehaves(|_, request| {
        let writes = request.method() != hyper::Method::GET && request.method() != hyper::Method::HEAD;
        writes.then_some(Trouble::Answers(403, "AccessDenied"))
    });
    let repository = Repository::open(store(&server, "r"), &password()).await.unwrap();
    assert_eq!(repository.snapshots().await.unwrap().len(), 0);
    let report = repository.check(Depth::ReadData, &|_, _| {}).await.unwrap();
    assert!(report.is_clean() && report.packs == 1, "{report:?}");
    assert!(matches!(repository.lock(LockMode::Shared).await, Err(RepositoryError::Store(StoreError::Denied { .. }))));
}
