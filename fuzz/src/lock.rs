//! Locks: as they are, and behind a valid seal.
//!
//! A lock that does not read keeps others away and is named; one that excludes ours keeps it away; and whatever happens, no lock of
//! ours stays.

use windlass::repository::store::Kind;
use windlass::repository::{LockMode, LockOwner, RepositoryError, Store};

use crate::fixture::{Fixture, Plain, block_on, document_seeds, with_document};

/// Takes a lock beside this one, which stays unless it is of this very process.
pub fn run(data: &[u8]) {
    let mode = if data.first().is_some_and(|mode| mode & 0x80 != 0) { LockMode::Exclusive } else { LockMode::Shared };
    with_document(Kind::Lock, data, |repository, key, plain| {
        let locks = || block_on(Fixture::shared().store.list(Kind::Lock)).expect("a list of memory").len();
        match block_on(repository.lock(mode)) {
            Ok(guard) => {
                let with_ours = locks();
                assert!(plain != Plain::None, "a forged lock was passed over");
                block_on(guard.check()).expect("the lock holds");
                block_on(guard.release()).expect("the lock is released");
                assert_eq!(locks(), with_ours - 1);
            }
            Err(RepositoryError::Locked { holder }) => {
                assert!(plain != Plain::None && (holder.mode == LockMode::Exclusive || mode == LockMode::Exclusive));
                assert_eq!(locks(), 1);
            }
            Err(error) => {
                assert!(error.to_string().contains(&key.path()), "the object is not named: {error}");
                assert_eq!(locks(), 1);
            }
        }
    });
}

/// Locks: old and new, shared and exclusive, of others and of this process.
pub fn seeds() -> Vec<Vec<u8>> {
    let host = LockOwner::of_this_process().hostname;
    let texts = [("2026-01-01T10:00:00Z", true, "elsewhere"), ("2999-01-01T10:00:00Z", true, &*host), ("never", false, &*host)]
        .map(|(time, exclusive, host)| {
            format!(r#"{{"time":"{time}","exclusive":{exclusive},"hostname":"{host}","username":"u","pid":1,"uid":5}}"#)
        });
    let seeds: Vec<_> = texts.iter().flat_map(|text| document_seeds(text.as_bytes())).collect();
    let exclusively = seeds.iter().map(|seed| [&[seed[0] | 0x80], &seed[1..]].concat());
    exclusively.chain(seeds.iter().cloned()).collect()
}
