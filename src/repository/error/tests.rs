//! Every error of the repository says its own part and leaves the cause to the chain.

use std::error::Error;
use std::io;
use std::time::Duration;

use super::*;
use crate::repository::prune::PruneError;
use crate::repository::store::http::fault::Fault;
use crate::scratch::Scratch;
use crate::types::error::{chain, repeated};

fn disk() -> io::Error {
    io::Error::other("the disk failed")
}

fn json() -> serde_json::Error {
    serde_json::from_str::<u8>("x").unwrap_err()
}

/// What the bytes of an object may be damaged by, with and without a cause.
fn damages() -> Vec<Damage> {
    let all = vec![
        Damage::TooShort,
        Damage::Forged,
        Damage::WrongHash { found: Id::of(b"x") },
        Damage::compression(disk()),
        Damage::Length { expected: 2, found: 1 },
        Damage::TooLong { limit: 1 },
        Damage::Encoding(7),
        Damage::json(json()),
        Damage::Syntax("it has no size".to_owned()),
        Damage::Header("it is too long"),
    ];
    // A new one belongs into the list above.
    all.iter().for_each(|damage| match damage {
        Damage::TooShort | Damage::Forged | Damage::WrongHash { .. } | Damage::Compression(_) | Damage::Length { .. } => {}
        Damage::TooLong { .. } | Damage::Encoding(_) | Damage::Json(_) | Damage::Syntax(_) | Damage::Header(_) => {}
    });
    all
}

fn store_errors() -> Vec<StoreError> {
    let (object, certificate) = (|| "config".to_owned(), rustls::Error::InvalidCertificate(rustls::CertificateError::Expired));
    let away = || StoreError::Unavailable { object: object(), source: disk().into() };
    let all = vec![
        StoreError::NotFound { object: object() },
        StoreError::AlreadyExists { object: object() },
        StoreError::Denied { object: object(), source: disk().into() },
        away(),
        away().after(Duration::from_secs(600)),
        StoreError::Busy { object: object(), source: disk().into() },
        StoreError::Busy { object: object(), source: disk().into() }.after(Duration::from_secs(600)),
        StoreError::Truncated { object: object(), expected: 2, found: 1 },
        StoreError::Io { object: object(), source: disk() },
        StoreError::Io { object: object(), source: Scratch::default().error(disk()).into() },
        StoreError::configuration("AWS_REGION is not set"),
        Fault::Certificate(certificate).meaning(object()),
        Fault::Broken("connection reset".to_owned()).meaning(object()),
    ];
    // A new one belongs into the list above.
    all.iter().for_each(|error| match error {
        StoreError::NotFound { .. } | StoreError::AlreadyExists { .. } | StoreError::Denied { .. } => {}
        StoreError::Unavailable { .. } | StoreError::Busy { .. } | StoreError::Truncated { .. } => {}
        StoreError::Io { .. } | StoreError::Configuration(_) => {}
    });
    all
}

fn pack_errors() -> Vec<PackError> {
    let damaged = |damage: Damage| PackError::Corrupted { id: Id::of(b"x"), damage };
    let document = |damage: Damage| PackError::CorruptedDocument { what: "lock", damage };
    let mut all = vec![
        PackError::TooLarge { what: "blob", bytes: 5 },
        PackError::Compressor(disk()),
        PackError::Unstable,
        PackError::Name("a/b".to_owned()),
        PackError::Randomness(getrandom::Error::UNSUPPORTED.into()),
        PackError::Scratch(Scratch::default().error(disk())),
    ];
    all.extend(damages().into_iter().map(damaged));
    all.extend(damages().into_iter().map(document));
    // A new one belongs into the list above.
    all.iter().for_each(|error| match error {
        PackError::TooLarge { .. } | PackError::Compressor(_) | PackError::Corrupted { .. } | PackError::Unstable => {}
        PackError::CorruptedDocument { .. } | PackError::Name(_) | PackError::Randomness(_) | PackError::Scratch(_) => {}
    });
    all
}

/// Of [`RepositoryError`] those with causes.
async fn repository_errors() -> Vec<RepositoryError> {
    let ended = tokio::spawn(std::future::pending::<()>());
    ended.abort();
    let object = || "locks/x".to_owned();
    let mut all = vec![
        RepositoryError::Randomness(getrandom::Error::UNSUPPORTED.into()),
        RepositoryError::KeyFile(KeyFileError::Json(json())),
        RepositoryError::KeyFile(KeyFileError::Randomness(getrandom::Error::UNSUPPORTED.into())),
        RepositoryError::Json { what: "lock", source: json() },
        RepositoryError::Task(ended.await.unwrap_err()),
        RepositoryError::Scratch(Scratch::default().error("all bytes are used")),
    ];
    all.extend(damages().into_iter().map(|damage| RepositoryError::UnreadableLock { object: object(), damage }));
    all.extend(damages().into_iter().map(|damage| RepositoryError::Damaged { object: object(), damage }));
    all.extend(store_errors().into_iter().map(RepositoryError::Store));
    all.extend(pack_errors().into_iter().map(RepositoryError::Pack));
    all
}

#[tokio::test]
async fn an_error_of_the_repository_leaves_its_cause_to_the_chain() {
    let errors = repository_errors().await;
    let causes = errors.iter().filter(|error| error.source().is_some()).count();
    assert!(causes > 20, "only {causes} errors have a cause");
    for error in errors {
        assert_eq!(repeated(&error), None, "{}", chain(&error));
        let error = PruneError::from(error);
        assert_eq!(repeated(&error), None, "{}", chain(&error));
    }
}

#[test]
fn a_failure_of_scratch_space_is_known_wherever_it_is_met() {
    let full = || Scratch::default().error(disk());
    let of_scratch = [
        RepositoryError::Scratch(full()),
        PackError::Scratch(full()).into(),
        StoreError::Io { object: "index".to_owned(), source: full().into() }.into(),
    ];
    for error in of_scratch {
        assert!(error.is_of_scratch(), "{error:?}");
    }
    assert!(!RepositoryError::from(StoreError::Io { object: "index".to_owned(), source: disk() }).is_of_scratch());
}

#[test]
fn a_chain_tells_the_object_what_is_wrong_and_why() {
    let error = RepositoryError::Damaged { object: "index/x".to_owned(), damage: Damage::json(json()) };
    assert_eq!(chain(&error), "index/x is damaged: it does not parse: expected value at line 1 column 1");
    let away = StoreError::Unavailable { object: "config".to_owned(), source: disk().into() };
    let told = chain(&away.after(Duration::from_secs(600)));
    assert_eq!(told, "config could not be reached: repeated for 10 minutes, the last time: the disk failed");
    let full = StoreError::Io { object: "config".to_owned(), source: Scratch::default().error(disk()).into() };
    let told = "input or output on config failed: scratch space in /var/tmp failed (WINDLASS_SCRATCH_DIR names another directory): \
                the disk failed";
    assert_eq!(chain(&full), told);
}
